"""Attributes: short words about a target that its mask bears out, and whether they also fit another target.

An attribute has a measure with two thresholds: it is stated only of a target that clearly has it, and a rival counts as
excluded only where it clearly has not. In between nothing is claimed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medground.data.region_props import RegionProps


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that can be stated of a target."""

    slot: str
    """``position``, ``size``, ``contrast`` or ``shape``: of each at most one is stated."""
    name: str
    words: tuple[str, ...]
    """Wordings: adjectives, or phrases of position."""
    measure: Callable[[RegionProps], float]
    stated_from: float
    """True of a target whose measure is at least this."""
    possible_from: float
    """Not excluded for a rival whose measure is at least this."""

    def true_of(self, props: RegionProps) -> bool:
        """Return True if it may be stated of a target."""
        return self.measure(props) >= self.stated_from

    def possible_for(self, props: RegionProps) -> bool:
        """Return True if a reader might take a rival for having it."""
        return self.measure(props) >= self.possible_from


def _position(name: str, measure: Callable[[RegionProps], float], *words: str) -> Attribute:
    return Attribute("position", name, words, measure, 0.08, 0.0)


_SIDES = {
    "left": lambda props: 0.5 - props.x,
    "right": lambda props: props.x - 0.5,
    "upper": lambda props: 0.5 - props.y,
    "lower": lambda props: props.y - 0.5,
}


def _corner(down: str, across: str) -> Attribute:
    return _position(
        f"{down} {across}",
        lambda props: min(_SIDES[down](props), _SIDES[across](props)),
        f"in the {down} {across} part of the picture",
        f"towards the {down} {across} of the picture",
        f"in the {down} {across} quarter of the picture",
    )


def _roundness(props: RegionProps) -> float:
    compact = props.fill > 0.92 and props.hole_fraction < 0.02 and props.components == 1
    return -props.elongation if compact else -99.0


def _irregularity(props: RegionProps) -> float:
    whole = props.components == 1 and props.hole_fraction < 0.1 and not props.concave
    return 1 - props.fill if whole else 0.0


ATTRIBUTES: tuple[Attribute, ...] = (
    *(_corner(down, across) for down in ("upper", "lower") for across in ("left", "right")),
    *(
        _position(side, _SIDES[side], f"on the {side} of the picture", f"in the {side} half of the picture")
        for side in ("left", "right")
    ),
    *(
        _position(side, _SIDES[side], f"in the {side} part of the picture", f"in the {side} half of the picture")
        for side in ("upper", "lower")
    ),
    Attribute(
        "position", "centre", ("near the centre of the picture", "in the middle of the picture"),
        lambda props: 0.12 - max(abs(props.x - 0.5), abs(props.y - 0.5)), 0.0, -0.08,
    ),
    Attribute("size", "large", ("large", "broad", "extensive"), lambda props: props.area, 0.12, 0.06),
    Attribute("size", "small", ("small", "little"), lambda props: -props.area, -0.01, -0.03),
    Attribute("contrast", "bright", ("bright", "light", "comparatively bright"), lambda props: props.contrast, 0.08, 0.02),
    Attribute("contrast", "dark", ("dark", "dim", "comparatively dark"), lambda props: -props.contrast, 0.08, 0.02),
    Attribute(
        "shape", "long", ("long", "elongated", "drawn-out"),
        lambda props: props.elongation if props.components == 1 else 0.0, 2.2, 1.7,
    ),
    Attribute(
        "shape", "rounded", ("rounded", "roundish"),
        _roundness, -1.4, -1.8,
    ),
    Attribute("shape", "hollow", ("ring-shaped", "hollow"), lambda props: props.hole_fraction, 0.25, 0.1),
    Attribute("shape", "divided", ("divided", "multi-part"), lambda props: props.components, 2, 2),
    Attribute(
        "shape", "curved", ("curved", "bent"),
        lambda props: float(props.concave and props.components == 1 and props.hole_fraction < 0.02), 1.0, 1.0,
    ),
    Attribute(
        "shape", "irregular", ("irregular", "ragged"),
        _irregularity, 0.2, 0.1,
    ),
)  # fmt: skip
"""Corners before sides: what says more comes first."""


def attributes_of(props: RegionProps) -> list[Attribute]:
    """Return what may be stated of a target."""
    return [attribute for attribute in ATTRIBUTES if attribute.true_of(props)]


_MOST: tuple[tuple[str, Callable[[RegionProps], float], float], ...] = (
    ("furthest to the left", lambda props: -props.x, 0.04),
    ("furthest to the right", lambda props: props.x, 0.04),
    ("highest up", lambda props: -props.y, 0.04),
    ("lowest down", lambda props: props.y, 0.04),
)


def superlative(target: RegionProps, rivals: Sequence[RegionProps]) -> str | None:
    """Return the superlative by which a target differs from all of its rivals, or None.

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
