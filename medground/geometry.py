"""Boxes, points, discs and masks: what the numbers mean.

All coordinates are float pixels, (x, y), origin at the top-left corner of the top-left pixel, so pixel i covers
[i, i+1). Sizes are (H, W). Boxes are XYXY. Areas are (x2-x1)(y2-y1): no +1 anywhere.

Every function takes one item or any stack of them: boxes are ``[..., 4]``, points and pairs of points ``[..., 2]``
and ``[..., 2, 2]``, masks ``[..., H, W]``; leading axes broadcast, the answer has the leading axes, in float64.
A box whose corners are reversed is *inverted*: it contains nothing, so its area and every overlap with it are 0.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Size = tuple[int, int]
"""(H, W) in pixels."""


class Point(NamedTuple):
    """A point (x, y) in pixels.

    >>> Point(3.5, 4.5).y
    4.5
    """

    x: float
    y: float


class Box(NamedTuple):
    """A box XYXY in pixels. Any four numbers can be held; `valid` says whether they enclose anything.

    >>> Box(10, 20, 30, 25).area
    100
    """

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        """x2 - x1, px; negative when the corners are reversed."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """y2 - y1, px; negative when the corners are reversed."""
        return self.y2 - self.y1

    @property
    def valid(self) -> bool:
        """True when every number is finite and the box has a positive width and height."""
        return all(map(math.isfinite, self)) and self.width > 0 and self.height > 0

    @property
    def area(self) -> float:
        """Width times height, px²; 0 for an inverted or empty box."""
        return max(0.0, self.width) * max(0.0, self.height)

    @property
    def centre(self) -> Point:
        """The midpoint of the two corners."""
        return Point((self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2)

    @property
    def diagonal(self) -> float:
        """Length of the diagonal, px."""
        return float(np.hypot(self.width, self.height))

    def clip(self, size: Size) -> "Box":
        """Return the part of the box inside an image of `size` (H, W)."""
        height, width = size
        return Box(
            min(max(self.x1, 0.0), width),
            min(max(self.y1, 0.0), height),
            min(max(self.x2, 0.0), width),
            min(max(self.y2, 0.0), height),
        )


def _corners(boxes: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
    array = np.asarray(boxes, dtype=np.float64)
    return array[..., 0], array[..., 1], array[..., 2], array[..., 3]


def _ratio(top: Floats, bottom: Floats) -> Any:
    """Return top / bottom, and 0 where bottom is 0: two empty things share nothing."""
    return np.divide(top, bottom, out=np.zeros(np.shape(bottom)), where=np.asarray(bottom) > 0)[()]


def box_area(boxes: ArrayLike) -> Any:
    """Return the area of boxes ``[..., 4]``, px²; 0 where inverted."""
    x1, y1, x2, y2 = _corners(boxes)
    return np.maximum(x2 - x1, 0.0) * np.maximum(y2 - y1, 0.0)


def box_diagonal(boxes: ArrayLike) -> Any:
    """Return the length of the diagonal of boxes ``[..., 4]``, px."""
    x1, y1, x2, y2 = _corners(boxes)
    return np.hypot(x2 - x1, y2 - y1)


def box_intersection(a: ArrayLike, b: ArrayLike) -> Any:
    """Return the shared area of boxes ``[..., 4]``, px²; 0 if either is inverted."""
    ax1, ay1, ax2, ay2 = _corners(a)
    bx1, by1, bx2, by2 = _corners(b)
    width = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1), 0.0)
    height = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1), 0.0)
    return width * height  # of an inverted box, one is 0: its own right edge lies left of its left one


def box_iou(a: ArrayLike, b: ArrayLike) -> Any:
    """Return the intersection over union of boxes ``[..., 4]``, in [0, 1]; 0 if either is empty or inverted.

    >>> float(box_iou([0, 0, 10, 10], [5, 0, 15, 10]))
    0.3333333333333333
    """
    shared = box_intersection(a, b)
    return _ratio(shared, box_area(a) + box_area(b) - shared)


def in_box(points: ArrayLike, boxes: ArrayLike) -> Any:
    """Return whether points ``[..., 2]`` lie in boxes ``[..., 4]``, edges included; bool."""
    x1, y1, x2, y2 = _corners(boxes)
    xy = np.asarray(points, np.float64)
    x, y = xy[..., 0], xy[..., 1]
    return (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)


def distance(a: ArrayLike, b: ArrayLike) -> Any:
    """Return the Euclidean distance of points ``[..., 2]``, px."""
    step = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return np.hypot(step[..., 0], step[..., 1])


def pair_distance(a: ArrayLike, b: ArrayLike) -> Any:
    """Return the mean distance of two pairs of points ``[..., 2, 2]`` under the better of the two matchings, px.

    >>> float(pair_distance([[0, 0], [3, 4]], [[3, 4], [0, 0]]))
    0.0
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    straight = distance(first, second).mean(axis=-1)
    crossed = distance(first, second[..., ::-1, :]).mean(axis=-1)
    return np.minimum(straight, crossed)


