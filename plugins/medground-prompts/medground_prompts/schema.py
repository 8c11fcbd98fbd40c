"""What an answer holds: the one object from which wording, format, parser, levels and ideal answers follow."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from medground.types import PromptKind

Style = Literal["json", "single_quoted", "native"]


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the answer object."""

    name: str
    form: str
    """Its value as the prompt shows it."""
    meaning: str
    """What the prompt says about it."""


BOX = Key("bbox", "[xmin, ymin, xmax, ymax]", "the tightest axis-aligned box around the target")
FIRST = Key("points_1", "[x1, y1]", "the main key point, well inside the target")
LABEL = Key("label", '"name"', "what it is, in a few words")
CONFIDENCE = Key("confidence", "p", "from 0 to 1, how likely it is that this region is what the question means")
CHOICE = Key("choice", "n", "the number of the candidate that the question is about, or null where none of them is")
SECOND = Key("points_2", "[x2, y2]", "another key point inside the target, clearly apart from the first")


@dataclass(frozen=True, slots=True)
class Schema:
    """Which parts an answer has: a box, a pair of key points, or both.

    >>> Schema(box=True, points=True).form("single_quoted")
    "{'bbox': [xmin, ymin, xmax, ymax], 'points_1': [x1, y1], 'points_2': [x2, y2]}"
    """

    box: bool
    points: bool
    kind: ClassVar[type] = dict
    """Of the answer's JSON value."""
    brackets: ClassVar[int] = 64
    """Opening brackets and braces an answer may hold, wherever they stand; an honest one has four. Bounds the nesting."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys of the answer object, in order."""
        return (BOX,) * self.box + (FIRST, SECOND) * self.points

    @property
    def provides(self) -> frozenset[PromptKind]:
        """The prompt kinds a well-formed answer holds."""
        kinds: dict[PromptKind, bool] = {"box": self.box, "points": self.points}
        return frozenset(kind for kind, present in kinds.items() if present)

    def form(self, style: Style) -> str:
        """Return the answer object with names in place of numbers: what ``{Answer}`` stands for in a template."""
        return _quote("{" + ", ".join(f'"{key.name}": {key.form}' for key in self.keys) + "}", style)

    def write(self, values: Mapping[str, list[float]], style: Style) -> str:
        """Return the answer object with its numbers, keys in the schema's order."""
        return _quote(json.dumps({key.name: values[key.name] for key in self.keys}), style)

    def complete(self, answer: Mapping[str, Any]) -> bool:
        """Return True if no key is missing."""
        return all(key.name in answer for key in self.keys)

    def level(self, *, complete: bool, valid: int) -> float:
        """Return how well-formed an answer object is, `valid` of its parts (box, pair of points) being right.

        0.4 where a key is missing or no part is right, 0.6 where one of two is, 1.0 where all are. (0 is for no answer
        block, 0.2 for one that holds no JSON object.)

        >>> Schema(box=True, points=True).level(complete=True, valid=1)
        0.6
        """
        if not complete or valid == 0:
            return 0.4
        return 1.0 if valid == self.box + self.points else 0.6


MOST_REGIONS = 64
"""Regions an answer may list."""
MOST_POINTS = 16
"""Key points a region may have."""


@dataclass(frozen=True, slots=True)
class ListSchema:
    """Which parts each region of a list has: a box, key points, or both; a label and a confidence where they are asked for.

    >>> ListSchema(box=True, points=None).form("json")
    '[{"bbox": [xmin, ymin, xmax, ymax]}, ...]'
    """

    box: bool
    points: tuple[int, int] | None
    """The fewest and the most key points of a region; None asks for none."""
    label: bool = False
    confidence: bool = False
    kind: ClassVar[type] = list
    brackets: ClassVar[int] = 512
    """As of `Schema`: enough for `MOST_REGIONS` regions with a box and five points each."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys of a region's object, in order."""
        return (BOX,) * self.box + self._points + (LABEL,) * self.label + (CONFIDENCE,) * self.confidence

    @property
    def _points(self) -> tuple[Key, ...]:
        if self.points is None:
            return ()
        fewest, most = self.points
        form = "[" + ", ".join(f"[x{i}, y{i}]" for i in range(1, min(most, 3) + 1)) + (", ...]" if most > 3 else "]")
        count = f"{most}" if fewest == most else f"{fewest} to {most}"
        meaning = f"{count} key point{'s' if most > 1 else ''} well inside the region"
        return (Key("points", form, meaning + (", clearly apart from each other" if most > 1 else "")),)

    @property
    def provides(self) -> frozenset[PromptKind]:
        """The prompt kinds a region holds."""
        kinds: dict[PromptKind, bool] = {"box": self.box, "points": self.points is not None, "text": self.label}
        return frozenset(kind for kind, present in kinds.items() if present)

    def form(self, style: Style) -> str:
        """Return the list with names in place of numbers: what ``{Answer}`` stands for in a template."""
        return _quote("[{" + ", ".join(f'"{key.name}": {key.form}' for key in self.keys) + "}, ...]", style)

    def write(self, regions: Sequence[Mapping[str, Any]], style: Style) -> str:
        """Return the list with its values, keys in the schema's order."""
        objects = [{key.name: region[key.name] for key in self.keys} for region in regions]
        text = json.dumps(objects, ensure_ascii=False)
        return _python_quotes(text) if style == "single_quoted" else text

    def level(self, *, complete: bool, valid: int, parts: int) -> float:
        """Return how well-formed a list is of whose parts, over all regions, so many are right; scale as of `Schema`.

        >>> ListSchema(box=True, points=None).level(complete=True, valid=0, parts=0)  # nothing fits
        1.0
        """
        if not complete or (parts and not valid):
            return 0.4
        return 1.0 if valid == parts else 0.6


@dataclass(frozen=True, slots=True)
class ChoiceSchema:
    """An answer that holds the number of a candidate, or null.

    >>> ChoiceSchema().form("json"), ChoiceSchema().write(3, "json"), ChoiceSchema().write(None, "single_quoted")
    ('{"choice": n}', '{"choice": 3}', "{'choice': null}")
    """

    kind: ClassVar[type] = dict
    brackets: ClassVar[int] = 64
    """As of `Schema`."""
    keys: ClassVar[tuple[Key, ...]] = (CHOICE,)

    def form(self, style: Style) -> str:
        """Return the answer object with a name in place of the number: what ``{Answer}`` stands for in a template."""
        return _quote(f'{{"{CHOICE.name}": {CHOICE.form}}}', style)

    def write(self, number: int | None, style: Style) -> str:
        """Return the answer object."""
        return _quote(json.dumps({CHOICE.name: number}), style)

    def complete(self, answer: Mapping[str, Any]) -> bool:
        """Return True if the key is there."""
        return CHOICE.name in answer

    def level(self, *, complete: bool, valid: bool) -> float:
        """Return how well-formed an answer object is: 0.4 without the key or with a number of no candidate, else 1."""
        return 1.0 if complete and valid else 0.4


_STRING = re.compile(r'"((?:[^"\\]|\\.)*+)"')


def _python_quotes(text: str) -> str:
    """Return JSON with its strings in single quotes."""
    return _STRING.sub(lambda match: "'" + match[1].replace("'", "\\'").replace('\\"', '"') + "'", text)


def _quote(text: str, style: Style) -> str:
    return text.replace('"', "'") if style == "single_quoted" else text
