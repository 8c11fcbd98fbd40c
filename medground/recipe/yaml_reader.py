"""Read untrusted YAML as plain data, with the location of each value.

PyYAML turns the text into a stream of events. This module turns the events into dictionaries, lists and scalars and
checks the limits as it goes. No YAML constructor ever runs, so no tag makes an object, no alias grows without limit,
and no expression is evaluated.
"""

import copy
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from medground.errors import RecipeError

MAX_BYTES = 100_000
"""YAML is read at 0.2 to 1 MB a second: this keeps the worst text under a second."""
MAX_ALIASES = 64
MAX_DEPTH = 32
MAX_NODES = 3_000
"""Counted with aliases expanded: 64 nested aliases could stand for millions of values."""
MAX_KEY = 100
"""Characters in a key or a component's name."""
MISSING = "???"

Key = tuple[str, ...]
"""A path of keys from the top of a recipe."""

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.?(?:nan|inf|infinity)", re.IGNORECASE)
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, text-direction overrides and surrogates: they change what a terminal shows."""


def quoted(value: Any) -> str:
    """Return a value for a message: quoted, escaped, cut short."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(value[:MAX_KEY] if isinstance(value, str) else value)
    return text if len(text) <= MAX_KEY else f"{text[: MAX_KEY - 1]}…"


def read_file(path: Path, label: str) -> str:
    """Return the text of a recipe file; refuse what is not a regular file or too large before reading it.

    Args:
        path: the file.
        label: its path in messages.

    Raises:
        RecipeError: if it cannot be read as UTF-8 text of at most `MAX_BYTES`.
    """
    try:
        if not os.path.isfile(path):
            raise RecipeError(f"{label} is not a file", hint="a recipe is a .yaml file or a folder with recipe.yaml")
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{label} cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{label}:1: the recipe is larger than {MAX_BYTES:,} bytes", hint="a recipe is short")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError(f"{label}:{line}: the recipe is not UTF-8 text") from error