def disc(pairs: ArrayLike) -> tuple[Floats, Floats]:
    """Return the disc whose diameter is the segment of a pair ``[..., 2, 2]``: (centre ``[..., 2]``, radius ``[...]``), px."""
    array = np.asarray(pairs, np.float64)
    return array.mean(axis=-2), distance(array[..., 0, :], array[..., 1, :]) / 2


def disc_intersection(a: ArrayLike, b: ArrayLike) -> Any:
    """Return the shared area of the discs of two pairs ``[..., 2, 2]``, px²: the two-circle lens, exact everywhere."""
    (centre_a, r), (centre_b, s) = disc(a), disc(b)
    d = distance(centre_a, centre_b)
    small = np.minimum(r, s)
    # The half-angles are only asked for where the circles really cross; elsewhere the arguments are placeholders.
    crossing = (d < r + s) & (d > np.abs(r - s))
    safe_d, safe_r, safe_s = (np.where(crossing, value, 1.0) for value in (d, r, s))
    alpha = np.arccos(np.clip((safe_d**2 + safe_r**2 - safe_s**2) / (2 * safe_d * safe_r), -1, 1))
    beta = np.arccos(np.clip((safe_d**2 + safe_s**2 - safe_r**2) / (2 * safe_d * safe_s), -1, 1))
    lens = safe_r**2 * (alpha - np.sin(2 * alpha) / 2) + safe_s**2 * (beta - np.sin(2 * beta) / 2)
    inside = np.where(d <= np.abs(r - s), np.pi * small**2, 0.0)
    return np.where(crossing, lens, inside)[()]


def disc_area(pairs: ArrayLike) -> Any:
    """Return the area of the disc of a pair ``[..., 2, 2]``, px²."""
    return np.pi * disc(pairs)[1] ** 2


def disc_dice(a: ArrayLike, b: ArrayLike) -> Any:
    """Return True Dice 2·I/(A+B) of the discs of two pairs ``[..., 2, 2]``, in [0, 1]; 0 for coincident points.

    The published "pDice" is 2·I/(A+B-I), which is twice `disc_iou` and reaches 2.

    >>> float(disc_dice([[0, 0], [100, 0]], [[50, -50], [50, 50]]))
    1.0
    """
    return _ratio(np.asarray(2 * disc_intersection(a, b)), np.asarray(disc_area(a) + disc_area(b)))


def disc_iou(a: ArrayLike, b: ArrayLike) -> Any:
    """Return the intersection over union of the discs of two pairs ``[..., 2, 2]``, in [0, 1]; 0 for coincident points.

    >>> round(float(disc_iou([[0, 0], [100, 0]], [[25, 0], [75, 0]])), 6)
    0.25
    """
    shared = np.asarray(disc_intersection(a, b))
    return _ratio(shared, np.asarray(disc_area(a) + disc_area(b) - shared))


def mask_dice(a: ArrayLike, b: ArrayLike) -> Any:
    """Return the Dice 2·I/(A+B) of masks ``[..., H, W]`` (nonzero is foreground), in [0, 1]; two empty masks give 1."""
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    total = np.asarray(first.sum(axis=(-2, -1)) + second.sum(axis=(-2, -1)), np.float64)
    shared = np.asarray((first & second).sum(axis=(-2, -1)), np.float64)
    return np.where(total == 0, 1.0, _ratio(2 * shared, total))[()]


