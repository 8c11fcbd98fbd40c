"""A run as a folder: what was asked, what happened, and a recipe that gives the trained reasoner.

recipe.yaml          a recipe like any other: the run's, with the reasoner at its newest checkpoint
train.yaml           the recipe that is trained, resolved; recipe.source.yaml the same as written
run.json             versions, plugins, hashes, the plan and the checkpoint rule
events.jsonl         one line per step and per thing worth knowing; metric names as in TRL
completions/         a table per step: every completion, what was parsed of it, its scores
validation/          a table per validation: every answer, what was parsed of it, its metrics
report.html          all of it to look at, see `medground.training.report`
overlays/            pictures of some of them
incidents/           batches in which a number was not finite
checkpoints/         see `medground.runs.checkpoint`
"""

import fcntl
import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal

from medground.errors import RunError
from medground.recipe import Recipe
from medground.recipe.sources import RESOLVED
from medground.runs import failpoints
from medground.runs.checkpoint import write_atomically
from medground.types import Rollout

TRAINED = "train.yaml"
EVENTS = "events.jsonl"
ABOUT = "run.json"
STATE = "state.json"
Tables = Literal["completions", "validation"]
"""What there are tables of."""
PREFIX: Mapping[Tables, str] = {"completions": "step", "validation": "validation"}
"""How the overlays of a table's rows begin."""
TEXTS = ("name", "sample", "prompt", "completion", "finish_reason", "fault", "failures", "overlay")
"""Columns of text; the others hold numbers."""


class RunFolder:
    """Writes a run's records.

    Args:
        folder: the run's folder; made if it does not exist.
        recipe: the recipe that is trained.

    Raises:
        RunError: if another process writes to it.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise RunError(
                f"another process writes to {folder}", hint="wait for it, or choose another --out"
            ) from error
        self._events: IO[str] | None = None

    @staticmethod
    def of_rank(rank: int, folder: Path, recipe: Recipe) -> "RunFolder":
        """The run's folder for one of several processes: the first writes it, the others only know where it is."""
        return RunFolder(folder, recipe) if rank == 0 else _Onlooker(folder, recipe)

    @staticmethod
    def started(folder: Path) -> bool:
        """Whether a run was begun here."""
        return (folder / EVENTS).exists()

    def begin(self, about: Mapping[str, Any]) -> None:
        """Write the recipe and what is known before the first step."""
        self.recipe.write(self.folder)
        (self.folder / TRAINED).write_text(self.recipe.dump(), encoding="utf-8")
        write_atomically(self.folder / ABOUT, json.dumps(about, indent=1) + "\n")
        self.event("start", **about)

    def event(self, event: str, **what: Any) -> None:
        """Append one line to the events."""
        line = json.dumps({"event": event, **what}, ensure_ascii=True, allow_nan=False)
        if self._events is None:
            self._events = (self.folder / EVENTS).open("a", encoding="utf-8")
        self._events.write(line + "\n")
        self._events.flush()

    def step(
        self, step: int, metrics: Mapping[str, float], *, seconds: float, skipped: str | None, warnings: Sequence[str]
    ) -> None:
        """Record one step; a metric that is not finite is null."""
        told = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        extra: dict[str, Any] = {"skipped": skipped} if skipped else {}
        if warnings:
            extra["warnings"] = list(warnings)
        self.event("step", step=step, **told, **extra, step_time=round(seconds, 4))

    def incident(self, step: int, what: Mapping[str, Any]) -> None:
        """Keep what is needed to look at a bad batch again."""
        folder = self.folder / "incidents"
        folder.mkdir(exist_ok=True)
        text = json.dumps({"step": step, **what}, ensure_ascii=True, default=_plain)
        write_atomically(folder / f"step-{step:08d}.json", text + "\n")
        self.event("incident", step=step, reason=what["reason"])

    def completions(
        self,
        step: int,
        rows: Sequence[Mapping[str, Any]],
        pictures: Sequence[tuple[str, Callable[[], Any]]] = (),
        *,
        kind: Tables = "completions",
    ) -> None:
        """Write the step's table, as parquet where pyarrow is installed, else as JSON lines; and draw some of it."""
        if not rows:
            return
        drawn: dict[str, str] = {}
        for name, draw in pictures:
            path = self.folder / "overlays" / f"{PREFIX[kind]}-{step:08d}-{len(drawn)}.png"
            path.parent.mkdir(exist_ok=True)
            draw().save(path)
            drawn[name] = path.relative_to(self.folder).as_posix()
        folder = self.folder / kind
        folder.mkdir(exist_ok=True)
        table = [{"step": step, **row, "overlay": drawn.get(row["name"])} for row in rows]
        _write_table(folder / f"{kind}_{step:05d}", table)

    def flush(self) -> None:
        """Bring the events to the disk, so that a checkpoint never knows more steps than they tell."""
        if self._events is not None:
            os.fsync(self._events.fileno())

    def rewind(self, step: int, validated: Collection[int] = ()) -> None:
        """Forget what was recorded after a step that is about to be done again, and a line torn by a kill.

        Args:
            step: the last step that stays done.
            validated: the steps whose validation stays done.
        """
        path = self.folder / EVENTS
        if not path.exists():
            return
        kept = [line for line in _lines(path) if _stays(line, step, validated)]
        if self._events is not None:
            self._events.close()
            self._events = None
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))

    def point_to(self, checkpoint: Path, argument: str) -> None:
        """Make the folder a recipe of the reasoner in a checkpoint."""
        failpoints.failpoint("save.before_latest")
        place = f"./{(checkpoint / 'model').relative_to(self.folder).as_posix()}"
        reasoner = {**self.recipe.data["reasoner"], argument: place}
        pointed = replace(self.recipe, data={**self.recipe.data, "reasoner": reasoner})
        write_atomically(self.folder / RESOLVED, pointed.dump())

    def write_state(self, checkpoint: Path, state: Mapping[str, Any]) -> None:
        """Write what a checkpoint knows beside its tensors."""
        (checkpoint / STATE).write_text(json.dumps(state, default=_plain) + "\n", encoding="utf-8")

    def read_state(self, checkpoint: Path) -> dict[str, Any]:
        """What `write_state` wrote."""
        state: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        return state

    def close(self) -> None:
        """Let go of the folder."""
        if self._events is not None:
            self._events.close()
        self._lock.close()


