"""A run as a folder: its recipe, its records, and a recipe of the trained reasoner.

recipe.yaml          a recipe like any other: the run's, with the reasoner at its newest checkpoint
train.yaml           the recipe that is trained, resolved; recipe.source.yaml the same as written
run.json             versions, plugins, hashes, the plan and the checkpoint rule
inputs.json          the digests of all that feeds it, see `medground.runs.inputs`
events.jsonl         one line per step and per thing worth knowing; metric names as in TRL
completions/         a table per step: every completion, what was parsed of it, its scores
validation/          a table per validation: every answer, what was parsed of it, its metrics
report.html          all of it to look at, see `medground.training.report`
overlays/            pictures of some of them
incidents/           batches in which a number was not finite
checkpoints/         see `medground.runs.checkpoint`
"""

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from medground.errors import RunError
from medground.recipe import Recipe
from medground.recipe.objects import ObjectRecord
from medground.recipe.sources import AS_WRITTEN, RESOLVED
from medground.runs import failpoints
from medground.runs.files import JsonLines, lock_folder, read_json, replacing, write_atomic
from medground.runs.inputs import RunInputs
from medground.types import Region, Rollout

TRAINED = "train.yaml"
EVENTS = "events.jsonl"
METADATA = "run.json"
STATE = "state.json"
Tables = Literal["completions", "validation"]
"""What there are tables of."""
PREFIX: Mapping[Tables, str] = {"completions": "step", "validation": "validation"}
"""How the overlays of a table's rows begin."""
TEXTS = (
    "name",
    "sample",
    "prompt",
    "completion",
    "finish_reason",
    "fault",
    "failures",
    "overlay",
    "exchange",
    "volume",
)
"""Columns of text; the others hold numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMetadata:
    """What is known of a run before its first step: ``run.json``. None or empty: not recorded."""

    recipe: str | None = None
    """Its name."""
    recipe_sha256: str | None = None
    """Of what decides the numbers."""
    planned_steps: int | None = None
    samples: int | None = None
    data_sha256: str | None = None
    """Of all samples, those of its validation included: images, masks and lines."""
    prompt_sha256: str | None = None
    processor_sha256: str | None = None
    frame: dict[str, Any] | None = None
    """What the numbers of an answer about an image of 480 x 640 px count; see `medground.frames.Frame.to_dict`."""
    seed: int | None = None
    checkpoint_rule: str | None = None
    plugins: dict[str, str] = field(default_factory=dict)
    """``kind.component`` -> distribution and version."""
    objects: dict[str, ObjectRecord] = field(default_factory=dict)
    """Dotted key -> what is recorded of an object that was given from Python."""
    versions: dict[str, str] = field(default_factory=dict)
    """Library -> version."""

    def hashes(self) -> list[tuple[str, str]]:
        """Return (name in words, hash) of every recorded hash."""
        pairs = [(name, getattr(self, name)) for name in self.__slots__ if name.endswith("sha256")]
        return [(name.replace("_", " "), value) for name, value in pairs if value is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointState:
    """What a checkpoint holds beside its tensors: ``state.json``."""

    state: dict[str, Any]
    """The fields of `medground.training.method.TrainingState`."""
    recipe: str
    """The hash of the recipe that is trained."""
    argument: str
    """Of the reasoner's factory: takes the folder ``model``."""
    generators: dict[str, Any]
    """The states of the global random generators of Python and NumPy."""


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
        self._lock = lock_folder(folder)
        self._events = JsonLines(folder / EVENTS)

    @staticmethod
    def of_rank(rank: int, folder: Path, recipe: Recipe) -> "RunFolder":
        """Return the run's folder for one of several processes: the first writes it, the others only know its path."""
        return RunFolder(folder, recipe) if rank == 0 else _ReadOnlyFolder(folder, recipe)

    @staticmethod
    def started(folder: Path) -> bool:
        """Return True if the folder holds a run."""
        return (folder / EVENTS).exists()

    def begin(self, metadata: RunMetadata, inputs: RunInputs) -> None:
        """Write the recipe and what is known before the first step."""
        write_recipe(self.recipe, self.folder)
        write_atomic(self.folder / TRAINED, self.recipe.dump())
        inputs.write(self.folder)
        record = asdict(metadata)
        write_atomic(self.folder / METADATA, json.dumps(record, indent=1) + "\n")
        self.event("start", **record)

    def extend(self, planned: int, *, step: int) -> None:
        """Record that a run with `step` steps done ends at another one than it began with."""
        record = asdict(replace(read_metadata(self.folder), planned_steps=planned))
        write_atomic(self.folder / METADATA, json.dumps(record, indent=1) + "\n")
        write_atomic(self.folder / TRAINED, self.recipe.dump())
        self.event("extend", step=step, planned_steps=planned)

    def event(self, event: str, **values: Any) -> None:
        """Append one line to the events."""
        self._events.append({"event": event, **values})

    def step(
        self, step: int, metrics: Mapping[str, float], *, seconds: float, skipped: str | None, warnings: Sequence[str]
    ) -> None:
        """Record one step; a metric that is not finite is null."""
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        extra: dict[str, Any] = {"skipped": skipped} if skipped else {}
        if warnings:
            extra["warnings"] = list(warnings)
        self.event("step", step=step, **values, **extra, step_time=round(seconds, 4))

    def incident(self, step: int, reason: str, batch: Mapping[str, Any]) -> None:
        """Write a batch in which a number was not finite."""
        folder = self.folder / "incidents"
        folder.mkdir(exist_ok=True)
        text = json.dumps({"step": step, "reason": reason, **batch}, ensure_ascii=True, default=_plain)
        write_atomic(folder / f"step-{step:08d}.json", text + "\n")
        self.event("incident", step=step, reason=reason)

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
            with replacing(path) as temporary:
                draw().save(temporary)
            drawn[name] = path.relative_to(self.folder).as_posix()
        folder = self.folder / kind
        folder.mkdir(exist_ok=True)
        table = [{"step": step, **row, "overlay": drawn.get(row["name"])} for row in rows]
        _write_table(folder / f"{kind}_{step:05d}", table)

    def flush(self) -> None:
        """Bring the events to the disk, so that a checkpoint never knows more steps than they tell."""
        self._events.sync()

    def rewind(self, step: int, validated: Collection[int] = ()) -> None:
        """Forget what was recorded after a step that is about to be done again, and a line torn by a kill.

        Args:
            step: the last step that stays done.
            validated: the steps whose validation stays done.
        """
        if not self._events.path.exists():
            return
        lines = [line for line in _events(self.folder) if _stays(line, step, validated)]
        self._events.rewrite(lines)

    def point_to(self, checkpoint: Path, argument: str) -> None:
        """Make the folder a recipe of the reasoner in a checkpoint."""
        failpoints.failpoint("save.before_latest")
        path = f"./{(checkpoint / 'model').relative_to(self.folder).as_posix()}"
        reasoner = {**self.recipe.data["reasoner"], argument: path}
        trained = replace(self.recipe, data={**self.recipe.data, "reasoner": reasoner})
        write_atomic(self.folder / RESOLVED, trained.dump())

    def write_state(self, checkpoint: Path, state: CheckpointState) -> None:
        """Write the state of a checkpoint, beside its tensors."""
        (checkpoint / STATE).write_text(json.dumps(asdict(state), default=_plain) + "\n", encoding="utf-8")

    def close(self) -> None:
        """Close the events and release the folder."""
        self._events.close()
        self._lock.release()


