"""Segmenters without weights: two floors that never look at the image, and two that do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.errors import SegmenterError
from medground.geometry import Box, box_iou, ellipse, mask_box
from medground.types import Image, Mask, PromptKind, SpatialPrompt
from medground_toy.regions import Bools, Floats, at_points, fill_holes, otsu, rounded, smooth


@dataclass(eq=False)
class BoxFill:
    """Everything inside the box: the floor that any segmenter must beat."""

    accepts: ClassVar[frozenset[PromptKind]] = frozenset({"box"})

    def segment(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[Mask]:
        """Return one mask per prompt: the pixels whose centre lies in the box; points are not used."""
        return [Mask(data=box_pixels(_need_box(prompt, self), image), score=0.5) for prompt in prompts]


@dataclass(eq=False)
class Ellipse:
    """The ellipse inscribed in the box; for points alone, the disc that has the two farthest ones as its diameter.

    The floor that evaluation reports subtract. It never looks at the image.
    """

    accepts: ClassVar[frozenset[PromptKind]] = frozenset({"box", "points"})

    def segment(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[Mask]:
        """Return one mask per prompt; where there is a box it decides."""
        return [Mask(data=_ellipse_pixels(prompt, image), score=0.5) for prompt in prompts]


@dataclass(eq=False, kw_only=True)
class Threshold:
    """Otsu's threshold inside the box, the side that fills its middle; points alone are given a box around them.

    Args:
        margin: for points alone, the box reaches this many times their distance beyond them.
    """

    accepts: ClassVar[frozenset[PromptKind]] = frozenset({"box", "points"})
    margin: float = 1.5

    def segment(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[Mask]:
        """Return one mask per prompt; the score is the share of variance the threshold explains."""
        grey = smooth(image.mean(axis=2, dtype=np.float32), 1) if prompts else None
        return [self._one(grey, image, prompt) for prompt in prompts]

    def _one(self, grey: Floats, image: Image, prompt: SpatialPrompt) -> Mask:
        window = _window(prompt.box or self._around(prompt), image)
        values = grey[window]
        cut, explained = otsu(values)
        rows, columns = ((2 * np.arange(n) + 1) / n - 1 for n in values.shape)
        middle = rows[:, None] ** 2 + columns**2 <= 0.5
        if prompt.points:
            spots = [spot for spot, kind in zip(_spots(prompt, image), prompt.labels, strict=True) if kind]
            inside = [grey[spot] for spot in spots] or [values[middle].mean()]
            bright = float(np.mean(inside)) > cut
        else:
            rest = values if middle.all() else values[~middle]
            bright = bool((values[middle] > cut).mean() > (rest > cut).mean())
        data = np.zeros(image.shape[:2], bool)
        data[window] = fill_holes((values > cut) == bright)
        return Mask(data=data, score=explained)

    def _around(self, prompt: SpatialPrompt) -> Box:
        xy = np.array([p for p, kind in zip(prompt.points, prompt.labels, strict=True) if kind] or prompt.points)
        reach = max(8.0, self.margin * float(np.linalg.norm(np.ptp(xy, axis=0))))
        return Box(*(xy.min(axis=0) - reach), *(xy.max(axis=0) + reach))


@dataclass(eq=False, kw_only=True)
class RegionGrowing:
    """Grows from the points, or from the middle of the box, over pixels of like colour.

    Several tolerances are tried. With a box, the region whose own tight box fits it best wins; with points alone, the
    one whose outline has the strongest edge. A pixel nearer, in colour and place, to a negative point than to every
    positive one is never taken. Images of more than `side` pixels a side are grown at a coarser step.

    Args:
        side: images larger than this are grown at a coarser step, px.
    """

    accepts: ClassVar[frozenset[PromptKind]] = frozenset({"box", "points", "negative_points"})
    side: int = 512
    tolerances = tuple(float(t) for t in np.geomspace(6, 90, 10))
    """Differences of colour, in 8-bit levels, that a region may span on either side of its seeds."""

    def segment(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[Mask]:
        """Return one mask per prompt; the score is the fit of the winning tolerance, in [0, 1]."""
        if not prompts:
            return []
        height, width = image.shape[:2]
        step = -(-max(height, width) // self.side)
        colours = smooth(image[::step, ::step].astype(np.float32), 1)
        edges = _edges(colours)
        grown = [self._grow(colours, edges, _coarser(prompt, step)) for prompt in prompts]
        return [
            Mask(data=data.repeat(step, axis=0).repeat(step, axis=1)[:height, :width], score=score)
            for data, score in grown
        ]

    def _grow(self, colours: Floats, edges: Floats, prompt: SpatialPrompt) -> tuple[Bools, float]:
        allowed = np.ones(colours.shape[:2], bool)
        if prompt.box is not None:
            allowed = box_pixels(prompt.box, colours)
        seeds = self._seeds(prompt, colours)
        near = _difference(colours, seeds)
        against = [spot for spot, kind in zip(_spots(prompt, colours), prompt.labels, strict=True) if not kind]
        if against:
            allowed &= near + _travel(seeds, near.shape) < _difference(colours, against) + _travel(against, near.shape)
        rows, columns = (np.array(axis) for axis in zip(*seeds, strict=True))
        best, best_score = np.zeros(allowed.shape, bool), 0.0
        for tolerance in self.tolerances:
            region = fill_holes(at_points((near <= tolerance) & allowed, rows, columns)) & allowed
            region = rounded(region) & allowed
            if not region.any():
                continue
            score = _edge_fit(region, edges) if prompt.box is None else float(box_iou(mask_box(region), prompt.box))
            if score > best_score:
                best, best_score = region, score
        return best, best_score

    def _seeds(self, prompt: SpatialPrompt, colours: Floats) -> list[tuple[int, int]]:
        spots = [spot for spot, kind in zip(_spots(prompt, colours), prompt.labels, strict=True) if kind]
        if spots or prompt.box is None:
            return spots or [(colours.shape[0] // 2, colours.shape[1] // 2)]
        # A box alone: the pixels of its middle whose colour is nearest the middle's median.
        (y1, y2), (x1, x2) = ((s.start, s.stop) for s in _window(prompt.box, colours))
        cy, cx = (y1 + y2) // 2, (x1 + x2) // 2
        dy, dx = max(1, (y2 - y1) // 4), max(1, (x2 - x1) // 4)
        top, left = max(cy - dy, y1), max(cx - dx, x1)
        middle = colours[top : cy + dy, left : cx + dx]
        gap = np.abs(middle - np.median(middle, axis=(0, 1))).max(axis=2)
        picked = np.argsort(gap, axis=None, kind="stable")[: max(1, gap.size // 10)]
        return [(top + int(i) // gap.shape[1], left + int(i) % gap.shape[1]) for i in picked]


def _need_box(prompt: SpatialPrompt, who: object) -> Box:
    if prompt.box is None:
        raise SegmenterError(f"{who!r} needs a box, and the prompt has points only", hint="set prompt=box")
    return prompt.box


def box_pixels(box: Box, image: NDArray[np.generic]) -> Bools:
    """Return the pixels whose centre lies in the box."""
    height, width = image.shape[:2]
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    return ((y >= box.y1) & (y <= box.y2))[:, None] & ((x >= box.x1) & (x <= box.x2))


def _ellipse_pixels(prompt: SpatialPrompt, image: Image) -> Bools:
    size = image.shape[0], image.shape[1]
    if prompt.box is not None:
        return ellipse(prompt.box, size)
    xy = np.array([p for p, kind in zip(prompt.points, prompt.labels, strict=True) if kind])
    if not len(xy):
        raise SegmenterError(
            "Ellipse() needs a box or foreground points, and the prompt has background points only",
            hint="set prompt=box",
        )
    gaps = np.linalg.norm(xy[:, None] - xy, axis=2)
    first, last = np.unravel_index(gaps.argmax(), gaps.shape)
    centre, reach = (xy[first] + xy[last]) / 2, max(gaps.max() / 2, 0.5)
    return ellipse(Box(*(centre - reach), *(centre + reach)), size)


def _window(box: Box, image: NDArray[np.generic]) -> tuple[slice, slice]:
    """Return the rows and columns the box touches, at least one of each."""
    height, width = image.shape[:2]
    x1, y1 = int(np.clip(np.floor(box.x1), 0, width - 1)), int(np.clip(np.floor(box.y1), 0, height - 1))
    x2, y2 = int(np.clip(np.ceil(box.x2), x1 + 1, width)), int(np.clip(np.ceil(box.y2), y1 + 1, height))
    return slice(y1, y2), slice(x1, x2)


def _spots(prompt: SpatialPrompt, image: NDArray[np.generic]) -> list[tuple[int, int]]:
    """Return (row, column) of every point, moved inside the image."""
    height, width = image.shape[:2]
    return [(int(np.clip(y, 0, height - 1)), int(np.clip(x, 0, width - 1))) for x, y in prompt.points]


def _coarser(prompt: SpatialPrompt, step: int) -> SpatialPrompt:
    if step == 1:
        return prompt
    box = None if prompt.box is None else Box(*(value / step for value in prompt.box))
    points = tuple(type(point)(point.x / step, point.y / step) for point in prompt.points)
    return SpatialPrompt(box=box, points=points, labels=prompt.labels)


def _difference(colours: Floats, spots: Sequence[tuple[int, int]]) -> Floats:
    """Return the largest channel difference to the nearest of the spots' colours; many seeds stand for their median."""
    picked = np.array([colours[spot] for spot in spots])
    if len(picked) > 4:
        picked = np.median(picked, axis=0, keepdims=True)
    return np.min([np.abs(colours - colour).max(axis=2) for colour in picked], axis=0)


