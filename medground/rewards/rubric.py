"""Rubrics: weighted reward terms over rollouts, and what happens when a term misbehaves.

Raw value, weight and weighted sum are three things and stay three things. Weights are taken as written, never
normalised; weight 0 observes. A term that answers None abstains: it adds nothing. A term that raises, or returns NaN,
an infinity, a wrong type or a wrong number of results *fails* for that sample: the failure is counted and named, the
sample has no total, and nobody mistakes it for a zero.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from medground.errors import RecipeError, RunError
from medground.recipe import Recipe, resolve
from medground.recipe.recipe import Source
from medground.registry import build
from medground.rewards.isolation import Ending
from medground.rewards.term import Failure, Term, TermScore, run_term
from medground.types import Rollout

TIMEOUTS = 3
"""A rubric stops after so many batches in a row in which one term did not finish in time."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a rubric says about one sample."""

    total: float | None
    """The weighted sum. None when a weighted term failed, when every weighted term abstained, or when the rollout
    could not be scored; never a stand-in number."""
    terms: Mapping[str, TermScore]
    """By label, in the rubric's order; empty when the rollout could not be scored."""
    failures: tuple[Failure, ...] = ()
    """All that went wrong, failures of observed (weight 0) terms included."""

    @property
    def failed(self) -> bool:
        """True when something went wrong that leaves the sample without a total."""
        return self.total is None and bool(self.failures)


