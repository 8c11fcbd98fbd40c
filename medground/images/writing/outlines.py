"""Outlines of masks along the faces of their pixels, as single polygons: holes are joined to their outlines by a keyhole."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]
"""V×2 (row, column) of corners; the centre of the first pixel is (0, 0)."""
_SIDES = (((-1, 0), (0, 0), (0, 1)), ((0, 1), (0, 1), (1, 1)), ((1, 0), (1, 1), (1, 0)), ((0, -1), (1, 0), (0, 0)))
"""To the neighbour of a pixel -> (the way to it, the corners that the face between them begins and ends at)."""


def outlines(mask: NDArray[np.bool_]) -> list[Polygon]:
    """Return polygons that cover exactly a mask, H×W, by the even-odd rule: one for each component.

    A component with holes is one polygon, too: a line of no width leads from its outline to each hole and back. Pixels that
    touch by a corner only are components of their own.

    >>> outlines(np.array([[True, True]]))[0].tolist()
    [[-0.5, -0.5], [-0.5, 1.5], [0.5, 1.5], [0.5, -0.5]]
    """
    loops = _loops(mask)
    outer = [loop for loop in loops if _area(loop) > 0]
    for hole in (loop for loop in loops if _area(loop) < 0):
        face = hole[0] + np.sign(hole[1] - hole[0]) / 2  # the middle of one: no other outline runs along it
        around = [number for number, loop in enumerate(outer) if _contains(loop, face)]
        number = min(around, key=lambda one: abs(_area(outer[one])))
        outer[number] = _joined(outer[number], hole)
    return outer


def _loops(mask: NDArray[np.bool_]) -> list[Polygon]:
    """All closed outlines: outer ones with a positive area, holes with a negative one."""
    padded = np.pad(mask, 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for (down, right), start, end in _SIDES:
        faces = padded & ~np.roll(padded, (-down, -right), (0, 1))
        for row, column in np.argwhere(faces).tolist():
            following[row + start[0], column + start[1]].append((row + end[0], column + end[1]))
    loops = []
    while following:
        loops.append(np.array(_loop(following), np.float64) - 1.5)  # of the padding, and to the pixels' centres
    return loops


def _loop(following: dict[tuple[int, int], list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Take one closed outline away: its corners."""
    corner = first = next(iter(following))
    heading: tuple[int, int] | None = None
    corners = []
    while heading is None or corner != first:
        ways = following[corner]
        nearest = ways[0]
        if len(ways) == 2 and heading is not None:  # two pixels touch by this corner: a right turn leaves them apart
            turned = corner[0] + heading[1], corner[1] - heading[0]
            nearest = turned if turned in ways else nearest
        ways.remove(nearest)
        if not ways:
            del following[corner]
        step = nearest[0] - corner[0], nearest[1] - corner[1]
        if step != heading:
            corners.append(corner)
        heading, corner = step, nearest
    return corners


def _area(loop: Polygon) -> float:
    rows, columns = loop.T
    return float(columns @ np.roll(rows, -1) - rows @ np.roll(columns, -1)) / 2


def _contains(loop: Polygon, point: NDArray[np.float64]) -> bool:
    """Whether a point that lies on no side of an outline lies inside it."""
    start, end = loop, np.roll(loop, -1, axis=0)
    upright = (start[:, 1] == end[:, 1]) & (start[:, 1] > point[1])
    crossed = (start[:, 0] > point[0]) != (end[:, 0] > point[0])
    return bool(np.count_nonzero(upright & crossed) % 2)


def _joined(outer: Polygon, hole: Polygon) -> Polygon:
    """An outline that goes to its corner nearest to a hole, to the hole, around it, and the same way back."""
    apart = np.abs(outer[:, None] - hole[None]).sum(axis=-1)
    here, there = np.unravel_index(apart.argmin(), apart.shape)
    around = np.roll(hole, -int(there), axis=0)
    return np.concatenate([outer[: here + 1], around, around[:1], outer[here:]])
