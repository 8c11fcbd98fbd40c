"""The content that feeds a run's work: work counts as done only while all of it is the same.

Files count by their bytes, not by their names. What is recorded names no file of a sample, which may be a patient's.
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from medground import registry
from medground.data.dataset import Entry
from medground.errors import InputError, RunError
from medground.recipe import Recipe
from medground.recipe.checkpoints import checkpoints
from medground.recipe.schema import KINDS
from medground.runs.files import content_sha256, read_json, write_atomic
from medground.segmenters.weights import find_weights

INPUTS = "inputs.json"
Part = Literal["samples", "validation"]
PARTS: tuple[Part, ...] = ("samples", "validation")
Digests = dict[str, dict[str, str]]
_SECTIONS = {"reward": "rewards"}
"""Kind of component -> the section of a recipe that names it, where it has another name."""


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """Digests of all that feeds a run's work: ``inputs.json``."""

    components: dict[str, str] = field(default_factory=dict)
    """What it is, in words -> the SHA-256 of a file, or a plugin's distribution and version."""
    samples: Digests = field(default_factory=dict)
    """Id, in order -> ``image``, ``mask`` and ``line`` (all else that is stated) -> SHA-256."""
    validation: Digests = field(default_factory=dict)
    """The same of the samples that a training run is validated on."""

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all."""
        return sha256(json.dumps(asdict(self)).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write them into a run's folder."""
        write_atomic(folder / INPUTS, json.dumps(asdict(self), indent=0) + "\n")

    def require_same(self, folder: Path, *removable: Part) -> list[str]:
        """Stop unless these are the inputs of the run in a folder.

        Args:
            folder: of the run.
            removable: of which samples some may be missing now; others may follow in their stead, up to a limit.

        Returns:
            the ids of those that are missing.

        Raises:
            RunError: naming the first that differs.
        """
        before = read_json(folder / INPUTS, RunInputs)
        changes = list(_component_changes(before.components, self.components))
        removed: list[str] = []
        for part in PARTS:
            was, now = getattr(before, part), getattr(self, part)
            if part in removable:
                removed += [name for name in was if name not in now]
            changes += _sample_changes(was, now, removed)
        if changes:
            raise RunError(
                f"{changes[0]} when the run in {folder} began", hint="restore it, or begin anew with another --out"
            )
        return removed

    def require_unchanged(self, entries: Iterable[Entry]) -> None:
        """Stop if samples that have just been read are no longer what they were when these inputs were made.

        Raises:
            RunError: naming the first that differs.
        """
        for name, parts in sample_inputs(entries).items():
            for part, digest in parts.items():
                if digest != self.samples[name].get(part):
                    raise RunError(
                        f"the {part} of sample {name!r} has changed since this run read it",
                        hint="restore it, and --resume; what was done before it stays done",
                    )


def component_inputs(recipe: Recipe, *kinds: str) -> dict[str, str]:
    """Return what feeds the components of some kinds, or under some keys, beside their settings: plugins, weights, templates.

    What a component names counts if it is there: a file by its bytes, a folder by those of its files that are not hidden.

    Raises:
        PluginError: if a component is missing or broken.
    """
    inputs = {"the plugin of all": f"medground {metadata.version('medground')}"}
    paths: dict[str, Path] = {}
    for key, kind, component in recipe.components():
        if (key if key in KINDS else kind) in kinds and not recipe.is_object(key):
            offer = registry.find(kind, component.name)
            inputs[f"the plugin of {key}"] = f"{offer.distribution} {offer.version}"
            paths |= _named(key, component.arguments)
    sections = [_SECTIONS.get(kind, kind) for kind in kinds]
    for key, checkpoint, revision, *_ in checkpoints(recipe, *sections):
        if key not in paths and isinstance(checkpoint, str) and "://" not in checkpoint:
            try:
                paths[key] = find_weights(f"{checkpoint}@{revision}" if revision else checkpoint)
            except InputError:
                inputs[key] = "missing"
    for key, path in paths.items():
        inputs |= {f"{key}{name}": content_sha256(file) for name, file in _files(path)}
    return inputs


def sample_inputs(entries: Iterable[Entry]) -> Digests:
    """Return what feeds samples: id -> part -> SHA-256.

    Raises:
        InputError: if a file of a sample cannot be read.
    """
    inputs = {}
    for entry in entries:
        try:
            digests = {part: content_sha256(path) for part, path in entry.files.items()}
        except OSError as error:
            raise InputError(f"a file of sample {entry.id!r} cannot be read: {error.strerror or error}") from error
        inputs[entry.id] = digests | {"line": sha256(entry.stated.encode(errors="surrogatepass")).hexdigest()}
    return inputs


def _component_changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for key in sorted({*before, *now}):
        pair = was, current = before.get(key, "missing"), now.get(key, "missing")
        if was != current:
            stated = key.startswith("the plugin") or "missing" in pair
            yield f"{key} is {current}, which was {was}" if stated else f"{key} is not what it was"


def _sample_changes(before: Digests, now: Digests, removed: Collection[str]) -> Iterator[str]:
    stayed = [name for name in before if name not in removed]
    added = [name for name in now if name not in before]
    for name in stayed:
        if name not in now:
            yield f"sample {name!r} is missing, which was there"
        for part in sorted({*before[name], *now.get(name, before[name])}):
            if before[name].get(part) != now.get(name, before[name]).get(part):
                yield f"the {part} of sample {name!r} is not what it was"
    if len(added) > len(removed):
        yield f"sample {added[0]!r} was not there"
    if list(now) != stayed + added:
        yield "the order of the samples is not what it was"


def _named(key: str, value: Any) -> dict[str, Path]:
    """Return dotted key -> the path that stands there, if it exists."""
    if isinstance(value, Mapping):
        pairs = [_named(f"{key}.{word}", item) for word, item in value.items()]
        return {name: path for pair in pairs for name, path in pair.items()}
    path = Path(value).expanduser() if isinstance(value, str) and value and "\0" not in value else None
    return {key: path} if path is not None and os.path.exists(path) else {}


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield "", path
    for file in sorted(path.rglob("*")) if path.is_dir() else ():
        name = file.relative_to(path)
        if file.is_file() and not any(word.startswith(".") for word in name.parts):
            yield f"/{name.as_posix()}", file
