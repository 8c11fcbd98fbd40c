"""Where recipes lie: shipped by name, files, run folders, mappings; and what they extend."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medground.errors import RecipeError, nearest
from medground.recipe.layers import Layer, shorthand
from medground.recipe.read import parse, read_file

SUFFIXES = (".yaml", ".yml")
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
    layers: list[Layer] = []
    texts: list[tuple[str, str]] = []
    _read(file, (), layers, texts)
    return Written(name, tuple(layers), tuple(texts))


def _find(source: "str | os.PathLike[str]") -> tuple[str, File]:
    word = os.fspath(source)
    if isinstance(source, str) and word in names():
        return word, _shipped(word)
    path = Path(word)
    if "\0" not in word and path.is_dir():
        if not (path / RESOLVED).is_file():
            raise RecipeError(f"the folder {word!r} holds no {RESOLVED}", hint="a run folder holds one")
        return path.resolve().name, File(path / RESOLVED, str(path / RESOLVED), path.resolve())
    if path.suffix in SUFFIXES and "\0" not in word:
        return path.stem, File(path, word, path.resolve().parent)
    raise RecipeError(f"there is no recipe {word!r}", hint=nearest(word, names()) + ", or a path ending in .yaml")


def _shipped(name: str) -> File:
    return File(shipped() / f"{name}.yaml", f"recipes/{name}.yaml", shipped().resolve())


def _from_mapping(source: Mapping[str, Any]) -> Written:
    try:
        text = OmegaConf.to_yaml(OmegaConf.create(dict(source)))
    except OmegaConfBaseException as error:
        raise RecipeError(f"the mapping is no recipe: {str(error).splitlines()[0]}") from error
    layers: list[Layer] = []
    texts: list[tuple[str, str]] = []
    _add(text, "mapping", None, (), layers, texts)
    return Written("mapping", tuple(layers), tuple(texts))


def _read(file: File, above: tuple[Path, ...], layers: list[Layer], texts: list[tuple[str, str]]) -> None:
    real = file.path.resolve()
    _add(read_file(file.path, file.shown), file.shown, file, (*above, real), layers, texts)


def _add(
    text: str,
    shown: str,
    file: File | None,
    chain: tuple[Path, ...],
    layers: list[Layer],
    texts: list[tuple[str, str]],
) -> None:
    data, at = parse(text, shown, lines=file is not None)
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise RecipeError(f"{shown}: a recipe is key: value lines, not a {type(data).__name__}")
    layer = Layer(data, {(): shown, **at})
    for index, base in enumerate(_bases(layer)):
        place = layer.place(("extends", str(index)))
        found = _base(base, file, place)
        if found.path.resolve() in chain:
            raise RecipeError(f"{place}: {base!r} extends itself in a circle", hint="take one extends away")
        if len(layers) + len(chain) > MAX_FILES:
            raise RecipeError(f"{place}: a recipe is made of at most {MAX_FILES} files")
        _read(found, chain, layers, texts)
    layers.append(shorthand(layer))
    texts.append((shown, text))


MAX_FILES = 32


def _bases(layer: Layer) -> list[str]:
    value = layer.data.get("extends")
    found = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(base, str) and base for base in found):
        raise RecipeError(f"{layer.place(('extends',))}: extends takes a recipe or a list of recipes")
    return found


def _base(base: str, file: File | None, place: str) -> File:
    """The file that `base` means in `file`: one beside or below it, else a shipped recipe."""
    if file is not None and not os.path.isabs(base):
        relative = base if base.endswith(SUFFIXES) else f"{base}.yaml"
        path = file.path.parent / relative
        if not path.resolve().is_relative_to(file.root):
            raise RecipeError(f"{place}: {base!r} leaves the folder of the recipe", hint="extend a shipped one by name")
        if path.is_file():
            shown = os.path.normpath(os.path.join(os.path.dirname(file.shown), relative))
            return File(path, shown, file.root)
    if base in names():
        return _shipped(base)
    raise RecipeError(f"{place}: there is no recipe {base!r} to extend", hint=nearest(base, names()))
