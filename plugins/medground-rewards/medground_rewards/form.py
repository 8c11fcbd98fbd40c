"""Terms on the form of the answer: how well-formed the reasoning and the answer are, by the interface's own levels."""

from dataclasses import dataclass
from typing import ClassVar

from medground.types import RewardResult, Rollout


@dataclass(frozen=True, kw_only=True)
class _Form:
    """A format level in [0, 1], as the prompt interface that asked for the format judged it.

    Args:
        released: says that the released level is meant. The level comes from the interface's parser either way
            (``parser: released_train`` or ``released_base``), so the value is read in the same place.
    """

    released: bool = False
    needs_mask: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class FormatThink(_Form):
    """How well-formed the reasoning block is: the interface's think level, in [0, 1].

    Abstains where the interface asked for no reasoning. Released levels: 0 no block, 0.2 an empty one, 1 (mode base:
    1 only where the whole text is one block of each kind).

    >>> from medground_rewards.examples import rollout
    >>> FormatThink()(rollout(think_level=0.2)).value
    0.2
    >>> print(FormatThink()(rollout(think_level=None)).value)
    None
    """

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the think level of one rollout."""
        return RewardResult(rollout.grounding.think_level)


@dataclass(frozen=True, kw_only=True)
class FormatSeg(_Form):
    """How well-formed the answer is: the interface's answer level, in [0, 1].

    Released levels: 0 no block, 0.2 not a JSON object, 0.4 a key missing or nothing valid, 0.6 box or points valid, 1.

    >>> from medground_rewards.examples import rollout
    >>> FormatSeg()(rollout(answer_level=0.6)).value
    0.6
    """

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the answer level of one rollout."""
        return RewardResult(rollout.grounding.answer_level)
