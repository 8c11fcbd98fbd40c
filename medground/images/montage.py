"""Slices of a volume as one picture: tiles in rows, each under the number of its slice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from medground.geometry import Box, Size
from medground.images.volume import Volume
from medground.images.windows import PERCENTILES
from medground.types import Image, Region

STRIP = 20
"""Pixels above a tile's picture, where the number of its slice stands."""
TILES = 16
"""Slices that a montage shows at most, unless it is told."""
_GROUND, _INK = (0, 0, 0), (255, 255, 255)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Montage:
    """A picture of slices of a volume, and which of them lies where."""

    image: Image
    """H×W×3 uint8 RGB."""
    plane: str
    slices: tuple[int, ...]
    """The slices that are shown, rising, row by row."""
    count: int
    """How many slices the plane has; those between the ones shown exist."""
    rows: int
    columns: int

    @property
    def tile(self) -> Size:
        """(H, W) of a tile with its strip, px."""
        return self.image.shape[0] // self.rows, self.image.shape[1] // self.columns

    def nearest(self, index: int) -> int:
        """Return the position, in `slices`, of the one shown nearest to a slice; of two the lower one."""
        return int(np.abs(np.array(self.slices) - index).argmin())

    def box(self, index: int) -> Box:
        """Return the box of the tile nearest to a slice, without its strip."""
        row, column = divmod(self.nearest(index), self.columns)
        height, width = self.tile
        return Box(column * width, row * height + STRIP, (column + 1) * width, (row + 1) * height)

    @property
    def regions(self) -> tuple[Region, ...]:
        """A region for every slice of the plane, from 0: the tile nearest to it, with the slice's number as its label."""
        return tuple(Region(box=self.box(index), label=str(index)) for index in range(self.count))

    @property
    def layout(self) -> str:
        """What the picture shows, in words."""
        numbers = ", ".join(map(str, self.slices))
        return (
            f"The image shows {len(self.slices)} of the {self.count} {self.plane} slices of one volume, in {self.rows} rows "
            f"of {self.columns} tiles. Above each tile stands the number of its slice; row by row they are: {numbers}. "
            "Slices between them exist, too."
        )


def montage(volume: Volume, plane: str, *, window: str | None = None, tiles: int = TILES, side: int = 160) -> Montage:
    """Return slices of a volume, evenly spread over a plane, as one picture.

    Pixels of tiles are square: slices of uneven spacing are stretched to millimetres. All have one window.

    Args:
        volume: whose slices.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        window: as `Volume.slice`.
        tiles: how many slices at most.
        side: the longer side of a tile's picture, px.

    Raises:
        ViewError: for a plane or a window that is not there.
        InputError: if the file is damaged or was changed.
    """
    count = volume.count(plane)
    slices = spread(count, tiles)
    shown = len(slices)
    window = shared_window(volume, plane, slices, window)
    columns = int(np.ceil(np.sqrt(shown)))
    rows = -(-shown // columns)
    sheet: Image | None = None
    for number, index in enumerate(slices):
        loaded = volume.slice(plane, index, window=window)
        tile = _tile(loaded.pixels, loaded.spacing or (1.0, 1.0), side, str(index))
        height, width = tile.shape[:2]
        if sheet is None:
            sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
        row, column = divmod(number, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
    assert sheet is not None, "a plane has at least one slice"
    return Montage(image=sheet, plane=plane, slices=slices, count=count, rows=rows, columns=columns)


def spread(count: int, most: int) -> tuple[int, ...]:
    """Return at most so many of `count` slices, evenly spread.

    >>> spread(30, 3), spread(2, 3)
    ((5, 15, 25), (0, 1))
    """
    shown = min(count, most)
    return tuple(((2 * np.arange(shown) + 1) * count // (2 * shown)).tolist())


def shared_window(volume: Volume, plane: str, slices: Sequence[int], window: str | None) -> str | None:
    """Return a window that shows slices of a volume alike.

    Where each would be shown by its own percentiles, they are shown from the lowest to the highest of these: what stands
    out in one slice alone keeps its contrast.

    Raises:
        ViewError, InputError: as `montage`.
    """
    if not (volume.slice(plane, slices[0], window=window).window or "").startswith("percentiles"):
        return window
    ends = []
    for index in slices:
        values = volume.values(plane, index)
        if (finite := values[np.isfinite(values)]).size:
            ends.append(np.percentile(finite, PERCENTILES))
    low, high = (float(np.min(ends)), float(np.max(ends))) if ends else (0.0, 0.0)
    return f"{(low + high) / 2:f},{high - low:f}" if high > low else window


def _tile(pixels: Image, spacing: tuple[float, float], side: int, text: str) -> Image:
    """One slice under its number."""
    extent = np.array(pixels.shape[:2]) * spacing
    height, width = (max(1, round(float(length))) for length in extent / extent.max() * side)
    sheet = Pillow.new("RGB", (width, height + STRIP), _GROUND)
    sheet.paste(Pillow.fromarray(pixels).resize((width, height), Pillow.Resampling.BILINEAR), (0, STRIP))
    font = ImageFont.load_default(STRIP - 6)
    ImageDraw.Draw(sheet).text((3, STRIP / 2), text, fill=_INK, font=font, anchor="lm")
    return np.asarray(sheet)
