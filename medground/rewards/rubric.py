"""Rubrics: weighted reward terms over rollouts, and what happens when a term misbehaves.

Raw value, weight and weighted sum are three things and stay three things. Weights are taken as written, never
normalised; weight 0 observes. A term that answers None abstains: it adds nothing. A term that raises, or returns NaN,
an infinity, a wrong type or a wrong number of results *fails* for that sample: the failure is counted and named, the
sample has no total, and nobody mistakes it for a zero.

A term runs in this process. One that never returns is not stopped.
"""

import math
import numbers
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medground.errors import RecipeError
from medground.recipe import Recipe, resolve
from medground.recipe.recipe import Source
from medground.registry import build
from medground.types import RewardResult, Rollout


@dataclass(frozen=True, slots=True)
class Term:
    """One reward under the label it has in a recipe."""

    label: str
    """Names the term in scores, logs and reports; unique within a rubric."""
    reward: Callable[[Rollout], Any]
    """A `medground.protocols.Reward`, or any function of a rollout that returns a number or None."""
    weight: float = 1.0
    """Factor in the total, taken as written; 0 observes."""

    @property
    def needs_mask(self) -> bool:
        """True when the term wants the segmenter's mask."""
        return bool(getattr(self.reward, "needs_mask", False))


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a sample got no number from a term, or no score at all."""

    kind: str
    """raised, nan, infinite, wrong_type, wrong_length, released; or the value of a fault that is not the model's."""
    cause: str
    """One sentence naming the term, the sample and the reason."""


@dataclass(frozen=True, slots=True)
class TermScore:
    """What one term said about one sample."""

    value: float | None
    """The raw value; None when it abstained or failed."""
    weight: float
    details: Mapping[str, Any] = field(default_factory=dict)
    failure: Failure | None = None

    @property
    def weighted(self) -> float:
        """What it adds to the total."""
        return 0.0 if self.value is None else self.weight * self.value


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

    >>> from medground.rewards.rubric import Rubric, Term
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
        """Return one score per rollout, in order; a rollout with a fault that is not the model's is not scored."""
        scores = [_unscored(rollout) for rollout in rollouts]
        scorable = [rollout for rollout, score in zip(rollouts, scores, strict=True) if score is None]
        with _read_only(scorable):
            columns = {term.label: _run(term, scorable) for term in self.terms} if scorable else {}
        sums = iter(
            _sum({label: column[index] for label, column in columns.items()}, _name(rollout))
            for index, rollout in enumerate(scorable)
        )
        return [next(sums) if score is None else score for score in scores]


def _unscored(rollout: Rollout) -> Score | None:
    """Return the empty score of a rollout whose fault is nobody's answer, or None where the terms must decide."""
    fault = rollout.fault or rollout.completion.fault
    if fault is None or fault.of_model:
        return None
    cause = f"sample {_name(rollout)!r} was not scored: {rollout.cause or fault.value}"
    return Score(total=None, terms={}, failures=(Failure(fault.value, cause),))


def _sum(terms: Mapping[str, TermScore], name: str) -> Score:
    failures = tuple(term.failure for term in terms.values() if term.failure)
    weighted = [term for term in terms.values() if term.weight != 0]
    broken = any(term.failure for term in weighted)
    silent = bool(weighted) and all(term.value is None for term in weighted)
    # Plain left-to-right addition: released totals are compared to the last digit.
    total = None if broken or silent else sum((term.weighted for term in weighted), 0.0)
    if total is not None and not math.isfinite(total):
        cause = f"the weighted sum is {total} on sample {name!r}, although every term is finite"
        return Score(total=None, terms=terms, failures=(*failures, Failure("infinite", cause)))
    return Score(total=total, terms=terms, failures=failures)


def _run(term: Term, rollouts: Sequence[Rollout]) -> list[TermScore]:
    batch = getattr(term.reward, "batch", None)
    if batch is None:
        return [_judge(term, rollout, _attempt(term.reward, rollout)) for rollout in rollouts]
    answers = _attempt(batch, rollouts)
    if isinstance(answers, BaseException):
        return [_judge(term, rollout, answers) for rollout in rollouts]
    if not isinstance(answers, Sequence) or isinstance(answers, str):
        return [_fail(term, rollout, "wrong_type", f"returned {_kind(answers)} for a batch") for rollout in rollouts]
    if len(answers) != len(rollouts):
        reason = f"returned {len(answers)} results for {len(rollouts)} samples"
        return [_fail(term, rollout, "wrong_length", reason) for rollout in rollouts]
    return [_judge(term, rollout, answer) for rollout, answer in zip(rollouts, answers, strict=True)]


def _attempt(function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary to terms: what they raise costs one sample
        return error


def _judge(term: Term, rollout: Rollout, answer: Any) -> TermScore:
    """Turn what a term answered into a finite value, an abstention or a named failure."""
    if isinstance(answer, BaseException):
        message = _attempt(str, answer)
        reason = message if isinstance(message, str) else "its message cannot be read"
        return _fail(term, rollout, "raised", f"raised {type(answer).__name__}: {reason}")
    result = answer if isinstance(answer, RewardResult) else RewardResult(answer)
    value, details = result.value, result.details
    if not isinstance(details, Mapping):
        return _fail(term, rollout, "wrong_type", f"returned {_kind(details)} as details, not a mapping")
    if value is None:
        released = details.get("released")
        if released is None:
            return TermScore(None, term.weight, details)
        return _fail(term, rollout, "released", f"reproduces a released number that is {released}", details)
    if type(value) is not float and not isinstance(value, numbers.Real | np.bool_):
        return _fail(term, rollout, "wrong_type", f"returned {_kind(value)}, not a number or None", details)
    number = _attempt(float, value)
    if isinstance(number, OverflowError):
        return _fail(term, rollout, "infinite", "returned a number too large for a float", details)
    if isinstance(number, BaseException):
        return _judge(term, rollout, number)
    if math.isfinite(number):
        return TermScore(number, term.weight, details)
    return _fail(term, rollout, "nan" if math.isnan(number) else "infinite", f"returned {number}", details)


def _fail(term: Term, rollout: Rollout, kind: str, reason: str, details: Mapping[str, Any] | None = None) -> TermScore:
    failure = Failure(kind, f"term {term.label!r} {reason} on sample {_name(rollout)!r}")
    return TermScore(None, term.weight, details or {}, failure)


def _name(rollout: Rollout) -> str:
    return rollout.sample.query.id


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


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