def mask_iou(a: ArrayLike, b: ArrayLike) -> Any:
    """Return the intersection over union of masks ``[..., H, W]`` (nonzero is foreground), in [0, 1]; 1 if both are empty."""
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    union = np.asarray((first | second).sum(axis=(-2, -1)), np.float64)
    shared = np.asarray((first & second).sum(axis=(-2, -1)), np.float64)
    return np.where(union == 0, 1.0, _ratio(shared, union))[()]


def mask_box(mask: ArrayLike) -> Box:
    """Return the tight box [xmin, ymin, xmax+1, ymax+1] of one mask ``[H, W]``, px.

    Raises:
        ValueError: if the mask is empty.
    """
    array = np.asarray(mask, bool)
    rows, columns = np.flatnonzero(array.any(axis=1)), np.flatnonzero(array.any(axis=0))
    if rows.size == 0:
        raise ValueError("an empty mask has no box")
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def ellipse(box: Box, size: Size) -> NDArray[np.bool_]:
    """Return the ellipse inscribed in a box as a mask of `size` (H, W): the pixels whose centre lies in it; none if invalid.

    >>> ellipse(Box(0, 0, 4, 4), (3, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    """
    if not box.valid:
        return np.zeros(size, bool)
    y, x = (np.arange(size[0]) + 0.5)[:, None], np.arange(size[1]) + 0.5
    centre = box.centre
    inside = ((x - centre.x) / (box.width / 2)) ** 2 + ((y - centre.y) / (box.height / 2)) ** 2 <= 1
    return np.asarray(inside, bool)


def in_mask(points: ArrayLike, mask: ArrayLike) -> Any:
    """Return whether points ``[..., 2]`` fall on the foreground of one mask ``[H, W]``; False outside the image."""
    xy, array = np.asarray(points, np.float64), np.asarray(mask, bool)
    height, width = array.shape
    x, y = xy[..., 0], xy[..., 1]
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    row, column = np.where(inside, y, 0).astype(int), np.where(inside, x, 0).astype(int)
    return (array[row, column] & inside)[()]


def mask_boundary(mask: ArrayLike) -> NDArray[np.bool_]:
    """Return the boundary of one mask ``[H, W]`` or ``[I, J, K]``: foreground with a face on the rest or the edge."""
    from scipy import ndimage

    array = np.asarray(mask, bool)
    return np.asarray(array & ~ndimage.binary_erosion(array), bool)


def surface_distances(a: ArrayLike, b: ArrayLike, spacing: Sequence[float] | None = None) -> tuple[Floats, Floats]:
    """Return the distances between the boundaries of two non-empty masks: (from a to b, from b to a).

    The masks are ``[H, W]`` or ``[I, J, K]``. Distances count from centre to centre, one per boundary pixel or voxel in
    reading order. `spacing` is the length of a pixel or voxel along each axis, None 1; the distances have its unit.

    >>> [float(d[0]) for d in surface_distances(np.eye(1, 5, 0, dtype=bool), np.eye(1, 5, 3, dtype=bool))]
    [3.0, 3.0]

    Raises:
        ValueError: if either mask is empty or their shapes differ.
    """
    from scipy import ndimage

    first, second = mask_boundary(a), mask_boundary(b)
    if first.shape != second.shape:
        raise ValueError(f"masks of {first.shape} and {second.shape} cannot be compared")
    if not first.any() or not second.any():
        raise ValueError("an empty mask has no boundary")
    (window,) = ndimage.find_objects((first | second).astype(np.int8))
    first, second = first[window], second[window]
    to_second, to_first = (ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in (second, first))
    return to_second[first], to_first[second]


def assignment(scores: ArrayLike) -> list[tuple[int, int]]:
    """Return the pairs (row, column) of the one-to-one matching with the highest sum of scores ``[N, M]``, all finite.

    There are min(N, M) pairs, in the order of the rows (the Hungarian method, `scipy.optimize.linear_sum_assignment`).

    >>> assignment([[0.6, 0.5], [0.5, 0.0]])
    [(0, 1), (1, 0)]
    """
    from scipy.optimize import linear_sum_assignment

    table = np.asarray(scores, np.float64)
    if not table.size:
        return []
    rows, columns = linear_sum_assignment(table, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))
