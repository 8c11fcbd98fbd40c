"""Trackers that write a run's numbers for TensorBoard, Weights & Biases, MLflow and Trackio."""

from medground.hookspecs import Register, hookimpl


@hookimpl
def register_trackers(register: Register) -> None:
    """Offer the trackers; each imports its client when it is built."""
    from medground_trackers.mlflow import MLflow
    from medground_trackers.tensorboard import TensorBoard
    from medground_trackers.trackio import Trackio
    from medground_trackers.wandb import WandB

    register("mlflow", MLflow)
    register("tensorboard", TensorBoard)
    register("trackio", Trackio)
    register("wandb", WandB)


@hookimpl
def self_check() -> None:
    """Write one number for TensorBoard and leave a file of events; the other clients start servers and threads."""
    import importlib.util
    import tempfile
    from pathlib import Path

    from medground_trackers.tensorboard import TensorBoard

    if importlib.util.find_spec("tensorboard") is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        tracker = TensorBoard()
        tracker.begin(Path(folder), 0)
        tracker.log(1, {"loss": 0.5})
        tracker.close()
        assert list(Path(folder).rglob("events.out.*"))