class _ReadOnlyFolder(RunFolder):
    """A run's folder in which another process writes."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe

    def _nothing(self, *what: Any, **more: Any) -> None:
        """Another process does it."""

    begin = extend = event = step = incident = completions = flush = rewind = point_to = write_state = close = _nothing


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write ``recipe.yaml`` (resolved) and ``recipe.source.yaml`` (as written): the folder is a recipe then."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / RESOLVED, recipe.dump())
    write_atomic(folder / AS_WRITTEN, recipe.text)


def read_state(checkpoint: Path) -> CheckpointState:
    """Return the state of a checkpoint; raises as `read_json`."""
    return read_json(checkpoint / STATE, CheckpointState)


def read_metadata(folder: Path) -> RunMetadata:
    """Return what is known of a run before its first step; nothing where it has no ``run.json``. Raises as `read_json`."""
    path = folder / METADATA
    return read_json(path, RunMetadata) if path.is_file() else RunMetadata()


def read_events(folder: Path, event: str = "step") -> list[dict[str, Any]]:
    """Return the lines of one kind from a run folder's events, in order.

    Raises:
        RunError: if a line is no event.
    """
    return [line for line in _events(folder) if line["event"] == event]


def _events(folder: Path) -> Iterator[dict[str, Any]]:
    for line in JsonLines(folder / EVENTS).read():
        whole = isinstance(line, dict) and isinstance(line.get("event"), str)
        if not whole or type(line.get("step", 0)) is not int:
            raise RunError(f"{folder / EVENTS} holds a line that is no event: {str(line)[:60]!r}",
                           hint="restore it, or choose another --out")  # fmt: skip
        yield line


def read_table(folder: Path, step: int, kind: Tables = "completions") -> list[dict[str, Any]]:
    """Return the rows of a step's table in a run folder; none if it has no such table."""
    stem = folder / kind / f"{kind}_{step:05d}"
    if (lines := stem.with_suffix(".jsonl")).is_file():
        return list(JsonLines(lines).read())
    if not (table := stem.with_suffix(".parquet")).is_file():
        return []
    from pyarrow import parquet  # type: ignore[import-untyped, import-not-found, unused-ignore]

    rows: list[dict[str, Any]] = parquet.read_table(table).to_pylist()
    return rows


