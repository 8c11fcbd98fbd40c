"""Small image analysis: components, filling, smoothing, distances; no Python loop over pixels."""

import numpy as np
from numpy.typing import NDArray

from medground.geometry import Point, mask_box

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


def label(mask: Bools) -> tuple[NDArray[np.int32], int]:
    """Return the components of a mask, joined across sides, numbered from 1 in reading order, and how many there are."""
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    return labels, count


def fill_holes(mask: Bools) -> Bools:
    """Return the mask with every background component that does not reach the border filled."""
    labels, count = label(~mask)
    hole = np.ones(count + 1, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        hole[edge] = False
    return mask | hole[labels]


def at_points(mask: Bools, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Bools:
    """Return the components of `mask` that hold at least one of the given pixels."""
    labels, count = label(mask)
    wanted = np.zeros(count + 1, bool)
    wanted[labels[rows, columns]] = True
    wanted[0] = False
    return wanted[labels]


def rounded(mask: Bools) -> Bools:
    """Return the pixels with more mask than background around them: where `smooth` of radius 1 is above 0.5."""
    sums = mask.astype(np.int16)
    for along in (sums, sums.T) * 2:
        old = along.copy()
        along[1:] += old[:-1]
        along[0] += old[0]
        along[:-1] += old[1:]
        along[-1] += old[-1]
    return sums > 81 / 2


def smooth(values: Floats, radius: int) -> Floats:
    """Return a box filter of 2·radius+1 applied twice along both axes (a triangle), edges repeated."""
    result = values.astype(np.float32)
    for axis in (0, 1, 0, 1):
        result = _box(result, radius, axis)
    return result


def _box(values: Floats, radius: int, axis: int) -> Floats:
    if radius < 1:
        return values
    widths = [(0, 0)] * values.ndim
    widths[axis] = (radius + 1, radius)
    sums = np.cumsum(np.pad(values, widths, mode="edge"), axis=axis, dtype=np.float64)
    length = 2 * radius + 1
    top = sums[length:] if axis == 0 else sums[:, length:]
    bottom = sums[:-length] if axis == 0 else sums[:, :-length]
    return ((top - bottom) / length).astype(np.float32)


def depth(mask: Bools) -> Floats:
    """Return Chessboard-and-cityblock distance to the background, outside the image included: 1 at an edge pixel.

    Peels alternate 4- and 8-neighbourhoods, an octagon: within about 10 % of the Euclidean distance.
    """
    from scipy import ndimage

    result = np.zeros(mask.shape, np.float32)
    if not mask.any():
        return result
    box = mask_box(mask)
    window = slice(int(box.y1), int(box.y2)), slice(int(box.x1), int(box.x2))
    rest, neighbours = mask[window], 1
    while rest.any():
        result[window] += rest
        rest = ndimage.binary_erosion(rest, ndimage.generate_binary_structure(2, neighbours))
        neighbours = 3 - neighbours
    return result


def key_points(mask: Bools) -> tuple[Point, Point]:
    """Return two key points of a non-empty mask, at pixel centres: its deepest pixel, and the deepest one far from it.

    Far means at least 0.4 times the square root of the area, as in the published targets; a mask too small for that
    gives its farthest pixel, and a mask of one pixel the same point twice.
    """
    deep = depth(mask)
    first = np.unravel_index(deep.argmax(), deep.shape)
    rows, columns = np.nonzero(mask)
    away = np.hypot(rows - first[0], columns - first[1])
    far = away >= 0.4 * np.sqrt(len(rows))
    second = (deep[rows, columns] * far).argmax() if far.any() else away.argmax()
    return Point(first[1] + 0.5, first[0] + 0.5), Point(columns[second] + 0.5, rows[second] + 0.5)


def otsu(values: NDArray[np.generic], bins: int = 64) -> tuple[float, float]:
    """Return the threshold that splits values best in two, and the share of their variance the split explains, in [0, 1].

    Otsu, "A threshold selection method from gray-level histograms", 1979.
    """
    counts, edges = np.histogram(values, bins=bins)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums / below - (sums[-1] - sums) / above
    between = np.where((below > 0) & (above > 0), below * above * np.nan_to_num(gap) ** 2, 0.0) / below[-1] ** 2
    # The best split is often a plateau (an empty stretch of the histogram); its middle is the fair one.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    total = float((counts * (middles - sums[-1] / below[-1]) ** 2).sum() / below[-1])
    return float(edges[1:][best].mean()), float(between.max() / total) if total > 0 else 0.0
