"""Boundaries of masks and the distances between them, exact, with numpy alone.

A boundary pixel is a foreground pixel with a background pixel, or the image's edge, to its left, right, top or bottom.
The distance from every boundary pixel to the nearest one of the other mask is exact: one pass down the columns gives
each pixel its nearest boundary pixel in its own column, then every query takes the best column (the separable squared
distance of Felzenszwalb and Huttenlocher, evaluated only where it is asked for). Queries go in blocks, so that memory
stays bounded whatever the masks look like.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medground.geometry import Floats

_BLOCK = 1 << 21
"""Query x column pairs held at a time: 16 MB of float64."""


def boundary(mask: ArrayLike) -> NDArray[np.bool_]:
    """The boundary pixels of one mask ``[H, W]``."""
    array = np.asarray(mask, bool)
    padded = np.pad(array, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(array & ~inner, bool)


def surface_distances(a: ArrayLike, b: ArrayLike, spacing: tuple[float, float] = (1.0, 1.0)) -> tuple[Floats, Floats]:
    """Distances between the boundaries of two non-empty masks ``[H, W]``: (from a to b, from b to a).

    `spacing` is the length of a pixel (along y, along x); the distances have its unit.

    >>> import numpy as np
    >>> left, right = np.eye(1, 5, 0, dtype=bool), np.eye(1, 5, 3, dtype=bool)
    >>> [float(d[0]) for d in surface_distances(left, right)]
    [3.0, 3.0]

    Raises:
        ValueError: if either mask is empty or their shapes differ.
    """
    first, second = boundary(a), boundary(b)
    if first.shape != second.shape:
        raise ValueError(f"masks of {first.shape} and {second.shape} cannot be compared")
    if not first.any() or not second.any():
        raise ValueError("an empty mask has no boundary")
    return _nearest(first, second, spacing), _nearest(second, first, spacing)


def _nearest(queries: NDArray[np.bool_], goals: NDArray[np.bool_], spacing: tuple[float, float]) -> Floats:
    """For every pixel set in `queries`, the distance to the nearest one set in `goals`."""
    step_y, step_x = spacing
    columns = np.flatnonzero(goals.any(axis=0))
    down = (_column_gaps(goals[:, columns]) * step_y) ** 2
    rows, cols = np.nonzero(queries)
    block = max(1, _BLOCK // len(columns))
    found = np.empty(len(rows))
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        across = ((cols[part, None] - columns) * step_x) ** 2
        found[part] = (across + down[rows[part]]).min(axis=1)
    return np.sqrt(found)


def _column_gaps(goals: NDArray[np.bool_]) -> Floats:
    """[H, C] how many rows away the nearest set pixel of each column is; every column has one."""
    height = goals.shape[0]
    rows = np.arange(height, dtype=np.float64)[:, None]
    above = np.maximum.accumulate(np.where(goals, rows, -np.inf), axis=0)
    below = np.minimum.accumulate(np.where(goals, rows, np.inf)[::-1], axis=0)[::-1]
    return np.minimum(rows - above, below - rows)


def hd95(a: ArrayLike, b: ArrayLike, spacing: tuple[float, float] = (1.0, 1.0)) -> float | None:
    """95th percentile Hausdorff distance of two masks: the larger of the two directed 95th percentiles.

    The unit is that of `spacing` (along y, along x). Two empty masks are 0 apart; None where only one is empty.
    """
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    if not first.any() or not second.any():
        return 0.0 if first.any() == second.any() else None
    there, back = surface_distances(first, second, spacing)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def boundary_f(a: ArrayLike, b: ArrayLike, tolerance: float = 0.0075) -> float:
    """F-measure of two boundaries, in [0, 1]: harmonic mean of the shares that lie near the other boundary.

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
    """Length of the diagonal of an image of `size` (H, W), in the unit of `spacing`."""
    sides: Any = np.asarray(size, np.float64) * np.asarray(spacing, np.float64)
    return float(np.hypot(sides[0], sides[1]))
