"""Which pixels a number counts.

A model sees a resized image and answers in numbers of its own: absolute pixels of the resized image (Qwen2.5-VL),
thousandths of each side (Qwen2-VL, Qwen3-VL, InternVL), fractions, or any of these with y first (Gemma). A `Frame`
says which, travels with every answer, and is the only thing that converts.
"""

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from medground.errors import InputError
from medground.geometry import Floats, Size

PASSES = 10
"""How often the rule of a patch grid is applied to find a size that it leaves alone: two passes, for thin images more."""
Kind = Literal["pixel", "permille", "unit"]
Order = Literal["xy", "yx"]


class FrameDict(TypedDict):
    """A frame in JSON."""

    kind: Kind
    size: list[int]
    order: Order


@dataclass(frozen=True, slots=True)
class Frame:
    """What the numbers of one answer count.

    >>> Frame("permille", (480, 640)).to_pixels([500, 500], (960, 1280)).tolist()
    [640.0, 480.0]

    Args:
        kind: ``pixel`` counts pixels of an image of `size`; ``permille`` thousandths of each side; ``unit`` fractions.
        size: (H, W) of the image the model saw; for ``permille`` and ``unit`` it is carried for the record only.
        order: ``xy``, or ``yx`` for models that write y first.
    """

    kind: Kind
    size: Size
    order: Order = "xy"

    def __post_init__(self) -> None:
        if self.kind not in ("pixel", "permille", "unit"):
            raise ValueError(f"a frame is of kind pixel, permille or unit, not {self.kind!r}")
        if self.order not in ("xy", "yx"):
            raise ValueError(f"a frame has order xy or yx, not {self.order!r}")
        if min(self.size) <= 0:
            raise ValueError(f"a frame needs a positive size (H, W), not {self.size}")

    def to_dict(self) -> FrameDict:
        """Return the frame as JSON-ready values."""
        return {"kind": self.kind, "size": list(self.size), "order": self.order}

    @classmethod
    def from_dict(cls, entry: FrameDict) -> "Frame":
        """Return the frame that `to_dict` wrote.

        Raises:
            ValueError: if the entry states no frame.
        """
        height, width = entry["size"]
        return cls(entry["kind"], (height, width), entry["order"])

    @property
    def extent(self) -> tuple[float, float]:
        """The largest (x, y) the frame can say: the far corner of the image."""
        if self.kind == "pixel":
            return float(self.size[1]), float(self.size[0])
        return (1000.0, 1000.0) if self.kind == "permille" else (1.0, 1.0)

    def unit(self, size: Size) -> tuple[float, float]:
        """Return how many pixels of an original of `size` (H, W) one model unit spans: (along x, along y)."""
        return size[1] / self.extent[0], size[0] / self.extent[1]

    def to_pixels(self, numbers: ArrayLike, size: Size) -> Floats:
        """Return the numbers as the model wrote them, ``[..., 2]`` points or ``[..., 4]`` boxes, in pixels of an original.

        `size` is the (H, W) of the original image.

        >>> Frame("permille", (640, 640)).to_pixels([500, 250], size=(100, 200)).tolist()
        [100.0, 25.0]
        """
        pairs, shape = _pairs(numbers)
        if self.order == "yx":
            pairs = pairs[..., ::-1]
        return (pairs * (size[1], size[0]) / self.extent).reshape(shape)

    def from_pixels(self, pixels: ArrayLike, size: Size) -> Floats:
        """Return the inverse of `to_pixels`: what a perfect model would write, unrounded."""
        pairs, shape = _pairs(pixels)
        pairs = pairs * self.extent / (size[1], size[0])
        if self.order == "yx":
            pairs = pairs[..., ::-1]
        return pairs.reshape(shape)


def _pairs(numbers: ArrayLike) -> tuple[Floats, tuple[int, ...]]:
    array = np.asarray(numbers, dtype=np.float64)
    return array.reshape(*array.shape[:-1], -1, 2), array.shape


def pixels(size: Size) -> Frame:
    """Return the frame of the image itself: numbers count its own pixels."""
    return Frame("pixel", size)


def fixed_point(size: Size, *, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """Return the (H, W) nearest `size` that a patch-grid processor leaves alone.

    Sides are multiples of `factor`, the area lies in [min_pixels, max_pixels] and the aspect ratio is kept as well as
    the grid allows: the rule of the Qwen-VL image processors, so that resizing first means they do not resize again.

    >>> fixed_point((840, 840), factor=28, min_pixels=3136, max_pixels=1003520)
    (840, 840)

    Raises:
        InputError: if there is none, or one side is more than 200 times the other: the processors refuse that too.
    """
    resized = size
    for _ in range(PASSES):
        if min(resized) <= 0 or max(resized) / min(resized) > 200:
            break
        before, resized = resized, _resized(resized, factor, min_pixels, max_pixels)
        if resized == before:
            return resized
    height, width = size
    raise InputError(
        f"an image of {height}x{width} has no usable aspect ratio (at most 200 to 1)", hint="pad or crop it"
    )


def _resized(size: Size, factor: int, min_pixels: int, max_pixels: int) -> Size:
    height, width = size
    rows, columns = (max(factor, round(side / factor) * factor) for side in size)
    if rows * columns > max_pixels:
        shrink = float(np.sqrt(height * width / max_pixels))
        rows, columns = (max(factor, int(side / shrink / factor) * factor) for side in size)
    elif rows * columns < min_pixels:
        grow = float(np.sqrt(min_pixels / (height * width)))
        rows, columns = (int(np.ceil(side * grow / factor)) * factor for side in size)
    return rows, columns
