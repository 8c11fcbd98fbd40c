"""What every family of phantoms shares: regions to ask about, and lesions with a core and a margin."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from medground_toy.canvas import Canvas
from medground_toy.regions import Bools, Floats

Shapes = Literal["irregular", "round"]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
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
) -> Region:
    """A region from the fields of its shape."""
    return Region(category, supercategory, whole > 0, None if core is None else core > 0, tone)


def lesion(canvas: Canvas, x: float, y: float, radius: float, shapes: Shapes) -> tuple[Floats, Floats]:
    """The fields of a lesion and of its core, two thirds as large around the same centre.

    Irregular ones are long, slanted and three- or five-lobed, so that neither their box nor the ellipse in it tells
    their shape; round ones are plain discs.
    """
    if shapes == "round":
        return canvas.blob(x, y, radius, radius), canvas.blob(x, y, radius * 0.66, radius * 0.66)
    slant = canvas.between(np.pi / 6, np.pi / 3) * canvas.rng.choice([-1, 1])
    long, short = radius * canvas.between(1.2, 1.4), radius * canvas.between(0.72, 0.85)
    lobes = [
        (3, canvas.between(0.26, 0.36), canvas.between(0, 2 * np.pi)),
        (5, canvas.between(0.08, 0.16), canvas.between(0, 2 * np.pi)),
    ]
    whole = canvas.blob(x, y, long, short, slant, lobes)
    return whole, canvas.blob(x, y, long * 0.66, short * 0.66, slant, lobes)


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
