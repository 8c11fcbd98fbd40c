"""One list of regions out of those of overlapping tiles: what lies on a seam is told twice, or in pieces.

Two tiles that overlap both see the pixels they share. Regions of theirs are one where they say the same of those pixels:
their boxes there have an IoU of `SAME` or more, or, where one of them is cut by the edge of its tile, cover that much of the
smaller. A region without a box has the extent of its points, and two such are one where they are nearer than a quarter of
the shared pixels' shorter side. The surest pairs are joined first, and two regions of one tile never become one.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medground.geometry import Box, Floats
from medground.types import Region, boxes_of
from medground_prompts.tiles import Tile

SAME = 0.5
Bools = NDArray[np.bool_]
EDGE = 2.0
"""A box that ends so near to the edge of its tile, px, is cut by it."""


class _Pair(NamedTuple):
    score: float
    first: int
    second: int


def merge(tiles: Sequence[Tile], groups: Sequence[Sequence[Region]]) -> tuple[Region, ...]:
    """Return the regions of all tiles, those that are one joined, in the order of their first parts.

    Args:
        tiles: of one image, in order.
        groups: the regions of each tile, in pixels of the image.
    """
    starts = np.cumsum([0, *map(len, groups)])
    pairs = [
        _Pair(score, int(starts[one]) + first, int(starts[other]) + second)
        for one, other in _neighbours(tiles)
        for score, first, second in _same(tiles[one], tiles[other], groups[one], groups[other])
    ]
    homes = [tile for tile, group in enumerate(groups) for _ in group]
    regions = list(chain.from_iterable(groups))
    members = {index: [index] for index in range(len(regions))}
    root = list(range(len(regions)))
    for _, first, second in sorted(pairs, key=lambda pair: (-pair.score, pair.first, pair.second)):
        into, other = sorted((root[first], root[second]))
        if {homes[index] for index in members[into]} & {homes[index] for index in members[other]}:
            continue  # the same region by now, or two of one tile
        for index in members[other]:
            root[index] = into
        members[into] += members.pop(other)
    return tuple(
        _joined([(tiles[homes[index]], regions[index]) for index in sorted(group)]) for group in members.values()
    )


def _neighbours(tiles: Sequence[Tile]) -> list[tuple[int, int]]:
    """Return the pairs of tiles that share pixels."""
    by_row: dict[int, list[int]] = {}
    for index, tile in enumerate(tiles):
        by_row.setdefault(tile.y1, []).append(index)
    pairs = []
    rows = sorted(by_row)
    for position, top in enumerate(rows):
        bottom = tiles[by_row[top][0]].y2
        for other in [row for row in rows[position:] if row < bottom]:
            pairs += [
                (one, two)
                for one in by_row[top]
                for two in by_row[other]
                if (one < two) and tiles[one].x1 < tiles[two].x2 and tiles[two].x1 < tiles[one].x2
            ]
    return pairs


def _same(one: Tile, other: Tile, first: Sequence[Region], second: Sequence[Region]) -> list[tuple[float, int, int]]:
    """Return the pairs of regions of two tiles that are one: (score, index in first, index in second)."""
    shared = Tile(max(one.x1, other.x1), max(one.y1, other.y1), min(one.x2, other.x2), min(one.y2, other.y2))
    extents = [np.array([_extent(region) for region in group]).reshape(-1, 4) for group in (first, second)]
    corners = np.array([shared.x1, shared.y1, shared.x2, shared.y2], np.float64)
    seen = [np.flatnonzero(_overlap(extent, corners)) for extent in extents]
    if not len(seen[0]) or not len(seen[1]):
        return []
    a, b = (extent[index] for extent, index in zip(extents, seen, strict=True))
    boxed = [
        np.array([region.box is not None for region in group])[index]
        for group, index in zip((first, second), seen, strict=True)
    ]
    cut = _cut(a, one)[:, None] | _cut(b, other)[None]
    scores = _agreement(_clipped(a, corners), _clipped(b, corners), cut)
    reach = min(shared.size) / 4
    near = 1 - _gap(a[:, None], b[None]) / reach
    pointed = ~boxed[0][:, None] & ~boxed[1][None]
    scores = np.where(pointed, np.where(near > 0, SAME + near / 2, 0.0), scores)
    scores[boxed[0][:, None] ^ boxed[1][None]] = 0.0
    return [(float(scores[i, j]), int(seen[0][i]), int(seen[1][j])) for i, j in np.argwhere(scores >= SAME)]


def _extent(region: Region) -> tuple[float, float, float, float]:
    if region.box is not None:
        return region.box.x1, region.box.y1, region.box.x2, region.box.y2
    xs, ys = zip(*region.points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _overlap(boxes: Floats, corners: Floats) -> Bools:
    """Return which boxes share a point with one."""
    shared: Bools = np.all((boxes[:, :2] <= corners[2:]) & (corners[:2] <= boxes[:, 2:]), axis=1)
    return shared


def _clipped(boxes: Floats, corners: Floats) -> Floats:
    return np.concatenate([np.maximum(boxes[:, :2], corners[:2]), np.minimum(boxes[:, 2:], corners[2:])], axis=1)


def _cut(boxes: Floats, tile: Tile) -> Bools:
    """Return which boxes end at an edge of their tile."""
    near: Bools = np.any(np.abs(boxes - np.array(tile, np.float64)) <= EDGE, axis=1)
    return near


def _agreement(a: Floats, b: Floats, cut: Bools) -> Floats:
    """Return [N, M] the IoU of boxes, or, where one is cut, how much of the smaller is shared."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (a, b)]
    smaller = np.minimum(areas[0][:, None], areas[1][None])
    whole = np.where(cut, smaller, areas[0][:, None] + areas[1][None] - common)
    agreement: Floats = np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
    return agreement


def _gap(a: Floats, b: Floats) -> Floats:
    """Return the distance between boxes, 0 where they touch."""
    apart = np.maximum(np.maximum(a[..., :2] - b[..., 2:], b[..., :2] - a[..., 2:]), 0)
    gap: Floats = np.hypot(apart[..., 0], apart[..., 1])
    return gap


def _joined(parts: Sequence[tuple[Tile, Region]]) -> Region:
    """Return one region of parts: the box around all, each part's points where no tile before it looked, the surest label."""
    regions = [region for _, region in parts]
    if len(regions) == 1:
        return regions[0]
    boxes = boxes_of(regions)
    spots = [
        (point, label)
        for number, (_, region) in enumerate(parts)
        for point, label in zip(region.points, region.labels, strict=True)
        if not any(tile.holds(point) for tile, _ in parts[:number])
    ]
    surest = max(regions, key=lambda region: (bool(region.label), region.confidence or 0.0))
    confidences = [region.confidence for region in regions if region.confidence is not None]
    return replace(
        regions[0],
        box=_around(boxes) if boxes else None,
        points=tuple(point for point, _ in spots),
        labels=tuple(label for _, label in spots),
        label=surest.label,
        confidence=max(confidences, default=None),
    )


def _around(boxes: Sequence[Box]) -> Box:
    corners = np.array(boxes)
    return Box(*map(float, (*corners[:, :2].min(axis=0), *corners[:, 2:].max(axis=0))))
