"""Which term of a rubric decides the advantages: a figure of completions, not of the rubric alone."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageShares:
    """How much of the variance of advantages each weighted term decides."""

    source: str
    """Where the completions are from, in words."""
    groups: int
    """Groups of completions of one question, each of which has a reward."""
    constant: int
    """Of these, those without a signal."""
    completions: int
    shares: Mapping[str, float]
    """Label -> share, the largest first; they add up to 1, and are NaN where no group has a signal."""

    @property
    def first(self) -> str | None:
        """The term with the largest share; None where no group has a signal."""
        return next(iter(self.shares), None) if self.groups > self.constant else None

    def sentence(self) -> str:
        """Return what the figures say.

        >>> AdvantageShares(source="", groups=4, constant=1, completions=32, shares={"bbox_iou": 0.8}).sentence()
        'bbox_iou decides the advantage: 80% of its variance'
        """
        if self.first is None:
            return "no term decides an advantage: the completions of every question earn the same"
        return f"{self.first} decides the advantage: {self.shares[self.first]:.0%} of its variance"
