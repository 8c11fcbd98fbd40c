"""Two key points of a mask, by either of two rules.

``halves`` (the default) cuts the mask in two across its longer axis and puts a point in the middle of each half, so
that the two together say where the target is, how large it is and how it lies. ``released`` is how the published
U-MRG annotations were made, as far as they can be reconstructed from published pairs.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medground.geometry import Point
from medground.images.regions import depth, label

Bools = NDArray[np.bool_]
Pair = tuple[Point, Point]

_ROUND = 0.8
"""A mask whose variance across is at least this share of that along its longer axis has no longer axis to speak of."""
_CRUMB = 0.05
"""A part smaller than this share of the mask is a crumb."""
_DEEP = 0.8
"""A pixel at least this deep, of the deepest of its half, is in the middle of the half."""


def halves(mask: Bools) -> Pair:
    """One point in each half of a non-empty mask, at pixel centres, the left (then the upper) one first.

    A mask of two parts (joined across corners, crumbs of less than 0.05 of the area aside) has its parts for halves.
    Any other is cut:

    1. The axis is the one along which the pixels vary most; the horizontal where the variance across is at least 0.8
       of it, so that round targets are all treated alike.
    2. Two-means along the axis, from the centroid on, cuts the pixels in two; pixels on the cut belong to neither.
    3. Of the pixels of a half at least 0.8 times as deep as its deepest (the other half and what lies beyond the image
       count as outside), the nearest to the half's centroid is its point.

    Both points are foreground pixels whatever the shape, and the discs inscribed around them in their halves do not
    overlap, so the points are at least the sum of their depths apart. A ring gets opposite points, a crescent one in
    each arm, a line one in each half, two equal parts one each. A mask of one pixel gets two points in that pixel.
    """
    rows, columns = np.nonzero(mask)
    if rows.size == 0:
        raise ValueError("an empty mask has no key points")
    if rows.size == 1:
        return Point(columns[0] + 0.25, rows[0] + 0.5), Point(columns[0] + 0.75, rows[0] + 0.5)
    sides = _two_parts(mask, rows, columns)
    if sides is None:
        along = _along(columns - columns.mean(), rows - rows.mean())
        cut = _cut(along)
        sides = along < cut - 1e-9, along > cut + 1e-9
    found = []
    for side in sides:
        half = np.zeros(mask.shape, bool)
        half[rows[side], columns[side]] = True
        found.append(_middle(half, rows[side], columns[side]))
    first, second = sorted(found)
    return first, second


def released(mask: Bools) -> Pair:
    """The published rule, reconstructed, for a non-empty mask; at pixel centres, where the files state pixel indices.

    The first point is the deepest pixel; the second the deepest of those at least 0.4 times the square root of the
    area away from it. The image's frame does not count as background. Of equals the first in reading order is taken.
    The published rule says nothing of masks too small for a second point: there it is the pixel farthest from the
    first, which for one pixel is the same.
    """
    rows, columns = np.nonzero(mask)
    if rows.size == 0:
        raise ValueError("an empty mask has no key points")
    deep = depth(mask, frame_counts=False)[rows, columns]
    first = int(deep.argmax())
    away = np.hypot(rows - rows[first], columns - columns[first])
    far = away >= 0.4 * np.sqrt(rows.size)
    second = int(np.where(far, deep, -1.0).argmax()) if far.any() else int(away.argmax())
    return (
        Point(float(columns[first] + 0.5), float(rows[first] + 0.5)),
        Point(float(columns[second] + 0.5), float(rows[second] + 0.5)),
    )


RULES: dict[str, Callable[[Bools], Pair]] = {"halves": halves, "released": released}
"""The rules by name."""


def _two_parts(mask: Bools, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> tuple[Bools, Bools] | None:
    """Which foreground pixels belong to each of exactly two parts that are no crumbs; None for any other mask."""
    labels = label(mask, corners=True)[0][rows, columns]
    large = np.flatnonzero(np.bincount(labels) >= _CRUMB * rows.size)
    return (labels == large[0], labels == large[1]) if large.size == 2 else None


def _along(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far along the mask's axis each pixel lies, from the centroid."""
    # Sums of a few million small numbers; rounding keeps mirrored masks alike to the last digit.
    xx, yy, xy = (round(float(np.mean(product)), 6) for product in (x * x, y * y, x * y))
    middle, swing = (xx + yy) / 2, float(np.hypot((xx - yy) / 2, xy))
    if middle - swing >= _ROUND * (middle + swing):
        return x
    angle = 0.5 * float(np.arctan2(2 * xy, xx - yy))
    along: NDArray[np.float64] = x * np.cos(angle) + y * np.sin(angle)
    return along


def _cut(along: NDArray[np.float64]) -> float:
    """Where two-means, started at the mean, cuts the values."""
    cut = 0.0
    for _ in range(50):
        low, high = along[along < cut - 1e-9], along[along > cut + 1e-9]
        moved = round((float(low.mean()) + float(high.mean())) / 2, 9)
        if moved == cut:
            break
        cut = moved
    return cut


def _middle(half: Bools, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Point:
    deep = depth(half)[rows, columns]
    away = np.hypot(rows - rows.mean(), columns - columns.mean())
    # Rounded, so that mirrored masks tie where they should.
    best = int(np.where(deep >= _DEEP * deep.max(), np.round(away, 6), np.inf).argmin())
    return Point(float(columns[best] + 0.5), float(rows[best] + 0.5))
