"""The term on saying that nothing fits: for rubrics whose other terms know targets that are there."""

from dataclasses import dataclass
from typing import ClassVar

from medground.types import RewardResult, Rollout


@dataclass(frozen=True, kw_only=True)
class Abstention:
    """Whether "nothing fits" is said where it is so: 1 if the target is absent and the answer says so, else 0.

    It is 0 for a wrong abstention, and for an answer about an absent target that points at something or cannot be read. It
    abstains on an answer that does not abstain about a target that is there: pointing as such earns nothing, so that
    neither to point always nor to abstain always is paid.

    >>> from medground_rewards.examples import several
    >>> Abstention()(several([], [])).value, Abstention()(several([(0, 0, 9, 9)], [])).value
    (1.0, 0.0)
    >>> Abstention()(several([], [(0, 0, 9, 9)])).value
    0.0
    >>> print(Abstention()(several([(0, 0, 9, 9)], [(0, 0, 9, 9)])).value)
    None
    """

    needs_mask: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return 1 or 0 for one rollout, or abstain."""
        grounding, absent = rollout.grounding, not rollout.sample.target.regions
        nothing = not grounding.regions and grounding.fault is None
        if not absent and not nothing:
            return RewardResult(None, {"undefined": "the target is there and the answer does not abstain"})
        return RewardResult(float(absent and nothing))
