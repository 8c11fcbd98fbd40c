"""Metrics of answers of none, one or many regions against targets of none, one or many.

The IoU of two regions is that of their boxes; the tight box of its mask stands for a region without a box. Regions are matched
one to one (Hungarian method). Conventions: an answer that nothing fits about an absent target is right in full; about a target
that is there it has found nothing and points at nothing. Something about an absent target has no hit. A failure of the model
counts as the worst answer: nothing hit, the target missed, the count wrong by the number of true regions, by 1 at least.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from medground.geometry import Floats, assignment, box_iou, mask_box
from medground.types import Region, Rollout

LEVELS: Mapping[str, float] = {"50": 0.5, "25": 0.25}
"""Suffix of a metric's name -> the IoU from which on a pair of regions is a hit."""

ABSENCE: Mapping[str, str] = {
    "no_target_accuracy": "of absent targets: the share of answers that nothing fits; a failure counts as wrong",
    "target_miss": "of targets that are there: the share of answers that nothing fits; lower is better; a failure is a miss",
}
"""Metrics of presence."""
INSTANCES: Mapping[str, str] = {
    **{
        f"instance_{name}_{suffix}": f"{text}, a hit is a matched pair of boxes with an IoU of {level} or more; "
        "1 where nothing is said of nothing, 0 where one of the two is empty"
        for suffix, level in LEVELS.items()
        for name, text in (
            ("precision", "hits / answered regions"),
            ("recall", "hits / true regions"),
            ("f1", "2 hits / (answered + true regions)"),
        )
    },
    "matched_iou": "of targets that are there: mean over true regions of the box IoU with the matched region, 0 without one",
    "count_error": "answered minus true regions, without sign; lower is better",
    "union_dice": "Dice of the union of all masks with the union of all true ones, absent targets included: 1 where nothing is "
    "said of nothing, 0 where one of the two is empty",
}
"""Metrics of several regions."""
DEFINITIONS = {**ABSENCE, **INSTANCES}


def overlaps(answered: Sequence[Region], truths: Sequence[Region]) -> Floats:
    """Return [N, M] the IoU of every pair of regions; 0 where a region has no place."""
    return np.asarray(np.nan_to_num(box_iou(_boxes(answered)[:, None], _boxes(truths)[None])), np.float64)


def agreement(one: Sequence[Region], other: Sequence[Region]) -> float:
    """Return how alike two answers are: 2·Σ IoU of matched regions / (their number), in [0, 1]; 1 where both say nothing.

    >>> from medground.geometry import Box
    >>> left, right = Region(box=Box(0, 0, 10, 10)), Region(box=Box(50, 0, 60, 10))
    >>> agreement([left], [left]), agreement([left, right], [right]), agreement([], [])
    (1.0, 0.6666666666666666, 1.0)
    """
    if not one and not other:
        return 1.0
    table = overlaps(one, other)
    return 2 * sum(float(table[pair]) for pair in assignment(table)) / (len(one) + len(other))


def set_metrics(rollout: Rollout, *, located: bool, dice: float | None, masked: bool) -> dict[str, float]:
    """Return the metrics of `DEFINITIONS` that apply to one rollout.

    Args:
        rollout: the answer and its truth.
        located: whether answers have a place: a box, or a mask that gives one.
        dice: of the joint mask, where that is measured.
        masked: whether masks are measured at all.
    """
    grounding, truths = rollout.grounding, rollout.sample.target.regions
    failed, count = grounding.fault is not None, len(truths)
    answered = () if failed else grounding.regions
    values: dict[str, float] = {}
    if truths:
        values["target_miss"] = float(not answered)
    else:
        values["no_target_accuracy"] = float(not answered and not failed)
    if located and all(region.box is not None or region.mask is not None for region in truths):
        table = overlaps(answered, truths)
        for suffix, level in LEVELS.items():
            hits = _hits(table, level)
            empty = float(not answered and not truths and not failed)
            values[f"instance_precision_{suffix}"] = hits / len(answered) if answered else empty
            values[f"instance_recall_{suffix}"] = hits / count if truths else empty
            values[f"instance_f1_{suffix}"] = 2 * hits / (len(answered) + count) if answered or truths else empty
        if truths:
            values["matched_iou"] = sum(float(table[pair]) for pair in assignment(table)) / count
    values["count_error"] = float(max(count, 1) if failed else abs(len(answered) - count))
    if masked and not truths:
        values["union_dice"] = values["no_target_accuracy"]
    elif dice is not None:
        values["union_dice"] = dice
    return values


def _hits(table: Floats, level: float) -> int:
    """Return the most pairs that can be matched one to one with an IoU of `level` or more."""
    hit = table >= level
    return sum(bool(hit[pair]) for pair in assignment(hit.astype(np.float64)))


def _boxes(regions: Sequence[Region]) -> Floats:
    table = np.full((len(regions), 4), np.nan)
    for index, region in enumerate(regions):
        if region.box is not None:
            table[index] = region.box
        elif region.mask is not None and region.mask.data.any():
            table[index] = mask_box(region.mask.data)
    return table