def _travel(spots: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> Floats:
    """Return the distance to the nearest spot, as 8-bit levels: the longer side counts for 64."""
    y, x = np.arange(shape[0])[:, None], np.arange(shape[1])
    gaps = np.min([np.hypot(y - row, x - column) for row, column in spots], axis=0)
    return (gaps * (64.0 / max(shape))).astype(np.float32)


def _edges(colours: Floats) -> Floats:
    grey = colours.mean(axis=2)
    down, across = np.zeros_like(grey), np.zeros_like(grey)
    down[1:-1] = grey[2:] - grey[:-2]
    across[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    return np.hypot(down, across)


def _edge_fit(region: Bools, edges: Floats) -> float:
    """Return the mean edge along the outline, in [0, 1]; a region that takes most of the image is no region."""
    inner = region.copy()
    inner[1:] &= region[:-1]
    inner[:-1] &= region[1:]
    inner[:, 1:] &= region[:, :-1]
    inner[:, :-1] &= region[:, 1:]
    outline = region & ~inner
    outline[[0, -1]] = outline[:, [0, -1]] = False
    strength = float(edges[outline].mean()) / 128 if outline.any() else 0.0
    return min(1.0, strength) * min(1.0, 2 * (1 - float(region.mean()))) * min(1.0, float(region.sum()) / 20)
