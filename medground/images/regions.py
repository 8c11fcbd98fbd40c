"""Parts of a mask and how deep its pixels lie, exact, with numpy alone and without a Python loop over pixels."""

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def label(mask: Bools, *, corners: bool = False) -> tuple[NDArray[np.int32], int]:
    """Components of an H x W mask: labels 1..n in reading order (0 elsewhere), and n.

    Pixels are joined across sides, with `corners` across corners too. Rows are cut into runs; runs that touch in
    neighbouring rows are joined by spreading the smallest run number, with pointer jumping, so the loop is about as
    long as the logarithm of the longest winding path.

    >>> label(np.eye(2, dtype=bool))[1], label(np.eye(2, dtype=bool), corners=True)[1]
    (2, 1)
    """
    padded = np.zeros((mask.shape[0], mask.shape[1] + 1), bool)
    padded[:, 1:] = mask
    starts = mask & ~padded[:, :-1]
    runs = np.cumsum(starts, dtype=np.int32).reshape(mask.shape) * mask
    count = int(starts.sum())
    neighbours = [(runs[:-1], runs[1:])]
    if corners:
        neighbours += [(runs[:-1, :-1], runs[1:, 1:]), (runs[:-1, 1:], runs[1:, :-1])]
    joined = [above[t].astype(np.int64) * (count + 1) + below[t] for above, below in neighbours
              for t in [(above > 0) & (below > 0)]]  # fmt: skip
    pairs = np.unique(np.concatenate(joined))
    upper, lower = pairs // (count + 1), pairs % (count + 1)
    root = np.arange(count + 1)
    while True:
        a, b = root[upper], root[lower]
        if np.array_equal(a, b):
            break
        small, large = np.minimum(a, b), np.maximum(a, b)
        np.minimum.at(root, large, small)
        while not np.array_equal(root, root[root]):
            root = root[root]
    kept, numbered = np.unique(root, return_inverse=True)
    return numbered.astype(np.int32)[runs], len(kept) - 1


def parts(mask: Bools) -> list[Bools]:
    """The components of a mask, joined across sides and corners, each H x W bool, largest first."""
    labels, count = label(mask, corners=True)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return [labels == index + 1 for index in np.argsort(-areas, kind="stable")]


def depth(mask: Bools, *, frame_counts: bool = True) -> Floats:
    """Euclidean distance of every foreground pixel to the nearest background pixel, centre to centre, px; 0 outside.

    One pass down the columns gives each pixel the distance to the background in its own column; then neighbouring
    columns are tried at growing offsets until none can be nearer (the separable squared distance of Felzenszwalb and
    Huttenlocher, brought to array form). Work is bounded by the mask's box times its depth.

    Args:
        mask: H x W bool.
        frame_counts: what lies beyond the image counts as background. Without it a mask that fills its image has no
            background at all, and the frame counts nevertheless.
    """
    result = np.zeros(mask.shape)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return result
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    around = np.pad(mask, 1)[rows[0] : rows[-1] + 3, columns[0] : columns[-1] + 3]
    if not frame_counts and not mask.all():
        beyond = np.pad(np.zeros(mask.shape, bool), 1, constant_values=True)
        around = around | beyond[rows[0] : rows[-1] + 3, columns[0] : columns[-1] + 3]
    squared = _column_gaps(around) ** 2
    nearest = squared.copy()
    for offset in range(1, around.shape[1]):
        if offset * offset >= nearest.max():
            break
        step = offset * offset
        np.minimum(nearest[:, offset:], squared[:, :-offset] + step, out=nearest[:, offset:])
        np.minimum(nearest[:, :-offset], squared[:, offset:] + step, out=nearest[:, :-offset])
    result[window] = np.sqrt(nearest[1:-1, 1:-1])
    return result


def _column_gaps(foreground: Bools) -> Floats:
    """How many rows away the nearest background pixel of the same column is; far beyond the window where none is."""
    height = foreground.shape[0]
    far = float(sum(foreground.shape) * 2)
    rows = np.arange(height, dtype=np.float64)[:, None]
    above = np.maximum.accumulate(np.where(foreground, -far, rows), axis=0)
    below = np.minimum.accumulate(np.where(foreground, far + height, rows)[::-1], axis=0)[::-1]
    gaps: Floats = np.minimum(rows - above, below - rows)
    return gaps
