"""Terms on the predicted box. All lengths count in the target's own size; p is predicted, g is the target."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medground import geometry
from medground.geometry import Box, Floats
from medground.types import Rollout, Target
from medground_rewards.terms import Localisation, decay, predicted_box, true_box


class _OnBox(Localisation):
    """A term on the predicted and the true box."""

    def truth(self, target: Target) -> Box:
        """Return the target's box."""
        return true_box(target)

    def answer(self, rollout: Rollout) -> Box:
        """Return the predicted box."""
        return predicted_box(rollout)


@dataclass(frozen=True, kw_only=True)
class BboxIou(_OnBox):
    """Intersection over union of the boxes: |p ∩ g| / |p ∪ g|, in [0, 1]; 0 where disjoint or inverted.

    Abstains where the target's box has no area. The released number smooths the IoU logarithmically, so that a
    disjoint or inside-out box still earns 0.0812.

    >>> from medground_rewards.examples import rollout
    >>> half = rollout(box=(0, 0, 10, 10), truth=(5, 0, 15, 10), points_truth=((6, 5), (9, 5)))
    >>> BboxIou()(half).value
    0.3333333333333333
    >>> BboxIou(released=True)(half).value
    0.55
    """

    name: ClassVar[str] = "bbox_iou"

    def formula(self, answers: Floats, truths: Floats) -> Floats:
        """Return |p ∩ g| / |p ∪ g| of boxes ``[N, 4]``."""
        return np.asarray(geometry.box_iou(answers, truths))


@dataclass(frozen=True, kw_only=True)
class BboxAlign(_OnBox):
    """How near the corners are: max(0, 1 - e)², e = mean distance of the two corners / diagonal of g; in [0, 1].

    A box off by one diagonal earns nothing. Abstains where the target's box has no area. The released number uses the
    mean absolute difference on a nearly flat curve: a disjoint box earns about 0.67.

    >>> from medground_rewards.examples import rollout
    >>> round(BboxAlign()(rollout(box=(3, 0, 33, 40), truth=(0, 0, 30, 40))).value, 4)  # e = 3/50
    0.8836
    >>> BboxAlign(released=True)(rollout(box=(3, 0, 33, 40), truth=(0, 0, 30, 40))).value
    0.9958
    """

    name: ClassVar[str] = "bbox_align"

    def formula(self, answers: Floats, truths: Floats) -> Floats:
        """Return max(0, 1 - e)² of boxes ``[N, 4]``."""
        corners = geometry.distance(answers[:, :2], truths[:, :2]) + geometry.distance(answers[:, 2:], truths[:, 2:])
        return np.asarray(decay(corners / 2 / geometry.box_diagonal(truths)))


@dataclass(frozen=True, kw_only=True)
class BboxScale(_OnBox):
    """How alike the sides are, where it counts: ρ(w)·ρ(h)·max(0, 1 - d/D)², in [0, 1].

    ρ = shorter / longer of the predicted and the true side, so half and double cost the same; d is the distance of the
    centres and D the diagonal of g, so that the right size far away earns nothing. Abstains where the target's box has
    no area. The released number pays an inside-out box in full and never falls below 0.2367.

    >>> from medground_rewards.examples import rollout
    >>> BboxScale()(rollout(box=(0, 0, 20, 10), truth=(5, 0, 15, 10))).value
    0.5
    >>> BboxScale(released=True)(rollout(box=(0, 0, 20, 10), truth=(5, 0, 15, 10))).value
    0.2448
    """

    name: ClassVar[str] = "bbox_scale"

    def formula(self, answers: Floats, truths: Floats) -> Floats:
        """Return ρ(w)·ρ(h)·max(0, 1 - d/D)² of boxes ``[N, 4]``."""
        sides, true_sides = answers[:, 2:] - answers[:, :2], truths[:, 2:] - truths[:, :2]
        alike = (np.minimum(sides, true_sides) / np.maximum(sides, true_sides)).prod(axis=-1)
        centres, true_centres = (answers[:, :2] + answers[:, 2:]) / 2, (truths[:, :2] + truths[:, 2:]) / 2
        return np.asarray(alike * decay(geometry.distance(centres, true_centres) / geometry.box_diagonal(truths)))
