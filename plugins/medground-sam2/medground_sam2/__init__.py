"""SAM 2.1, MedSAM2, the point and box model in SAM 3, and EdgeTAM."""

from medground.hookspecs import Register, hookimpl
from medground_sam2.foldered import EdgeTam, Sam3Tracker
from medground_sam2.segmenters import MedSam2, Sam2


@hookimpl
def register_segmenters(register: Register) -> None:
    """Offer the four segmenters of this package."""
    register("sam2", Sam2)
    register("medsam2", MedSam2)
    register("sam3_tracker", Sam3Tracker)
    register("edgetam", EdgeTam)


@hookimpl
def self_check() -> None:
    """Encode an empty image and decode one box with a network of random weights."""
    from medground_sam2 import models

    models.self_check()
