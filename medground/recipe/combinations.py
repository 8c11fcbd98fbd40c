"""Settings of a section that cannot have an effect together: refused, since a recipe means what it says."""

from collections.abc import Iterator
from typing import NamedTuple

from medground.recipe.schema import AdvantageEstimator, GrpoConfig, GrpoLoss, RewardScale

UNUSED = {
    GrpoLoss.sapo: ("epsilon", "epsilon_high", "dual_clip"),
    GrpoLoss.cispo: ("dual_clip",),
}
"""The clips that a loss does not use."""


class Contradiction(NamedTuple):
    """A setting that another one excludes."""

    key: str
    """Dotted."""
    what: str
    hint: str


def grpo_contradictions(grpo: GrpoConfig) -> Iterator[Contradiction]:
    """Yield the settings of a ``grpo`` section that its other settings exclude.

    >>> for contradiction in grpo_contradictions(GrpoConfig(loss=GrpoLoss.sapo, dual_clip=3.0)):
    ...     print(contradiction.what)
    grpo.dual_clip: 3 has no effect on grpo.loss: sapo
    """
    for name in UNUSED.get(grpo.loss, ()):
        value = getattr(grpo, name)
        if value is not None:
            what = f"grpo.{name}: {value:g} has no effect on grpo.loss: {grpo.loss}"
            yield Contradiction(f"grpo.{name}", what, f"set grpo.{name}=null")
    if grpo.advantage_estimator != AdvantageEstimator.grpo and grpo.scale_rewards != RewardScale.by_estimator:
        yield Contradiction(
            "grpo.scale_rewards",
            f"grpo.scale_rewards: {grpo.scale_rewards} has no effect on "
            f"grpo.advantage_estimator: {grpo.advantage_estimator}, which has a scale of its own",
            "set grpo.scale_rewards=by_estimator",
        )
    buffer, limit = grpo.overlong_buffer, grpo.max_completion_length
    if buffer is not None and buffer > limit:
        yield Contradiction(
            "grpo.overlong_buffer",
            f"grpo.overlong_buffer: {buffer} is more than grpo.max_completion_length: {limit}",
            f"set grpo.overlong_buffer={limit} or less",
        )
