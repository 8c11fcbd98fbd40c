"""The four validity flags the release reports beside its terms. They exist as released numbers only."""

from dataclasses import dataclass
from typing import ClassVar

from medground.errors import RecipeError
from medground.types import RewardResult, Rollout
from medground_rewards.released import Mode, modes, released_result


@dataclass(frozen=True, kw_only=True)
class _Flag:
    """A released validity flag; 0 where the released function raised.

    Args:
        mode: soft or hard; what raises differs between them.
    """

    mode: Mode = "hard"
    needs_mask: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    name: ClassVar[str]

    def __post_init__(self) -> None:
        known = modes(self.name)
        if self.mode not in known:
            raise RecipeError(f"{self.name} has no released mode {self.mode!r}", hint=f"known: {', '.join(known)}")

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the flag of one rollout."""
        return released_result(self.name, rollout, self.mode)


@dataclass(frozen=True, kw_only=True)
class BboxPositionValid(_Flag):
    """Halved for each of the truth's two points outside the predicted box (edges included): 1, 0.5 or 0.25; 0 on error.

    >>> from medground_rewards.examples import rollout
    >>> BboxPositionValid()(rollout(box=(0, 0, 10, 10), points_truth=((5, 5), (20, 5)))).value
    0.5
    """

    name: ClassVar[str] = "bbox_position_valid"


@dataclass(frozen=True, kw_only=True)
class BboxAreaValid(_Flag):
    """1 where the predicted area is more than half and less than twice the truth's, else 0.5; 0 on error.

    >>> from medground_rewards.examples import rollout
    >>> BboxAreaValid()(rollout(box=(0, 0, 20, 10), truth=(0, 0, 10, 10))).value
    0.5
    """

    name: ClassVar[str] = "bbox_area_valid"


@dataclass(frozen=True, kw_only=True)
class PointsPositionValid(_Flag):
    """Halved for each predicted point outside the truth's box (edges included): 1, 0.5 or 0.25; 0 on error.

    >>> from medground_rewards.examples import rollout
    >>> PointsPositionValid()(rollout(points=((-5, 5), (-9, 5)), truth=(0, 0, 10, 10))).value
    0.25
    """

    name: ClassVar[str] = "points_position_valid"


@dataclass(frozen=True, kw_only=True)
class PointsSpreadValid(_Flag):
    """1 where the predicted points are more than 10 px apart, else 0.5; 0 on error.

    >>> from medground_rewards.examples import rollout
    >>> PointsSpreadValid()(rollout(points=((0, 0), (6, 8)))).value
    0.5
    """

    name: ClassVar[str] = "points_spread_valid"
