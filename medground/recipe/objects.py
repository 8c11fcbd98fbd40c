"""Objects given from Python where a recipe names a component, a reward term or data.

An object is never a part of a recipe's data. In its place the recipe holds its name and a hash, so that a run's files
stay plain data, a digest changes with the object, and a recipe that is read again says what must be given again.
"""

import functools
import inspect
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from hashlib import sha256
from pathlib import Path
from types import CodeType
from typing import Any

from medground.errors import RecipeError
from medground.recipe.layers import Layer
from medground.recipe.schema import COMPONENTS, SECTIONS
from medground.recipe.structured import defaults, to_plain
from medground.types import Sample

Objects = Mapping[str, Any]
"""Dotted key, for example ``segmenter``, ``rewards.mine`` or ``data`` -> the object."""
_PLAIN = (str, bytes, bool, int, float, complex, type(None), Path, Enum)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRecord:
    """What a run records of an object that it was given."""

    name: str
    """Module and qualified name of the function, or of the object's class."""
    source: str | None
    """The name of the file that defines it; None where no source can be had: its bytecode is hashed then."""
    sha256: str
    """Of its source and its settings: public attributes, defaults and closure variables with plain values. What it calls
    elsewhere is not hashed; neither are attributes that begin with an underscore."""
    unhashed: list[str] = field(default_factory=list)
    """Settings that are no plain values, for example a model."""


def describe(key: str, given: Any) -> ObjectRecord:
    """Return what is recorded of the object at a dotted key."""
    if key == "data":
        return ObjectRecord(name=_qualified(type(given)), source=None, sha256=_samples_sha256(given))
    unhashed: list[str] = []
    content = _content(given, "", set(), unhashed)
    return ObjectRecord(
        name=_qualified(_definition(given)),
        source=None if (source := _source(_definition(given))) is None else source[0],
        sha256=sha256(json.dumps(content, sort_keys=True).encode(errors="surrogatepass")).hexdigest(),
        unhashed=unhashed,
    )


