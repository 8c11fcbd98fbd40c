"""Metrics of choosing: what the proposed candidates allow, and whether the best of them was chosen.

They are measured where candidates were proposed for the sample's own image and the target has a mask; a target that is absent
has none of them. Of several candidates that are equally good, each is the best.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from medground.geometry import mask_dice, mask_iou
from medground.types import Region, Rollout

REACHES = 0.5
"""The IoU from which on a candidate stands for the target."""
DEFINITIONS: Mapping[str, str] = {
    "candidate_dice": "ceiling: Dice of the candidate that is nearest to the target, whatever was chosen; 0 without candidates",
    "candidate_recall": f"of targets that are there: the share with a candidate whose mask has an IoU of {REACHES} or more",
    "selection_accuracy": f"of targets with a candidate of an IoU of {REACHES} or more: the share of answers that choose the "
    "one with the highest IoU; a failure and an answer that nothing fits are wrong",
}
"""What each name means."""


def candidate_metrics(rollout: Rollout) -> dict[str, float]:
    """Return the metrics of `DEFINITIONS` that apply to one rollout; none where nothing was proposed."""
    candidates, truth = rollout.sample.query.candidates, rollout.sample.target.mask
    if candidates is None or truth is None:
        return {}
    overlaps = [_iou(candidate, truth) for candidate in candidates]
    best = max(overlaps, default=0.0)
    values = {"candidate_dice": max((_dice(candidate, truth) for candidate in candidates), default=0.0)}
    values["candidate_recall"] = float(best >= REACHES)
    if best >= REACHES:
        failed = rollout.completion.fault is not None or rollout.grounding.fault is not None
        right = [one for one, overlap in zip(candidates, overlaps, strict=True) if overlap == best]
        values["selection_accuracy"] = float(not failed and any(_is(rollout.grounding.region, one) for one in right))
    return values


def _is(region: Region | None, candidate: Region) -> bool:
    """Return True if a region of an answer is a candidate, whoever drew its mask since."""
    return region is not None and (region.box, region.points) == (candidate.box, candidate.points)


def _iou(candidate: Region, truth: NDArray[np.bool_]) -> float:
    return 0.0 if candidate.mask is None else float(mask_iou(candidate.mask.data, truth))


def _dice(candidate: Region, truth: NDArray[np.bool_]) -> float:
    return 0.0 if candidate.mask is None else float(mask_dice(candidate.mask.data, truth))
