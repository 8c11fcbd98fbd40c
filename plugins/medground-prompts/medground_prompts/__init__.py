"""The prompt interfaces: how a reasoner is asked and how its answer is read."""

from medground.hookspecs import Register, hookimpl
from medground_prompts.interfaces import Bbox, BboxPoints, Points

__all__ = ["Bbox", "BboxPoints", "Points", "register_prompt_interfaces"]


@hookimpl
def register_prompt_interfaces(register: Register) -> None:
    """Offer the three interfaces."""
    register("bbox_points", BboxPoints)
    register("bbox", Bbox)
    register("points", Points)
