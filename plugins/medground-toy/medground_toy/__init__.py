"""CPU twins at every seam: phantoms, a rule reasoner, segmenters with no weights."""

from medground import hookimpl
from medground.hookspecs import Register


@hookimpl
def register_reasoners(register: Register) -> None:
    """`toy` looks and follows rules; `scripted` says what it was told to say."""
    from medground_toy.reasoners import RuleReasoner, ScriptedReasoner

    register("toy", RuleReasoner)
    register("scripted", ScriptedReasoner)


@hookimpl
def register_segmenters(register: Register) -> None:
    """`box_fill` and `ellipse` never look at the image; `threshold` and `region_growing` do; `tones` reads words."""
    from medground_toy.concepts import Tones
    from medground_toy.segmenters import BoxFill, Ellipse, RegionGrowing, Threshold

    register("box_fill", BoxFill)
    register("ellipse", Ellipse)
    register("threshold", Threshold)
    register("region_growing", RegionGrowing)
    register("tones", Tones)


@hookimpl
def self_check() -> None:
    """Let a segmenter fill a box on an empty image."""
    import numpy as np

    from medground.geometry import Box
    from medground.types import SpatialPrompt
    from medground_toy.segmenters import BoxFill

    (mask,) = BoxFill().segment(np.zeros((8, 8, 3), np.uint8), [SpatialPrompt(box=Box(2, 2, 6, 6))])
    assert mask.data.sum() == 16
