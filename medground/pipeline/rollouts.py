"""From samples to scored groups of rollouts: what training runs.

sample -> group of completions -> groundings -> masks (only if a term needs them) -> scores
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from medground.pipeline.pipeline import Pipeline
from medground.types import Completion, Rollout, Sample, Sampling

if TYPE_CHECKING:
    from medground.rewards.rubric import Rubric, Score


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """G rollouts of one sample with their scores."""

    sample: Sample
    rollouts: list[Rollout]
    scores: "list[Score]"
    details: Sequence[Mapping[str, Any]] = ()
    """More columns for the rows of the rollouts in the table of a run, where there are any."""


class RolloutPipeline:
    """A pipeline and a rubric: samples completions and scores them.

    Args:
        pipeline: asks, reads and segments.
        rubric: scores; it says whether masks are needed.
    """

    def __init__(self, pipeline: Pipeline, rubric: "Rubric") -> None:
        self.pipeline = pipeline
        self.rubric = rubric

    def __repr__(self) -> str:
        return f"RolloutPipeline({self.pipeline!r}, {self.rubric!r})"

    def __call__(self, samples: Sequence[Sample], sampling: Sampling) -> list[Group]:
        """Draw G completions per sample, and score them."""
        return self.score(samples, self.pipeline.completions([sample.query for sample in samples], sampling))

    def score(self, samples: Sequence[Sample], completions: Sequence[Sequence[Completion]]) -> list[Group]:
        """Score given completions: read them, segment where a term needs it, apply the rubric once to all."""
        repeated = [sample for sample, group in zip(samples, completions, strict=True) for _ in group]
        flat = self.pipeline.rollouts(repeated, list(chain(*completions)), masks=self.rubric.needs_mask)
        scores, rollouts = iter(self.rubric(flat)), iter(flat)
        return [
            Group(sample=sample, rollouts=[next(rollouts) for _ in group], scores=[next(scores) for _ in group])
            for sample, group in zip(samples, completions, strict=True)
        ]
