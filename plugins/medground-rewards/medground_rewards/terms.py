"""What every term on boxes and points shares: reading the answer, decaying with error, released or corrected."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from medground.errors import RecipeError
from medground.geometry import Box, Point
from medground.types import Fault, RewardResult, Rollout, Target
from medground_rewards.released import Mode, modes, released_result

LARGEST = 1e100
"""Coordinates beyond it earn nothing: their squares overflow, and no image is that large."""
SMALLEST = 1e-100
"""Targets smaller than this have no size: their squares vanish."""


class Nothing(Exception):
    """Raised inside a term to answer early: 0 for a part the model failed to give, None where nothing is defined."""

    def __init__(self, value: float | None, **details: Any) -> None:
        super().__init__(details)
        self.result = RewardResult(value, details)


def decay(error: float) -> float:
    """(1 - error)², and 0 from an error of 1 on: steepest at perfect, so that the last pixels still pay.

    >>> decay(0.0), decay(0.5), decay(3.0)
    (1.0, 0.25, 0.0)
    """
    return max(0.0, 1.0 - error) ** 2


def said_box(rollout: Rollout) -> Box:
    """The predicted box, in original pixels, if it encloses anything."""
    prompt, fault = rollout.grounding.prompt, rollout.grounding.fault
    if prompt is None or prompt.box is None:
        raise Nothing(0.0, fault=str(fault or Fault.MISSING_KEYS))
    box = prompt.box
    if not _usable(*box):
        raise Nothing(0.0, fault=str(Fault.NONFINITE))
    shorter = min(box.width, box.height)
    if shorter <= 0:
        raise Nothing(0.0, fault=str(Fault.INVERTED_BOX if shorter < 0 else Fault.DEGENERATE_BOX))
    return box


def said_points(rollout: Rollout) -> tuple[Point, ...]:
    """The predicted foreground points, in original pixels: one at least."""
    prompt, fault = rollout.grounding.prompt, rollout.grounding.fault
    points = () if prompt is None else prompt.points
    if prompt is not None and 0 in prompt.labels:
        points = tuple(point for point, label in zip(points, prompt.labels, strict=True) if label)
    if not points:
        raise Nothing(0.0, fault=str(fault or Fault.MISSING_KEYS))
    if not all(_usable(*point) for point in points):
        raise Nothing(0.0, fault=str(Fault.NONFINITE))
    return points


def said_pair(rollout: Rollout) -> tuple[Point, Point]:
    """The two predicted points."""
    points = said_points(rollout)
    if len(points) != 2:
        raise Nothing(0.0, fault=str(Fault.BAD_POINTS))
    return points[0], points[1]


def true_box(target: Target) -> Box:
    """The target's box; without an area there is nothing to be right about, so the term abstains."""
    box = target.box
    if not _usable(*box) or min(box.width, box.height) < SMALLEST:
        raise Nothing(None, undefined="the target's box has no area")
    return box


def true_pair(target: Target) -> tuple[Point, Point]:
    """The target's two key points; any other number of them makes the term abstain."""
    if len(target.points) != 2 or not _usable(*target.points[0], *target.points[1]):
        raise Nothing(None, undefined="the target has not two finite key points")
    return target.points[0], target.points[1]


def apart(pair: tuple[Point, Point]) -> bool:
    """Whether two points are two: far enough from each other to have a direction and a disc."""
    return math.dist(*pair) >= SMALLEST


def _usable(*numbers: float) -> bool:
    # One sum: a NaN or an infinity in it fails the comparison too.
    return sum(map(abs, numbers)) <= LARGEST


@dataclass(frozen=True, kw_only=True)
class Localisation(ABC):
    """A term on the predicted box or points: `score` corrected, or the released number of the same name.

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
            raise RecipeError(f"{self.name} got threshold {self.threshold!r}", hint="give a number in [0, 1)")

    def __call__(self, rollout: Rollout) -> RewardResult:
        """The value for one rollout."""
        if self.released:
            return released_result(self.name, rollout, self.mode)
        try:
            value = self.score(rollout)
        except Nothing as nothing:
            return nothing.result
        value = min(float(value), 1.0)
        return RewardResult(value if value > self.threshold else 0.0)

    @abstractmethod
    def score(self, rollout: Rollout) -> float:
        """The corrected value, in [0, 1]; raises `Nothing` where the answer or the target lacks a part."""
