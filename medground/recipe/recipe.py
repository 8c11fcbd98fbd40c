"""A resolved recipe: plain data, the origin of every value, settings as dataclasses, and variants."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import NoneType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medground.errors import RecipeError, did_you_mean
from medground.recipe.config import ComponentConfig, Config, TermConfig
from medground.recipe.consent import consented
from medground.recipe.layers import Layer, from_override, from_row, leaves, merge, ordered
from medground.recipe.objects import (
    ObjectRecord,
    Objects,
    describe,
    how_to_do_without,
    how_to_give,
    remaining,
    split_values,
    stand_in,
)
from medground.recipe.schema import COMPONENTS, GRID, KINDS, RECIPE_WORDS, SECTIONS
from medground.recipe.sources import RecipeSource, read_source
from medground.recipe.structured import defaults, to_plain
from medground.recipe.validation import Problem, read_settings
from medground.recipe.yaml_reader import MISSING
from medground.types import Sample

MAX_VARIANTS = 256
_HOLD_PATHS = (*COMPONENTS, "rewards", "trackers")


@dataclass(frozen=True)
class Recipe:
    """What to compose. Make one with `resolve`."""

    name: str
    """A shipped recipe's name, a file's stem or a folder's name; ``:variant`` after it where one was chosen."""
    data: dict[str, Any]
    """Nested plain data; components are ``{"name": ..., **arguments}``. To be read, not changed."""
    origins: dict[str, str]
    """Dotted key of every value -> ``file:line``, ``command line`` or ``default``."""
    variants: dict[str, Any]
    """Name -> its row of overrides as written; `variant` applies one."""
    source: RecipeSource = field(repr=False)
    overrides: tuple[str, ...] = ()
    row: str | None = None
    """The name of the variant that was chosen."""
    objects: Objects = field(default_factory=dict, repr=False)
    """Given from Python. They are no part of `data`, which holds their names and hashes."""
    records: Mapping[str, ObjectRecord] = field(default_factory=dict, repr=False)
    """What a run records of each of the objects, which are hashed once."""

    @cached_property
    def config(self) -> Config:
        """The settings as dataclasses, for example ``recipe.config.grpo.learning_rate``."""
        return Config(self.data, self._require)

    @cached_property
    def missing(self) -> list[str]:
        """The dotted keys the user must still give."""
        return sorted(_missing_keys(self.data))

    @property
    def terms(self) -> dict[str, TermConfig]:
        """Label -> reward term.

        >>> recipe = resolve({"rewards": {"overlap": {"name": "mask_dice", "weight": 0.5}, "format_seg": 1}})
        >>> recipe.terms["overlap"]
        TermConfig(name='mask_dice', weight=0.5, arguments={})
        """
        self._require("rewards")
        terms: dict[str, TermConfig] = {}
        for label, term in self.data.get("rewards", {}).items():
            name, arguments = _split(term, "weight")
            terms[label] = TermConfig(
                name, float(term["weight"]), consented(f"rewards.{label}", arguments, self.origin)
            )
        return terms

    @property
    def trackers(self) -> list[ComponentConfig]:
        """Every tracker, in order."""
        self._require("trackers")
        trackers = [_split(tracker) for tracker in self.data.get("trackers", ())]
        return [
            ComponentConfig(name, consented(f"trackers.{index}", arguments, self.origin))
            for index, (name, arguments) in enumerate(trackers)
        ]

    def components(self) -> Iterator[tuple[str, str, ComponentConfig]]:
        """Yield (dotted key, kind, component) of everything the recipe names; values may be missing.

        >>> [(key, kind, component.name) for key, kind, component in resolve({"rewards": {"x": "iou"}}).components()]
        [('rewards.x', 'reward', 'iou')]
        """
        for key, kind in KINDS.items():
            if key in self.data and not (key == "proposer" and self.data[key]["name"] == GRID):
                yield key, kind, ComponentConfig(*_split(self.data[key]))
        for label, term in self.data.get("rewards", {}).items():
            yield f"rewards.{label}", "reward", ComponentConfig(*_split(term, "weight"))
        for index, tracker in enumerate(self.data.get("trackers", ())):
            yield f"trackers.{index}", "tracker", ComponentConfig(*_split(tracker))

    @property
    def text(self) -> str:
        """As written: every file it is made of, bases first, then the overrides, as YAML documents."""
        documents = [f"# {label}\n{text.rstrip()}\n" for label, text in self.source.texts]
        if self.overrides:
            documents.append("# command line\n" + "".join(f"# {override}\n" for override in self.overrides))
        return "---\n".join(documents)

    def component(self, kind: str) -> ComponentConfig:
        """Return the component under a top-level key, for example ``"segmenter"``.

        Raises:
            RecipeError: if the recipe names none, one of its values must still be given, or a file consents to what only
                the user can consent to.
        """
        if kind not in self.data:
            raise RecipeError(f"the recipe {self.name!r} names no {kind}", hint=f"add {kind}=NAME")
        self._require(kind)
        name, arguments = _split(self.data[kind])
        return ComponentConfig(name, consented(kind, arguments, self.origin))

    def settings(self, section: str) -> Any:
        """Return a section with its defaults as plain data.

        Raises:
            RecipeError: if one of its values must still be given.
        """
        self._require(section)
        if section in self.data:
            return self.data[section]
        return to_plain(defaults(SECTIONS[section]))

    def variant(self, name: str) -> "Recipe":
        """Return the recipe with one row of overrides applied, below the command line's.

        Raises:
            RecipeError: if there is no such variant, or it makes an invalid recipe.
        """
        if name not in self.variants:
            raise RecipeError(
                f"the recipe {self.name!r} has no variant {name!r}", hint=did_you_mean(name, self.variants)
            )
        return _compose(self.source, self.overrides, name, self.objects, self.records)

    def is_object(self, key: str) -> bool:
        """Return True if what stands at a dotted key is an object from Python, given again or not."""
        value = self._at(key)
        return isinstance(value, dict) and value.get("object") is not None and value.get("path") is None

    @property
    def missing_objects(self) -> list[str]:
        """The dotted keys of the objects that the user must give again."""
        keys = [key for key, _, _ in self.components()] + ["data"]
        return [key for key in keys if self.is_object(key) and key not in self.objects]

    @property
    def data_source(self) -> str | Sequence[Sample]:
        """The path of the data, or the samples that were given from Python.

        Raises:
            RecipeError: if it names none, or the samples must be given again.
        """
        self.require_object("data")
        samples: Sequence[Sample] | None = self.objects.get("data")
        source = self.config.data.path if samples is None else samples
        if source is None:
            raise RecipeError(f"the recipe {self.name!r} names no data", hint="add data.path=DIR")
        return source

    def require_object(self, key: str) -> None:
        """Stop if the object at a dotted key must be given again.

        Raises:
            RecipeError: naming it, and what to type.
        """
        if key in self.missing_objects:
            problem = self.missing_object(key)
            raise RecipeError(problem.sentence, hint=problem.hint)

    def missing_object(self, key: str) -> Problem:
        """Return the problem of an object that must be given again."""
        name = self._at(f"{key}.name")
        what = f"{key} is an object from Python{f', {name}' if name else ''}, and must be given again"
        hint = f"pass {how_to_give(key)} in Python, or set {how_to_do_without(key)}"
        return Problem(key, self.origin(key), what, hint)

    def origin(self, dotted: str) -> str:
        """Return where a key is written; else the first value below it, else the nearest above it."""
        below = (origin for key, origin in self.origins.items() if f"{key}.".startswith(f"{dotted}."))
        origin = next(below, None)
        if origin or "." not in dotted:
            return origin or self.name
        return self.origin(dotted.rpartition(".")[0])

    def digest(self, *keys: str) -> str:
        """Return the SHA-256 of the values under some dotted keys, of all without keys; absent keys count as null."""
        values = {key: self._at(key) for key in sorted(keys)} if keys else self.data
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def dump(self) -> str:
        """Return the resolved recipe as YAML; reading it gives the same data."""
        data = {**self.data, "variants": self.variants} if self.variants else self.data
        return f"# resolved from {self.name}\n{OmegaConf.to_yaml(OmegaConf.create(data))}"

    def with_absolute_paths(self) -> "Recipe":
        """Return the same recipe with every relative path to something that exists made absolute.

        Paths are looked for where they may stand: in components, reward terms, trackers and ``data.path``.
        """
        data = {key: _absolute(value) if key in _HOLD_PATHS else value for key, value in self.data.items()}
        if "path" in data.get("data", {}):
            data["data"] = {**data["data"], "path": _absolute(data["data"]["path"])}
        return replace(self, data=data)

    def _at(self, dotted: str) -> Any:
        data: Any = self.data
        for key in dotted.split("."):
            data = data.get(key) if isinstance(data, dict) else None
        return data

    def _require(self, section: str) -> None:
        """Stop if a value of a section must still be given."""
        for key in self.missing:
            if key == section or key.startswith((f"{section}.", f"{section}[")):
                raise RecipeError(f"{self.origin(key)}: {key} must be given", hint=f"add {key}=VALUE")


