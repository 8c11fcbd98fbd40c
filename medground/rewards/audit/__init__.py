"""Auditing rewards: ask a rubric about answers whose worth is known, and name what it gets wrong.

The reward card is written before a run, not after it: a term that is dead, saturates early, prefers nonsense or breaks
on NaN shows here in seconds.
"""

from medground.protocols import PromptInterface
from medground.rewards.audit.card import Card
from medground.rewards.audit.checks import judge
from medground.rewards.audit.evidence import AuditFinding, collect
from medground.rewards.audit.shares import AdvantageShares
from medground.rewards.rubric import Rubric

__all__ = ["AdvantageShares", "AuditFinding", "Card", "audit"]


def audit(
    rubric: Rubric,
    interface: PromptInterface,
    *,
    name: str = "rubric",
    seed: int = 0,
    advantage: AdvantageShares | None = None,
) -> Card:
    """Audit a rubric whose answers are read by `interface`; the same seed gives the same card.

    Terms with weight 0 are left out. Masks, where terms need them, come from a perfect segmenter. `advantage`, which term
    decides the advantages of some completions, is shown in the card.
    """
    evidence = collect(rubric, interface, seed)
    return Card(name=name, seed=seed, evidence=evidence, findings=judge(evidence), advantage=advantage)
