"""From text to blocks and from blocks to JSON, in linear time and whatever the text.

Tags are found with `str.find`; the few patterns here repeat a single class of characters between literals, so none of
them can backtrack further than one run of it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medground.types import Fault

MAX_CHARS = 65_536
"""Longer completions are refused unread by our parsers; 2048 tokens of prose are an eighth of it."""
MAX_ANSWER = 16_384
"""Longer answer blocks are not decoded by our parsers; an honest one has about a hundred characters."""
MAX_DEPTH = 800
"""Nesting at which the released ``json`` call counts as raising: its Python gave up near 1000 levels, the calls around
it included. Ours stops short of that, so that no result depends on who calls."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a parser made of a text, before any number is looked at."""

    think: str | None
    """The reasoning, stripped; None where there is no such block."""
    think_level: float
    raw: Any = None
    """The answer's JSON value, of the kind that was asked for."""
    fault: Fault | None = None
    """Why there is none."""
    level: float | None = None
    """The answer level where the parser has settled it; None leaves it to the schema and the validity of the parts."""


def between(text: str, name: str, start: int = 0, stop: int | None = None) -> tuple[int, int] | None:
    """Return where the content of the first ``<name>...</name>`` within [start, stop) begins and ends.

    >>> between("a<t>b</t>c</t>", "t")
    (4, 5)
    """
    opening = f"<{name}>"
    begin = text.find(opening, start, stop)
    if begin < 0:
        return None
    end = text.find(f"</{name}>", begin + len(opening), stop)
    return None if end < 0 else (begin + len(opening), end)


def think_block(text: str) -> tuple[str | None, float]:
    """Return the first think block, stripped, and its level: 0 where there is none, 0.2 where it is empty, else 1."""
    return block_at(text, between(text, "think"))


def block_at(text: str, span: tuple[int, int] | None) -> tuple[str | None, float]:
    """Return the block whose content is at `span`, stripped, and its level, as of `think_block`."""
    if span is None:
        return None, 0.0
    think = text[slice(*span)].strip()
    return think, 1.0 if think else 0.2


def thinks_to_the_end(text: str) -> bool:
    """Return whether a text begins with a think block that it never closes: what such a text quotes is a draft.

    >>> thinks_to_the_end("<think>[] or not"), thinks_to_the_end("<think>a</think>[]"), thinks_to_the_end("[] <think>")
    (True, False, False)
    """
    return text.lstrip().startswith("<think>") and "</think>" not in text


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key twice")
    return members


def _integer(digits: str) -> int | float:
    """Return any run of digits as a number; Python refuses to convert more than 4300 of them, in quadratic time."""
    return int(digits) if len(digits) <= 18 else float(digits)


_BOUNDED = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer)


def bounded_value(text: str, kind: type, brackets: int) -> Any:
    """Return the one JSON value of a kind, ``dict`` or ``list``, that `text` is, or None.

    No key twice, at most so many opening brackets. NaN, Infinity and numbers too large to hold come back as the floats
    they are: what to think of them is for whoever reads the numbers.
    """
    if text.count("[") + text.count("{") > brackets:
        return None
    try:
        value = _BOUNDED.decode(text)
    except ValueError:
        return None
    return value if isinstance(value, kind) else None


QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*+)('?)|"(?:[^"\\]|\\.)*+"?""", re.DOTALL)
"""Strings in either quotes; possessive and closed by anything, so that every character is read once."""


def json_quotes(text: str) -> str:
    r"""Return text with strings in single quotes, as Python writes them, in double quotes.

    >>> print(json_quotes("[{'label': 'it is \"dark\"'}]"))
    [{"label": "it is \"dark\""}]
    """
    return QUOTED.sub(_json_string, text)


def _json_string(match: re.Match[str]) -> str:
    if not match[2]:
        return match[0]
    return '"' + _ESCAPE.sub(lambda one: _REPLACED.get(one[0], one[0]), match[1]) + '"'


_ESCAPE = re.compile(r"\\.|\"", re.DOTALL)
_REPLACED = {"\\'": "'", '"': '\\"'}


def released_object(text: str, *, partial: bool = False) -> dict[str, Any] | None:
    """Return what the released code's ``json`` call makes of `text`, or None where it raises or gives no object.

    `partial` ignores whatever follows the first value.
    """
    if _too_deep(text):
        return None
    try:
        value = json.JSONDecoder().raw_decode(text)[0] if partial else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


_NESTING = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{\]}]', re.DOTALL)
"""Brackets, and the strings that hide some; possessive and closed by anything, so that every character is read once."""


def _too_deep(text: str) -> bool:
    """Return whether the first JSON value of `text` nests deeper than `MAX_DEPTH`.

    >>> _too_deep("[" * 801), _too_deep("[" * 800 + "]" * 800), _too_deep("[]," * 801), _too_deep('["' + "[" * 801)
    (True, False, False, False)
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _NESTING.finditer(text):
        if bracket[0] in "[{":
            depth += 1
        elif bracket[0] in "]}":
            depth -= 1
        if depth > MAX_DEPTH:
            return True
        if depth <= 0:
            return False
    return False


_FENCED = re.compile(r"```[A-Za-z0-9]*")


def unfenced(text: str) -> str:
    """Return the content of a code fence, its language word dropped; text that is in none comes back stripped.

    >>> unfenced('```json{"a": 1}``` ')
    '{"a": 1}'
    """
    text = text.strip()
    opening = _FENCED.match(text)
    if opening and text.endswith("```") and len(text) >= opening.end() + 3:
        return text[opening.end() : -3].strip()
    return text