def split_values(values: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Split values from Python, by the recipe's top-level keys, into overrides and objects.

    >>> values = {"grpo": {"max_steps": 3}, "data": "made", "rewards": {"size": (len, 0.5), "bbox_iou": None}}
    >>> overrides, objects = split_values(values)
    >>> overrides
    ['grpo={"max_steps": 3}', 'data.path="made"', 'rewards.size=0.5', 'rewards.bbox_iou=null']
    >>> objects
    {'rewards.size': <built-in function len>}

    Raises:
        RecipeError: if a value can stand at its key neither as data nor as an object.
    """
    overrides: list[str] = []
    objects: dict[str, Any] = {}
    for key, value in values.items():
        if key == "rewards" and isinstance(value, Mapping):
            for label, term in value.items():
                _split_term(label, term, overrides, objects)
        elif key == "data" and isinstance(value, str | os.PathLike):
            overrides.append(f"data.path={json.dumps(os.fspath(value))}")
        elif key == "data" and value is not None and not isinstance(value, Mapping):
            objects[key] = _checked_samples(value)
        elif key in COMPONENTS and value is not None and not isinstance(value, str | Mapping):
            objects[key] = _instance(key, value)
        else:
            overrides.append(f"{key}={_json(key, value)}")
    return overrides, objects


def as_values(objects: Objects) -> dict[str, Any]:
    """Return objects by the recipe's top-level keys, as `split_values` takes them.

    >>> as_values({"segmenter": 1, "rewards.mine": len})
    {'segmenter': 1, 'rewards': {'mine': <built-in function len>}}
    """
    values: dict[str, Any] = {}
    for key, given in objects.items():
        section, _, label = key.partition(".")
        values[section] = values.get(section, {}) | {label: given} if label else given
    return values


def stand_in(data: Mapping[str, Any], objects: Objects, records: Mapping[str, ObjectRecord]) -> dict[str, Any]:
    """Return a recipe's data with the name and the hash of every object in its place; a term keeps its weight."""
    recorded = dict(data)
    for key, given in objects.items():
        section, _, label = key.partition(".")
        component = {"name": _definition(given).__qualname__, "object": records[key].sha256}
        if section == "data":
            settings = data.get("data") or to_plain(defaults(SECTIONS["data"]))
            recorded["data"] = {**settings, "path": None, "reader": None, "object": records[key].sha256}
        elif label:
            terms = dict(recorded.get("rewards", {}))
            terms[label] = {"weight": terms.get(label, {}).get("weight", 1.0), **component}
            recorded["rewards"] = terms
        else:
            recorded[key] = component
    return recorded


def remaining(objects: Objects, layers: Iterable[Layer]) -> dict[str, Any]:
    """Return the objects in whose places the layers, which are laid over them, name nothing else."""
    left = dict(objects)
    for layer in layers:
        for key in list(left):
            value: Any = layer.data
            path = key.split(".")
            for word in path[:-1]:
                value = value.get(word) or {}
            if path[-1] in value and _replaces(key, value[path[-1]]):
                del left[key]
    return left


def how_to_give(key: str, name: str = "OBJECT") -> str:
    """Return the Python keyword that gives the object of a dotted key.

    >>> how_to_give("rewards.mine")
    "rewards={'mine': OBJECT}"
    """
    section, _, label = key.partition(".")
    return f"{section}={{{label!r}: {name}}}" if label else f"{section}={name}"


def how_to_do_without(key: str) -> str:
    """Return the override that makes a recipe need no object at a dotted key."""
    return "data.path=DIR" if key == "data" else f"{key}=null" if "." in key else f"{key}=NAME"


def _split_term(label: Any, term: Any, overrides: list[str], objects: dict[str, Any]) -> None:
    if not isinstance(label, str) or not label or "." in label or "=" in label:
        raise RecipeError(f"the label of a reward is not a word: {label!r}", hint="pass rewards={'mine': function}")
    key = f"rewards.{label}"
    function, *weights = term if isinstance(term, tuple) else (term,)
    if isinstance(term, tuple) and not (callable(function) and len(weights) == 1):
        raise RecipeError(f"{key} is not (function, weight): {term!r}", hint=f"pass {how_to_give(key, '(fn, 0.5)')}")
    if callable(function):
        objects[key] = _instance(key, function)
        overrides += [f"{key}={_json(key, weight)}" for weight in weights]
    else:
        overrides.append(f"{key}={_json(key, term)}")


def _replaces(key: str, value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and ("path" if key == "data" else "name") in value)


def _json(key: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"{key} cannot hold a {type(value).__name__}: {error}",
            hint=f"pass numbers, texts, lists and mappings as {key}",
        ) from error


def _instance(key: str, value: Any) -> Any:
    if isinstance(value, type):
        raise RecipeError(f"{key} is a class: {value.__name__}", hint=f"pass {how_to_give(key, value.__name__ + '()')}")
    return value


def _checked_samples(value: Any) -> Any:
    plain = isinstance(value, list | tuple)
    if not isinstance(value, Sequence) or (plain and not all(isinstance(item, Sample) for item in value)):
        raise RecipeError(
            f"data is neither a path nor a sequence of samples: {type(value).__name__}",
            hint="pass data=FOLDER, data=medground.open_dataset(FOLDER), or data=[medground.Sample(...), ...]",
        )
    return value


def _definition(value: Any) -> Any:
    """Return what the source of an object is: the function, or the class."""
    if isinstance(value, functools.partial):
        return _definition(value.func)
    if inspect.ismethod(value):
        return value.__func__
    return value if inspect.isroutine(value) or isinstance(value, type) else type(value)


def _qualified(definition: Any) -> str:
    return f"{definition.__module__}.{definition.__qualname__}"


def _source(definition: Any) -> tuple[str, str] | None:
    """Return the file's name and the source of a function or class; None where it cannot be had.

    The source of a lambda is the statement around it, which says more than the function.
    """
    try:
        if definition.__name__ == "<lambda>":
            return None
        return Path(inspect.getsourcefile(definition) or "").name, inspect.getsource(definition)
    except (OSError, TypeError):
        return None


def _content(value: Any, where: str, seen: set[int], unhashed: list[str]) -> Any:
    """Return what is hashed of a value as JSON-ready data; name in `unhashed` what is not."""
    inside = functools.partial(_content, seen=seen, unhashed=unhashed)
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, list | tuple):
        return [inside(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted(repr(item) for item in value)
    if isinstance(value, Mapping):
        return {repr(name): inside(item, f"{where}[{name!r}]") for name, item in value.items()}
    if isinstance(value, CodeType):  # without names of files and numbers of lines
        return [value.co_code.hex(), value.co_names, [inside(constant, where) for constant in value.co_consts]]
    if where and not callable(value):
        unhashed.append(where)
        return _qualified(type(value))
    if id(value) in seen:
        return "seen"
    seen.add(id(value))
    definition = _definition(value)
    source = _source(definition)
    settings = {name: inside(item, f"{where}.{name}".lstrip(".")) for name, item in _settings(value).items()}
    return [_code(definition, seen, unhashed) if source is None else source[1], settings]


def _code(definition: Any, seen: set[int], unhashed: list[str]) -> Any:
    """Return what stands for the source of a function or class that has none."""
    if isinstance(definition, type):
        methods = {name: item for name, item in vars(definition).items() if inspect.isfunction(item)}
        return [definition.__qualname__, {name: _content(item, name, seen, unhashed) for name, item in methods.items()}]
    code = getattr(definition, "__code__", None)
    return [definition.__qualname__, None if code is None else _content(code, "code", seen, unhashed)]


def _settings(value: Any) -> dict[str, Any]:
    """Return what beside its source decides what an object does."""
    if isinstance(value, functools.partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}
    if inspect.ismethod(value):
        return _settings(value.__func__) | _settings(value.__self__)
    if inspect.isfunction(value):
        names = value.__code__.co_freevars
        cells = zip(names, value.__closure__ or (), strict=True)
        closure = {name: cell.cell_contents for name, cell in cells}
        return {**closure, "defaults": value.__defaults__, "keyword defaults": value.__kwdefaults__}
    if isinstance(value, type) or inspect.isroutine(value):
        return {}
    attributes = [item.name for item in fields(value)] if is_dataclass(value) else getattr(value, "__dict__", {})
    return {name: getattr(value, name) for name in attributes if not name.startswith("_")}


def _samples_sha256(samples: Any) -> str:
    """Return the hash of samples: of a dataset with files those and the ids, else of all that the samples hold."""
    digest = sha256()
    if files := getattr(samples, "files", ()):
        for path in files:
            digest.update(sha256(Path(path).read_bytes()).digest())
        digest.update(json.dumps(samples.ids).encode())
        return digest.hexdigest()
    for sample in samples:
        query, regions = sample.query, sample.target.regions
        truth = [(region.box, region.points, region.label) for region in regions]
        digest.update(repr((query.id, query.question, query.image.shape, truth, dict(sample.labels))).encode())
        for pixels in (query.image, *(region.mask.data for region in regions if region.mask is not None)):
            digest.update(pixels.tobytes())
    return digest.hexdigest()
