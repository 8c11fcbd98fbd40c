"""Terms on answers of any number of regions, against targets of any number.

Every answered region is matched with at most one of the target, once for all terms: by the assignment with the highest sum
of box IoU and corner closeness (the value of `BboxAlign`). The box around the points stands for a missing box. So no term
can be paid by one region for its box and by another for its points.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from medground.errors import RecipeError, did_you_mean
from medground.geometry import Floats, assignment, box_iou, distance
from medground.types import Region, RewardResult, Rollout
from medground_rewards import boxes, masks, points
from medground_rewards.masks import OnMask
from medground_rewards.terms import LARGEST, SMALLEST, Localisation

By = Literal["bbox_iou", "bbox_align", "bbox_scale", "points_dice", "points_align", "points_angle"]
ByMask = Literal["mask_dice", "mask_iou", "boundary", "points_in_mask"]
TERMS: Mapping[str, Localisation | OnMask] = {
    "bbox_iou": boxes.BboxIou(),
    "bbox_align": boxes.BboxAlign(),
    "bbox_scale": boxes.BboxScale(),
    "points_dice": points.PointsDice(),
    "points_align": points.PointsAlign(),
    "points_angle": points.PointsAngle(),
    "mask_dice": masks.MaskDice(),
    "mask_iou": masks.MaskIou(),
    "boundary": masks.Boundary(),
    "points_in_mask": masks.PointsInMask(),
}
"""The terms on one region by which pairs are scored."""


@dataclass(frozen=True, kw_only=True)
class _OnRegions:
    by: str
    needs_mask: ClassVar[bool] = False

    def __post_init__(self) -> None:
        known = [name for name, term in TERMS.items() if term.needs_mask == self.needs_mask]
        if self.by not in known:
            raise RecipeError(f"pairs cannot be scored by {self.by!r}", hint=did_you_mean(self.by, known))


@dataclass(frozen=True, kw_only=True)
class RegionsF1(_OnRegions):
    """How alike two sets of regions are: 2·Σ s / (n + m), in [0, 1].

    The sum is over the matched pairs, s is the value of the term `by` for the two regions of a pair, n and m are the numbers
    of answered and true regions: the F1 score with s in place of a hit. For one region each it is that term. Both a missed
    region and one too many lower it: one huge box over m targets earns 2·s/(1 + m) at most, and n boxes over one target
    2·s/(n + 1). Nothing about an absent target earns 1; nothing about a target that is there, something about an absent one,
    and an answer about an absent one that cannot be read earn 0. Abstains where `by` abstains about one of the target's
    regions.

    Args:
        by: the term that scores pairs: one of those on boxes and points, as it is without arguments.

    >>> from medground_rewards.examples import several
    >>> RegionsF1()(several([(0, 0, 10, 10)], [(0, 0, 10, 10), (50, 50, 60, 60)])).value  # 2·1/(1 + 2)
    0.6666666666666666
    >>> RegionsF1()(several([(0, 0, 10, 10)] * 3, [(0, 0, 10, 10)])).value  # 2·1/(3 + 1)
    0.5
    >>> RegionsF1()(several([], [])).value
    1.0
    """

    by: By = "bbox_iou"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return 2·Σ s / (n + m) of one rollout."""
        pairs = MatchedRegions(rollout)
        if not pairs.truths and not pairs.answered:
            fault = rollout.grounding.fault
            return RewardResult(float(fault is None), {} if fault is None else {"fault": str(fault)})
        scored = pairs.scored(self.by)
        undefined = next((result for result in scored.values() if result.value is None), None)
        if undefined is not None:
            return undefined
        total = sum(result.value or 0.0 for result in scored.values())
        details = {"answered": len(pairs.answered), "true": len(pairs.truths)}
        faults = next((result.details for result in scored.values() if "fault" in result.details), {})
        return RewardResult(2 * total / (len(pairs.answered) + len(pairs.truths)), {**details, **faults})


