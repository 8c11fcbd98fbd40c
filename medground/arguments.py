"""What a component's arguments may be, as the annotations of its factory say it: read before anything is loaded.

    def mine(*, device: Device = "auto", style: Literal["soft", "hard"] = "soft", rows: Count = 256) -> Mine: ...

An annotation that is text, or of another kind than those of `objection`, takes any value.
"""

import numbers
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Union, get_args, get_origin, runtime_checkable

from medground.errors import did_you_mean


class Objection(NamedTuple):
    """Why a value does not suit."""

    what: str
    """The rest of a sentence that begins with the name of the argument."""
    hint: str
    """What to write."""


@runtime_checkable
class Rule(Protocol):
    """What ``Annotated[T, rule]`` asks of a value beyond being a T; its ``str`` says it, after the words for T."""

    def objection(self, value: Any) -> Objection | None:
        """Why a T is refused, or None."""
        ...


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A number that is not below a bound."""

    least: float

    def __str__(self) -> str:
        return f"from {self.least:g}"

    def objection(self, value: Any) -> Objection | None:
        """As `Rule.objection`."""
        return (
            None
            if value >= self.least
            else Objection(f"{value} is below {self.least:g}", f"write {self.least:g} or more")
        )


@dataclass(frozen=True, slots=True)
class Above:
    """A number above a bound."""

    bound: float

    def __str__(self) -> str:
        return f"above {self.bound:g}"

    def objection(self, value: Any) -> Objection | None:
        """As `Rule.objection`."""
        return (
            None if value > self.bound else Objection(f"{value} is not above {self.bound:g}", "write a larger number")
        )


Count = Annotated[int, AtLeast(1)]
"""A whole number from 1."""
NotNegative = Annotated[float, AtLeast(0)]
"""A number from 0."""
Positive = Annotated[float, Above(0)]
"""A number above 0."""

_PLAIN: Mapping[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: ((str, os.PathLike), "a word"),
    dict: (Mapping, "a section of key: value lines"),
    Mapping: (Mapping, "a section of key: value lines"),
    list: (Sequence, "a list"),
    Sequence: (Sequence, "a list"),
}
"""Annotation -> what is accepted for it, and how that is called."""


def objection(annotation: Any, value: Any) -> Objection | None:
    """Why a value does not suit an annotation; None where it does, or the annotation is none of those known here.

    Known are bool, int, float, str, list, Sequence, dict, Mapping, Literal, unions, and Annotated with a `Rule`.

    >>> objection(Literal["float32", "bfloat16"], "bf16")
    Objection(what="'bf16' is not one of its words", hint="did you mean 'bfloat16'?")
    >>> objection(Count | None, 0)
    Objection(what='0 is below 1', hint='write 1 or more, or null')
    >>> objection(Count | None, 2.5)
    Objection(what='2.5 is not a whole number', hint='write a whole number, or null')
    >>> objection(Sequence[int], [8, 4])
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rules = [rule for rule in arguments[1:] if isinstance(rule, Rule)]
        return objection(arguments[0], value) or next(filter(None, (rule.objection(value) for rule in rules)), None)
    if origin is Literal:
        return _no_word(arguments, value)
    if origin in (Union, types.UnionType):
        return _of_union(arguments, value)
    accepted, name = _PLAIN.get(origin or annotation, (object, ""))
    flag = isinstance(value, bool) and accepted in (numbers.Integral, numbers.Real)
    text = isinstance(value, str) and accepted is Sequence
    if isinstance(value, accepted) and not flag and not text:
        return None
    return Objection(f"{_shown(value)} is not {name}", f"write {name}")


def in_words(annotation: Any) -> str:
    """Return what suits an annotation, in words; "" where that is anything.

    >>> in_words(Literal["float32", "bfloat16"]), in_words(Count | None)
    ('float32 or bfloat16', 'a whole number from 1, or null')
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rules = [str(rule) for rule in arguments[1:] if isinstance(rule, Rule)]
        return " ".join([in_words(arguments[0]), *rules])
    if origin is Literal:
        return " or ".join(_shown(word) if not isinstance(word, str) else word for word in arguments)
    if origin in (Union, types.UnionType):
        words = [in_words(member) for member in arguments if member is not types.NoneType]
        if not all(words):
            return ""
        return " or ".join(dict.fromkeys(words)) + (", or null" if types.NoneType in arguments else "")
    return _PLAIN.get(origin or annotation, (None, ""))[1]


def _no_word(words: tuple[Any, ...], value: Any) -> Objection | None:
    if value in words:
        return None
    return Objection(f"{_shown(value)} is not one of its words", did_you_mean(str(value), map(str, words)))


def _shown(value: Any) -> str:
    """A value as recipes write it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _of_union(members: tuple[Any, ...], value: Any) -> Objection | None:
    words = tuple(word for member in members if get_origin(member) is Literal for word in get_args(member))
    others = [member for member in members if get_origin(member) is not Literal and member is not types.NoneType]
    null = types.NoneType in members
    objections = [_no_word(words, value)] * bool(words) + [objection(member, value) for member in others]
    if None in objections or (null and value is None):
        return None
    stated = [item for item in objections if item is not None]
    return Objection(" and ".join(item.what for item in stated), stated[0].hint + (", or null" if null else ""))