class _Onlooker(RunFolder):
    """A run's folder in which another process writes."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe

    def _nothing(self, *what: Any, **more: Any) -> None:
        """Another process does it."""

    begin = event = step = incident = completions = flush = rewind = point_to = write_state = close = _nothing


def read_about(folder: Path) -> dict[str, Any]:
    """What was known of a run before its first step; nothing where the folder does not say."""
    path = folder / ABOUT
    about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return about


def read_events(folder: Path, event: str = "step") -> list[dict[str, Any]]:
    """The lines of one kind from a run folder's events, in order."""
    return [line for line in _lines(folder / EVENTS) if line["event"] == event]


def read_table(folder: Path, step: int, kind: Tables = "completions") -> list[dict[str, Any]]:
    """The rows of a step's table in a run folder; none where there is none."""
    stem = folder / kind / f"{kind}_{step:05d}"
    if (lines := stem.with_suffix(".jsonl")).is_file():
        return _lines(lines)
    if not (table := stem.with_suffix(".parquet")).is_file():
        return []
    from pyarrow import parquet  # type: ignore[import-untyped, import-not-found, unused-ignore]

    rows: list[dict[str, Any]] = parquet.read_table(table).to_pylist()
    return rows


def completion_row(rollout: Rollout) -> dict[str, Any]:
    """What every table tells of a completion: the text, and what was read of it, in pixels of the original."""
    query, prompt, completion = rollout.sample.query, rollout.grounding.prompt, rollout.completion
    fault = rollout.fault or rollout.grounding.fault
    return {
        "sample": query.id,
        "prompt": query.question,
        "completion": completion.text,
        "completion_length": 0 if completion.token_ids is None else len(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "box": [float(value) for value in prompt.box] if prompt and prompt.box else None,
        "points": [[float(value) for value in point] for point in prompt.points] if prompt else None,
        "fault": None if fault is None else fault.value,
    }


def _stays(line: Mapping[str, Any], step: int, validated: Collection[int]) -> bool:
    if line["event"] in ("start", "validate"):
        return line["event"] == "start" or line["step"] in validated
    return line["event"] != "result" and bool(line.get("step", 0) <= step)


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue  # torn by a kill
    return found


def _write_table(stem: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    rows = [{key: _utf8(value) for key, value in row.items()} for row in rows]
    try:
        import pyarrow as pa  # type: ignore[import-untyped, import-not-found, unused-ignore]
        from pyarrow import parquet  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        lines = (json.dumps(row, ensure_ascii=True, default=_plain) + "\n" for row in rows)
        stem.with_suffix(".jsonl").write_text("".join(lines), encoding="utf-8")
        return
    # Typed by name: tables of all steps can be read as one, though in some of them a column holds nothing.
    types = {
        **dict.fromkeys(("step", "completion_length"), pa.int64()),
        **dict.fromkeys(TEXTS, pa.string()),
        "box": pa.list_(pa.float64()),
        "points": pa.list_(pa.list_(pa.float64())),
    }
    names = dict.fromkeys(key for row in rows for key in row)
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in names])
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), stem.with_suffix(".parquet"))


def _utf8(value: Any) -> Any:
    """Text a table can hold: halves of characters, which a model may write, are replaced."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """NumPy and torch values as JSON-ready ones."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