@dataclass(frozen=True, kw_only=True)
class RegionsMaskF1(RegionsF1):
    """`RegionsF1` by a term on the regions' own masks, in [0, 1]; abstains where no mask was made.

    Args:
        by: the term that scores pairs: one of those on masks, as it is without arguments.

    >>> from medground_rewards.examples import rollout
    >>> RegionsMaskF1(by="mask_iou")(rollout(mask=[[1, 1, 0]], mask_truth=[[0, 1, 1]])).value
    0.3333333333333333
    """

    by: ByMask = "mask_dice"  # type: ignore[assignment]
    needs_mask: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Confidence(_OnRegions):
    """How honest the stated confidences are: Σ (2·c·s - c²) / max(n, m), in [-1, 1].

    c is the confidence of an answered region, in [0, 1]; s is the value of the term `by` against the region it is matched
    with, 0 without one; n and m are the numbers of answered and true regions. A region without a confidence counts as
    certain, c = 1: to leave it out never earns more than to state it.

    2·c·s - c² = s² - (c - s)²: the Brier (quadratic) score plus a part that c does not change. The quadratic score is proper:
    the best c is the mean of s that the region can expect, and then it expects the square of that mean. The added part makes
    the term rise with s: a region that is wrong earns 0 with c = 0 and less with any other. The Brier score alone would pay a
    box that is wrong on purpose, with c = 0, in full. The logarithmic score is proper too, but has no lower bound, so that
    one sure miss would outweigh every other answer of its group.

    Abstains where the answer has no region, and where `by` abstains about one of the target's regions.

    Args:
        by: the term that scores pairs; the confidence then means its expected value.

    >>> from medground_rewards.examples import several
    >>> half = several([(0, 0, 10, 10)], [(5, 0, 15, 10)], [0.5])
    >>> round(Confidence()(half).value, 4)  # s = 1/3: 2·0.5/3 - 0.25
    0.0833
    >>> Confidence()(several([(0, 0, 10, 10)], [], [0.9])).value
    -0.81
    """

    by: By = "bbox_iou"
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return Σ (2·c·s - c²) / max(n, m) of one rollout."""
        pairs = MatchedRegions(rollout)
        if not pairs.answered:
            return RewardResult(None, {"undefined": "the answer has no region"})
        scored = pairs.scored(self.by)
        undefined = next((result for result in scored.values() if result.value is None), None)
        if undefined is not None:
            return undefined
        values = np.zeros(len(pairs.answered))
        for row, column in pairs.pairs:
            values[row] = scored[column].value
        sure = np.array([_confidence(region) for region in pairs.answered])
        paid = float((2 * sure * values - sure**2).sum()) / max(len(pairs.answered), len(pairs.truths))
        return RewardResult(paid, {"confidence": float(sure.mean()), "overlap": float(values.mean())})


def _confidence(region: Region) -> float:
    stated = region.confidence
    return stated if stated is not None and 0 <= stated <= 1 else 1.0


class MatchedRegions:
    """The regions of an answer and of its target, matched one to one.

    Args:
        rollout: the answer and its truth.
    """

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self.answered = rollout.grounding.regions
        self.truths = rollout.sample.target.regions

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """(index of the answered region, index of the true one), as many as there are of the fewer."""
        return assignment(_closeness(self.answered, self.truths))

    def scored(self, by: str) -> dict[int, RewardResult]:
        """Return what a term on one region says about every true region and what it is matched with, by its index."""
        return {column: TERMS[by](self._single(row, column)) for column, row in self._partners()}

    def _partners(self) -> Iterator[tuple[int, int | None]]:
        partners = {column: row for row, column in self.pairs}
        yield from ((column, partners.get(column)) for column in range(len(self.truths)))

    def _single(self, row: int | None, column: int) -> Rollout:
        """Return the rollout as if these two regions, or the true one alone, were all there is."""
        rollout, regions = self.rollout, () if row is None else (self.answered[row],)
        target = replace(rollout.sample.target, regions=(self.truths[column],))
        return replace(
            rollout,
            sample=replace(rollout.sample, target=target),
            grounding=replace(rollout.grounding, regions=regions),
        )


def _closeness(answered: Sequence[Region], truths: Sequence[Region]) -> Floats:
    """Return [N, M] box IoU plus corner closeness; 0 where a region has no usable place."""
    ours, known = _boxes(answered), _boxes(truths)
    usable = _usable(ours)[:, None] & _usable(known)[None]
    ours, known = np.where(_usable(ours)[:, None], ours, 0.0), np.where(_usable(known)[:, None], known, 0.0)
    one, other = ours[:, None], known[None]
    corners = (distance(one[..., :2], other[..., :2]) + distance(one[..., 2:], other[..., 2:])) / 2
    diagonals = np.maximum(distance(known[:, :2], known[:, 2:]), SMALLEST)
    near = np.maximum(0.0, 1 - np.minimum(corners, diagonals) / diagonals) ** 2
    return np.asarray(np.where(usable, box_iou(one, other) + near, 0.0))


def _usable(table: Floats) -> NDArray[np.bool_]:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.abs(table).sum(axis=-1) <= LARGEST)


def _boxes(regions: Sequence[Region]) -> Floats:
    """Return [N, 4] the boxes, or those around the points; NaN where a region has neither."""
    table = np.full((len(regions), 4), np.nan)
    for index, region in enumerate(regions):
        if region.box is not None:
            table[index] = region.box
        elif region.points:
            xy = np.asarray(region.points, np.float64)
            table[index] = [*xy.min(axis=0), *xy.max(axis=0)]
    return table