Source = str | os.PathLike[str] | Mapping[str, Any] | Recipe


def resolve(
    source: Source, *overrides: str, variant: str | None = None, values: Mapping[str, Any] | None = None
) -> Recipe:
    """Read a recipe and everything it extends, apply overrides, fill in defaults.

    Args:
        source: a shipped recipe's name, a ``.yaml`` file, a run folder, a mapping, or a resolved recipe. A resolved
            recipe is read no second time: without overrides it is returned as it is.
        overrides: ``a.b=c`` each, c as YAML; their order does not matter.
        variant: the name of a row of ``variants`` to apply before the overrides.
        values: from Python, by top-level key: sections, components and terms as in a recipe, or objects in the places
            of components, terms and data. They apply like overrides, after these.

    Raises:
        RecipeError: if it does not exist or cannot be read, or uses a word it may not.

    >>> recipe = resolve("infer/toy", "segmenter=box_fill")
    >>> recipe.component("segmenter").name, recipe.origins["segmenter.name"], recipe.origins["reasoner.name"]
    ('box_fill', 'command line', 'recipes/infer/toy.yaml:2')
    """
    texts, objects = split_values(values or {})
    overrides = (*overrides, *texts)
    if not isinstance(source, Recipe):
        recipe = _compose(read_source(source), overrides, None, objects, {})
    elif overrides or objects:
        left = remaining(source.objects, map(from_override, overrides))
        gone = tuple(f"{key}=" for key in source.objects if key not in left)
        earlier = [text for text in source.overrides if not text.startswith(gone)]  # for example its weight
        known = {key: record for key, record in source.records.items() if key in left and key not in objects}
        recipe = _compose(source.source, (*earlier, *overrides), source.row, {**left, **objects}, known)
    else:
        recipe = source
    return recipe if variant is None else recipe.variant(variant)


