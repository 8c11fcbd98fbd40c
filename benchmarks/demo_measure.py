"""Measurements of the demo and `toy_shift.py`: greedy answers to held-out questions, box IoU, mask Dice, intervals.

    python benchmarks/demo_measure.py RECIPE DATA [--splits test,val]

prints them for a recipe or run folder on a dataset, with those of a box in the middle.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medground.data.dataset import Dataset
from medground.data.open_dataset import open_dataset
from medground.evaluation.statistics import estimate
from medground.geometry import Box, box_iou, mask_dice
from medground.pipeline.load import load
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.result import GroundingResult
from medground.types import Sample

Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def answers(graph: Pipeline, samples: Sequence[Sample]) -> list[GroundingResult]:
    """Return the results of a pipeline for every sample, with the recipe's (greedy) sampling."""
    return graph.batch([sample.query for sample in samples])


def ious(found: Sequence[GroundingResult], samples: Sequence[Sample]) -> Numbers:
    """Return the box IoU of each answer with the truth; an unusable answer counts 0."""
    return overlaps(answered_boxes(found), samples)


def answered_boxes(found: Sequence[GroundingResult]) -> list[Box | None]:
    """Return the box of each answer; None for an unusable one."""
    return [each.grounding.region.box if each.grounding.region and not each.grounding.fault else None for each in found]


def overlaps(boxes: Sequence[Box | None], samples: Sequence[Sample]) -> Numbers:
    """Return the box IoU of the boxes with the truth; None counts 0."""
    pairs = zip(boxes, samples, strict=True)
    return np.array([0.0 if box is None else float(box_iou(box, sample.target.region.box)) for box, sample in pairs])


def dices(found: Sequence[GroundingResult], samples: Sequence[Sample]) -> Numbers:
    """Return the Dice of each answer's mask with the true one; no mask counts 0."""
    pairs = zip(found, samples, strict=True)
    return np.array([0.0 if one.mask is None else float(mask_dice(one.mask.data, s.target.mask)) for one, s in pairs])


def valid(found: Sequence[GroundingResult]) -> float:
    """Return the share of usable answers."""
    return float(np.mean([each.grounding.fault is None for each in found]))


def shuffled(samples: Dataset, seed: int = 0) -> list[Sample]:
    """Return the same pictures and truths, each with a question of another picture."""
    pictures = picture_of(samples)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(samples))
    while (clash := pictures[order] == pictures).any():  # swap what fell to its own picture with anything
        for place in np.flatnonzero(clash):
            other = rng.integers(len(order))
            order[place], order[other] = order[other], order[place]
    asked = [samples[place].query.question for place in order]
    return [
        replace(sample, query=replace(sample.query, question=question))
        for sample, question in zip(samples, asked, strict=True)
    ]


def picture_of(samples: Dataset) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the picture number of each sample."""
    return np.unique([str(entry.image) for entry in samples.entries], return_inverse=True)[1]


def interval(values: Numbers, pictures: np.ndarray[Any, np.dtype[np.int64]]) -> Interval:
    """Return the mean and its 95 % bootstrap interval over pictures; questions of one picture are not independent."""
    [found] = estimate(values[:, None], pictures.tolist())
    assert found is not None and found.low is not None and found.high is not None, "needs two pictures or more"
    return Interval(found.mean, found.low, found.high)


def constant_box(samples: Dataset, most: int = 300) -> Box:
    """Return the training box with the best mean IoU with the first others."""
    boxes = [sample.target.region.box for sample in samples[:most]]
    return max(boxes, key=lambda box: float(np.sum(box_iou(np.array(box), np.array(boxes)))))


def centre_box(size: tuple[int, int]) -> Box:
    """Return the box of the middle half of a picture of (H, W)."""
    height, width = size
    return Box(width / 4, height / 4, 3 * width / 4, 3 * height / 4)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="a recipe, or a run folder")
    parser.add_argument("data", help="a folder with manifest.jsonl")
    parser.add_argument("--splits", default="", help="comma-separated; all if left out")
    parser.add_argument("--segmenter", default="toy_sam")
    chosen = parser.parse_args(arguments)
    samples = open_dataset(chosen.data)
    wanted = [word for word in chosen.splits.split(",") if word]
    samples = Dataset([entry for entry in samples.entries if not wanted or entry.split in wanted])
    graph = load(chosen.recipe, f"segmenter={chosen.segmenter}", "sampling.max_completion_length=32")
    found, pictures = answers(graph, samples), picture_of(samples)
    middle = [centre_box(sample.query.size) for sample in samples]
    print(f"{len(samples)} questions, usable {100 * valid(found):.1f} %")
    print(f"box IoU {interval(ious(found, samples), pictures)}")
    print(f"mask Dice {interval(dices(found, samples), pictures)}")
    print(f"box IoU of a box in the middle {interval(overlaps(middle, samples), pictures)}")
    print(f"an answer: {found[0].completion.text}")


if __name__ == "__main__":
    main()