class Rubric:
    """Weighted terms, called on rollouts.

    >>> from medground.rewards.rubric import Rubric
    >>> from medground.rewards.term import Term
    >>> Rubric([Term("length", len, 0.5)])
    Rubric(length x 0.5)

    Raises:
        RecipeError: if two terms share a label or a weight is not a finite number.
    """

    def __init__(self, terms: Iterable[Term | tuple[str, Callable[[Rollout], Any], float]]) -> None:
        self.terms = tuple(term if isinstance(term, Term) else Term(*term) for term in terms)
        labels = [term.label for term in self.terms]
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise RecipeError(f"two terms have one label: {twice!r}", hint="give each term its own label")
        for term in self.terms:
            if not math.isfinite(term.weight):
                raise RecipeError(
                    f"the weight of term {term.label!r} is not finite: {term.weight}", hint="set a finite number"
                )
            if not (isinstance(term.time_limit, int | float) and 0 < term.time_limit < math.inf):
                raise RecipeError(
                    f"the time_limit of term {term.label!r} is no number of seconds: {term.time_limit!r}",
                    hint="set time_limit to a number above 0",
                )
        self._late: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"Rubric({', '.join(f'{term.label} x {term.weight:g}' for term in self.terms)})"

    @property
    def labels(self) -> tuple[str, ...]:
        """The terms' labels, in order."""
        return tuple(term.label for term in self.terms)

    @property
    def needs_mask(self) -> bool:
        """True when any term wants the segmenter's mask, observed ones included."""
        return any(term.needs_mask for term in self.terms)

    def __call__(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Return one score per rollout, in order; a rollout with a fault that is not the model's is not scored.

        Raises:
            RunError: if a term did not finish in time in `TIMEOUTS` batches in a row.
        """
        scores = [_unscored(rollout) for rollout in rollouts]
        scorable = [rollout for rollout, score in zip(rollouts, scores, strict=True) if score is None]
        with _read_only(scorable):
            columns = {term.label: self._column(term, scorable) for term in self.terms} if scorable else {}
        sums = iter(
            _sum({label: column[index] for label, column in columns.items()}, rollout.sample.query.id)
            for index, rollout in enumerate(scorable)
        )
        return [next(sums) if score is None else score for score in scores]

    def _column(self, term: Term, rollouts: Sequence[Rollout]) -> list[TermScore]:
        """Return what one term says about a batch."""
        column = run_term(term, rollouts)
        last = column[-1].failure
        if last is None or last.kind != Ending.LATE:
            self._late[term.label] = 0
            return column
        self._late[term.label] += 1
        if self._late[term.label] == TIMEOUTS:
            raise RunError(
                f"{last.cause}, in {TIMEOUTS} batches in a row",
                hint="set time_limit = SECONDS on it if it is only slow",
            )
        return column


def _unscored(rollout: Rollout) -> Score | None:
    """Return the empty score of a rollout whose fault is nobody's answer, or None where the terms must decide."""
    fault = rollout.fault or rollout.completion.fault
    if fault is None or fault.of_model:
        return None
    cause = f"sample {rollout.sample.query.id!r} was not scored: {rollout.cause or fault.value}"
    return Score(total=None, terms={}, failures=(Failure(fault.value, cause),))


def _sum(terms: Mapping[str, TermScore], name: str) -> Score:
    failures = tuple([term.failure for term in terms.values() if term.failure])
    weighted = [term for term in terms.values() if term.weight != 0]
    if (failures and any(term.failure for term in weighted)) or (
        weighted and all(term.value is None for term in weighted)
    ):
        return Score(total=None, terms=terms, failures=failures)
    total = 0.0
    for term in weighted:  # plain addition, which `sum` is not in every Python: released totals agree to the last digit
        total += term.weighted
    if not math.isfinite(total):
        cause = f"the weighted sum is {total} on sample {name!r}, although every term is finite"
        return Score(total=None, terms=terms, failures=(*failures, Failure("infinite", cause)))
    return Score(total=total, terms=terms, failures=failures)


@contextmanager
def _read_only(rollouts: Sequence[Rollout]) -> Iterator[None]:
    """Make the arrays that terms see read-only while they run, so that no term changes what the next one reads."""
    arrays: list[np.ndarray[Any, Any]] = []
    for rollout in rollouts:
        query, completion = rollout.sample.query, rollout.completion
        regions = (*rollout.sample.target.regions, *rollout.grounding.regions)
        masks = [region.mask.data for region in regions if region.mask is not None]
        arrays += [
            array
            for array in (query.image, completion.token_ids, completion.logprobs, *masks)
            if array is not None and array.flags.writeable
        ]
    for array in arrays:
        array.flags.writeable = False
    try:
        yield
    finally:
        for array in arrays:
            array.flags.writeable = True


def usable_groups(groups: Iterable[Sequence[Score]]) -> list[bool]:
    """Return which groups may enter an update: those in which every member has a total.

    Dropping single members would bias the group's baseline, so a failure costs its whole group.
    """
    return [all(score.total is not None for score in group) for group in groups]


def why_no_total(scores: Iterable[Score]) -> str:
    """Return in words which weighted terms failed or abstained in scores without a total, and why; the most frequent first.

    >>> why_no_total(Rubric([Term("mine", lambda rollout: None)])([]))
    ''
    """
    reasons: Counter[str] = Counter()
    for score in scores:
        if score.total is not None:
            continue
        reasons.update(failure.cause for failure in score.failures[:1])
        silent = [] if score.failures else [pair for pair in score.terms.items() if pair[1].weight != 0]
        for label, term in silent:
            reasons[f"term {label!r} abstained ({term.details.get('undefined', 'it says not why')})"] += 1
    return "; ".join(f"{reason}, {count} times" if count > 1 else reason for reason, count in reasons.most_common(4))


def failure_counts(scores: Iterable[Score]) -> Counter[str]:
    """Return how often each kind of failure happened, over all terms."""
    return Counter(failure.kind for score in scores for failure in score.failures)


class ConstantAlarm:
    """Reports, by label, terms that said one and the same thing for many steps: dead or saturated.

    Args:
        steps: how many steps in a row count as constant.
    """

    def __init__(self, steps: int = 200) -> None:
        self.steps = steps
        self.runs: dict[str, tuple[float | None, int]] = {}
        """Label -> (the one value since, for how many steps). Plain data: a checkpoint keeps it as it is."""

    def feed(self, scores: Iterable[Score]) -> list[str]:
        """Take one step's scores; return the labels whose run of constant steps reached the limit at this step.

        A term that only abstained (or failed) throughout a step said None, which is constant too.
        """
        seen: dict[str, set[float]] = {}
        for score in scores:
            for label, term in score.terms.items():
                seen.setdefault(label, set()).update(() if term.value is None else (term.value,))
        return [label for label, values in seen.items() if self._extend(label, values)]

    def _extend(self, label: str, values: set[float]) -> bool:
        if len(values) > 1:
            self.runs.pop(label, None)
            return False
        value = next(iter(values), None)
        last, length = self.runs.get(label, (value, 0))
        length = length + 1 if last == value else 1
        self.runs[label] = (value, length)
        return length == self.steps


def rubric(recipe: Source | None = None, *overrides: str, rewards: Mapping[str, Any] | None = None) -> Rubric:
    """Return the rubric of a recipe (a name, a path, or a resolved recipe), of terms given from Python, or of both.

    >>> rubric("train/toy")
    Rubric(format_think x 0, format_seg x 0.2, bbox_iou x 1, mask_dice x 0.5)
    >>> rubric("train/toy", rewards={"mask_dice": None, "short": (lambda rollout: 1.0, 0.1)})
    Rubric(format_think x 0, format_seg x 0.2, bbox_iou x 1, short x 0.1)

    Args:
        recipe: None has no terms of its own.
        overrides: as on the command line.
        rewards: label -> a function of a rollout, with weight 1 or as (function, weight); a weight; a term's mapping;
            None removes a term.

    Raises:
        RecipeError: if the recipe cannot be used as written, or has no rewards.
        PluginError: if a term's component is missing, broken or lacks its extra.
    """
    resolved = resolve({} if recipe is None else recipe, *overrides, values={"rewards": rewards} if rewards else None)
    if not resolved.terms:
        raise RecipeError(
            f"the recipe {resolved.name!r} has no rewards", hint="add a line below rewards:, for example bbox_iou: 1"
        )
    return Rubric(Term(label, _reward(resolved, label), term.weight) for label, term in resolved.terms.items())


def _reward(recipe: Recipe, label: str) -> Callable[[Rollout], Any]:
    """Return the object given for a term, else build the component that the recipe names."""
    key, term = f"rewards.{label}", recipe.terms[label]
    recipe.require_object(key)
    reward: Callable[[Rollout], Any] = recipe.objects.get(key) or build("reward", term.name, **term.arguments)
    return reward
