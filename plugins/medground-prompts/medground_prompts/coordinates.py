"""From the numbers of an answer to a box and points in original pixels, or to the fault that prevents it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from medground.frames import Frame
from medground.geometry import Box, Point, Size
from medground.types import Fault

LARGEST = 1e9
"""Numbers beyond this count no image's pixels: where no frame bounds them, they are as good as infinite."""
_KINDS = {False: frozenset({int, float}), True: frozenset({int, float, bool})}
"""What counts as a number, by whether the released code reads it: the types that `json` gives."""
STEP = {"pixel": 1.0, "permille": 1.0, "unit": 1e-4}
"""One unit of each kind of frame: what answers are rounded to, and how far past the edge they may lie."""


@dataclass(frozen=True, slots=True)
class Space:
    """Where an answer's numbers live and how strictly they are taken.

    `released` takes them as the released code does: booleans count, order, coincidence and bounds do not.
    """

    frame: Frame | None
    size: Size
    released: bool

    @property
    def bounded(self) -> bool:
        """True when a number can be out of frame."""
        return self.frame is not None and not self.released

    def numbers(self, value: Any, count: int) -> list[float] | None:
        """Return `value` as `count` floats, infinite where they overflow, or None where it is anything else."""
        if not isinstance(value, list) or len(value) != count or not _KINDS[self.released].issuperset(map(type, value)):
            return None
        return list(map(_float, value))

    def finite(self, numbers: list[float]) -> bool:
        """Return True if every number can count something."""
        return all(map(math.isfinite, numbers)) and (self.bounded or max(map(abs, numbers)) <= LARGEST)

    def within(self, numbers: list[float]) -> bool:
        """Return True if no number lies more than one unit outside the frame; always true without bounds."""
        if self.frame is None or self.released:
            return True
        step, extent = STEP[self.frame.kind], self.frame.extent
        if self.frame.order == "yx":
            extent = extent[::-1]
        return all(-step <= number <= extent[i % 2] + step for i, number in enumerate(numbers))

    def pixels(self, numbers: list[float]) -> list[float]:
        """Return the same in original pixels, x first; what lies within one unit of the image is pulled onto its edge."""
        if self.frame is None:
            return numbers
        converted = [float(number) for number in self.frame.to_pixels(numbers, self.size)]
        if self.released:
            return converted
        return [min(max(number, 0.0), float(self.size[1 - i % 2])) for i, number in enumerate(converted)]


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def box_of(value: Any, space: Space) -> Box | Fault:
    """Return the box in original pixels, or the first thing wrong with it. Released boxes get their corners put in order."""
    numbers = space.numbers(value, 4)
    if numbers is None:
        return Fault.BAD_BOX
    if not space.finite(numbers):
        return Fault.NONFINITE
    if space.released:
        x1, y1, x2, y2 = space.pixels(numbers)
        return Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    if numbers[2] < numbers[0] or numbers[3] < numbers[1]:
        return Fault.INVERTED_BOX
    if not space.within(numbers):
        return Fault.OUT_OF_FRAME
    box = Box(*space.pixels(numbers))
    return box if box.valid else Fault.DEGENERATE_BOX


def points_of(values: Sequence[Any], space: Space) -> tuple[Point, ...] | Fault:
    """Return the key points in original pixels, or the first thing wrong with them."""
    pairs = [pair for value in values if (pair := space.numbers(value, 2)) is not None]
    flat = list(chain.from_iterable(pairs))
    if len(pairs) < len(values):
        return Fault.BAD_POINTS
    if not space.finite(flat):
        return Fault.NONFINITE
    if not space.within(flat):
        return Fault.OUT_OF_FRAME
    points = tuple(Point(*space.pixels(pair)) for pair in pairs)
    return Fault.POINTS_EQUAL if len(set(points)) < len(points) and not space.released else points
