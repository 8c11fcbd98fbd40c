"""Read the files of a recipe: shipped by name, a path, a run folder or a mapping, and everything it extends."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medground.errors import RecipeError, did_you_mean
from medground.recipe.layers import Layer, expand
from medground.recipe.yaml_reader import MAX_BYTES, MAX_KEY, MAX_NODES, parse, quoted, read_file

SUFFIXES = (".yaml", ".yml")
MAX_FILES = 16
"""A recipe and all it extends."""
RESOLVED = "recipe.yaml"
"""In a run folder: the resolved recipe."""
AS_WRITTEN = "recipe.source.yaml"
"""In a run folder: the files it came from and the overrides."""
MAPPING = "mapping"
"""The origin of what a mapping from Python holds; a file's has a colon and a line."""


@cache
def shipped() -> Path:
    """Return the folder of shipped recipes: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def names() -> list[str]:
    """Return the name of every shipped recipe, for example ``infer/toy``, sorted."""
    root = shipped()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def usage_line(name: str) -> str:
    """Return the first line of a shipped recipe: the command that runs it."""
    file = _shipped(name)
    return read_file(file.path, file.label).partition("\n")[0].removeprefix("#").strip()


@dataclass(frozen=True)
class File:
    """A recipe file."""

    path: Path
    label: str
    """Its path in messages."""
    root: Path
    """What it extends must be below this folder, or shipped."""


@dataclass(frozen=True)
class RecipeSource:
    """A recipe as written: every file it is made of, bases first."""

    name: str
    layers: tuple[Layer, ...]
    texts: tuple[tuple[str, str], ...]
    """(label, text) of each file."""


def read_source(source: "str | os.PathLike[str] | Mapping[str, Any]") -> RecipeSource:
    """Read a recipe and all it extends.

    Raises:
        RecipeError: if it does not exist, cannot be read, or extends itself.
    """
    files = _Files()
    if isinstance(source, Mapping):
        name = MAPPING
        files.add(_to_yaml(source), name, None, ())
    else:
        name, file = _locate(source)
        files.read(file, ())
    return RecipeSource(name, tuple(files.layers), tuple(files.texts))


def _to_yaml(source: Mapping[str, Any]) -> str:
    try:
        return OmegaConf.to_yaml(OmegaConf.create(dict(source)))
    except (OmegaConfBaseException, RecursionError) as error:
        raise RecipeError(f"the mapping is no recipe: {str(error).splitlines()[0]}") from error


def _locate(source: "str | os.PathLike[str]") -> tuple[str, File]:
    """Return the recipe's name and its file."""
    word = os.fspath(source)
    if isinstance(source, str) and word in names():
        return word, _shipped(word)
    path = Path(word)
    if os.path.isdir(word):
        if not (path / RESOLVED).is_file():
            raise RecipeError(f"the folder {word!r} holds no {RESOLVED}", hint="name the folder of a run or an export")
        return _real(path).name, File(path / RESOLVED, str(path / RESOLVED), _real(path))
    if path.suffix in SUFFIXES and "\0" not in word:
        real, root = _real(path), _real(shipped())
        return path.stem, File(path, word, root if real.is_relative_to(root) else real.parent)
    raise RecipeError(
        f"there is no recipe {quoted(word)}", hint=did_you_mean(word[:MAX_KEY], names()) + ", or a path ending in .yaml"
    )


def _real(path: Path) -> Path:
    # Unlike Path.resolve, this has an answer for circular links and names that are too long.
    return Path(os.path.realpath(path))


def _shipped(name: str) -> File:
    return File(shipped() / f"{name}.yaml", f"recipes/{name}.yaml", _real(shipped()))


class _Files:
    """The files of one recipe, each after those it extends. The limits hold for all together."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.texts: list[tuple[str, str]] = []
        self.count = self.size = self.values = 0

    def read(self, file: File, chain: tuple[Path, ...]) -> None:
        self.add(read_file(file.path, file.label), file.label, file, (*chain, _real(file.path)))

    def add(self, text: str, label: str, file: File | None, chain: tuple[Path, ...]) -> None:
        self.count, self.size = self.count + 1, self.size + len(text)
        if self.count > MAX_FILES or self.size > MAX_BYTES or self.values > MAX_NODES:
            limits = f"{MAX_FILES} files, {MAX_BYTES:,} bytes or {MAX_NODES:,} values"
            raise RecipeError(f"{label}:1: the recipe takes more than {limits} with all it extends")
        data, locations = parse(text, label, lines=file is not None)
        self.values += len(locations)
        if not isinstance(data, dict | NoneType):
            raise RecipeError(f"{label}:1: a recipe is key: value lines, not a {type(data).__name__}")
        folder = os.path.dirname(os.path.realpath(file.path)) if file is not None else None
        layer = Layer(_join_folder(data or {}, folder), {(): label, **locations})
        for index, base in enumerate(_bases(layer)):
            origin = layer.origin(("extends", str(index)))
            base_file = _base_file(base, file, origin)
            if _real(base_file.path) in chain:
                raise RecipeError(f"{origin}: {quoted(base)} extends itself in a circle", hint="remove one extends")
            self.read(base_file, chain)
        self.layers.append(expand(layer))
        self.texts.append((label, text))


def _join_folder(value: Any, folder: str | None) -> Any:
    """Return the data with every ``./path`` joined to the recipe's own folder, so that a run folder can be moved."""
    if isinstance(value, dict):
        return {key: item if key == "extends" else _join_folder(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_join_folder(item, folder) for item in value]
    if folder is not None and isinstance(value, str) and value.startswith("./"):
        return os.path.normpath(os.path.join(folder, value))
    return value


def _bases(layer: Layer) -> list[str]:
    value = layer.data.get("extends")
    bases = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(base, str) and base for base in bases):
        raise RecipeError(f"{layer.origin(('extends',))}: extends takes a recipe or a list of recipes")
    return bases


def _base_file(base: str, file: File | None, origin: str) -> File:
    """Return the file that `base` means in `file`: one beside or below it, else a shipped recipe."""
    if file is not None:
        relative = base if base.endswith(SUFFIXES) else f"{base}.yaml"
        path = file.path.parent / relative
        if not _real(path).is_relative_to(file.root):
            raise RecipeError(
                f"{origin}: {quoted(base)} leaves the folder of the recipe", hint="extend a shipped one by name"
            )
        if os.path.isfile(path):
            label = os.path.normpath(os.path.join(os.path.dirname(file.label), relative))
            return File(path, label, file.root)
    if base in names():
        return _shipped(base)
    raise RecipeError(
        f"{origin}: there is no recipe {quoted(base)} to extend", hint=did_you_mean(base[:MAX_KEY], names())
    )