def completion_row(rollout: Rollout) -> dict[str, Any]:
    """Return the columns of a completion in every table: its text and what was parsed, in pixels of the original.

    ``box`` and ``points`` are those of an answer with exactly one region.
    """
    query, region, completion = rollout.sample.query, rollout.grounding.region, rollout.completion
    fault = rollout.fault or rollout.grounding.fault
    return {
        "sample": query.id,
        "prompt": query.question,
        "completion": completion.text,
        "completion_length": 0 if completion.token_ids is None else len(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "box": [float(value) for value in region.box] if region and region.box else None,
        "points": [[float(value) for value in point] for point in region.points] if region else None,
        "regions": [_region_row(one) for one in rollout.grounding.regions],
        "fault": None if fault is None else fault.value,
    }


def _region_row(region: Region) -> dict[str, Any]:
    return {
        "box": [float(value) for value in region.box] if region.box else None,
        "points": [[float(value) for value in point] for point in region.points],
        "label": _utf8(region.label),
        "confidence": None if region.confidence is None else float(region.confidence),
    }


def _stays(line: Mapping[str, Any], step: int, validated: Collection[int]) -> bool:
    if line["event"] in ("start", "validate"):
        return line["event"] == "start" or line["step"] in validated
    return line["event"] != "result" and bool(line.get("step", 0) <= step)


def _write_table(stem: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    rows = [{key: _utf8(value) for key, value in row.items()} for row in rows]
    try:
        import pyarrow as pa  # type: ignore[import-untyped, import-not-found, unused-ignore]
        from pyarrow import parquet  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        lines = (json.dumps(row, ensure_ascii=True, default=_plain) + "\n" for row in rows)
        write_atomic(stem.with_suffix(".jsonl"), "".join(lines))
        return
    # Typed by name: tables of all steps can be read as one, though in some of them a column holds nothing.
    types = {
        **dict.fromkeys(("step", "completion_length", "slice"), pa.int64()),
        **dict.fromkeys(TEXTS, pa.string()),
        "box": pa.list_(pa.float64()),
        "points": pa.list_(pa.list_(pa.float64())),
    }
    region = {"box": types["box"], "points": types["points"], "label": pa.string(), "confidence": pa.float64()}
    types["regions"] = pa.list_(pa.struct(list(region.items())))
    names = dict.fromkeys(key for row in rows for key in row)
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in names])
    with replacing(stem.with_suffix(".parquet")) as temporary:
        parquet.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def _utf8(value: Any) -> Any:
    """Return text a table can hold: halves of characters, which a model may write, are replaced."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """Return NumPy and torch values as JSON-ready ones."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
