"""Terms on the two predicted key points. The order of the points never matters; lengths count in the target's size."""

import math
from dataclasses import dataclass
from typing import ClassVar

from medground import geometry
from medground.types import Fault, Rollout
from medground_rewards.terms import EarlyResult, Localisation, apart, decay, predicted_pair, true_box, true_pair


def _near(rollout: Rollout) -> float:
    """Return max(0, 1 - 2d/D)²: d is the mean distance under the better matching, D the diagonal of the target's box."""
    target = rollout.sample.target
    (a, b), diagonal = true_pair(target), true_box(target).diagonal
    p, q = predicted_pair(rollout)
    straight, crossed = math.dist(p, a) + math.dist(q, b), math.dist(p, b) + math.dist(q, a)
    return decay(min(straight, crossed) / diagonal)


@dataclass(frozen=True, kw_only=True)
class PointsDice(Localisation):
    """Dice of two discs, 2·|P ∩ G| / (|P| + |G|), in [0, 1]; each pair of points is the diameter of its disc.

    Any diameter of the right disc is perfect: `PointsAlign` and `PointsAngle` see what this one cannot. Abstains where
    the target's points coincide (no disc). The released number is twice the IoU of the discs on a logarithmic curve,
    clipped at 1: it saturates at an IoU of 0.5.

    >>> from medground_rewards.examples import rollout
    >>> far = rollout(points=((0, 0), (10, 0)), points_truth=((5, 0), (15, 0)))
    >>> round(PointsDice()(far).value, 4)
    0.391
    >>> near = rollout(points=((0, 0), (20, 0)), points_truth=((2, 0), (18, 0)), truth=(0, 0, 20, 1))
    >>> PointsDice()(near).value, PointsDice(released=True)(near).value
    (0.7804878048780487, 1.0)
    """

    name: ClassVar[str] = "points_dice"

    def score(self, rollout: Rollout) -> float:
        """Return 2·|P ∩ G| / (|P| + |G|)."""
        truth = true_pair(rollout.sample.target)
        if not apart(truth):
            raise EarlyResult(None, undefined="the target's key points coincide")
        return float(geometry.disc_dice(predicted_pair(rollout), truth))


@dataclass(frozen=True, kw_only=True)
class PointsAlign(Localisation):
    """How near the points are: max(0, 1 - 2d/D)², in [0, 1].

    d is the mean distance of the points under the better of the two matchings, D the diagonal of the target's box: off
    by half a diagonal, the way from the centre to a corner, earns nothing. Abstains where the target's box has no area.
    The released number divides the distance by four before an almost flat curve.

    >>> from medground_rewards.examples import rollout
    >>> near = rollout(truth=(0, 0, 30, 40), points=((10, 10), (25, 25)), points_truth=((25, 20), (10, 10)))
    >>> round(PointsAlign()(near).value, 4)  # d = (0 + 5)/2, D = 50
    0.81
    >>> PointsAlign(released=True)(near).value
    0.9965
    """

    name: ClassVar[str] = "points_align"

    def score(self, rollout: Rollout) -> float:
        """Return max(0, 1 - 2d/D)²."""
        return _near(rollout)


@dataclass(frozen=True, kw_only=True)
class PointsAngle(Localisation):
    """How parallel the two segments are, where it counts: (1 - 2θ/π)·max(0, 1 - 2d/D)², in [0, 1].

    θ in [0, π/2] is the angle between the lines through the points; the second factor is `PointsAlign`, so that the
    right direction far away earns nothing. Coincident predicted points earn 0; where the target's points coincide
    there is no direction to be right about and the term abstains. The released number pays a far pair in full.

    >>> from medground_rewards.examples import rollout
    >>> turned = rollout(truth=(0, 0, 30, 40), points=((10, 10), (20, 20)), points_truth=((10, 10), (20, 10)))
    >>> round(PointsAngle()(turned).value, 4)  # θ = 45°, d = 5, D = 50
    0.32
    >>> PointsAngle(released=True)(turned).value
    0.839
    """

    name: ClassVar[str] = "points_angle"

    def score(self, rollout: Rollout) -> float:
        """Return (1 - 2θ/π)·max(0, 1 - 2d/D)²."""
        truth = true_pair(rollout.sample.target)
        if not apart(truth):
            raise EarlyResult(None, undefined="the target's key points coincide")
        predicted = predicted_pair(rollout)
        if not apart(predicted):
            raise EarlyResult(0.0, fault=str(Fault.POINTS_EQUAL))
        # Scaled to unit length first, so that no product overflows; atan2 keeps the last digits of small angles.
        u, v = _direction(*predicted), _direction(*truth)
        angle = math.atan2(abs(u[0] * v[1] - u[1] * v[0]), abs(u[0] * v[0] + u[1] * v[1]))
        return (1 - 2 * angle / math.pi) * _near(rollout)


def _direction(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    length = math.dist(a, b)
    return (b[0] - a[0]) / length, (b[1] - a[1]) / length
