"""A recipe when everything has been said: plain data, the origin of every value, and its variants."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from medground.errors import RecipeError, did_you_mean
from medground.recipe.layers import Layer, from_override, from_row, leaves, ordered, stack
from medground.recipe.schema import COMPONENTS, FILLED, RECIPE_WORDS, SETTINGS, default
from medground.recipe.sources import AS_WRITTEN, RESOLVED, Written, written
from medground.recipe.validation import InvalidRecipe, problems
from medground.recipe.yaml_reader import MISSING, Key

MAX_VARIANTS = 256
_HOLD_PATHS = (*COMPONENTS, "rewards", "trackers")
Source = str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """What to compose, with every word resolved. Make one with `resolve`."""

    name: str
    """A shipped recipe's name, a file's stem or a folder's name; ``:variant`` after it where one was chosen."""
    data: dict[str, Any]
    """Nested plain data; components are ``{"name": ..., **arguments}``. To be read, not changed."""
    origins: dict[str, str]
    """Dotted key of every value -> ``file:line``, ``command line`` or ``default``."""
    variants: dict[str, Any]
    """Name -> its row of overrides as written; `variant` applies one."""
    written: Written = field(repr=False)
    overrides: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """The dotted keys the user must still give."""
        return sorted(OmegaConf.missing_keys(OmegaConf.create(self.data)))

    @property
    def terms(self) -> dict[str, tuple[str, float, dict[str, Any]]]:
        """Label -> (component, weight, arguments) of every reward term; weight 0 observes.

        >>> resolve({"rewards": {"overlap": {"name": "mask_dice", "weight": 0.5}, "format_seg": 1}}).terms
        {'overlap': ('mask_dice', 0.5, {}), 'format_seg': ('format_seg', 1.0, {})}
        """
        self._need("rewards")
        found = {}
        for label, term in self.data.get("rewards", {}).items():
            arguments = {key: value for key, value in term.items() if key not in ("name", "weight")}
            found[label] = term["name"], float(term["weight"]), arguments
        return found

    @property
    def trackers(self) -> list[tuple[str, dict[str, Any]]]:
        """(component, arguments) of every tracker, in order."""
        self._need("trackers")
        return [_split(tracker) for tracker in self.data.get("trackers", ())]

    @property
    def text(self) -> str:
        """As written: every file it is made of, bases first, then the overrides, as YAML documents."""
        documents = [f"# {shown}\n{text.rstrip()}\n" for shown, text in self.written.texts]
        if self.overrides:
            documents.append("# command line\n" + "".join(f"# {override}\n" for override in self.overrides))
        return "---\n".join(documents)

    def component(self, kind: str) -> tuple[str, dict[str, Any]]:
        """(name, arguments) of the one component of a kind, such as ``"segmenter"``.

        Raises:
            RecipeError: if the recipe names none, or one of its values must still be given.
        """
        if kind not in self.data:
            raise RecipeError(f"the recipe {self.name!r} names no {kind}", hint=f"add {kind}=NAME")
        self._need(kind)
        return _split(self.data[kind])

    def settings(self, section: str) -> Any:
        """A plain section with its defaults, whether or not the recipe mentions it.

        Raises:
            RecipeError: if one of its values must still be given.
        """
        self._need(section)
        return self.data[section] if section in self.data else default(SETTINGS[section])

    def variant(self, name: str) -> "Recipe":
        """The recipe with one row of overrides applied, below the command line's.

        Raises:
            RecipeError: if there is no such variant, or it makes an invalid recipe.
        """
        if name not in self.variants:
            raise RecipeError(
                f"the recipe {self.name!r} has no variant {name!r}", hint=did_you_mean(name, self.variants)
            )
        return _compose(self.written, self.overrides, name)

    def place(self, dotted: str) -> str:
        """Where a key, else the first value below it, else the nearest above it, was written."""
        below = (place for key, place in self.origins.items() if f"{key}.".startswith(f"{dotted}."))
        found = next(below, None)
        if found or "." not in dotted:
            return found or self.name
        return self.place(dotted.rpartition(".")[0])

    def digest(self, *keys: str) -> str:
        """SHA-256 of the values under some dotted keys, all if none is given; absent keys count as null."""
        part = {key: self._at(key) for key in sorted(keys)} if keys else self.data
        return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()

    def dump(self) -> str:
        """The resolved recipe as YAML; reading it gives the same data."""
        whole = {**self.data, "variants": self.variants} if self.variants else self.data
        return f"# resolved from {self.name}\n{OmegaConf.to_yaml(OmegaConf.create(whole))}"

    def rooted(self) -> "Recipe":
        """The same, with every relative path to something that exists made absolute: it then means the same elsewhere.

        Paths are looked for where paths may stand: in components, reward terms, trackers and ``data.path``.
        """
        data = {key: _rooted(value) if key in _HOLD_PATHS else value for key, value in self.data.items()}
        if "path" in data.get("data", {}):
            data["data"] = {**data["data"], "path": _rooted(data["data"]["path"])}
        return replace(self, data=data)

    def write(self, folder: Path) -> None:
        """Write ``recipe.yaml`` (resolved) and ``recipe.source.yaml`` (as written): the folder is a recipe then."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESOLVED).write_text(self.dump(), encoding="utf-8")
        (folder / AS_WRITTEN).write_text(self.text, encoding="utf-8")

    def _at(self, dotted: str) -> Any:
        data: Any = self.data
        for key in dotted.split("."):
            data = data.get(key) if isinstance(data, dict) else None
        return data

    def _need(self, section: str) -> None:
        for key in self.missing:
            if key == section or key.startswith((f"{section}.", f"{section}[")):
                raise RecipeError(f"{self.place(key)}: {key} must be given", hint=f"add {key}=VALUE")


def resolve(source: Source, *overrides: str, variant: str | None = None) -> Recipe:
    """Read a recipe and everything it extends, apply overrides, fill in defaults.

    Args:
        source: a shipped recipe's name, a ``.yaml`` file, a run folder, or a mapping.
        overrides: ``a.b=c`` each, c as YAML; their order does not matter.
        variant: the name of a row of ``variants`` to apply before the overrides.

    Raises:
        RecipeError: if it cannot be found or read, or uses a word it may not.

    >>> recipe = resolve("infer/toy", "segmenter=box_fill")
    >>> recipe.component("segmenter"), recipe.origins["segmenter.name"], recipe.origins["reasoner.name"]
    (('box_fill', {}), 'command line', 'recipes/infer/toy.yaml:2')
    """
    recipe = _compose(written(source), overrides, None)
    return recipe if variant is None else recipe.variant(variant)


def _compose(source: Written, overrides: Sequence[str], variant: str | None) -> Recipe:
    rows = _rows(source)
    name = source.name if variant is None else f"{source.name}:{variant}"
    chosen = [] if variant is None else from_row(variant, *rows[variant])
    data, origins = stack([*source.layers, *chosen, *ordered(map(from_override, overrides))])
    for word in RECIPE_WORDS:
        data.pop(word, None)

    def place(path: Key) -> str:
        while path not in origins:
            path = path[:-1]
        return origins[path]

    if found := problems(data, place):
        raise InvalidRecipe(found)
    given = {path for path, _ in leaves(data)}
    data = _fill(data)
    known = {path: origins[path] if path in given else "default" for path, _ in leaves(data)}
    return Recipe(
        name=name,
        data=data,
        origins={".".join(path): place for path, place in known.items()},
        variants={} if variant else {row: value for row, (value, _) in rows.items()},
        written=source,
        overrides=tuple(overrides),
    )


def _rooted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: each if key == "name" else _rooted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rooted(each) for each in value]
    if not isinstance(value, str) or not value or "\0" in value or not os.path.exists(os.path.expanduser(value)):
        return value
    return os.path.abspath(os.path.expanduser(value))


def _rows(source: Written) -> dict[str, tuple[Any, Layer]]:
    """Variant rows by name, later files' first; null takes one away."""
    rows: dict[str, tuple[Any, Layer]] = {}
    for layer in source.layers:
        found = layer.data.get("variants")
        if found is not None and not isinstance(found, dict):
            raise RecipeError(f"{layer.place(('variants',))}: variants is not a section", hint="write name: row lines")
        for name, row in (found or {}).items():
            rows[name] = row, layer
    if len(rows) > MAX_VARIANTS:
        raise RecipeError(f"{source.name}: {len(rows)} variants are more than {MAX_VARIANTS}", hint="split the recipe")
    return {name: (row, layer) for name, (row, layer) in rows.items() if row is not None}


def _fill(data: dict[str, Any]) -> dict[str, Any]:
    """Settle what was left open: nulls that take away, weights and settings that were not said."""
    filled: dict[str, Any] = {}
    for key in (*COMPONENTS, "trackers"):
        if data.get(key) is not None:
            filled[key] = data[key]
    if data.get("rewards") is not None:
        terms = {label: term for label, term in data["rewards"].items() if term is not None}
        filled["rewards"] = {label: {"weight": 1.0, **term} for label, term in terms.items()}
    for key, setting in SETTINGS.items():
        if data.get(key) is not None:
            filled[key] = _with_defaults(setting, data[key])
        elif key in FILLED:
            filled[key] = default(setting)
    return filled


def _with_defaults(setting: Any, value: Any) -> Any:
    if not isinstance(setting, dict) or value == MISSING:
        return value
    return {key: _with_defaults(each, value[key]) if key in value else default(each) for key, each in setting.items()}


def _split(component: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return component["name"], {key: value for key, value in component.items() if key != "name"}
