"""Metrics of the boundaries of masks; of pictures and of volumes; see `medground.geometry.surface_distances`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from medground.geometry import surface_distances


def hd95(a: ArrayLike, b: ArrayLike, spacing: Sequence[float] | None = None) -> float | None:
    """Return the 95th percentile Hausdorff distance of two masks: the larger of the two directed 95th percentiles.

    The masks are ``[H, W]`` or ``[I, J, K]``, and the unit is that of `spacing`, along each axis; None is 1. Two empty
    masks are 0 apart; None where only one is empty.
    """
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    if not first.any() or not second.any():
        return 0.0 if first.any() == second.any() else None
    there, back = surface_distances(first, second, spacing)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def surface_dice(a: ArrayLike, b: ArrayLike, tolerance: float, spacing: Sequence[float] | None = None) -> float:
    """Return the surface Dice of two masks, in [0, 1]: the share of both boundaries within `tolerance` of the other one.

    A boundary counts by its pixels or voxels, each at its centre, as MONAI counts it. The package surface-distance counts
    pieces of surface between voxel centres, weighted by their area: its figures differ, by up to 0.24 where measured.
    Tolerance and `spacing` (along each axis; None is 1) have one unit. Two empty masks give 1, one empty mask 0.

    >>> surface_dice(np.eye(1, 9, 2, dtype=bool), np.eye(1, 9, 4, dtype=bool), tolerance=2)
    1.0
    """
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    if not first.any() or not second.any():
        return float(first.any() == second.any())
    distances = np.concatenate(surface_distances(first, second, spacing))
    return float((distances <= tolerance).mean())


def boundary_f(a: ArrayLike, b: ArrayLike, tolerance: float = 0.0075) -> float:
    """Return the F-measure of two boundaries, in [0, 1]: harmonic mean of the shares that lie near the other boundary.

    Near means within `tolerance` times the image's diagonal, and never less than one pixel. Two empty masks give 1,
    one empty mask 0. Masks that touch without overlapping share boundary, so this is no overlap metric.
    """
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    if not first.any() or not second.any():
        return float(first.any() == second.any())
    reach = max(1.0, tolerance * float(np.hypot(*first.shape)))
    there, back = surface_distances(first, second)
    precision, recall = float((there <= reach).mean()), float((back <= reach).mean())
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def diagonal(size: tuple[int, int], spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """Return the length of the diagonal of an image of `size` (H, W), in the unit of `spacing`."""
    return float(np.hypot(size[0] * spacing[0], size[1] * spacing[1]))
