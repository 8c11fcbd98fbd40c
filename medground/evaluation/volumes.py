"""Metrics of masks of volumes, in mm.

Surfaces are voxels with a face on the background or on the array's edge, at their centres, as MONAI takes them. The package
surface-distance takes pieces of surface between voxel centres, weighted by area: other figures for one name.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from medground.evaluation.surface import hd95, surface_dice
from medground.geometry import mask_dice


def volume_metrics(
    mask: ArrayLike, truth: ArrayLike, spacing: Sequence[float], tolerance: float = 2.0
) -> dict[str, float | None]:
    """Return Dice, surface Dice and the 95th percentile Hausdorff distance of two masks of one volume.

    Two empty masks have Dice 1, surface Dice 1 and distance 0. Where one is empty, Dice and surface Dice are 0 and the
    distance is None: there is none, and it counts in no mean of distances.

    >>> ball = np.linalg.norm(np.indices((9, 9, 9)) - 4, axis=0) <= 3
    >>> volume_metrics(ball, np.roll(ball, 1, axis=0), (1.0, 1.0, 2.5))["hd95_mm"]
    1.0

    Args:
        mask: ``[I, J, K]``, nonzero is foreground.
        truth: likewise.
        spacing: mm between voxels along i, j and k.
        tolerance: of the surface Dice, mm; its name says it.

    Raises:
        ValueError: if the shapes differ.
    """
    first, second = np.asarray(mask, bool), np.asarray(truth, bool)
    if first.shape != second.shape:
        raise ValueError(f"masks of {first.shape} and {second.shape} cannot be compared")
    return {
        "dice": float(mask_dice(first.reshape(1, -1), second.reshape(1, -1))),
        f"surface_dice_{tolerance:g}mm": surface_dice(first, second, tolerance, spacing),
        "hd95_mm": hd95(first, second, spacing),
    }