def _compose(
    source: RecipeSource,
    overrides: Sequence[str],
    row: str | None,
    objects: Objects,
    known: Mapping[str, ObjectRecord],
) -> Recipe:
    rows = _rows(source)
    chosen = [] if row is None else from_row(row, *rows[row])
    merged = merge([*source.layers, *chosen, *ordered(map(from_override, overrides))])
    for word in RECIPE_WORDS:
        merged.data.pop(word, None)
    settings = read_settings(merged.data, merged.origin)
    given = {path for path, _ in leaves(merged.data)}
    records = {key: known.get(key) or describe(key, given) for key, given in objects.items()}
    data = stand_in(_fill(merged.data, settings), objects, records)
    return Recipe(
        name=source.name if row is None else f"{source.name}:{row}",
        data=data,
        origins={".".join(path): merged.origin(path) if path in given else "default" for path, _ in leaves(data)},
        variants={} if row else {name: value for name, (value, _) in rows.items()},
        source=source,
        overrides=tuple(overrides),
        row=row,
        objects=objects,
        records=records,
    )


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key == "name" else _absolute(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    if not isinstance(value, str) or not value or "\0" in value or not os.path.exists(os.path.expanduser(value)):
        return value
    return os.path.abspath(os.path.expanduser(value))


def _rows(source: RecipeSource) -> dict[str, tuple[Any, Layer]]:
    """Return the variants by name, later files' first; null removes one."""
    rows: dict[str, tuple[Any, Layer]] = {}
    for layer in source.layers:
        variants = layer.data.get("variants")
        if not isinstance(variants, dict | NoneType):
            raise RecipeError(f"{layer.origin(('variants',))}: variants is not a section", hint="write name: row lines")
        rows |= {name: (row, layer) for name, row in (variants or {}).items()}
    if len(rows) > MAX_VARIANTS:
        raise RecipeError(f"{source.name}: {len(rows)} variants are more than {MAX_VARIANTS}", hint="split the recipe")
    return {name: (row, layer) for name, (row, layer) in rows.items() if row is not None}


def _fill(data: Mapping[str, Any], settings: Mapping[str, DictConfig]) -> dict[str, Any]:
    """Return the data without the nulls that remove something, with the default of every setting that was not given."""
    present = {key: value for key, value in data.items() if value is not None}
    filled = {key: present[key] for key in (*COMPONENTS, "trackers") if key in present}
    if "rewards" in present:
        terms = present["rewards"].items()
        filled["rewards"] = {label: {"weight": 1.0, **term} for label, term in terms if term is not None}
    filled |= to_plain(settings[""])
    for key in SECTIONS:
        if present.get(key) == MISSING:
            filled[key] = MISSING
        elif key in settings:
            filled[key] = to_plain(settings[key])
    return filled


def _missing_keys(data: Any, key: str = "") -> Iterator[str]:
    # As OmegaConf.missing_keys, which needs a config of the data: that takes 50 times as long, for each variant.
    if isinstance(data, dict):
        for word, value in data.items():
            yield from _missing_keys(value, f"{key}.{word}" if key else word)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _missing_keys(value, f"{key}[{index}]")
    elif data == MISSING:
        yield key


def _split(component: Mapping[str, Any], *words: str) -> tuple[str, dict[str, Any]]:
    """Return a component's name and its arguments, which are all but the name, an object's hash and `words`."""
    return component["name"], {key: value for key, value in component.items() if key not in ("name", "object", *words)}
