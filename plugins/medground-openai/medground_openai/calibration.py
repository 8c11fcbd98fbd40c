"""Find the frame a server answers in: send known rectangles and compare the numbers that come back.

A model's numbers are proportional to the position along each side, so one factor per axis, fitted over several rectangles,
says how large the image seems to the model: as large as what was sent (pixels), 1000 (permille), 1 (unit), or
something else: the server resized it, and for another image it would resize otherwise. Two sizes of image are shown,
so that a side that happens to measure 1000 decides nothing.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medground.errors import RunError
from medground.frames import Frame, Kind, Order
from medground.geometry import Box, Floats, Size, box_iou
from medground.types import Completion, Image, Messages

RECTANGLES = (
    (0.07, 0.60, 0.31, 0.91),
    (0.62, 0.08, 0.93, 0.27),
    (0.45, 0.55, 0.77, 0.73),
    (0.12, 0.21, 0.36, 0.34),
)
"""The rectangles, as fractions of the sides: none looks like another when x and y change places."""
QUESTION = """This image holds one red rectangle on a grey ground. Mark it with its tightest axis-aligned box.
Answer with a JSON object with a single key and nothing else:
{"bbox": [xmin, ymin, xmax, ymax]}"""
TOLERANCE = 0.03
"""How far the fitted sides may lie from a frame's, as a share of it; less resizing than that is not noticed."""
FITS = 0.6
"""The least mean IoU of the fitted boxes; under the other order no fit comes near it."""
FEWEST = 3
"""Boxes read per image size, out of four."""

_BOX = re.compile(r"\[[\s\d.,+-]{7,200}\]")


@dataclass(frozen=True, slots=True)
class TestImage:
    """One rectangle in an image of `size` (H, W) as it is sent; the box in its pixels."""

    size: Size
    box: Box

    @property
    def messages(self) -> Messages:
        """Return the question about it."""
        content = [{"type": "image", "image": self.image}, {"type": "text", "text": QUESTION}]
        return [{"role": "user", "content": content}]

    @property
    def image(self) -> Image:
        """Return a red rectangle on grey."""
        pixels = np.full((*self.size, 3), 128, np.uint8)
        x1, y1, x2, y2 = (int(value) for value in self.box)
        pixels[y1:y2, x1:x2] = (220, 20, 20)
        return pixels


@dataclass(frozen=True, slots=True)
class Fit:
    """One size of image under one order."""

    sides: tuple[float, float]
    """(along x, along y): how large the image seems to be, in the model's numbers."""
    iou: float
    """Mean IoU of the boxes once scaled by that."""


def targets(sizes: Sequence[Size]) -> list[TestImage]:
    """Return the rectangles, at whole pixels, for images of the sizes (H, W)."""
    return [
        TestImage((height, width), Box(*(float(round(side)) for side in np.multiply(fractions, (width, height) * 2))))
        for height, width in sizes
        for fractions in RECTANGLES
    ]


def conclude(images: Sequence[TestImage], answers: Sequence[Completion]) -> tuple[Kind, Order]:
    """Return the frame all answers agree on.

    Raises:
        RunError: if there is none; it says what was seen instead.
    """
    sizes = list(dict.fromkeys(image.size for image in images))
    boxes: dict[Size, list[tuple[Box, Floats]]] = {size: [] for size in sizes}
    for image, answer in zip(images, answers, strict=True):
        numbers = _numbers(answer.text)
        if answer.fault is None and numbers is not None:
            boxes[image.size].append((image.box, numbers))
    if min(len(pairs) for pairs in boxes.values()) < FEWEST:
        raise _undecided(_unread(answers))
    fits: dict[Order, list[Fit]] = {
        order: [_fit(*boxes[size], size=size, order=order) for size in sizes] for order in ("xy", "yx")
    }
    means = {order: float(np.mean([fit.iou for fit in by_size])) for order, by_size in fits.items()}
    order: Order = "xy" if means["xy"] >= means["yx"] else "yx"
    if min(fit.iou for fit in fits[order]) < FITS:
        raise _undecided(f"its boxes lie elsewhere than what was drawn (mean IoU {means[order]:.2f} at best)")
    for kind in ("pixel", "permille", "unit"):
        if all(_agree(fit.sides, Frame(kind, size).extent) for fit, size in zip(fits[order], sizes, strict=True)):
            return kind, order
    seems = ", ".join(
        f"{width}x{height} seem to be {fit.sides[0]:.0f}x{fit.sides[1]:.0f}"
        for fit, (height, width) in zip(fits[order], sizes, strict=True)
    )
    longest = max(fits[order][0].sides)
    raise RunError(
        f"the server's numbers count the pixels of an image of another size than it was sent: {seems}",
        hint=f"it resizes; lower reasoner.max_image_side (below {longest:.0f}), or set reasoner.frame and reasoner.order "
        "if you know better",
    )


def _fit(*pairs: tuple[Box, Floats], size: Size, order: Order) -> Fit:
    true = np.array([box for box, _ in pairs])
    answered = np.array([numbers for _, numbers in pairs])
    if order == "yx":
        answered = answered[:, [1, 0, 3, 2]]
    ours, theirs = true.reshape(-1, 2), answered.reshape(-1, 2)  # corners, x and y
    factor = (theirs * ours).sum(axis=0) / (ours * ours).sum(axis=0)
    if not np.all(np.isfinite(factor) & (factor > 0)):
        return Fit((0.0, 0.0), 0.0)
    scaled = answered / np.tile(factor, 2)
    return Fit(
        (float(factor[0] * size[1]), float(factor[1] * size[0])),
        float(np.mean([box_iou(one, other) for one, other in zip(scaled, true, strict=True)])),
    )


def _agree(fitted: tuple[float, float], sides: tuple[float, float]) -> bool:
    return all(abs(one / other - 1) <= TOLERANCE for one, other in zip(fitted, sides, strict=True))


def _numbers(text: str) -> Floats | None:
    """Return the last four numbers in brackets: the answer follows any reasoning."""
    for written in reversed(_BOX.findall(text[-20_000:])):
        try:
            numbers: Any = json.loads(written)
        except ValueError:
            continue
        if len(numbers) == 4:
            return np.array(numbers, np.float64)
    return None


def _unread(answers: Sequence[Completion]) -> str:
    lost = [answer for answer in answers if answer.fault is not None]
    if lost:
        return f"{len(lost)} of {len(answers)} questions were not answered: {lost[0].cause}"
    return "too few of its answers hold a box"


def _undecided(why: str) -> RunError:
    return RunError(
        f"the frame of the server's answers is not clear: {why}",
        hint="set reasoner.frame to pixel, permille or unit (and reasoner.order), as the model's authors document it",
    )
