"""Two key points of a mask, by either of two rules.

``halves`` (the default) cuts the mask in two across its longer axis and puts a point in the middle of each half, so
that the two together say where the target is, how large it is and how it lies. ``released`` is how the published
U-MRG annotations were made, as far as they can be reconstructed from published pairs.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medground.geometry import Point, mask_box

Bools = NDArray[np.bool_]
Pair = tuple[Point, Point]

_ROUND = 0.8
"""A mask whose variance across is at least this share of that along its longer axis has no longer axis to speak of."""
_CRUMB = 0.05
"""A component smaller than this fraction of the mask is a crumb."""
_DEEP = 0.8
"""A pixel at least this deep, of the deepest of its half, is in the middle of the half."""


def halves(mask: Bools) -> Pair:
    """Return one point in each half of a non-empty mask, at pixel centres, the left (then the upper) one first.

    A mask of two components (joined across corners, crumbs of less than 0.05 of the area aside) has them for halves.
    Any other is cut:

    1. The axis is the one along which the pixels vary most; the horizontal where the variance across is at least 0.8
       of it, so that round targets are all treated alike.
    2. Two-means along the axis, from the centroid on, cuts the pixels in two; pixels on the cut belong to neither.
    3. Of the pixels of a half at least 0.8 times as deep as its deepest (the other half and what lies beyond the image
       count as outside), the nearest to the half's centroid is its point.

    Both points are foreground pixels whatever the shape, and the discs inscribed around them in their halves do not
    overlap, so the points are at least the sum of their depths apart. A ring gets opposite points, a crescent one in
    each arm, a line one in each half, two equal components one each. A mask of one pixel gets two points in that pixel.
    """
    rows, columns = np.nonzero(mask)
    if rows.size == 0:
        raise ValueError("an empty mask has no key points")
    if rows.size == 1:
        return Point(columns[0] + 0.25, rows[0] + 0.5), Point(columns[0] + 0.75, rows[0] + 0.5)
    sides = _two_components(mask, rows, columns)
    if sides is None:
        along = _along(columns - columns.mean(), rows - rows.mean())
        cut = _cut(along)
        sides = along < cut - 1e-9, along > cut + 1e-9
    points = []
    for side in sides:
        half = np.zeros(mask.shape, bool)
        half[rows[side], columns[side]] = True
        points.append(_middle(half, rows[side], columns[side]))
    first, second = sorted(points)
    return first, second


def released(mask: Bools) -> Pair:
    """Return the points of the published rule, reconstructed; at pixel centres, where the files state pixel indices.

    The first point is the deepest pixel; the second the deepest of those at least 0.4 times the square root of the
    area away from it. The image's frame does not count as background. Ties go to the first in reading order.
    The published rule says nothing of masks too small for a second point: there it is the pixel farthest from the
    first, which for one pixel is the same.
    """
    rows, columns = np.nonzero(mask)
    if rows.size == 0:
        raise ValueError("an empty mask has no key points")
    depths = _depth(mask, frame_counts=False)[rows, columns]
    first = int(depths.argmax())
    away = np.hypot(rows - rows[first], columns - columns[first])
    far = away >= 0.4 * np.sqrt(rows.size)
    second = int(np.where(far, depths, -1.0).argmax()) if far.any() else int(away.argmax())
    return (
        Point(float(columns[first] + 0.5), float(rows[first] + 0.5)),
        Point(float(columns[second] + 0.5), float(rows[second] + 0.5)),
    )


RULES: dict[str, Callable[[Bools], Pair]] = {"halves": halves, "released": released}
"""The rules by name."""


def _two_components(mask: Bools, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> tuple[Bools, Bools] | None:
    """Return which foreground pixels belong to each of exactly two components beside crumbs; None for any other mask."""
    labels = ndimage.label(mask, np.ones((3, 3)))[0][rows, columns]
    large = np.flatnonzero(np.bincount(labels) >= _CRUMB * rows.size)
    return (labels == large[0], labels == large[1]) if large.size == 2 else None


def _along(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far along the mask's axis each pixel lies, from the centroid."""
    # Sums of a few million small numbers; rounding keeps mirrored masks alike to the last digit.
    xx, yy, xy = (round(float(np.mean(product)), 6) for product in (x * x, y * y, x * y))
    middle, swing = (xx + yy) / 2, float(np.hypot((xx - yy) / 2, xy))
    if middle - swing >= _ROUND * (middle + swing):
        return x
    angle = 0.5 * float(np.arctan2(2 * xy, xx - yy))
    along: NDArray[np.float64] = x * np.cos(angle) + y * np.sin(angle)
    return along


def _cut(along: NDArray[np.float64]) -> float:
    """Return where two-means, started at the mean, cuts the values."""
    cut = 0.0
    for _ in range(50):
        low, high = along[along < cut - 1e-9], along[along > cut + 1e-9]
        moved = round((float(low.mean()) + float(high.mean())) / 2, 9)
        if moved == cut:
            break
        cut = moved
    return cut


def _middle(half: Bools, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Point:
    depths = _depth(half)[rows, columns]
    away = np.hypot(rows - rows.mean(), columns - columns.mean())
    # Rounded, so that mirrored masks tie where they should.
    best = int(np.where(depths >= _DEEP * depths.max(), np.round(away, 6), np.inf).argmin())
    return Point(float(columns[best] + 0.5), float(rows[best] + 0.5))


def _depth(mask: Bools, *, frame_counts: bool = True) -> NDArray[np.float64]:
    """The distance of every foreground pixel to the nearest background pixel, centre to centre, px; 0 outside.

    With `frame_counts` what lies beyond the image counts as background, and so it does where the mask fills the image.
    """
    box = mask_box(mask)
    window = (
        slice(max(0, int(box.y1) - 1), int(box.y2) + 1),
        slice(max(0, int(box.x1) - 1), int(box.x2) + 1),
    )
    crop = mask[window]
    depths = np.zeros(mask.shape)
    if frame_counts or crop.all():
        depths[window] = ndimage.distance_transform_edt(np.pad(crop, 1))[1:-1, 1:-1]
    else:
        depths[window] = ndimage.distance_transform_edt(crop)
    return depths
