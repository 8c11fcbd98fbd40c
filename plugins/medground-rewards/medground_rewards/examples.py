"""Small rollouts from plain numbers: for the worked examples in the docstrings, for tests and for notebooks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medground.geometry import Box, Point
from medground.types import Completion, Grounding, Mask, Query, Region, Rollout, Sample, Target

Pair = Sequence[tuple[float, float]]


def rollout(
    *,
    box: Sequence[float] | None = (10, 10, 40, 50),
    truth: Sequence[float] = (10, 10, 40, 50),
    points: Pair | None = ((15, 20), (30, 40)),
    points_truth: Pair = ((15, 20), (30, 40)),
    mask: Any = None,
    mask_truth: Any = None,
    think_level: float | None = 1.0,
    answer_level: float = 1.0,
    published: Mapping[str, Any] | None = None,
) -> Rollout:
    """Return a rollout with this answer and this target, in pixels; by default a perfect answer. Masks are H x W arrays."""
    raw: dict[str, Any] = {}
    if box is not None:
        raw["bbox"] = list(box)
    if points is not None and len(points) == 2:
        raw["points_1"], raw["points_2"] = (list(point) for point in points)
    predicted_box = None if box is None else Box(*box)
    predicted_points = tuple(Point(*point) for point in points or ())
    region = Region(box=predicted_box, points=predicted_points, mask=_mask(mask))
    size = (64, 64) if mask_truth is None else np.shape(mask_truth)
    truth_points = tuple(Point(*point) for point in points_truth)
    true_region = Region(box=Box(*truth), points=truth_points, mask=_mask(mask_truth))
    return Rollout(
        sample=Sample(
            query=Query(image=np.zeros((*size, 3), np.uint8), question=""),
            target=Target(regions=(true_region,), published=published),
        ),
        completion=Completion(text="", frame=None),
        grounding=Grounding(
            regions=(region,) if region.prompt() else (), think_level=think_level, answer_level=answer_level, raw=raw
        ),
    )


def several(
    boxes: Sequence[Sequence[float]], truths: Sequence[Sequence[float]], confidences: Sequence[float | None] = ()
) -> Rollout:
    """Return a rollout whose answer and target hold one region per box, in pixels; without boxes, nothing.

    >>> several([], [(0, 0, 10, 10)]).grounding.regions
    ()
    """
    stated = [*confidences, *[None] * (len(boxes) - len(confidences))]
    answered = [Region(box=Box(*box), confidence=stated) for box, stated in zip(boxes, stated, strict=True)]
    one = rollout()
    return replace(
        one,
        sample=replace(one.sample, target=Target(regions=tuple(Region(box=Box(*box)) for box in truths))),
        grounding=replace(one.grounding, regions=tuple(answered), raw=None),
    )


def _mask(pixels: Any) -> Mask | None:
    return None if pixels is None else Mask(data=np.asarray(pixels, bool))
