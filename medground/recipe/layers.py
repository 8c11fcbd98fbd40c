"""Layers of a recipe: a file, a variant's row, the command line. Later ones win, and every value knows its origin."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medground.errors import RecipeError
from medground.recipe.schema import COMPONENTS, RECIPE_WORDS
from medground.recipe.yaml_reader import MAX_DEPTH, Key, parse, shown

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Layer:
    """What one place says."""

    data: dict[str, Any]
    at: dict[Key, str] = field(default_factory=dict)
    """Path -> where it is written; a value below the last known key stands where that key does."""

    def place(self, path: Key) -> str:
        """Where the value at `path` is written."""
        while path and path not in self.at:
            path = path[:-1]
        return self.at.get(path, COMMAND_LINE)


def from_override(text: str) -> Layer:
    """The layer of one ``a.b=value``, value as YAML.

    Raises:
        RecipeError: if it has no ``=``, or its value cannot be read.

    >>> from_override("segmenter=medsam").data
    {'segmenter': {'name': 'medsam'}}
    """
    dotted, equals, value = text.partition("=")
    if not equals or not dotted.strip():
        raise RecipeError(
            f"the override {shown(text)} is not of the form key=value", hint="for example segmenter=medsam"
        )
    try:
        data, _ = parse(value, COMMAND_LINE, lines=False)
    except RecipeError as error:
        raise RecipeError(f"the override {dotted}=…: {error.message}", hint=error.hint or "quote the value") from error
    return from_dotted(dotted.strip(), data, Layer({}))


def from_dotted(dotted: str, value: Any, origin: Layer, prefix: Key = ()) -> Layer:
    """The layer that sets one dotted key, which stands at `prefix` and `dotted` in `origin`.

    Raises:
        RecipeError: if the key is malformed, or is a word about recipes themselves.
    """
    path = tuple(dotted.split("."))
    where = origin.place((*prefix, dotted))
    if not all(path) or len(path) > MAX_DEPTH:
        raise RecipeError(f"{where}: {shown(dotted)} is not a dotted key", hint="for example rewards.bbox_iou")
    if path[0] in RECIPE_WORDS:
        raise RecipeError(f"{where}: {path[0]!r} cannot be overridden", hint="write it in a recipe file")
    own = (*prefix, dotted)
    at = {path + key[len(own) :]: place for key, place in origin.at.items() if key[: len(own)] == own}
    at[path[:1]] = at[path] = where
    data = value
    for key in reversed(path):
        data = {key: data}
    return shorthand(Layer(data, at))


def from_row(name: str, row: Any, origin: Layer) -> list[Layer]:
    """The layers of a variant's row, in the order they apply."""
    prefix = ("variants", name)
    if not isinstance(row, dict):
        raise RecipeError(f"{origin.place(prefix)}: variant {name!r} is not a row of overrides", hint="{} changes none")
    return ordered(from_dotted(dotted, value, origin, prefix) for dotted, value in row.items())


def ordered(layers: Iterable[Layer]) -> list[Layer]:
    """Overrides sorted so that what they mean does not depend on how they were ordered.

    Shorter keys come first, and a component's name before its arguments: a swap drops the arguments before it.
    """
    return sorted(layers, key=lambda layer: _rank(layer.data))


def _rank(data: Any) -> tuple[int, bool]:
    keys: list[str] = []
    while isinstance(data, dict) and len(data) == 1:
        ((key, data),) = data.items()
        keys.append(key)
    return len(keys), bool(keys) and keys[-1] != "name"


def shorthand(layer: Layer) -> Layer:
    """The same layer with every component written as ``{name: ..., **arguments}``.

    Raises:
        RecipeError: if something stands for a component that cannot be one, or a key holds a dot.
    """
    data = copy.deepcopy(layer.data)
    _refuse_dots({key: value for key, value in data.items() if key != "variants"}, (), layer)
    for kind in COMPONENTS:
        if kind in data:
            data[kind] = _component(data[kind], (kind,), layer)
    if "trackers" in data:
        data["trackers"] = _trackers(data["trackers"], layer)
    if data.get("rewards") is not None:
        data["rewards"] = _terms(data["rewards"], layer)
    return Layer(data, layer.at)


def _component(value: Any, path: Key, layer: Layer) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if value is None or isinstance(value, dict):
        return value
    raise RecipeError(
        f"{layer.place(path)}: {'.'.join(path)} is {shown(value)}, which names no component",
        hint="write a name, or {name: ..., argument: value}",
    )


def _terms(value: Any, layer: Layer) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(f"{layer.place(('rewards',))}: rewards is not a section", hint="write label: weight lines")
    return {
        label: {"weight": term}
        if isinstance(term, (int, float)) and not isinstance(term, bool)
        else _component(term, ("rewards", label), layer)
        for label, term in value.items()
    }


def _trackers(value: Any, layer: Layer) -> Any:
    if value is None:
        return None
    items = value if isinstance(value, list) else [value]
    found = [_component(item, ("trackers", str(index)), layer) for index, item in enumerate(items)]
    if None in found:
        raise RecipeError(f"{layer.place(('trackers',))}: trackers holds a null", hint="write trackers: [] for none")
    return found


def _refuse_dots(data: Any, path: Key, layer: Layer) -> None:
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        here = (*path, str(key))
        if "." in here[-1]:
            raise RecipeError(
                f"{layer.place(here)}: the key {key!r} holds a dot", hint="nest it; dotted keys belong in variants"
            )
        _refuse_dots(value, here, layer)


def stack(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[Key, str]]:
    """All layers as one: the merged data, and the origin of every value and section."""
    data: dict[str, Any] = {}
    origins: dict[Key, str] = {}
    for layer in layers:
        _merge(data, copy.deepcopy(layer.data), (), layer, origins)
    return data, origins


def _merge(base: dict[str, Any], over: Mapping[str, Any], path: Key, layer: Layer, origins: dict[Key, str]) -> None:
    for key, value in over.items():
        here = (*path, key)
        old = base.get(key)
        if not isinstance(value, dict):
            base[key] = value
        elif not isinstance(old, dict):
            base[key] = {}
            if path == ("rewards",):  # named as its label until it says
                base[key]["name"] = key
                origins[(*here, "name")] = layer.place(here)
        elif _swaps(here, old, value):
            # A term's weight belongs to its label, so it outlives the component.
            base[key] = {"weight": old["weight"]} if here[0] == "rewards" and "weight" in old else {}
        origins[here] = layer.place(here)
        if isinstance(value, dict):
            _merge(base[key], value, here, layer, origins)


def _swaps(path: Key, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether `new` puts another component in the place of `old`."""
    component = path[0] in COMPONENTS if len(path) == 1 else path[0] == "rewards" and len(path) == 2
    return component and "name" in new and new["name"] != old.get("name")


def leaves(data: Any, path: Key = ()) -> Iterable[tuple[Key, Any]]:
    """Every value with its path; lists and empty sections are values."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, data
