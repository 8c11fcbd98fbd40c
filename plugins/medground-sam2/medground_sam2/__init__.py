"""SAM 2.1 and MedSAM2 segmenters."""

from medground.hookspecs import Register, hookimpl
from medground_sam2.segmenters import MedSam2, Sam2


@hookimpl
def register_segmenters(register: Register) -> None:
    """Offer ``sam2`` and ``medsam2``."""
    register("sam2", Sam2)
    register("medsam2", MedSam2)


@hookimpl
def self_check() -> None:
    """Encode an empty image and decode one box with a network of random weights."""
    from medground_sam2 import models

    models.self_check()
