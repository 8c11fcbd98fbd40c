"""Where recipes lie: shipped by name, files, run folders, mappings; and what they extend."""

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
from medground.recipe.layers import Layer, shorthand
from medground.recipe.yaml_reader import MAX_BYTES, MAX_KEY, MAX_NODES, parse, read_file
from medground.recipe.yaml_reader import shown as told

SUFFIXES = (".yaml", ".yml")
MAX_FILES = 16
"""A recipe and all it extends."""
RESOLVED = "recipe.yaml"
"""In a run folder: the recipe as it was resolved."""
AS_WRITTEN = "recipe.source.yaml"
"""In a run folder: the files it came from and the overrides."""


@cache
def shipped() -> Path:
    """The folder of shipped recipes: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def names() -> list[str]:
    """Every shipped recipe by name, such as ``infer/toy``, sorted."""
    root = shipped()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def headline(name: str) -> str:
    """The first line of a shipped recipe: the command that runs it."""
    file = _shipped(name)
    return read_file(file.path, file.shown).partition("\n")[0].removeprefix("#").strip()


@dataclass(frozen=True)
class File:
    """A recipe file that was found."""

    path: Path
    shown: str
    """Its path as people are told it."""
    root: Path
    """What it extends must lie below this folder, or be shipped."""


@dataclass(frozen=True)
class Written:
    """A recipe as written: every file it is made of, bases first."""

    name: str
    layers: tuple[Layer, ...]
    texts: tuple[tuple[str, str], ...]
    """(path as shown, text) of each."""


def written(source: "str | os.PathLike[str] | Mapping[str, Any]") -> Written:
    """Read a recipe and all it extends.

    Raises:
        RecipeError: if it cannot be found or read, or extends itself.
    """
    if isinstance(source, Mapping):
        return _from_mapping(source)
    name, file = _find(source)
    files = _Files()
    files.read(file, ())
    return files.written(name)


def _find(source: "str | os.PathLike[str]") -> tuple[str, File]:
    word = os.fspath(source)
    if isinstance(source, str) and word in names():
        return word, _shipped(word)
    path = Path(word)
    if os.path.isdir(word):
        if not (path / RESOLVED).is_file():
            raise RecipeError(f"the folder {word!r} holds no {RESOLVED}", hint="a run folder holds one")
        return _real(path).name, File(path / RESOLVED, str(path / RESOLVED), _real(path))
    if path.suffix in SUFFIXES and "\0" not in word:
        real, root = _real(path), _real(shipped())
        return path.stem, File(path, word, root if real.is_relative_to(root) else real.parent)
    raise RecipeError(
        f"there is no recipe {told(word)}", hint=did_you_mean(word[:MAX_KEY], names()) + ", or a path ending in .yaml"
    )


def _real(path: Path) -> Path:
    # Unlike Path.resolve, this has an answer for links that run in circles and names that are too long.
    return Path(os.path.realpath(path))


def _shipped(name: str) -> File:
    return File(shipped() / f"{name}.yaml", f"recipes/{name}.yaml", _real(shipped()))


def _from_mapping(source: Mapping[str, Any]) -> Written:
    try:
        text = OmegaConf.to_yaml(OmegaConf.create(dict(source)))
    except (OmegaConfBaseException, RecursionError) as error:
        raise RecipeError(f"the mapping is no recipe: {str(error).splitlines()[0]}") from error
    files = _Files()
    files.add(text, "mapping", None, ())
    return files.written("mapping")


class _Files:
    """The files of one recipe, as they are read: each after those it extends, and the caps hold for all together."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.texts: list[tuple[str, str]] = []
        self.count = self.size = self.values = 0

    def written(self, name: str) -> Written:
        return Written(name, tuple(self.layers), tuple(self.texts))

    def read(self, file: File, chain: tuple[Path, ...]) -> None:
        self.add(read_file(file.path, file.shown), file.shown, file, (*chain, _real(file.path)))

    def add(self, text: str, shown: str, file: File | None, chain: tuple[Path, ...]) -> None:
        self.count, self.size = self.count + 1, self.size + len(text)
        if self.count > MAX_FILES or self.size > MAX_BYTES or self.values > MAX_NODES:
            limits = f"{MAX_FILES} files, {MAX_BYTES:,} bytes or {MAX_NODES:,} values"
            raise RecipeError(f"{shown}:1: the recipe takes more than {limits} with all it extends")
        data, at = parse(text, shown, lines=file is not None)
        self.values += len(at)
        if not isinstance(data, dict | NoneType):
            raise RecipeError(f"{shown}:1: a recipe is key: value lines, not a {type(data).__name__}")
        beside = os.path.dirname(os.path.realpath(file.path)) if file is not None else None
        layer = Layer(_beside(data or {}, beside), {(): shown, **at})
        for index, base in enumerate(_bases(layer)):
            place = layer.place(("extends", str(index)))
            found = _base(base, file, place)
            if _real(found.path) in chain:
                raise RecipeError(f"{place}: {told(base)} extends itself in a circle", hint="take one extends away")
            self.read(found, chain)
        self.layers.append(shorthand(layer))
        self.texts.append((shown, text))


def _beside(value: Any, folder: str | None) -> Any:
    """The data with every ``./path`` made to count from the recipe's own folder, so that a run folder can be moved."""
    if isinstance(value, dict):
        return {key: each if key == "extends" else _beside(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [_beside(each, folder) for each in value]
    if folder is not None and isinstance(value, str) and value.startswith("./"):
        return os.path.normpath(os.path.join(folder, value))
    return value


def _bases(layer: Layer) -> list[str]:
    value = layer.data.get("extends")
    found = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(base, str) and base for base in found):
        raise RecipeError(f"{layer.place(('extends',))}: extends takes a recipe or a list of recipes")
    return found


def _base(base: str, file: File | None, place: str) -> File:
    """The file that `base` means in `file`: one beside or below it, else a shipped recipe."""
    if file is not None:
        relative = base if base.endswith(SUFFIXES) else f"{base}.yaml"
        path = file.path.parent / relative
        if not _real(path).is_relative_to(file.root):
            raise RecipeError(
                f"{place}: {told(base)} leaves the folder of the recipe", hint="extend a shipped one by name"
            )
        if os.path.isfile(path):
            shown = os.path.normpath(os.path.join(os.path.dirname(file.shown), relative))
            return File(path, shown, file.root)
    if base in names():
        return _shipped(base)
    raise RecipeError(f"{place}: there is no recipe {told(base)} to extend", hint=did_you_mean(base[:MAX_KEY], names()))
