"""One reward term: what it is, where it runs, and what its answers become.

Terms that medground ships run in this process. Others run in a child (`medground.rewards.isolation`) that is forked for each
batch and ends with it, unless they declare ``in_process``. A term that ends its process or takes too long fails.
"""

import json
import logging
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from medground.registry import OWN, components
from medground.rewards.isolation import LINE, SECONDS, Ending, Send, can_fork, run_in_child, watch
from medground.runs.jsonable import plain
from medground.types import RewardResult, Rollout

logger = logging.getLogger(__name__)


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

    @property
    def shipped(self) -> bool:
        """True for a component that medground ships."""
        return type(self.reward).__module__.partition(".")[0] in _own_packages()

    @property
    def in_process(self) -> bool:
        """True when it runs in this process: shipped, declared so, or where there are no forked children."""
        return self.shipped or bool(getattr(self.reward, "in_process", False)) or not _children()

    @property
    def time_limit(self) -> float:
        """Seconds that it may take for one batch."""
        limit: float = getattr(self.reward, "time_limit", SECONDS)
        return limit


@cache
def _own_packages() -> frozenset[str]:
    return frozenset(component.package for component in components("reward") if component.distribution == OWN)


@cache
def _children() -> bool:
    if not can_fork():
        logger.warning("this system forks no children: terms of others run in this process")
    return can_fork()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a sample got no number from a term, or no score at all."""

    kind: str
    """raised, nan, infinite, wrong_type, wrong_length, left (it ended its process), late, garbled, released; or the value
    of a fault that is not the model's."""
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


def run_term(term: Term, rollouts: Sequence[Rollout]) -> list[TermScore]:
    """Return what a term says about a batch, one score per rollout, in order."""
    if term.shipped:
        return list(_run(term, rollouts))
    if term.in_process:
        with watch(f"term {term.label!r}", term.time_limit):
            return list(_run(term, rollouts))
    return _run_apart(term, rollouts)


def _run(term: Term, rollouts: Sequence[Rollout]) -> Iterator[TermScore]:
    batch = getattr(term.reward, "batch", None)
    if batch is None:
        return (_judge(term, rollout, _attempt(term.reward, rollout)) for rollout in rollouts)
    answers = _attempt(batch, rollouts)
    if isinstance(answers, BaseException):
        return (_judge(term, rollout, answers) for rollout in rollouts)
    if not isinstance(answers, Sequence) or isinstance(answers, str):
        reason = f"returned {_kind(answers)} for a batch"
        return (_fail(term, rollout, "wrong_type", reason) for rollout in rollouts)
    if len(answers) != len(rollouts):
        reason = f"returned {len(answers)} results for {len(rollouts)} samples"
        return (_fail(term, rollout, "wrong_length", reason) for rollout in rollouts)
    return (_judge(term, rollout, answer) for rollout, answer in zip(rollouts, answers, strict=True))


def _run_apart(term: Term, rollouts: Sequence[Rollout]) -> list[TermScore]:
    """Run a term in a child; the sample at which the child ended, and those after it, fail."""

    def work(send: Send) -> None:
        for score in _run(term, rollouts):
            send(_as_line(score))

    result = run_in_child(work, term.time_limit)
    scores = [_from_line(term, rollout, line) for rollout, line in zip(rollouts, result.lines, strict=False)]
    if len(scores) < len(rollouts):
        ending = Ending.GARBLED if result.ending is Ending.DONE else result.ending
        scores += [_fail(term, rollouts[len(scores)], ending, result.cause)] * (len(rollouts) - len(scores))
    return scores


def _as_line(score: TermScore) -> bytes:
    failure = score.failure and [score.failure.kind, score.failure.cause[: LINE // 16]]
    line = json.dumps([score.value, plain(score.details), failure]).encode()
    return line if len(line) < LINE else json.dumps([score.value, {"details": "too long"}, failure]).encode()


def _from_line(term: Term, rollout: Rollout, line: bytes) -> TermScore:
    """Return what a child sent, checked: whatever the term did to the child, no other value gets through."""
    try:
        value, details, failure = json.loads(line)
        if not isinstance(details, dict) or not (value is None or (type(value) is float and math.isfinite(value))):
            raise ValueError
        return TermScore(value, term.weight, details, failure and Failure(*map(str, failure)))
    except (ValueError, TypeError, RecursionError):
        return _fail(term, rollout, Ending.GARBLED, "gave back no text that can be read")


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
    if not isinstance(details, (dict, Mapping)):  # a dict is known faster than a mapping
        return _fail(term, rollout, "wrong_type", f"returned {_kind(details)} as details, not a mapping")
    if type(value) is float and math.isfinite(value):
        return TermScore(value, term.weight, details)
    if value is None:
        released = details.get("released")
        if released is None:
            return TermScore(None, term.weight, details)
        return _fail(term, rollout, "released", f"reproduces a released number that is {released}", details)
    if not isinstance(value, numbers.Real | np.bool_):
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
    failure = Failure(kind, f"term {term.label!r} {reason} on sample {rollout.sample.query.id!r}")
    return TermScore(None, term.weight, details or {}, failure)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
