"""Terms on the segmenter's mask, against the target's.

Where the answer gave nothing to segment the value is 0. They abstain where the target has no mask, and where nobody
made a mask although there was something to segment (a file scored without images): that is not the model's doing.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from medground import geometry
from medground.errors import RecipeError
from medground.geometry import Point
from medground.types import Fault, RewardResult, Rollout
from medground_rewards.terms import EarlyResult, decay, predicted_pair, true_box, true_pair

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class OnMask(ABC):
    """A term on the predicted and the true mask."""

    needs_mask: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the value for one rollout."""
        try:
            return RewardResult(min(float(self.score(rollout, *_masks(rollout))), 1.0))
        except EarlyResult as early:
            return early.result

    @abstractmethod
    def score(self, rollout: Rollout, predicted: Bools, truth: Bools) -> float:
        """Return the value for a predicted and a true mask, H x W."""


def _masks(rollout: Rollout) -> tuple[Bools, Bools]:
    truth, grounding = rollout.sample.target.mask, rollout.grounding
    if truth is None:
        raise EarlyResult(None, undefined="the target has no mask")
    if rollout.mask is not None:
        return rollout.mask.data, truth
    if not grounding.regions or grounding.fault is not None or rollout.fault is Fault.NO_PROMPT:
        raise EarlyResult(0.0, fault=str(grounding.fault or "no prompt"))
    raise EarlyResult(None, undefined="no mask was made")


@dataclass(frozen=True, kw_only=True)
class MaskDice(OnMask):
    """Dice of the masks, 2·|p ∩ g| / (|p| + |g|), in [0, 1]; two empty masks give 1.

    >>> import numpy as np
    >>> from medground_rewards.examples import rollout
    >>> MaskDice()(rollout(mask=[[1, 1, 0]], mask_truth=[[0, 1, 1]])).value
    0.5
    """

    def score(self, rollout: Rollout, predicted: Bools, truth: Bools) -> float:
        """Return 2·|p ∩ g| / (|p| + |g|)."""
        return float(geometry.mask_dice(predicted, truth))


@dataclass(frozen=True, kw_only=True)
class MaskIou(OnMask):
    """Intersection over union of the masks, |p ∩ g| / |p ∪ g|, in [0, 1]; two empty masks give 1.

    >>> from medground_rewards.examples import rollout
    >>> MaskIou()(rollout(mask=[[1, 1, 0]], mask_truth=[[0, 1, 1]])).value
    0.3333333333333333
    """

    def score(self, rollout: Rollout, predicted: Bools, truth: Bools) -> float:
        """Return |p ∩ g| / |p ∪ g|."""
        return float(geometry.mask_iou(predicted, truth))


@dataclass(frozen=True, kw_only=True)
class Boundary(OnMask):
    """How near the outlines run, where the masks share ground: Dice · mean of max(0, 1 - d/τ), in [0, 1].

    The mean is over the outline pixels of both masks; d is the distance of the pixel's centre to the nearest outline
    pixel of the other mask, and τ = `tolerance` times the square root of the target's area, so that the same relative
    error costs a small target as much as a large one. An outline pixel is a foreground pixel with a side on the
    background or the edge of the image. The mean alone is the normalised surface distance with a slope inside the
    tolerance, where the usual one is flat; the Dice keeps it falling while one mask slides off the other, as the
    outlines of masks that merely touch run close again. Two empty masks give 1, one empty mask 0.

    Args:
        tolerance: at which share of the square root of the target's area an outline pixel earns nothing.

    >>> import numpy as np
    >>> from medground_rewards.examples import rollout
    >>> truth, said = np.zeros((2, 20, 20), bool)
    >>> truth[4:14, 4:14] = said[4:14, 5:15] = True
    >>> round(Boundary(tolerance=0.2)(rollout(mask=said, mask_truth=truth)).value, 4)  # τ = 2 px, Dice 0.9, mean 0.75
    0.675
    """

    tolerance: float = 0.2

    def __post_init__(self) -> None:
        _check_tolerance("boundary", self.tolerance)

    def score(self, rollout: Rollout, predicted: Bools, truth: Bools) -> float:
        """Return the Dice · mean of max(0, 1 - d/τ) over all outline pixels."""
        if not predicted.any() or not truth.any():
            return float(predicted.any() == truth.any())
        reach = self.tolerance * math.sqrt(np.count_nonzero(truth))
        distances = np.concatenate(geometry.surface_distances(predicted, truth))
        near = np.maximum(0, 1 - distances / reach).mean()
        return float(near * geometry.mask_dice(predicted, truth))


@dataclass(frozen=True, kw_only=True)
class PointsInMask(OnMask):
    """Clicks that land: mean of max(0, 1 - m/τ) over the two predicted points · max(0, 1 - d/D)², in [0, 1].

    m is how far a point misses the target's mask, 0 on it, and τ = `tolerance` times the square root of the mask's
    area; d is the mean distance to the key points under the better of the two matchings and D the diagonal of the
    target's box: a click anywhere on a large target is good, not yet perfect. Abstains where the target has not two key
    points; an empty mask cannot be hit.

    Args:
        tolerance: at which share of the square root of the target's area a point beside it earns nothing.

    >>> import numpy as np
    >>> from medground_rewards.examples import rollout
    >>> half = np.zeros((64, 64), bool)
    >>> half[:, :20] = True
    >>> PointsInMask()(rollout(mask=half, mask_truth=half)).value  # the point (30, 40) misses by 10 px, τ = 7.2
    0.5
    """

    tolerance: float = 0.2

    def __post_init__(self) -> None:
        _check_tolerance("points_in_mask", self.tolerance)

    def score(self, rollout: Rollout, predicted: Bools, truth: Bools) -> float:
        """Return the mean of max(0, 1 - m/τ) · max(0, 1 - d/D)²."""
        pair, key_points = predicted_pair(rollout), true_pair(rollout.sample.target)
        diagonal = true_box(rollout.sample.target).diagonal
        if not truth.any():
            return 0.0
        reach = self.tolerance * math.sqrt(np.count_nonzero(truth))
        landed = [max(0.0, 1 - _miss(point, truth) / reach) for point in pair]
        return sum(landed) / 2 * float(decay(geometry.pair_distance(pair, key_points) / diagonal))


def _miss(point: Point, mask: Bools) -> float:
    """Return the distance of a point to the nearest foreground pixel of a mask, px; pixel i covers [i, i+1)."""
    if geometry.in_mask(point, mask):
        return 0.0
    rows, columns = np.nonzero(mask)
    dx = np.maximum(np.maximum(columns - point.x, point.x - columns - 1), 0)
    dy = np.maximum(np.maximum(rows - point.y, point.y - rows - 1), 0)
    return float(np.sqrt((dx**2 + dy**2).min()))


def _check_tolerance(name: str, tolerance: float) -> None:
    if not 0 < tolerance < math.inf:
        raise RecipeError(
            f"the tolerance of {name} is not positive: {tolerance!r}", hint="set a positive number, for example 0.2"
        )
