"""What an answer holds: the one object from which wording, format, parser, levels and ideal answers follow."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from medground.types import PromptKind

Style = Literal["json", "single_quoted"]


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
SECOND = Key("points_2", "[x2, y2]", "another key point inside the target, clearly apart from the first")


@dataclass(frozen=True, slots=True)
class Schema:
    """Which parts an answer has: a box, a pair of key points, or both.

    >>> Schema(box=True, points=True).form("single_quoted")
    "{'bbox': [xmin, ymin, xmax, ymax], 'points_1': [x1, y1], 'points_2': [x2, y2]}"
    """

    box: bool
    points: bool

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

    def level(self, answer: Mapping[str, Any], *, valid: int) -> float:
        """Return how well-formed an answer object is, `valid` of its parts (box, pair of points) being right.

        0.4 where a key is missing or no part is right, 0.6 where one of two is, 1.0 where all are. (0 is for no answer
        block, 0.2 for one that holds no JSON object.)

        >>> Schema(box=True, points=True).level({"bbox": 1, "points_1": 2, "points_2": 3}, valid=1)
        0.6
        """
        if not self.complete(answer) or valid == 0:
            return 0.4
        return 1.0 if valid == self.box + self.points else 0.6


def _quote(text: str, style: Style) -> str:
    return text.replace('"', "'") if style == "single_quoted" else text
