"""Candidates drawn on an image: an outline each, in a colour of its own, and its number on a plate of that colour.

Outlines have a dark rim, and so have plates, so that they show on white tissue and on black air. Plates never lie on one
another, and cover as little of the candidates as they can. Sizes follow the image's. Digits are drawn as they stand here, so
that a picture is the same wherever it is made.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage

from medground.geometry import Box
from medground.types import Image, Region

COLOURS = (
    (255, 59, 48), (255, 214, 10), (48, 209, 88), (64, 156, 255), (255, 105, 230), (255, 149, 0),
    (100, 230, 230), (191, 130, 255), (190, 230, 60), (240, 200, 170), (0, 150, 130), (230, 230, 230),
)  # fmt: skip
"""Of the candidates in turn."""
RIM = (8, 10, 14)
WIDE, HIGH = 5, 7
"""Pixels of a digit, before it is enlarged."""
DIGITS = (
    "01110 10001 10011 10101 11001 10001 01110", "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00010 00100 01000 11111", "11111 00010 00100 00010 00001 10001 01110",
    "00010 00110 01010 10010 11111 00010 00010", "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110", "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110", "01110 10001 10001 01111 00001 00010 01100",
)  # fmt: skip
"""0 to 9, row by row."""
_Bools = NDArray[np.bool_]


def mark(image: Image, candidates: Sequence[Region], *, least: int = 0) -> Image:
    """Return an image with its candidates drawn on it, numbered from 1; as it is where there are none.

    Args:
        image: H x W x 3 uint8 RGB.
        candidates: each with a mask of the image's size, or at least with a box.
        least: px; an image whose longer side is shorter is enlarged to that before anything is drawn.

    Raises:
        ValueError: if a candidate has neither a mask nor a box.
    """
    if not candidates:
        return image
    size = image.shape[0], image.shape[1]
    masks = [_mask(region, size) for region in candidates]
    if max(size) < least:
        factor = least / max(size)
        height, width = (max(1, round(side * factor)) for side in size)
        image = np.asarray(Pillow.fromarray(image).resize((width, height), Pillow.Resampling.BICUBIC))
        masks = [
            np.asarray(Pillow.fromarray(mask).resize((width, height), Pillow.Resampling.NEAREST)) for mask in masks
        ]
    picture = image.copy()
    line = max(1, max(picture.shape[:2]) // 200)
    outlines = [mask & ~_shrunk(mask, line) for mask in masks]
    for outline in outlines:
        picture[_grown(outline, max(1, line // 2))] = RIM
    for number, outline in enumerate(outlines):
        picture[outline] = COLOURS[number % len(COLOURS)]
    plates = [_plate(number + 1, scale(picture)) for number in range(len(masks))]
    for (top, left), plate in zip(places(masks, [plate.shape[:2] for plate in plates]), plates, strict=True):
        area = picture[top : top + plate.shape[0], left : left + plate.shape[1]]
        area[:] = plate[: area.shape[0], : area.shape[1]]
    return picture


def scale(image: Image) -> int:
    """Return how many pixels of an image a pixel of a digit becomes along each side."""
    return max(1, int(max(image.shape[:2])) // 224)


def places(masks: Sequence[_Bools], sizes: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Return (top, left) of a plate for every mask: near it, on as little of any mask as possible, and on no plate before it.

    Only where an image has no room for all plates do some lie on others.

    Args:
        masks: H x W bool each.
        sizes: (height, width) of the plates, px.
    """
    height, width = masks[0].shape
    covered = np.any(masks, axis=0)
    taken = np.zeros((height, width), bool)
    spots = []
    for mask, (high, wide) in zip(masks, sizes, strict=True):
        rows, columns = np.arange(max(1, height - high + 1)), np.arange(max(1, width - wide + 1))
        area = high * wide
        costs = _gaps(mask, rows, columns, high, wide)
        costs = costs + 1.5 * high * _sums(covered, rows, columns, high, wide) / area
        costs = costs + 10.0 * (height + width) * _sums(taken, rows, columns, high, wide) / area
        top, left = np.unravel_index(int(costs.argmin()), costs.shape)
        taken[top : top + high, left : left + wide] = True
        spots.append((int(top), int(left)))
    return spots


def _mask(region: Region, size: tuple[int, int]) -> _Bools:
    if region.mask is not None:
        return region.mask.data
    if region.box is None:
        raise ValueError("a candidate needs a mask or a box to be drawn")
    mask = np.zeros(size, bool)
    box = Box(*region.box).clip(size)
    mask[int(box.y1) : int(np.ceil(box.y2)), int(box.x1) : int(np.ceil(box.x2))] = True
    return mask


def _gaps(mask: _Bools, rows: NDArray[np.intp], columns: NDArray[np.intp], high: int, wide: int) -> NDArray[np.float64]:
    """Return the distance of plates from a mask, px, by their top and their left."""
    if not mask.any():
        return np.zeros((len(rows), len(columns)))
    away = np.maximum(ndimage.distance_transform_edt(~mask) - 1, 0)
    nearest = ndimage.minimum_filter(away, size=(high, wide), origin=(-(high // 2), -(wide // 2)))
    gaps: NDArray[np.float64] = nearest[: len(rows), : len(columns)]
    return gaps


def _sums(mask: _Bools, rows: NDArray[np.intp], columns: NDArray[np.intp], high: int, wide: int) -> NDArray[np.float64]:
    """Return how many pixels of a mask plates would lie on, by their top and their left."""
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    table[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    bottom, right = np.minimum(rows + high, mask.shape[0]), np.minimum(columns + wide, mask.shape[1])
    sums: NDArray[np.float64] = (
        table[bottom][:, right] - table[rows][:, right] - table[bottom][:, columns] + table[rows][:, columns]
    )
    return sums


def _plate(number: int, factor: int) -> Image:
    """Return a number in black on its colour, with a rim."""
    digits = [np.array([[pixel == "1" for pixel in row] for row in DIGITS[int(one)].split()]) for one in str(number)]
    gap = np.zeros((HIGH, 1), bool)
    ink = np.hstack([part for digit in digits for part in (gap, digit)][1:])
    ink = np.pad(ink, 1).repeat(factor, axis=0).repeat(factor, axis=1)
    plate = np.full((*ink.shape, 3), COLOURS[(number - 1) % len(COLOURS)], np.uint8)
    plate[ink] = (0, 0, 0)
    bordered: Image = np.empty((plate.shape[0] + 2 * factor, plate.shape[1] + 2 * factor, 3), np.uint8)
    bordered[:] = RIM
    bordered[factor:-factor, factor:-factor] = plate
    return bordered


def _shrunk(mask: _Bools, steps: int) -> _Bools:
    return ~_grown(~mask, steps, beyond=True)


def _grown(mask: _Bools, steps: int, *, beyond: bool = False) -> _Bools:
    """Return a mask with what lies within so many pixels of it; `beyond` is what counts outside the image."""
    for _ in range(steps):
        wide = np.pad(mask, 1, constant_values=beyond)
        mask = wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    return mask
