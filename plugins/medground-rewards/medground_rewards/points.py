"""Terms on the two predicted key points. The order of the points never matters; lengths count in the target's size."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medground import geometry
from medground.geometry import Box, Floats, Point
from medground.types import Fault, Rollout, Target
from medground_rewards.terms import EarlyResult, Localisation, apart, decay, predicted_pair, true_box, true_pair


class _OnPair(Localisation):
    """A term on the two predicted and the two true points."""

    def truth(self, target: Target) -> tuple[Point, ...]:
        """Return the target's two key points, and where distances are relative the corners of its box after them."""
        return (*true_pair(target), *_corners(true_box(target)))

    def answer(self, rollout: Rollout) -> tuple[Point, Point]:
        """Return the two predicted points."""
        return predicted_pair(rollout)


def _corners(box: Box) -> tuple[Point, Point]:
    return Point(box.x1, box.y1), Point(box.x2, box.y2)


def _apart(target: Target) -> tuple[Point, Point]:
    """Return the target's two key points; coincident ones make the term abstain."""
    pair = true_pair(target)
    if not apart(pair):
        raise EarlyResult(None, undefined="the target's key points coincide")
    return pair


def _near(answers: Floats, truths: Floats) -> Floats:
    """Return max(0, 1 - 2d/D)²: d is the mean distance under the better matching, D the diagonal of the target's box."""
    diagonals = geometry.distance(truths[:, 2], truths[:, 3])
    return np.asarray(decay(2 * geometry.pair_distance(answers, truths[:, :2]) / diagonals))


@dataclass(frozen=True, kw_only=True)
class PointsDice(_OnPair):
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

    def truth(self, target: Target) -> tuple[Point, Point]:
        """Return the target's two key points."""
        return _apart(target)

    def formula(self, answers: Floats, truths: Floats) -> Floats:
        """Return 2·|P ∩ G| / (|P| + |G|) of pairs ``[N, 2, 2]``."""
        return np.asarray(geometry.disc_dice(answers, truths))


@dataclass(frozen=True, kw_only=True)
class PointsAlign(_OnPair):
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

    def formula(self, answers: Floats, truths: Floats) -> Floats:
        """Return max(0, 1 - 2d/D)² of pairs ``[N, 2, 2]`` and of pairs with the box's corners ``[N, 4, 2]``."""
        return _near(answers, truths)


@dataclass(frozen=True, kw_only=True)
class PointsAngle(_OnPair):
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

    def truth(self, target: Target) -> tuple[Point, ...]:
        """Return the target's two key points and the corners of its box."""
        return (*_apart(target), *_corners(true_box(target)))

    def answer(self, rollout: Rollout) -> tuple[Point, Point]:
        """Return the two predicted points; coincident ones earn 0."""
        pair = predicted_pair(rollout)
        if not apart(pair):
            raise EarlyResult(0.0, fault=str(Fault.POINTS_EQUAL))
        return pair

    def formula(self, answers: Floats, truths: Floats) -> Floats:
        """Return (1 - 2θ/π)·max(0, 1 - 2d/D)² of pairs ``[N, 2, 2]`` and of pairs with the box's corners ``[N, 4, 2]``."""
        u, v = _directions(answers), _directions(truths[:, :2])
        across = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
        along = np.abs(u[:, 0] * v[:, 0] + u[:, 1] * v[:, 1])
        return np.asarray((1 - 2 * np.arctan2(across, along) / np.pi) * _near(answers, truths))


def _directions(pairs: Floats) -> Floats:
    """Return unit vectors ``[N, 2]``: scaled before they are multiplied, so that no product overflows."""
    step = pairs[:, 1] - pairs[:, 0]
    return np.asarray(step / geometry.distance(pairs[:, 0], pairs[:, 1])[:, None])
