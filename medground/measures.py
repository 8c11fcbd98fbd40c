"""What a radiologist measures on a mask: long and short axis, area, volume, centroid.

Axes are measured on the outline through the **midpoints of the faces** that separate the mask's pixels from the rest: `RULE`,
named wherever they are written. On ellipses the long axis is 0.44 px too long on average and the short axis 0.30 px; pixel
corners would make the long axis 0.80 px too long, pixel centres (ITK's Feret diameter) 0.47 px too short. Research software,
not a medical device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
RULE = "face midpoints"
"""Between which points of a mask its axes are measured."""
_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceMeasures:
    """Measures of one mask of a picture, in mm and mm2 where the spacing is known, else in pixels.

    >>> measure_mask(np.ones((4, 3), bool), (0.5, 1.0)).to_dict()["area_mm2"]
    6.0
    """

    unit: str
    """``mm`` or ``px``."""
    area: float
    long_axis: float
    """The longest distance between two points of the outline."""
    short_axis: float
    """The longest distance between two points of the outline on a line perpendicular to the long axis (RECIST 1.1)."""
    long_ends: tuple[tuple[float, float], tuple[float, float]]
    """(x, y) of its two ends, in pixels of the picture."""
    short_ends: tuple[tuple[float, float], tuple[float, float]]
    centroid: tuple[float, float]
    """(x, y), in pixels of the picture."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values whose names say their units."""
        square = "mm2" if self.unit == "mm" else "px2"
        return {
            f"area_{square}": round(self.area, _DIGITS),
            f"long_axis_{self.unit}": round(self.long_axis, _DIGITS),
            f"short_axis_{self.unit}": round(self.short_axis, _DIGITS),
            "long_axis_ends_px": _rounded(self.long_ends),
            "short_axis_ends_px": _rounded(self.short_ends),
            "centroid_px": _rounded(self.centroid),
            "axes": RULE,
        }

    def __str__(self) -> str:
        return (
            f"{self.long_axis:.1f} x {self.short_axis:.1f} {self.unit} (axes between {RULE}), "
            f"area {self.area:.1f} {self.unit}2"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeMeasures:
    """Measures of one mask of a volume, in mm.

    >>> affine = np.diag([0.5, 0.5, 2.0, 1.0])
    >>> measure_volume(np.ones((4, 4, 3), bool), affine).volume_ml
    0.024
    """

    volume_ml: float
    centroid: tuple[float, float, float]
    """LPS mm."""
    slice: int
    """The k of the slice with the longest axis."""
    largest: SliceMeasures
    """Of that slice, whose picture has i along x and j along y."""
    slices: int
    """How many slices across k hold some of it."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values whose names say their units."""
        return {
            "volume_ml": round(self.volume_ml, 6), "centroid_lps_mm": _rounded(self.centroid), "slices": self.slices,
            "slice": self.slice, **self.largest.to_dict(),
        }  # fmt: skip


def measure_mask(mask: ArrayLike, spacing: tuple[float, float] | None = None) -> SliceMeasures | None:
    """Return the measures of a mask ``[H, W]``; None of an empty one.

    Args:
        mask: nonzero is foreground; several parts are measured as one.
        spacing: millimetres per pixel (along y, along x); None measures in pixels.
    """
    array = np.asarray(mask, bool)
    rows, columns = np.nonzero(array)
    if not rows.size:
        return None
    step = np.array([1.0, 1.0] if spacing is None else [spacing[1], spacing[0]])  # along x, along y
    pieces = _outline(array) * step
    hull = _hull(pieces.reshape(-1, 2))
    long_ends = _farthest(hull)
    short_ends = _longest_across(pieces, hull, long_ends)
    lengths = [float(np.linalg.norm(ends[1] - ends[0])) for ends in (long_ends, short_ends)]
    return SliceMeasures(
        unit="px" if spacing is None else "mm", area=float(rows.size * step.prod()),
        long_axis=max(lengths), short_axis=min(lengths),  # equal ones are rounded apart
        long_ends=_ends(long_ends / step), short_ends=_ends(short_ends / step),
        centroid=(float(columns.mean() + 0.5), float(rows.mean() + 0.5)),
    )  # fmt: skip


def measure_volume(mask: ArrayLike, affine: ArrayLike) -> VolumeMeasures | None:
    """Return the measures of a mask ``[i, j, k]`` of a volume; None of an empty one.

    The axes are those of the slice across k whose long axis is the longest, as RECIST measures.

    Args:
        mask: nonzero is foreground.
        affine: of the volume: (i, j, k, 1) to LPS mm.
    """
    array, matrix = np.asarray(mask, bool), np.asarray(affine, np.float64)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    in_plane = float(spacing[1]), float(spacing[0])
    slices = np.flatnonzero(array.any(axis=(0, 1))).tolist()
    if not slices:
        return None
    longest = max(slices, key=lambda k: _long_axis(array[:, :, k].T, in_plane))
    largest = measure_mask(array[:, :, longest].T, in_plane)
    assert largest is not None
    centre = np.array([indices.mean() for indices in np.nonzero(array)])
    x, y, z = (float(value) for value in matrix[:3, :3] @ centre + matrix[:3, 3])
    return VolumeMeasures(
        volume_ml=float(np.count_nonzero(array) * abs(np.linalg.det(matrix[:3, :3])) / 1000), centroid=(x, y, z),
        slice=longest, largest=largest, slices=len(slices),
    )  # fmt: skip


def _long_axis(array: NDArray[np.bool_], spacing: tuple[float, float]) -> float:
    ends = _farthest(_hull(_outline(array).reshape(-1, 2) * spacing[::-1]))
    return float(np.linalg.norm(ends[1] - ends[0]))


def _outline(array: NDArray[np.bool_]) -> Floats:
    """The pieces ``[n, 2, 2]`` of the outline, (x, y) of both ends in pixels.

    The ends are midpoints of faces between foreground and the rest. Faces that meet at a corner of pixels are joined, where
    four meet each with each.
    """
    padded = np.pad(array, 1)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    faces = (
        ((0.0, -0.5), upper_left != upper_right), ((0.0, 0.5), lower_left != lower_right),
        ((-0.5, 0.0), upper_left != lower_left), ((0.5, 0.0), upper_right != lower_right),
    )  # fmt: skip
    pieces = []
    for (first, there), (second, there_too) in combinations(faces, 2):
        y, x = np.nonzero(there & there_too)
        corners = np.stack([x, y], axis=1)
        pieces.append(np.stack([corners + first, corners + second], axis=1))
    return np.concatenate(pieces)


def _hull(points: Floats) -> Floats:
    """The corners of the convex hull of points of a plane, in order around it. There are at least four, not on one line."""
    from scipy.spatial import ConvexHull

    corners: Floats = points[ConvexHull(points).vertices]
    return corners


def _farthest(hull: Floats) -> Floats:
    """The two corners that lie farthest apart."""
    lengths = ((hull[:, None] - hull[None]) ** 2).sum(axis=2)
    return hull[list(np.unravel_index(int(lengths.argmax()), lengths.shape))]


def _longest_across(pieces: Floats, hull: Floats, ends: Floats) -> Floats:
    """The ends of the longest line between two points of an outline that is perpendicular to its long axis.

    Lengths are linear between the corners of the outline, so the longest line passes through one. No line is longer than
    within the convex hull; the corners are tried in the order of that, until none can be better.
    """
    along = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    across = np.array([-along[1], along[0]])
    pieces = pieces[np.argsort((pieces @ along).min(axis=1))]
    t, s = pieces @ along, pieces @ across
    starts, reach = t.min(axis=1), np.ptp(t, axis=1).max()
    corners = np.unique(t)
    bounds = _lengths_across(hull, along, across, corners)
    best, length = np.zeros((2, 2)), -1.0
    for number in np.argsort(-bounds):
        if bounds[number] <= length:
            break
        corner = corners[number]
        near = slice(*np.searchsorted(starts, (corner - reach, np.nextafter(corner, np.inf))))
        crossed = near.start + np.flatnonzero(t[near].max(axis=1) >= corner)
        (t0, t1), (s0, s1) = t[crossed].T, s[crossed].T
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(t0 == t1, 0, (corner - t0) / (t1 - t0))
        met = np.concatenate([s0 + share * (s1 - s0), s1[t0 == t1]])
        if np.ptp(met) > length:
            length = float(np.ptp(met))
            best = np.array([corner * along + met.min() * across, corner * along + met.max() * across])
    return best


def _lengths_across(hull: Floats, along: Floats, across: Floats, where: Floats) -> Floats:
    """How long lines across a hull are at places along its long axis, whose ends are its first and last corner there."""
    t = hull @ along
    first = int(t.argmin())
    t, s = np.roll(t, -first), np.roll(hull @ across, -first)
    last = int(t.argmax())
    one = np.interp(where, t[: last + 1], s[: last + 1])
    other = np.interp(where, np.append(t[last:], t[0])[::-1], np.append(s[last:], s[0])[::-1])
    lengths: Floats = np.abs(one - other)
    return lengths


def _ends(points: Floats) -> tuple[tuple[float, float], tuple[float, float]]:
    (x1, y1), (x2, y2) = points.tolist()
    return (x1, y1), (x2, y2)


def _rounded(values: Sequence[Any]) -> list[Any]:
    return [_rounded(value) if isinstance(value, tuple) else round(value, _DIGITS) for value in values]
