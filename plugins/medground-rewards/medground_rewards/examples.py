"""Small rollouts from plain numbers: for the worked examples in the docstrings, for tests and for notebooks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medground.geometry import Box, Point
from medground.types import Completion, Grounding, Mask, Query, Rollout, Sample, SpatialPrompt, Target

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
    """A rollout with this answer and this target, in pixels; by default a perfect answer. Masks are H x W arrays."""
    raw: dict[str, Any] = {}
    if box is not None:
        raw["bbox"] = list(box)
    if points is not None and len(points) == 2:
        raw["points_1"], raw["points_2"] = (list(point) for point in points)
    said_box = None if box is None else Box(*box)
    said_points = tuple(Point(*point) for point in points or ())
    prompt = SpatialPrompt(box=said_box, points=said_points) if said_box is not None or said_points else None
    target = Target(
        box=Box(*truth),
        points=tuple(Point(*point) for point in points_truth),
        mask=None if mask_truth is None else np.asarray(mask_truth, bool),
        published=published,
    )
    return Rollout(
        sample=Sample(query=Query(image=np.zeros((64, 64, 3), np.uint8), question=""), target=target),
        completion=Completion(text="", frame=None),
        grounding=Grounding(prompt=prompt, think_level=think_level, answer_level=answer_level, raw=raw),
        mask=None if mask is None else Mask(data=np.asarray(mask, bool), score=1.0),
    )
