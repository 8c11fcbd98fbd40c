"""The released evaluation's own numbers, for comparison with published tables.

They read the answer as the released evaluation reads it (``Grounding.raw`` from a prompt interface with ``parser:
released_eval``) and the truth as published. What raises there is a failure of the whole sample, both metrics at once;
here it is a `ReleasedFailure` with the reason. A released NaN is returned as NaN: the caller decides how to write it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from medground.types import Grounding, Target


class ReleasedFailure(ValueError):
    """The released evaluation fails on this sample and counts every metric of it as 0."""


def published(target: Target) -> tuple[Sequence[float], Sequence[Sequence[float]]]:
    """Return (box, points) of a target as a published file states them; its own numbers where it has no such file."""
    if target.published is not None:
        return target.published["bbox_2d"], target.published["point_2d"]
    if target.region is None or target.region.box is None:
        raise ReleasedFailure(f"the truth has {len(target.regions)} regions, and the released evaluation knows one box")
    return list(target.region.box), [list(point) for point in target.region.points]


def compat_metrics(grounding: Grounding, target: Target) -> dict[str, float]:
    """Return ``iou_compat`` and ``pdice_compat`` of one answer, unrounded.

    Raises:
        ReleasedFailure: where the released evaluation counts the sample as failed.
    """
    if grounding.raw is None:
        raise ReleasedFailure("no answer object could be read")
    box, points = published(target)
    answer_box, *pair = (grounding.raw.get(key) for key in ("bbox", "points_1", "points_2"))
    try:
        return {"iou_compat": compat_iou(answer_box, box), "pdice_compat": compat_pdice(pair, points)}
    except (TypeError, ValueError, ArithmeticError, IndexError, KeyError, AttributeError) as error:
        # Arithmetic on whatever the model wrote: these are the ways it can go wrong, and each fails the sample there.
        raise ReleasedFailure(f"{type(error).__name__}: {error}") from error


def compat_iou(box: Any, truth: Sequence[float]) -> float:
    """Return I / (A + B - I + 1e-6) with signed areas, so that inverted boxes give 0 (or -0).

    >>> round(compat_iou([0, 0, 10, 10], [5, 0, 15, 10]), 9)
    0.333333331
    """
    x1, y1, x2, y2 = box
    u1, v1, u2, v2 = truth
    shared = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
    areas = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1)
    return float(shared / (areas - shared + 1e-6))


def compat_pdice(pair: Any, truth: Sequence[Sequence[float]]) -> float:
    """Return 2·I / (U + 1e-5) of the discs whose diameters the pairs are: twice their IoU, so a perfect answer gives 2.

    >>> round(compat_pdice([[50, -50], [50, 50]], [[0, 0], [100, 0]]), 6)
    2.0
    """
    answer, known = np.array(pair), np.array(truth)
    r, s = (float(np.linalg.norm(points[0] - points[1])) / 2 for points in (answer, known))
    centres = [((points[0][0] + points[1][0]) / 2, (points[0][1] + points[1][1]) / 2) for points in (answer, known)]
    shared = _lens(r, s, math.hypot(centres[0][0] - centres[1][0], centres[0][1] - centres[1][1]))
    return float(2 * shared / (math.pi * r**2 + math.pi * s**2 - shared + 1e-5))


def _lens(r: float, s: float, d: float) -> float:
    """Return the shared area of two circles of radii r, s at distance d, as released: a small slack, and no clamping."""
    if d >= r + s - 1e-5:
        return 0.0
    if d <= abs(r - s) + 1e-5:
        return math.pi * min(r, s) ** 2
    alpha = math.acos((d**2 + r**2 - s**2) / (2 * d * r))
    beta = math.acos((d**2 + s**2 - r**2) / (2 * d * s))
    kite = math.sqrt((-d + r + s) * (d + r - s) * (d - r + s) * (d + r + s))
    return r**2 * alpha + s**2 * beta - kite / 2
