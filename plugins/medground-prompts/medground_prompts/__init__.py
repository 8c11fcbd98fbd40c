"""The prompt interfaces: how a reasoner is asked and how its answer is read."""

from medground.hookspecs import Register, hookimpl
from medground_prompts.choose import Choose
from medground_prompts.interfaces import Bbox, BboxPoints, Points
from medground_prompts.regions import MultiPoint, Regions
from medground_prompts.tiled import Tiled

__all__ = ["Bbox", "BboxPoints", "Choose", "MultiPoint", "Points", "Regions", "Tiled", "register_prompt_interfaces"]


@hookimpl
def register_prompt_interfaces(register: Register) -> None:
    """Offer the interfaces."""
    register("bbox_points", BboxPoints)
    register("bbox", Bbox)
    register("points", Points)
    register("regions", Regions)
    register("multi_point", MultiPoint)
    register("tiled", Tiled)
    register("choose", Choose)


@hookimpl
def self_check() -> None:
    """Ask a question and read an answer to it."""
    import numpy as np

    from medground.types import Completion, Query

    interface = Bbox()
    interface.render(Query(image=np.zeros((8, 8, 3), np.uint8), question="Where?"))
    answer = '<think>here</think><answer>{"bbox": [2, 2, 6, 6]}</answer>'
    assert interface.parse(Completion(text=answer, frame=None), (8, 8)).fault is None
