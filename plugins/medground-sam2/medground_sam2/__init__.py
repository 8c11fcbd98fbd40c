"""SAM 2.1 and MedSAM2 segmenters."""

from medground.hookspecs import Register, hookimpl
from medground_sam2.segmenters import MedSAM2, SAM2


@hookimpl
def register_segmenters(register: Register) -> None:
    """Offer ``sam2`` and ``medsam2``."""
    register("sam2", SAM2)
    register("medsam2", MedSAM2)
