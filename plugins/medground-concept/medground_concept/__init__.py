"""SAM 3, SAM3-LiteText and CLIPSeg: segmenters that take a concept in words."""

from medground.hookspecs import Register, hookimpl
from medground_concept.clipseg import ClipSeg
from medground_concept.sam3 import Sam3, Sam3LiteText


@hookimpl
def register_segmenters(register: Register) -> None:
    """Offer the three segmenters of this package."""
    register("sam3", Sam3)
    register("sam3_lite_text", Sam3LiteText)
    register("clipseg", ClipSeg)


@hookimpl
def self_check() -> None:
    """Look for one text in an empty image, with a network of random weights."""
    from medground_concept import checking

    checking.self_check()
