"""Sections of a recipe as OmegaConf structured configs: defaults, types, words and bounds.

OmegaConf turns ``"3"`` into 3 and ``yes`` into true where a field's type asks for it. A recipe means what it says: a
value that OmegaConf would change is refused.
"""

import ast
import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import EnumType
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medground.arguments import Objection
from medground.errors import did_you_mean
from medground.recipe.schema import Bounds
from medground.recipe.yaml_reader import MAX_KEY, MISSING, quoted

T = TypeVar("T")

_WANTED: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    list[int]: "a list of whole numbers",
    list[str]: "a list of words",
    dict[str, list[Any]]: "a section of label: [value, value] lines",
    dict[str, Any]: "a section of key: value lines",
}


def defaults(schema: type) -> DictConfig:
    """Return a section that holds the defaults of its dataclass, to be written to."""
    return copy.deepcopy(_prototype(schema))


def read(schema: type[T], values: Mapping[str, Any]) -> T:
    """Return a section, defaults and `values`, as an instance of its dataclass; none of the values is missing."""
    return cast(T, OmegaConf.to_object(OmegaConf.merge(_prototype(cast(type, schema)), values)))


def to_plain(section: DictConfig) -> dict[str, Any]:
    """Return a section as plain data in the order of the dataclass's fields."""
    return cast(dict[str, Any], OmegaConf.to_container(section, enum_to_str=True))


def validate(section: DictConfig, key: str, value: Any) -> Objection | None:
    """Return why a value does not suit its field in a section; None if it does.

    A value that suits is written into the section.

    >>> from medground.recipe.schema import GeneralConfig, GrpoConfig
    >>> validate(defaults(GeneralConfig), "prompt", ["bxo"])
    Objection(what="'bxo' is not one of its words", hint="did you mean 'box'?")
    >>> validate(defaults(GrpoConfig), "beta", 1)
    >>> validate(defaults(GrpoConfig), "mask_truncated", 1)
    Objection(what='1 is not true or false', hint='write true or false')
    >>> validate(defaults(GrpoConfig), "num_generations", 0)
    Objection(what='0 is not a whole number from 1', hint='write a whole number from 1')
    """
    schema = cast(type, OmegaConf.get_type(section))
    type_, bounds = _fields(schema)[key]
    words = _words(type_)
    if words and value == []:
        return Objection("[] holds none of its words", _several(words))
    if not _assigned(section, key, value):
        if words:
            values = value if isinstance(value, list) else [value]
            wrong = next((one for one in values if one not in words), value)
            remedy = did_you_mean(str(wrong)[:MAX_KEY], words)
            if get_origin(type_) is list and remedy.startswith("known"):
                remedy = _several(words)
            return Objection(f"{quoted(wrong)} is not one of its words", remedy)
        remedy = "put it in quotes" if type_ is str and isinstance(value, (int, float)) else f"write {_WANTED[type_]}"
        return Objection(f"{quoted(value)} is not {_WANTED[type_]}", remedy)
    if bounds is None or value in (None, MISSING) or bounds.least <= value <= bounds.most:
        return None
    suitable = f"{_WANTED[type_]}{_within(bounds)}"
    return Objection(f"{quoted(value)} is not {suitable}", f"write {suitable}")


def wanted(schema: type, key: str) -> str:
    """Return what a field takes, in words.

    >>> from medground.recipe.schema import GeneralConfig, GrpoConfig
    >>> wanted(GeneralConfig, "prompt"), wanted(GrpoConfig, "num_generations")
    ('a list of box, points, text, exemplars', 'a whole number from 1')
    """
    type_, bounds = _fields(schema)[key]
    optional = ", or null" if NoneType in get_args(get_type_hints(schema)[key]) else ""
    words = (" or " if isinstance(type_, EnumType) else ", ").join(_words(type_))
    listed = "" if isinstance(type_, EnumType) else "a list of "
    return (listed + words if words else _WANTED[type_]) + _within(bounds) + optional


def meanings(schema: type) -> dict[str, str]:
    """Return what the fields of a section mean: the docstrings below them, in the section's class or a base of it."""
    texts: dict[str, str] = {}
    for owner in reversed(schema.__mro__[:-1]):
        (definition,) = ast.parse(inspect.getsource(owner)).body
        body = definition.body if isinstance(definition, ast.ClassDef) else []
        for node, after in pairwise(body):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                texts[ast.unparse(node.target)] = inspect.cleandoc(str(after.value.value))
    return texts


def _words(type_: Any) -> list[str]:
    """Return the words that a field takes, one of them or a list; none where it takes other values."""
    (word,) = get_args(type_) if get_origin(type_) is list else (type_,)
    return list(word.__members__) if isinstance(word, EnumType) else []


def _several(words: Sequence[str]) -> str:
    return f"known: {', '.join(words)}; several stand in a list, such as [{', '.join(words[:2])}]"


def _within(bounds: Bounds | None) -> str:
    if bounds is None:
        return ""
    upper = "" if bounds.most == math.inf else f" to {bounds.most:.10g}"
    return f" from {bounds.least:g}{upper}"


def _assigned(section: DictConfig, key: str, value: Any) -> bool:
    """Return True if the field takes the value as it is."""
    try:
        OmegaConf.update(section, key, value, merge=False)
    except OmegaConfBaseException:
        return False
    return value == MISSING or (section[key] == value and isinstance(section[key], bool) == isinstance(value, bool))


@cache
def _prototype(schema: type) -> DictConfig:
    section: DictConfig = OmegaConf.structured(schema())
    OmegaConf.set_readonly(section, False)  # as instances of frozen dataclasses are
    return section


@cache
def _fields(schema: type) -> Mapping[str, tuple[Any, Bounds | None]]:
    """Return the type of every field, without its ``| None``, and its bounds."""
    hints = get_type_hints(schema)
    return {field.name: (_without_none(hints[field.name]), field.metadata.get("bounds")) for field in fields(schema)}


def _without_none(hint: Any) -> Any:
    return next(kind for kind in get_args(hint) if kind is not NoneType) if isinstance(hint, UnionType) else hint
