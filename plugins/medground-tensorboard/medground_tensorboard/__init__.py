"""A tracker that writes a run's numbers for TensorBoard."""

from medground.hookspecs import Register, hookimpl


@hookimpl
def register_trackers(register: Register) -> None:
    """Offer the tracker."""
    from medground_tensorboard.tracker import TensorBoard

    register("tensorboard", TensorBoard)


@hookimpl
def self_check() -> None:
    """Write one number and leave a file of events."""
    import tempfile
    from pathlib import Path

    from medground_tensorboard.tracker import TensorBoard

    with tempfile.TemporaryDirectory() as folder:
        tracker = TensorBoard()
        tracker.begin(Path(folder), 0)
        tracker.log(1, {"loss": 0.5})
        tracker.close()
        assert list(Path(folder).rglob("events.out.*"))
