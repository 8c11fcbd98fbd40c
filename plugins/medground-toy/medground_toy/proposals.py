"""Regions an image offers, and how well each fits the words of a question."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medground.geometry import Box, Point, box_iou, mask_box
from medground.types import Image
from medground_toy.regions import Bools, Floats, key_points, label, smooth

SIDE = 192
"""Images are looked at with about this many pixels a side."""
_STANDS_OUT = 0.2
"""The contrast of a region that is one of several."""


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """One region, in pixels of the image, with what words can be about; places and brightness in [-1, 1]."""

    box: Box
    points: tuple[Point, Point]
    x: float
    y: float
    size: float
    """Square root of its share of the image, in [0, 1]."""
    light: float
    contrast: float
    """How far it stands out from the ring around it, in [0, 1]."""
    round: float
    """Its Dice with the ellipse of its box, squeezed to [0, 1] and scaled by the box's own roundness."""


def _far(along: float) -> float:
    """Return how far to one side a region lies; the outermost region is no better for being outermost."""
    return 1.5 * float(np.clip(4 * along, -1, 1))


_SENSES: Mapping[str, Callable[[Proposal], float]] = {
    "left leftmost left-hand": lambda p: _far(-p.x),
    "right rightmost right-hand": lambda p: _far(p.x),
    "upper top above high higher superior uppermost": lambda p: _far(-p.y),
    "lower bottom below low beneath inferior lowermost base": lambda p: _far(p.y),
    "middle central centre center midline": lambda p: 1 - 2 * float(np.hypot(p.x, p.y)),
    "bright brighter brightest light lighter white whitish pale dense dense-looking opaque": lambda p: p.light,
    "dark darker darkest black blackish lucent hollow": lambda p: -p.light,
    "large larger largest big biggest broad": lambda p: 2 * p.size,
    "small smaller smallest tiny little": lambda p: -2 * p.size,
    "round rounded circular oval": lambda p: p.round,
    "irregular ragged lobed crescent curved winding": lambda p: -p.round,
}
"""Words -> what they ask of a region: larger is better, about -1 to 1."""
_WORDS = {word: sense for words, sense in _SENSES.items() for word in words.split()}


def fit(proposal: Proposal, words: list[str]) -> float:
    """Return how well a region fits the words; without any known word, how much it looks like a thing."""
    likely = 1.5 * proposal.contrast + 0.3 * proposal.round - abs(proposal.size - 0.2)
    return likely + sum(_WORDS[word](proposal) for word in words if word in _WORDS)


_TONES: Mapping[str, Callable[[Proposal], bool]] = {
    "bright brighter light white pale": lambda p: p.light > 0.3,
    "dark darker black purple brown": lambda p: p.light < -0.3,
}


def every(proposals: Sequence[Proposal], words: list[str], fits: NDArray[np.float64]) -> list[Proposal]:
    """Return all regions that stand out and have the tone that the words ask for, none over another, in reading order."""
    tones = [wanted for names, wanted in _TONES.items() if set(names.split()) & set(words)]
    chosen: list[Proposal] = []
    for index in np.argsort(-fits, kind="stable"):
        one = proposals[int(index)]
        apart = all(float(box_iou(one.box, other.box)) == 0 for other in chosen)
        if apart and one.contrast >= _STANDS_OUT and all(wanted(one) for wanted in tones):
            chosen.append(one)
    return sorted(chosen, key=lambda one: (one.box.y1, one.box.x1))


def known(words: list[str]) -> list[str]:
    """Return the words that mean something here, in order, once each."""
    return [word for word in dict.fromkeys(words) if word in _WORDS]


def propose(image: Image, most: int = 40) -> list[Proposal]:
    """Return the components of the smoothed grey image above and below a few levels, the most prominent first; at least one."""
    step = max(1, round(max(image.shape[:2]) / SIDE))
    grey = smooth(image[::step, ::step].mean(axis=2, dtype=np.float32), 1)
    around = smooth(grey, max(2, min(grey.shape) // 12))
    cuts = np.unique(np.quantile(grey[::2, ::2], np.linspace(0.1, 0.95, 9)))
    candidates: dict[tuple[float, ...], tuple[float, Bools]] = {}
    for cut in cuts:
        for side in (grey > cut, grey <= cut):
            for mask in _components(side):
                contrast = abs(float((grey[mask] - around[mask]).mean()))
                candidates.setdefault(tuple(mask_box(mask)), (contrast, mask))
    ranked = sorted(candidates.values(), key=lambda pair: -pair[0])[:most]
    if not ranked:
        height, width = grey.shape
        middle = np.zeros(grey.shape, bool)
        middle[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
        ranked = [(0.0, middle)]
    return [_describe(mask, contrast, grey, step, image.shape[:2]) for contrast, mask in ranked]


def _components(side: Bools, most: int = 6) -> list[Bools]:
    """Return the largest components that are neither specks nor backgrounds."""
    labels, count = label(side)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    good = (areas >= max(4, 0.002 * side.size)) & (areas <= 0.3 * side.size)
    good[border[border > 0] - 1] = False
    order = np.argsort(-areas, kind="stable")
    return [labels == index + 1 for index in order[good[order]][:most]]


def _describe(mask: Bools, contrast: float, grey: Floats, step: int, size: tuple[int, int]) -> Proposal:
    height, width = size
    x1, y1, x2, y2 = mask_box(mask)
    box = Box(x1 * step, y1 * step, min(x2 * step, width), min(y2 * step, height))
    points = tuple(Point(min(p.x * step, width - 0.5), min(p.y * step, height - 0.5)) for p in key_points(mask))
    rows, columns = np.nonzero(mask)
    low, high = np.quantile(grey, (0.02, 0.98))
    light = float(np.clip((grey[mask].mean() - low) / max(high - low, 1e-6), 0, 1))
    fill = len(rows) / ((x2 - x1) * (y2 - y1))
    squat = min(x2 - x1, y2 - y1) / max(x2 - x1, y2 - y1)
    return Proposal(
        box=box,
        points=(points[0], points[1]),
        x=float(2 * (columns.mean() + 0.5) / grey.shape[1] - 1),
        y=float(2 * (rows.mean() + 0.5) / grey.shape[0] - 1),
        size=float(np.sqrt(mask.mean())),
        light=2 * light - 1,
        contrast=min(1.0, contrast / 64),
        round=float(squat * max(0.0, 1 - 2 * abs(fill - np.pi / 4))),
    )
