"""Statistics of a dataset: counts, sizes of targets, Dice of plain boxes and ellipses, lengths of texts."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medground.data.dataset import Dataset
from medground.data.size_bins import area_fraction, size_name
from medground.errors import InputError
from medground.geometry import Box, Floats, ellipse, mask_dice
from medground.types import Sample, boxes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of one sample."""

    id: str
    split: str
    modality: str
    supercategory: str
    category: str
    targets: str
    """``none``, ``one`` or ``several``: what the question means."""
    regions: int
    """How many targets that is."""
    size: str
    """A name of `medground.data.size_bins`; ``absent`` where there is no target."""
    area: float | None
    """Share of the image; None where there is no target."""
    box_area: float | None
    """Share of the image; of one target, as all figures that name its box or its points."""
    box_fill: float | None
    """Mask over box."""
    dice_filled_box: float | None
    """Dice of the whole boxes against the masks: the floor of a segmenter that fills the box."""
    dice_ellipse: float | None
    """Dice of the ellipses inscribed in the boxes: the floor of a segmenter that has never seen the image."""
    components: int | None
    """Of the mask, joined across sides and corners."""
    point_distance: float | None
    """Between the two key points, in diagonals of the box."""
    question_words: int
    think_words: int


def measure(dataset: Dataset[Any], advance: Callable[[int], None] = lambda count: None) -> list[Figures]:
    """Measure every sample, reading each image and mask once.

    Raises:
        InputError: naming the first sample whose files cannot be used; `medground data lint` lists them all.
    """
    figures = []
    for split, sample in zip(dataset.splits, dataset, strict=True):
        figures.append(_figures(sample, split))
        advance(1)
    return figures


def _figures(sample: Sample, split: str) -> Figures:
    size, labels, target, mask = sample.query.size, sample.labels, sample.target, sample.target.mask
    boxes = boxes_of(target.regions)
    if len(boxes) < len(target.regions):
        raise InputError(f"{sample.query.id} has a region without a box, which statistics need")
    box = boxes[0] if len(boxes) == 1 else None
    fraction = area_fraction(sample) if boxes else None
    points = target.region.points if target.region is not None else ()
    filled = np.zeros(size, bool)
    for one in boxes:
        filled |= ellipse(one, size)
    return Figures(
        id=sample.query.id,
        split=split,
        modality=labels.get("modality", "") or "unnamed",
        supercategory=labels.get("supercategory", "") or "unnamed",
        category=labels.get("category", "") or "unnamed",
        targets=("none", "one", "several")[min(len(boxes), 2)],
        regions=len(boxes),
        size=size_name(fraction),
        area=fraction,
        box_area=None if box is None else box.area / (size[0] * size[1]),
        box_fill=None if mask is None or box is None else float(mask.sum()) / box.area,
        dice_filled_box=None if mask is None else _box_dice(boxes, mask),
        dice_ellipse=None if mask is None else float(mask_dice(filled, mask)),
        components=None if mask is None else ndimage.label(mask, np.ones((3, 3)))[1],
        point_distance=float(np.hypot(*np.subtract(*points))) / box.diagonal if box and len(points) == 2 else None,
        question_words=len(sample.query.question.split()),
        think_words=len(labels.get("think", "").split()),
    )


def _box_dice(boxes: Sequence[Box], mask: NDArray[np.bool_]) -> float:
    """The Dice of filled boxes against a mask: by areas for one, by the pixels whose centres they hold for several."""
    if len(boxes) == 1:
        area = float(mask.sum())
        return 2 * area / (area + boxes[0].area)
    y, x = np.arange(mask.shape[0])[:, None] + 0.5, np.arange(mask.shape[1]) + 0.5
    filled = np.any([(y > b.y1) & (y < b.y2) & (x > b.x1) & (x < b.x2) for b in boxes], axis=0)
    return float(mask_dice(filled, mask))


def summary(figures: Sequence[Figures]) -> dict[str, Any]:
    """Return counts by modality, super-category, category, targets and size, crossed with the split; quartiles of the rest."""
    splits = sorted({row.split for row in figures}, key=_split_order)
    counts = {
        word: {
            name: {"all": total, **{split: _count(figures, **{word: name, "split": split}) for split in splits}}
            for name, total in Counter(getattr(row, word) for row in figures).most_common()
        }
        for word in ("modality", "supercategory", "category", "targets", "size")
    }
    return {
        "samples": len(figures),
        "splits": {split: _count(figures, split=split) for split in splits},
        "counts": counts,
        "figures": {name: quartiles(getattr(row, name) for row in figures) for name in _MEASURED},
        "floors": {
            modality: {
                name: _mean(getattr(row, name) for row in figures if row.modality == modality)
                for name in ("dice_filled_box", "dice_ellipse")
            }
            for modality in counts["modality"]
        },
    }


_MEASURED = (
    "regions", "area", "box_area", "box_fill", "dice_filled_box", "dice_ellipse", "components", "point_distance",
    "question_words", "think_words",
)  # fmt: skip


def quartiles(values: Iterable[float | None]) -> dict[str, float] | None:
    """Return smallest, quartiles, largest and mean of what is known; None where nothing is.

    >>> quartiles([1, 2, 3, None])["median"]
    2.0
    """
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    low, first, median, third, high = np.percentile(known, (0, 25, 50, 75, 100))
    return {
        "min": float(low), "q1": float(first), "median": float(median), "q3": float(third), "max": float(high),
        "mean": float(np.mean(known)),
    }  # fmt: skip


def histogram(values: Iterable[float | None], edges: Sequence[float]) -> tuple[Floats, Floats]:
    """Return (middles, fractions) of values in bins."""
    known = [value for value in values if value is not None]
    counts, borders = np.histogram(known, bins=np.asarray(edges, np.float64))
    middles: Floats = (borders[:-1] + borders[1:]) / 2
    fractions: Floats = counts / max(1, len(known))
    return middles, fractions


def rows(figures: Sequence[Figures]) -> list[Mapping[str, Any]]:
    """Return one plain row per sample."""
    return [asdict(row) for row in figures]


def _count(figures: Sequence[Figures], **words: str) -> int:
    return sum(all(getattr(row, word) == value for word, value in words.items()) for row in figures)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _split_order(name: str) -> tuple[int, str]:
    known = ("train", "val", "test")
    return (known.index(name) if name in known else len(known), name)