def parse(text: str, source: str, *, lines: bool = True) -> tuple[Any, dict[Key, str]]:
    """Return YAML text as plain data, and the location of every key and list item.

    Args:
        text: one YAML document.
        source: its name in messages.
        lines: add line numbers to the locations.

    Raises:
        RecipeError: if it is not YAML, exceeds a cap, or holds a tag, a merge key, a duplicate or non-text key, an
            expression, or a number that is not finite.

    >>> parse("segmenter: {name: medsam}", "x.yaml")
    ({'segmenter': {'name': 'medsam'}}, {('segmenter',): 'x.yaml:1', ('segmenter', 'name'): 'x.yaml:1'})
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(f"{source}: the text is larger than {MAX_BYTES:,} bytes", hint="a recipe is short")
    if bad := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise RecipeError(f"{_location(source, line, lines)}: the character {bad[0]!r} is not allowed in a recipe")
    reader = _Reader(source, lines)
    try:
        return reader.document(yaml.parse(text, Loader=yaml.SafeLoader)), reader.locations
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = _location(source, mark.line + 1 if mark else 1, lines)
        problem = getattr(error, "problem", None) or "unreadable"
        hint = "inside {} and [] write '???' in quotes" if "'?'" in problem else None
        raise RecipeError(f"{where}: not YAML: {problem}", hint=hint) from error


class _Reader:
    """Turn events into data and count values, aliases and levels."""

    def __init__(self, source: str, lines: bool) -> None:
        self.source, self.lines = source, lines
        self.locations: dict[Key, str] = {}
        self.nodes = self.aliases = 0
        self.anchors: dict[str, tuple[Any, int, int]] = {}
        """Name -> value, its number of nodes, its depth. A complete value is added, so none can hold itself."""
        self.deepest = 0

    def document(self, events: Iterator[Any]) -> Any:
        self.events = events
        next(events)  # stream start
        if isinstance(next(events), yaml.StreamEndEvent):
            return None
        value = self.node(next(events), (), 1)
        next(events)  # document end
        if not isinstance(event := next(events), yaml.StreamEndEvent):
            raise self.refusal(event, "the file holds a second YAML document", "one recipe per file")
        return value

    def node(self, event: Any, path: Key, depth: int) -> Any:
        before, outer = self.nodes, self.deepest
        self.deepest = depth
        self.count(event, 1, depth)
        if isinstance(event, yaml.AliasEvent):
            value = self.alias(event, depth)
        elif event.tag is not None:
            raise self.refusal(event, f"the YAML tag {quoted(event.tag)} is not allowed", "a recipe is plain data")
        elif isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self.sequence(path, depth)
        else:
            value = self.mapping(path, depth)
        if anchor := getattr(event, "anchor", None) if not isinstance(event, yaml.AliasEvent) else None:
            self.anchors[anchor] = value, self.nodes - before, self.deepest - depth
        self.deepest = max(self.deepest, outer)
        return value

    def sequence(self, path: Key, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            item = (*path, str(len(items)))
            self.locations[item] = self.location(event)
            items.append(self.node(event, item, depth + 1))
        return items

    def mapping(self, path: Key, depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            self.count(event, 1, depth)
            key = self.key(event)
            if key in entries:
                raise self.refusal(event, f"the key {key!r} is duplicated", f"first at {self.locations[(*path, key)]}")
            self.locations[(*path, key)] = self.location(event)
            entries[key] = self.node(next(self.events), (*path, key), depth + 1)
        return entries

    def key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
            raise self.refusal(event, "a key must be a plain word", None)
        key = self.scalar(event)
        if key == "<<":
            raise self.refusal(event, "merge keys (<<) are not allowed", "use extends to share settings")
        if not isinstance(key, str) or not key:
            raise self.refusal(event, f"the key {quoted(event.value)} is not a word", "put it in quotes")
        if len(key) > MAX_KEY:
            raise self.refusal(event, f"the key {quoted(key)} is longer than {MAX_KEY} characters", None)
        return key

    def alias(self, event: Any, depth: int) -> Any:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            raise self.refusal(event, f"the recipe holds more than {MAX_ALIASES} aliases", "write the values out")
        if event.anchor not in self.anchors:
            raise self.refusal(
                event, f"the alias {quoted('*' + event.anchor)} refers to nothing before it or to itself", None
            )
        value, nodes, deep = self.anchors[event.anchor]
        self.count(event, nodes - 1, depth + deep)
        self.deepest = max(self.deepest, depth + deep)
        return copy.deepcopy(value)

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if bad := _UNPRINTABLE.search(text):
            raise self.refusal(event, f"the character {bad[0]!r} is not allowed in a recipe", None)
        if "${" in text:
            raise self.refusal(event, f"{quoted(text)} holds an expression", "recipes are data: write the value itself")
        if not event.implicit[0]:
            return text
        if text in ("", "~", "null", "Null", "NULL"):
            return None
        if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
            return text.lower() == "true"
        if _INT.fullmatch(text):
            return int(text)
        if not _FLOAT.fullmatch(text) and not _NOT_FINITE.fullmatch(text):
            return text
        if _NOT_FINITE.fullmatch(text) or not math.isfinite(float(text)):
            raise self.refusal(event, f"{quoted(text)} is not a finite number", "quote it if it is a word")
        return float(text)

    def count(self, event: Any, nodes: int, depth: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise self.refusal(event, f"the recipe stands for more than {MAX_NODES:,} values", "a recipe is short")
        if depth > MAX_DEPTH:
            raise self.refusal(event, f"the recipe is nested more than {MAX_DEPTH} levels deep", None)

    def location(self, event: Any) -> str:
        return _location(self.source, event.start_mark.line + 1, self.lines)

    def refusal(self, event: Any, what: str, hint: str | None) -> RecipeError:
        return RecipeError(f"{self.location(event)}: {what}", hint=hint)


def _location(source: str, line: int, lines: bool) -> str:
    return f"{source}:{line}" if lines else source
