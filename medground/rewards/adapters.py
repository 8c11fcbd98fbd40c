"""Reward functions written elsewhere: TRL's, verl's, and one's own file, as terms of a rubric.

They run unmodified, on copies of the texts, where the terms of others run: see `medground.rewards.rubric`.
"""

import asyncio
import contextlib
import hashlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from medground.errors import InputError, RecipeError, did_you_mean
from medground.rewards.isolation import SECONDS, Ending, Send, can_fork, run_in_child, watch
from medground.types import RewardResult, Rollout

ANY = (-float("inf"), float("inf"))
DECLARED = ("needs_mask", "in_process", "time_limit")
"""Attributes that a function may have, as a term has them."""


def truth_json(rollout: Rollout) -> str:
    """Return the truth as published files state it, in JSON: ``bbox_2d`` and ``point_2d``, in a list unless one region."""
    target = rollout.sample.target
    truths = [
        {"bbox_2d": region.box and list(region.box), "point_2d": [list(point) for point in region.points]}
        for region in target.regions
    ]
    return json.dumps(target.published or (truths[0] if len(truths) == 1 else truths))


class FromTRL:
    """A TRL reward function as a term: ``f(prompts=, completions=, completion_ids=, **columns)`` for the whole batch.

    Dataset columns are the samples' labels plus ``id`` and ``ground_truth`` (a JSON string, also offered as
    ``solution``); `columns` adds or replaces some. ``completion_ids`` is None unless every rollout has its tokens.
    What the function logs through ``log_extra`` and ``log_metric`` becomes details.

    >>> def shorter(completions, **columns):
    ...     return [1 / len(messages[0]["content"]) for messages in completions]
    >>> FromTRL(shorter)
    from_trl(shorter)

    Args:
        function: the reward function, plain or async.
        conversational: whether prompts and completions are lists of messages (TRL's usual form) or plain text.
        columns: by column name, how to read it from a rollout.
        trainer_state: handed through as it is.
    """

    needs_mask = False
    range = ANY

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        conversational: bool = True,
        columns: Mapping[str, Callable[[Rollout], Any]] | None = None,
        trainer_state: Any = None,
    ) -> None:
        self.function = function
        _take_over(self, function)
        self.conversational = conversational
        self.columns = dict(columns or {})
        self.trainer_state = trainer_state

    def __repr__(self) -> str:
        return f"from_trl({_name(self.function)})"

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the function's value for one rollout, as a batch of one.

        Raises:
            ValueError: if the function does not return one value.
        """
        (result,) = self.batch([rollout])
        return result

    def batch(self, rollouts: Sequence[Rollout]) -> list[RewardResult]:
        """Return the function's values, as many as it returned; None abstains."""
        extra: dict[str, list[Any]] = {}
        metrics: dict[str, float] = {}
        values = _finish(
            self.function(
                prompts=[self._text("user", rollout.sample.query.question) for rollout in rollouts],
                completions=[self._text("assistant", rollout.completion.text) for rollout in rollouts],
                completion_ids=_token_ids(rollouts),
                trainer_state=self.trainer_state,
                log_extra=lambda column, rows: extra.update({column: list(rows)}),
                log_metric=lambda name, value: metrics.update({name: value}),
                **self._columns(rollouts),
            )
        )
        logged = {column: rows for column, rows in extra.items() if len(rows) == len(rollouts)}
        return [
            RewardResult(value, {**metrics, **{column: rows[index] for column, rows in logged.items()}})
            for index, value in enumerate(values)
        ]

    def _text(self, role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if self.conversational else text

    def _columns(self, rollouts: Sequence[Rollout]) -> dict[str, list[Any]]:
        truths = [truth_json(rollout) for rollout in rollouts]
        columns: dict[str, list[Any]] = {
            "id": [rollout.sample.query.id for rollout in rollouts],
            "ground_truth": truths,
            "solution": list(truths),
        }
        for label in sorted({label for rollout in rollouts for label in rollout.sample.labels}):
            columns[label] = [rollout.sample.labels.get(label) for rollout in rollouts]
        for column, read in self.columns.items():
            columns[column] = [read(rollout) for rollout in rollouts]
        return columns


class FromVerl:
    """A verl reward function as a term: ``f(data_source, solution_str, ground_truth, extra_info)`` per sample.

    It returns a number, or a dict with ``score``; the dict's other entries become details.

    >>> def compute_score(data_source, solution_str, ground_truth, extra_info):
    ...     return 1.0 if ground_truth in solution_str else 0.0
    >>> FromVerl(compute_score)
    from_verl(compute_score)

    Args:
        function: the reward function, plain or async.
        data_source: what it is told the data are called.
        truth: how to read ``ground_truth`` from a rollout; by default the published JSON string.
    """

    needs_mask = False
    range = ANY

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        data_source: str = "umrg",
        truth: Callable[[Rollout], Any] = truth_json,
    ) -> None:
        self.function = function
        _take_over(self, function)
        self.data_source = data_source
        self.truth = truth

    def __repr__(self) -> str:
        return f"from_verl({_name(self.function)})"

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the function's value for one rollout.

        Raises:
            KeyError: if it returns a dict without ``score``.
        """
        answer = _finish(
            self.function(
                data_source=self.data_source,
                solution_str=rollout.completion.text,
                ground_truth=self.truth(rollout),
                extra_info={"index": rollout.sample.query.id, **rollout.sample.labels},
            )
        )
        if isinstance(answer, Mapping):
            return RewardResult(answer["score"], {key: value for key, value in answer.items() if key != "score"})
        return RewardResult(answer)


class UserReward:
    """A function from one's own file as a term; where it came from goes into every detail it gives.

    Args:
        function: a function of a rollout returning a number, None or a `RewardResult`, or any other term.
        source: the file and the name in it, ``my.py:fn``.
        sha256: of the file's bytes.
    """

    needs_mask = False
    range = ANY

    def __init__(self, function: Callable[[Rollout], Any], *, source: str, sha256: str) -> None:
        self.function = function
        self.source = source
        self.sha256 = sha256
        _take_over(self, function)
        if hasattr(function, "batch"):
            self.batch = self._batch

    def __repr__(self) -> str:
        return f"UserReward({self.source}, sha256 {self.sha256[:12]})"

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return what the function says, with its source in the details."""
        return self._signed(self.function(rollout))

    def _batch(self, rollouts: Sequence[Rollout]) -> list[RewardResult]:
        return [self._signed(answer) for answer in self.function.batch(rollouts)]  # type: ignore[attr-defined]

    def _signed(self, answer: Any) -> RewardResult:
        result = answer if isinstance(answer, RewardResult) else RewardResult(answer)
        return RewardResult(result.value, {**result.details, "source": self.source, "sha256": self.sha256})


