"""SAM, MedSAM, SAM-Med2D, SAM-HQ and two small segmenters that need no download."""

from medground.hookspecs import Register, hookimpl
from medground_sam.hq import SamHQ
from medground_sam.mini import MiniSam
from medground_sam.segmenters import MedSam, Sam, SamMed2D, ToySam


@hookimpl
def register_segmenters(register: Register) -> None:
    """Offer the six segmenters of this package."""
    register("sam", Sam)
    register("medsam", MedSam)
    register("sammed2d", SamMed2D)
    register("sam_hq", SamHQ)
    register("mini_sam", MiniSam)
    register("toy_sam", ToySam)


@hookimpl
def self_check() -> None:
    """Segment one box with the small SAM of the package."""
    import numpy as np

    from medground.geometry import Box
    from medground.types import SpatialPrompt

    (mask,) = ToySam(device="cpu").segment(np.zeros((64, 64, 3), np.uint8), [SpatialPrompt(box=Box(16, 16, 48, 48))])
    assert mask.data.shape == (64, 64)
