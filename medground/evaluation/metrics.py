"""Metrics of answers: overlaps, distances, and how failures enter their means.

Overlaps are in [0, 1] (`pdice_compat` in [0, 2]), higher is better, and a failure of the model counts 0. A failure is
an answer with a fault that is the model's: one rule for every metric, as the released evaluation has it, however much
of the answer could still be read. Distances are in mm where the spacing is known, else in px, and named so; where one
is undefined (a failure, or an empty mask against a target) it counts as the image's diagonal, and the mean over the
defined cases stands beside it. What is not the model's doing (transport, timeout, segmenter, memory) is excluded from
the means and counted.

The answer that nothing fits is no failure. Its mask is empty, and about a target that is there it is simply wrong: every
overlap is 0 and every distance undefined. A target that is absent has none of these metrics.

Conventions: two empty masks agree perfectly (dice 1, distance 0), an empty one against a target shares nothing (0,
undefined distance). Coincident points span no disc: their point Dice is 0 with everything, themselves included.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from medground.evaluation import candidates, instances
from medground.evaluation.compat import ReleasedFailure, compat_metrics
from medground.evaluation.surface import boundary_f, diagonal, hd95
from medground.geometry import Box, box_iou, disc, disc_dice, ellipse, mask_dice, mask_iou
from medground.types import Fault, Mask, Region, Rollout

MaskPrompt = Literal["box", "points", "joint"]
"""Which part of the answer a mask was prompted with; joint is all of it."""

DEFINITIONS: Mapping[str, str] = {
    "iou": "box IoU, continuous geometry; an inverted box shares nothing; of n regions about one target, the best over n",
    "pdice": "true Dice 2I/(A+B) of the discs whose diameters the two points are; of n regions, the best over n",
    "iou_compat": "released box IoU, signed areas, +1e-6, on published numbers",
    "pdice_compat": "released 2I/(U+1e-5) of the discs: twice their IoU, range 0 to 2",
    "dice_box": "Dice of the mask prompted with the box",
    "dice_points": "Dice of the mask prompted with the points",
    "dice_joint": "Dice of the mask prompted with all that the recipe lets through: box and points, unless it says less",
    "mask_iou": "IoU of the joint mask",
    "dice_ellipse": "floor: Dice of the ellipse inscribed in the answer's box (its points' disc where it has no box); no image",
    "dice_over_ellipse": "dice_joint - dice_ellipse: what the segmenter adds to the answer's own outline",
    "boundary_f": "boundary F-measure of the joint mask, tolerance 0.75 % of the image diagonal",
    "hd95_px": "95th percentile Hausdorff distance of the joint mask, pixels",
    "hd95_mm": "95th percentile Hausdorff distance of the joint mask, millimetres",
    **candidates.DEFINITIONS,
    **instances.DEFINITIONS,
}
"""What each name means; travels with every report."""

_PROMPTED: Mapping[str, MaskPrompt] = {"dice_box": "box", "dice_points": "points"}
DISTANCES = frozenset({"hd95_px", "hd95_mm"})
COMPAT = frozenset({"iou_compat", "pdice_compat"})


@dataclass(frozen=True, slots=True)
class Measurement:
    """The metrics of one answer."""

    values: Mapping[str, float | None]
    """What enters the means, by metric; None only where the released number is NaN or infinite (see `details`). A
    metric that does not apply is absent."""
    fault: Fault | None = None
    """Why the answer failed, or why it was not the model's to answer for."""
    undefined: frozenset[str] = frozenset()
    """Distances that have no value here and stand at the image's diagonal."""
    excluded: frozenset[str] = frozenset()
    """Metrics left out because of a fault that is not the model's."""
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By metric: ``{"released": "nan"}``, or ``{"failure": why}`` where the released evaluation fails."""


def measure(
    rollout: Rollout,
    *,
    masks: Mapping[MaskPrompt, Mask] | None = None,
    provides: Collection[str] = ("box", "points"),
    prompts: Sequence[MaskPrompt] = ("joint",),
    compat: bool = False,
) -> Measurement:
    """Measure every metric that applies to one rollout.

    Args:
        rollout: the answer and its truth; its own mask is the joint one.
        masks: masks by the part they were prompted with, where there are more than the joint one.
        provides: what the prompt interface asks for; a failed answer is measured on exactly that.
        prompts: which masks were asked for.
        compat: also the released evaluation's numbers, from ``grounding.raw``.

    Raises:
        ValueError: if a mask and the true mask have different shapes.
    """
    fault = _fault(rollout)
    at_hand: Mapping[MaskPrompt, Mask] = masks or ({"joint": rollout.mask} if rollout.mask else {})
    if rollout.grounding.abstains and rollout.mask is not None:
        at_hand = dict.fromkeys(prompts, rollout.mask)
    names = _applicable(rollout, provides, prompts, compat)
    if fault is not None and not fault.of_model:
        lost = names if _lost_whole(rollout) else [name for name in names if _of_mask(name)]
        names, excluded = [name for name in names if name not in lost], frozenset(lost)
    else:
        excluded = frozenset()
    failed, unprompted = rollout.grounding.fault is not None, rollout.fault is Fault.NO_PROMPT
    values: dict[str, float | None] = {}
    undefined: set[str] = set()
    for name in names:
        if name in COMPAT:
            continue
        unusable = failed or (unprompted and prompted_by(name) == "joint")
        value = None if unusable else _value(name, rollout, at_hand)
        if name in DISTANCES and value is None and (unusable or "joint" in at_hand):
            value = diagonal(rollout.sample.query.size, _spacing(rollout))
            undefined.add(name)
        elif unusable:
            value = 0.0
        if value is not None:
            values[name] = value
    outage = fault is not None and not fault.of_model
    if not (outage and _lost_whole(rollout)):
        located, masked = "box" in provides or "joint" in prompts, "joint" in prompts and not outage
        dice = values.get("dice_joint")
        values.update(instances.set_metrics(rollout, located=located, dice=dice, masked=masked))
        values.update(candidates.candidate_metrics(rollout))
    details = _compat(rollout, values) if compat and "iou_compat" in names else {}
    return Measurement(values, fault, frozenset(undefined), excluded, details)


def _fault(rollout: Rollout) -> Fault | None:
    return rollout.completion.fault or rollout.fault or rollout.grounding.fault


def _lost_whole(rollout: Rollout) -> bool:
    """Return True if there is no text to measure at all, not merely no mask."""
    return rollout.completion.fault is not None or rollout.fault in (Fault.TRANSPORT, Fault.TIMEOUT)


def prompted_by(name: str) -> MaskPrompt | None:
    """Return the part of the answer that prompts the mask a metric needs; None where it needs none."""
    return _PROMPTED.get(name, "joint") if _of_mask(name) else None


def _of_mask(name: str) -> bool:
    """Return True if a metric needs the segmenter; the ellipse does not."""
    return name.startswith(("dice_", "mask_iou", "boundary", "hd95")) and name != "dice_ellipse"


def _applicable(rollout: Rollout, provides: Collection[str], prompts: Sequence[MaskPrompt], compat: bool) -> list[str]:
    target = rollout.sample.target
    truth = target.region or Region()
    names = ["iou"] if "box" in provides and truth.box is not None else []
    if "points" in provides and len(truth.points) == 2:
        names.append("pdice")
    if compat:
        names += ["iou_compat", "pdice_compat"]
    if target.mask is not None:
        names += [f"dice_{prompt}" for prompt in prompts]
        names.append("dice_ellipse")
        if "joint" in prompts:
            names += ["mask_iou", "dice_over_ellipse", "boundary_f", "hd95_mm" if rollout.sample.spacing else "hd95_px"]
    return names


def _spacing(rollout: Rollout) -> tuple[float, float]:
    return rollout.sample.spacing or (1.0, 1.0)


def _value(name: str, rollout: Rollout, masks: Mapping[MaskPrompt, Mask]) -> float | None:
    """Return one metric of an answer without a model fault; None where it does not apply or is undefined."""
    regions, truth = rollout.grounding.regions, rollout.sample.target.region or Region()
    if rollout.grounding.abstains and not _of_mask(name):
        return 0.0
    if name == "iou":
        boxes = [region.box for region in regions]
        return _shared([float(box_iou(box, truth.box)) if box and truth.box else 0.0 for box in boxes])
    if name == "pdice":
        pairs = [region.points for region in regions]
        if len(pairs) == 1 and len(pairs[0]) != 2:
            return None
        return _shared([float(disc_dice(pair, truth.points)) if len(pair) == 2 else 0.0 for pair in pairs])
    if name == "dice_ellipse":
        return _floor(rollout)
    mask, true_mask = masks.get(_PROMPTED.get(name, "joint")), rollout.sample.target.mask
    if mask is None or true_mask is None:
        return None
    if mask.data.shape != true_mask.shape:
        raise ValueError(f"sample {rollout.sample.query.id!r}: mask {mask.data.shape}, truth {true_mask.shape}")
    if name == "boundary_f":
        return boundary_f(mask.data, true_mask)
    if name in DISTANCES:
        return hd95(mask.data, true_mask, _spacing(rollout))
    if name == "mask_iou":
        return float(mask_iou(mask.data, true_mask))
    dice = float(mask_dice(mask.data, true_mask))
    return dice - (_floor(rollout) or 0.0) if name == "dice_over_ellipse" else dice


def _shared(values: Sequence[float]) -> float:
    """Return the best of the values of several regions about one target, divided by their number."""
    return max(values, default=0.0) / max(1, len(values))


def _floor(rollout: Rollout) -> float | None:
    """Return the Dice of the outlines the answer itself suggests; None where it holds neither a box nor two points."""
    truth, size = rollout.sample.target.mask, rollout.sample.query.size
    boxes = [box for region in rollout.grounding.regions if (box := outline(region)) is not None]
    if not boxes or truth is None:
        return None
    return float(mask_dice(np.any([ellipse(box, size) for box in boxes], axis=0), truth))


def outline(region: Region) -> Box | None:
    """Return the box whose inscribed ellipse stands for a region: its own, else that of its first two points' disc."""
    if region.box is not None or len(region.points) < 2:
        return region.box
    centre, radius = disc(region.points[:2])
    reach = max(float(radius), 0.5)
    return Box(float(centre[0] - reach), float(centre[1] - reach), float(centre[0] + reach), float(centre[1] + reach))


def _compat(rollout: Rollout, values: dict[str, float | None]) -> dict[str, dict[str, Any]]:
    """Add the released numbers to `values`; return what there is to say about them."""
    try:
        released = compat_metrics(rollout.grounding, rollout.sample.target)
    except ReleasedFailure as error:
        values.update(dict.fromkeys(sorted(COMPAT), 0.0))
        return {name: {"failure": str(error)} for name in sorted(COMPAT)}
    values.update({name: value if math.isfinite(value) else None for name, value in released.items()})
    return {name: {"released": str(value)} for name, value in released.items() if not math.isfinite(value)}