from_trl = FromTRL
from_verl = FromVerl


def user_reward(text: str) -> tuple[str, UserReward]:
    """Read ``NAME=my.py:fn`` from a command line; running the file is what its author asked for by naming it there.

    Raises:
        RecipeError: if the text has another form, or the file has no such function.
        InputError: if the file cannot be read or run.
    """
    label, _, source = text.partition("=")
    file, _, name = source.rpartition(":")
    if not (label and file and name):
        raise RecipeError(f"{text!r} is not a term", hint="write NAME=my.py:function")
    path = Path(file)
    try:
        code = path.read_bytes()
    except OSError as error:
        raise InputError(f"the file of term {label!r} cannot be read: {error}") from error
    module = _run_file(path, label)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise RecipeError(f"{file} has no function {name!r} for term {label!r}", hint=did_you_mean(name, known))
    return label, UserReward(function, source=f"{path.name}:{name}", sha256=hashlib.sha256(code).hexdigest())


def _run_file(path: Path, label: str) -> Any:
    """Run a file as a module: in a child first, so that one that ends its process or hangs is refused.

    Raises:
        InputError: if it does not run to its end.
    """
    spec = importlib.util.spec_from_file_location(f"medground_own_{label}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"the file of term {label!r} is not Python: {path.name}", hint="name a .py file")
    module, run = importlib.util.module_from_spec(spec), spec.loader.exec_module

    def attempt(send: Send) -> None:
        with contextlib.suppress(Exception, SystemExit):  # raised again below
            run(module)

    if can_fork():
        trial = run_in_child(attempt, SECONDS)
        if trial.ending is not Ending.DONE:
            raise InputError(
                f"the file of term {label!r} {trial.cause} when it is run", hint="let it define functions only"
            )
    try:
        with watch(f"the file of term {label!r}", SECONDS):
            run(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"the file of term {label!r} fails: {type(error).__name__}: {error}") from error
    return module


def _take_over(term: Any, function: Callable[..., Any]) -> None:
    """Let a term declare what the function that it calls declares: see `medground.protocols.Reward`."""
    declared = {name: getattr(function, name) for name in DECLARED if hasattr(function, name)}
    vars(term).update(declared)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _token_ids(rollouts: Sequence[Rollout]) -> list[list[int]] | None:
    tokens = [rollout.completion.token_ids for rollout in rollouts]
    return None if any(ids is None for ids in tokens) else [ids.tolist() for ids in tokens if ids is not None]


def _finish(answer: Any) -> Any:
    """Return the value of an async function's answer, whether or not a loop is already running here (as in a notebook)."""
    if not inspect.iscoroutine(answer):
        return answer
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(answer)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, answer).result()
