"""SAM, MedSAM, SAM-Med2D and a small SAM that needs no download."""

from medground.hookspecs import Register, hookimpl
from medground_sam.segmenters import MedSam, Sam, SamMed2D, ToySam


@hookimpl
def register_segmenters(register: Register) -> None:
    """Offer the four segmenters of this package."""
    register("sam", Sam)
    register("medsam", MedSam)
    register("sammed2d", SamMed2D)
    register("toy_sam", ToySam)
