"""Short words about a target that are true of its mask, and whether they could be said of another one.

A fact has a measure with two thresholds: it is *said* only of a target that clearly has it, and a rival is only taken
for *excluded* where it clearly has not. In between nothing is claimed either way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medground.data.region_props import RegionProps


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that can be said."""

    slot: str
    """``place``, ``size``, ``tone`` or ``shape``: of each at most one is said."""
    name: str
    words: tuple[str, ...]
    """Ways to say it: adjectives, or phrases of place."""
    measure: Callable[[RegionProps], float]
    said_from: float
    """True of a target whose measure is at least this."""
    possible_from: float
    """Not excluded for a rival whose measure is at least this."""

    def true_of(self, looks: RegionProps) -> bool:
        """Whether it may be said of a target."""
        return self.measure(looks) >= self.said_from

    def possible_for(self, looks: RegionProps) -> bool:
        """Whether somebody might take a rival for having it."""
        return self.measure(looks) >= self.possible_from


def _place(name: str, measure: Callable[[RegionProps], float], *words: str) -> Fact:
    return Fact("place", name, words, measure, 0.08, 0.0)


_SIDES = {
    "left": lambda its: 0.5 - its.x,
    "right": lambda its: its.x - 0.5,
    "upper": lambda its: 0.5 - its.y,
    "lower": lambda its: its.y - 0.5,
}


def _corner(down: str, across: str) -> Fact:
    return _place(
        f"{down} {across}",
        lambda its: min(_SIDES[down](its), _SIDES[across](its)),
        f"in the {down} {across} part of the picture",
        f"towards the {down} {across} of the picture",
        f"in the {down} {across} quarter of the picture",
    )


FACTS: tuple[Fact, ...] = (
    *(_corner(down, across) for down in ("upper", "lower") for across in ("left", "right")),
    *(
        _place(side, _SIDES[side], f"on the {side} of the picture", f"in the {side} half of the picture")
        for side in ("left", "right")
    ),
    *(
        _place(side, _SIDES[side], f"in the {side} part of the picture", f"in the {side} half of the picture")
        for side in ("upper", "lower")
    ),
    Fact(
        "place", "centre", ("near the centre of the picture", "in the middle of the picture"),
        lambda its: 0.12 - max(abs(its.x - 0.5), abs(its.y - 0.5)), 0.0, -0.08,
    ),
    Fact("size", "large", ("large", "broad", "extensive"), lambda its: its.area, 0.12, 0.06),
    Fact("size", "small", ("small", "little"), lambda its: -its.area, -0.01, -0.03),
    Fact("tone", "bright", ("bright", "light", "comparatively bright"), lambda its: its.tone, 0.08, 0.02),
    Fact("tone", "dark", ("dark", "dim", "comparatively dark"), lambda its: -its.tone, 0.08, 0.02),
    Fact(
        "shape", "long", ("long", "elongated", "drawn-out"),
        lambda its: its.elongation if its.parts == 1 else 0.0, 2.2, 1.7,
    ),
    Fact(
        "shape", "rounded", ("rounded", "roundish"),
        lambda its: -its.elongation if its.fill > 0.92 and its.hollow < 0.02 and its.parts == 1 else -99.0, -1.4, -1.8,
    ),
    Fact("shape", "hollow", ("ring-shaped", "hollow"), lambda its: its.hollow, 0.25, 0.1),
    Fact("shape", "divided", ("divided", "multi-part"), lambda its: its.parts, 2, 2),
    Fact(
        "shape", "curved", ("curved", "bent"),
        lambda its: float(its.bent and its.parts == 1 and its.hollow < 0.02), 1.0, 1.0,
    ),
    Fact(
        "shape", "irregular", ("irregular", "ragged"),
        lambda its: 1 - its.fill if its.parts == 1 and its.hollow < 0.1 and not its.bent else 0.0, 0.2, 0.1,
    ),
)  # fmt: skip
"""Corners before sides: what says more comes first."""


def facts_of(looks: RegionProps) -> list[Fact]:
    """What may be said of a target."""
    return [fact for fact in FACTS if fact.true_of(looks)]


_MOST: tuple[tuple[str, Callable[[RegionProps], float], float], ...] = (
    ("furthest to the left", lambda its: -its.x, 0.04),
    ("furthest to the right", lambda its: its.x, 0.04),
    ("highest up", lambda its: -its.y, 0.04),
    ("lowest down", lambda its: its.y, 0.04),
)


def standing_out(target: RegionProps, rivals: Sequence[RegionProps]) -> str | None:
    """By which superlative a target differs from all of its rivals, or None.

    Positions must differ by 0.04 of the image, areas by a factor of 1.25.
    """
    for words, measure, margin in _MOST:
        if all(measure(target) >= measure(rival) + margin for rival in rivals):
            return words
    if all(target.area >= 1.25 * rival.area for rival in rivals):
        return "that is larger" if len(rivals) == 1 else "that is largest"
    if all(target.area * 1.25 <= rival.area for rival in rivals):
        return "that is smaller" if len(rivals) == 1 else "that is smallest"
    return None
