"""What every term on boxes and points shares: reading the answer, decaying with error, released or corrected."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from medground.errors import RecipeError
from medground.geometry import Box, Floats, Point
from medground.types import Fault, Region, RewardResult, Rollout, Target
from medground_rewards.released import Mode, modes, released_result

LARGEST = 1e100
"""Coordinates beyond it earn nothing: their squares overflow, and no image is that large."""
SMALLEST = 1e-100
"""Targets smaller than this have no size: their squares vanish."""


Numbers = tuple[float, ...] | tuple[tuple[float, ...], ...]
"""A box, or points."""


class EarlyResult(Exception):
    """Raised inside a term to answer early: 0 for a part the model failed to give, None where nothing is defined."""

    def __init__(self, value: float | None, **details: Any) -> None:
        super().__init__(details)
        self.result = RewardResult(value, details)


def decay(errors: ArrayLike) -> Any:
    """Return (1 - error)², and 0 from an error of 1 on: steepest at perfect, so that the last pixels still pay.

    >>> decay([0.0, 0.5, 3.0])
    array([1.  , 0.25, 0.  ])
    """
    return np.maximum(0.0, 1.0 - np.asarray(errors, np.float64)) ** 2


def predicted_region(rollout: Rollout) -> Region:
    """Return the one predicted region; an empty one for a fault without any.

    Several make the term abstain. Nothing, said about a target that is there, earns 0.
    """
    regions = rollout.grounding.regions
    if len(regions) > 1:
        raise EarlyResult(None, undefined="the answer has several regions")
    if not regions and rollout.grounding.fault is None:
        raise EarlyResult(0.0, answer="nothing fits")
    return regions[0] if regions else Region()


def predicted_box(rollout: Rollout) -> Box:
    """Return the predicted box, in original pixels, if it encloses anything."""
    box = predicted_region(rollout).box
    if box is None:
        raise EarlyResult(0.0, fault=str(rollout.grounding.fault or Fault.MISSING_KEYS))
    if not _usable(*box):
        raise EarlyResult(0.0, fault=str(Fault.NONFINITE))
    shorter = min(box.width, box.height)
    if shorter <= 0:
        raise EarlyResult(0.0, fault=str(Fault.INVERTED_BOX if shorter < 0 else Fault.DEGENERATE_BOX))
    return box


def predicted_points(rollout: Rollout) -> tuple[Point, ...]:
    """Return the predicted foreground points, in original pixels: one at least."""
    region = predicted_region(rollout)
    points = region.points
    if not all(region.labels):
        points = tuple(point for point, label in zip(points, region.labels, strict=True) if label)
    if not points:
        raise EarlyResult(0.0, fault=str(rollout.grounding.fault or Fault.MISSING_KEYS))
    if not all(starmap(_usable, points)):
        raise EarlyResult(0.0, fault=str(Fault.NONFINITE))
    return points


def predicted_pair(rollout: Rollout) -> tuple[Point, Point]:
    """Return the two predicted points."""
    points = predicted_points(rollout)
    if len(points) != 2:
        raise EarlyResult(0.0, fault=str(Fault.BAD_POINTS))
    return points[0], points[1]


def true_region(target: Target) -> Region:
    """Return the target's one region; any other number of them makes the term abstain."""
    if target.region is None:
        raise EarlyResult(None, undefined="the target is not one region")
    return target.region


def true_box(target: Target) -> Box:
    """Return the target's box; without an area there is nothing to be right about, so the term abstains."""
    box = true_region(target).box
    if box is None or not _usable(*box) or min(box.width, box.height) < SMALLEST:
        raise EarlyResult(None, undefined="the target's box has no area")
    return box


def true_pair(target: Target) -> tuple[Point, Point]:
    """Return the target's two key points; any other number of them makes the term abstain."""
    points = true_region(target).points
    if len(points) != 2 or not _usable(*points[0], *points[1]):
        raise EarlyResult(None, undefined="the target has not two finite key points")
    return points[0], points[1]


def apart(pair: tuple[Point, Point]) -> bool:
    """Return whether two points are two: far enough from each other to have a direction and a disc."""
    return math.dist(*pair) >= SMALLEST


def _usable(*numbers: float) -> bool:
    # One sum: a NaN or an infinity in it fails the comparison too.
    return sum(map(abs, numbers)) <= LARGEST


@dataclass(frozen=True, kw_only=True)
class Localisation(ABC):
    """A term on the predicted box or points: `formula` corrected, or the released number of the same name.

    Args:
        released: give the released number instead, quirks included (needs ``parser: released_*`` in the prompt
            interface). A released exception is 0 with ``details["raised"]``; a released NaN abstains.
        mode: which released function: soft, hard, base, or base_fixed (base with its dead terms repaired).
        threshold: corrected values at or below it count as 0; the rest is paid as it is.
    """

    released: bool = False
    mode: Mode = "hard"
    threshold: float = 0.0
    needs_mask: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    name: ClassVar[str]

    def __post_init__(self) -> None:
        known = modes(self.name)
        if self.mode not in known:
            raise RecipeError(f"{self.name} has no released mode {self.mode!r}", hint=f"known: {', '.join(known)}")
        if not 0 <= self.threshold < 1:
            raise RecipeError(
                f"the threshold of {self.name} is not in [0, 1): {self.threshold!r}", hint="set a number in [0, 1)"
            )

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the value for one rollout."""
        return self.batch([rollout])[0]

    def batch(self, rollouts: Sequence[Rollout]) -> list[RewardResult]:
        """Return the values for several rollouts, in order: one formula over all of them."""
        if self.released:
            return [released_result(self.name, rollout, self.mode) for rollout in rollouts]
        early: dict[int, RewardResult] = {}
        answers: list[Numbers] = []
        truths: dict[Target, Numbers] = {}  # the rollouts of a group share their target
        targets: list[Target] = []
        for index, rollout in enumerate(rollouts):
            target = rollout.sample.target
            try:
                if target not in truths:
                    truths[target] = self.truth(target)
                answers.append(self.answer(rollout))
                targets.append(target)
            except EarlyResult as error:
                early[index] = error.result
        values = iter(self._paid(answers, truths, targets))
        return [early.get(index) or RewardResult(next(values)) for index in range(len(rollouts))]

    def _paid(
        self, answers: Sequence[Numbers], truths: Mapping[Target, Numbers], targets: Sequence[Target]
    ) -> list[float]:
        """Return the values of answers about targets whose numbers are in `truths`."""
        if not answers:
            return []
        rows = {target: row for row, target in enumerate(truths)}
        table = np.array(list(truths.values()), np.float64)[[rows[target] for target in targets]]
        values = np.minimum(self.formula(np.array(answers, np.float64), table), 1.0)
        paid: list[float] = np.where(values > self.threshold, values, 0.0).tolist()
        return paid

    @abstractmethod
    def truth(self, target: Target) -> Numbers:
        """Return the target's numbers; raises `EarlyResult` where it lacks a part."""

    @abstractmethod
    def answer(self, rollout: Rollout) -> Numbers:
        """Return the answer's numbers; raises `EarlyResult` where it lacks a part."""

    @abstractmethod
    def formula(self, answers: Floats, truths: Floats) -> Floats:
        """Return the corrected values ``[N]``, in [0, 1], from the numbers of N answers and targets."""
