"""Layers of a recipe: a file, a variant's row, an override. A later layer wins, and every value keeps its origin.

This is what OmegaConf cannot do: a bare name is a component, a number under ``rewards`` is a weight, another ``name``
drops the old component's arguments, ``???`` and null replace what was there, and each value knows its file and line.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from medground.errors import RecipeError
from medground.recipe.schema import COMPONENTS, RECIPE_WORDS
from medground.recipe.yaml_reader import MAX_DEPTH, MISSING, Key, parse, quoted

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Layer:
    """Data of one origin, or of several merged."""

    data: dict[str, Any]
    origins: dict[Key, str] = field(default_factory=dict)
    """Path -> ``file:line`` or what stands for it. A path that is not there has the origin of the path above it."""

    def origin(self, path: Key) -> str:
        """Return where the value at `path` is written."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, COMMAND_LINE)


def from_override(text: str) -> Layer:
    """Return the layer of one ``a.b=value``, value as YAML.

    Raises:
        RecipeError: if it has no ``=``, or its value cannot be read.

    >>> from_override("segmenter=medsam").data
    {'segmenter': {'name': 'medsam'}}
    """
    dotted, equals, value = text.partition("=")
    if not equals or not dotted.strip():
        raise RecipeError(
            f"the override {quoted(text)} is not of the form key=value", hint="for example segmenter=medsam"
        )
    try:
        data, _ = parse(value, COMMAND_LINE, lines=False)
    except RecipeError as error:
        raise RecipeError(f"the override {dotted}=…: {error.message}", hint=error.hint or "quote the value") from error
    return from_dotted(dotted.strip(), data, Layer({}))


def from_dotted(dotted: str, value: Any, source: Layer, prefix: Key = ()) -> Layer:
    """Return the layer that sets one dotted key, which is written in `source` as `dotted` under `prefix`.

    Raises:
        RecipeError: if the key is malformed, or is a word about recipes themselves.
    """
    path = tuple(dotted.split("."))
    origin = source.origin((*prefix, dotted))
    if not all(path) or len(path) > MAX_DEPTH:
        raise RecipeError(f"{origin}: {quoted(dotted)} is not a dotted key", hint="for example rewards.bbox_iou")
    if path[0] in RECIPE_WORDS:
        raise RecipeError(f"{origin}: {path[0]!r} cannot be overridden", hint="write it in a recipe file")
    written = (*prefix, dotted)
    origins = {
        path + key[len(written) :]: line for key, line in source.origins.items() if key[: len(written)] == written
    }
    origins[path[:1]] = origins[path] = origin
    data = value
    for key in reversed(path):
        data = {key: data}
    return expand(Layer(data, origins))


def from_row(name: str, row: Any, source: Layer) -> list[Layer]:
    """Return the layers of a variant's row, in the order they apply."""
    prefix = ("variants", name)
    if not isinstance(row, dict):
        raise RecipeError(
            f"{source.origin(prefix)}: variant {name!r} is not a row of overrides", hint="{} changes none"
        )
    return ordered(from_dotted(dotted, value, source, prefix) for dotted, value in row.items())


def ordered(layers: Iterable[Layer]) -> list[Layer]:
    """Sort overrides so that their order of writing does not matter.

    Shorter keys come first, and a component's name before its arguments: another name drops the arguments before it.
    """
    return sorted(layers, key=lambda layer: _rank(layer.data))


def _rank(data: Any) -> tuple[int, bool]:
    keys: list[str] = []
    while isinstance(data, dict) and len(data) == 1:
        ((key, data),) = data.items()
        keys.append(key)
    return len(keys), bool(keys) and keys[-1] != "name"


def expand(layer: Layer) -> Layer:
    """Return the same layer with every component written as ``{name: ..., **arguments}``.

    Raises:
        RecipeError: if a component is neither a name nor a mapping, or a key holds a dot.
    """
    data = copy.deepcopy(layer.data)
    _refuse_dots({key: value for key, value in data.items() if key != "variants"}, (), layer)
    for kind in COMPONENTS:
        if kind in data:
            data[kind] = _component(data[kind], (kind,), layer)
    if isinstance(data.get("prompt"), str) and data["prompt"] != MISSING:
        data["prompt"] = [data["prompt"]]
    if data.get("trackers") is not None:
        data["trackers"] = _trackers(data["trackers"], layer)
    if data.get("rewards") is not None:
        data["rewards"] = _terms(data["rewards"], layer)
    return Layer(data, layer.origins)


def _component(value: Any, path: Key, layer: Layer) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if value is None or isinstance(value, dict):
        return value
    raise RecipeError(
        f"{layer.origin(path)}: {'.'.join(path)} must be a component's name or a mapping, got {quoted(value)}",
        hint="write a name, or {name: ..., argument: value}",
    )


def _terms(value: Any, layer: Layer) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(f"{layer.origin(('rewards',))}: rewards is not a section", hint="write label: weight lines")
    return {
        label: {"weight": term}
        if isinstance(term, (int, float)) and not isinstance(term, bool)
        else _component(term, ("rewards", label), layer)
        for label, term in value.items()
    }


def _trackers(value: Any, layer: Layer) -> list[Any]:
    items = value if isinstance(value, list) else [value]
    trackers = [_component(item, ("trackers", str(index)), layer) for index, item in enumerate(items)]
    if None in trackers:
        raise RecipeError(f"{layer.origin(('trackers',))}: trackers holds a null", hint="write trackers: [] for none")
    return trackers


def _refuse_dots(data: Any, path: Key, layer: Layer) -> None:
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        here = (*path, str(key))
        if "." in here[-1]:
            raise RecipeError(
                f"{layer.origin(here)}: the key {key!r} holds a dot", hint="nest it; dotted keys belong in variants"
            )
        _refuse_dots(value, here, layer)


def merge(layers: Iterable[Layer]) -> Layer:
    """Return all layers as one, with the origin of every value and section."""
    merged = Layer({})
    for layer in layers:
        _merge(merged.data, copy.deepcopy(layer.data), (), layer, merged.origins)
    return merged


def _merge(base: dict[str, Any], over: Mapping[str, Any], path: Key, layer: Layer, origins: dict[Key, str]) -> None:
    for key, value in over.items():
        here = (*path, key)
        old = base.get(key)
        if not isinstance(value, dict):
            base[key] = value
        elif not isinstance(old, dict):
            base[key] = {}
            if path == ("rewards",):  # the label is the name until a layer gives another
                base[key]["name"] = key
                origins[(*here, "name")] = layer.origin(here)
        elif _renames(here, old, value):
            # A term's weight belongs to its label, so it outlives the component.
            base[key] = {"weight": old["weight"]} if here[0] == "rewards" and "weight" in old else {}
        origins[here] = layer.origin(here)
        if isinstance(value, dict):
            _merge(base[key], value, here, layer, origins)


def _renames(path: Key, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return True if `new` puts another component in the place of `old`."""
    component = path[0] in COMPONENTS if len(path) == 1 else path[0] == "rewards" and len(path) == 2
    return component and "name" in new and new["name"] != old.get("name")


def leaves(data: Any, path: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield every value with its path; lists and empty sections are values."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, data
