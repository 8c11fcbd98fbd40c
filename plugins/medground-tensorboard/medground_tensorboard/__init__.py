"""A tracker that writes a run's numbers for TensorBoard."""

from medground.hookspecs import Register, hookimpl


@hookimpl
def register_trackers(register: Register) -> None:
    """Offer the tracker."""
    from medground_tensorboard.tracker import TensorBoard

    register("tensorboard", TensorBoard)
