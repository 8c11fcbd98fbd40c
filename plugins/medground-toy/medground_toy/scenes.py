"""What every family of phantoms shares: regions to ask about, and lesions with a core and a margin."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from medground_toy.canvas import Canvas
from medground_toy.regions import Bools, Floats

Shapes = Literal["irregular", "round"]

_WAVES = ((2, 0.5), (3, 1.4), (5, 0.7), (7, 0.35), (11, 0.15))
"""(lobes around, share of the amplitude) of an irregular lesion's outline."""


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """One thing a question can be about."""

    category: str
    supercategory: str
    whole: Bools
    """H x W: all of it."""
    core: Bools | None = None
    """H x W: a lesion's inner part without its margin; None where there is no such distinction."""
    tone: Literal["bright", "dark", ""] = ""
    """How it stands out from its surroundings."""


def region(
    category: str,
    supercategory: str,
    whole: Floats,
    core: Floats | None = None,
    tone: Literal["bright", "dark", ""] = "",
) -> Structure:
    """A region from the fields of its shape."""
    return Structure(category, supercategory, whole > 0, None if core is None else core > 0, tone)


def lesion(canvas: Canvas, x: float, y: float, radius: float, shapes: Shapes) -> tuple[Floats, Floats]:
    """The fields of a lesion and of its core, two thirds as large around the same centre.

    Irregular ones are long and slanted, and lobed or bent around a notch, so that neither their box nor the ellipse in
    it tells their shape; round ones are plain discs.
    """
    if shapes == "round":
        return canvas.blob(x, y, radius, radius), canvas.blob(x, y, radius * 0.66, radius * 0.66)
    slant = canvas.between(np.pi / 6, np.pi / 3) * canvas.rng.choice([-1, 1])
    long, short = radius * canvas.between(1.2, 1.45), radius * canvas.between(0.75, 0.9)
    bent = canvas.rng.random() < 0.5
    wave = 0.1 if bent else 0.2
    lobes = [(k, canvas.between(0.4, 1) * wave * s, canvas.between(0, 2 * np.pi)) for k, s in _WAVES]
    whole, core = (canvas.blob(x, y, long * s, short * s, slant, lobes) for s in (1.0, 0.66))
    if bent:
        side = short * canvas.rng.choice([-1, 1])
        notch = canvas.blob(x - np.sin(slant) * side, y + np.cos(slant) * side, long * 0.62, short * 0.9, slant)
        whole, core = without(whole, notch), without(core, notch + 0.1 * short)
    return whole, core


def without(field: Floats, *others: Floats) -> Floats:
    """A shape less other shapes."""
    for other in others:
        field = np.minimum(field, -other)
    return field


def common(*fields: Floats) -> Floats:
    """The shape that all have in common."""
    return np.minimum.reduce(fields)


def union(*fields: Floats) -> Floats:
    """All shapes together."""
    return np.maximum.reduce(fields)
