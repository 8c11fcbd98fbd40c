"""Which slice of a volume fits a question best, from a picture of several slices under their numbers."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medground.types import Image
from medground_toy.proposals import fit, propose

_GRID = re.compile(r"in (\d+) rows of (\d+) tiles\. Above each tile stands the number of its slice; [^:]*: ([\d, ]+)\.")
_STRIP = 20
"""Pixels of a tile above its picture."""


class Tiles(NamedTuple):
    """Slices of a volume as tiles of one picture, row by row."""

    rows: int
    columns: int
    slices: list[int]


def tiles_of(prompt: str) -> Tiles | None:
    """Return the tiles that a prompt states; None for one that asks something else."""
    match = _GRID.search(prompt)
    if match is None:
        return None
    return Tiles(int(match[1]), int(match[2]), [int(number) for number in match[3].split(",")])


def tile_fits(image: Image, tiles: Tiles, words: Sequence[str]) -> NDArray[np.float64]:
    """Return how well each of the slices shown fits the words: by its best region, and by how large that is.

    Tiles are compared, so light counts from black to white, not within a tile.
    """
    height, width = image.shape[0] // tiles.rows, image.shape[1] // tiles.columns
    fits = []
    for number in range(len(tiles.slices)):
        row, column = divmod(number, tiles.columns)
        tile = image[row * height + _STRIP : (row + 1) * height, column * width : (column + 1) * width]
        lights = ((one, np.mean([tile[int(y), int(x)].mean() for x, y in one.points])) for one in propose(tile))
        regions = [replace(one, light=float(grey) / 127.5 - 1) for one, grey in lights]
        fits.append(max(fit(one, list(words)) + one.size for one in regions))
    return np.array(fits)
