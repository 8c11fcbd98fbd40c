"""Values as strict JSON can hold them, and back."""

import math
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import numpy as np


def plain(value: Any) -> Any:
    """Return JSON-ready plain data: NaN and infinities become null, what JSON has no word for becomes text.

    A dataclass becomes an object of its fields, without those that are None by default and still are.

    >>> plain({"iou": np.float32(0.5), "worst": float("nan"), "at": (1, 2)})
    {'iou': 0.5, 'worst': None, 'at': [1, 2]}
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half of a surrogate pair is no text
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if is_dataclass(value):
        pairs = [(field, getattr(value, field.name)) for field in fields(value)]
        return {field.name: plain(item) for field, item in pairs if item is not None or field.default is not None}
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)


def restore(kind: Any, value: Any) -> Any:
    """Return plain data as the value of a type that it was made of: dataclasses, enums, tuples, lists, dictionaries.

    >>> restore(tuple[int, float | None], [3, None])
    (3, None)

    Raises:
        ValueError: if it is of another type, anywhere in it.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        for option in arguments:
            with suppress(ValueError):
                return restore(option, value)
    elif origin is Literal:
        if any(type(value) is type(word) and value == word for word in arguments):
            return value
    elif origin is list and isinstance(value, list):
        return [restore(arguments[0], item) for item in value]
    elif origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        return tuple(restore(*pair) for pair in zip(arguments, value, strict=True))
    elif origin is dict and isinstance(value, dict):
        return {restore(arguments[0], key): restore(arguments[1], item) for key, item in value.items()}
    elif (is_dataclass(kind) or is_typeddict(kind)) and isinstance(value, dict):
        hints = _hints(kind)
        needed: frozenset[str] = getattr(kind, "__required_keys__", frozenset())
        with suppress(KeyError, TypeError):  # a word too many, or one too few
            restored = {key: restore(hints[key], item) for key, item in value.items()}
            if needed <= restored.keys():
                return kind(**restored)
    elif isinstance(kind, type) and issubclass(kind, Enum) and isinstance(value, str):
        return kind(value)
    elif type(value) is kind or (kind is float and type(value) is int) or (kind is NoneType and value is None):
        return value
    raise ValueError(f"{str(value)[:60]!r} is no {getattr(kind, '__name__', kind)}")


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
