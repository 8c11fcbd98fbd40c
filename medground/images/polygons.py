"""Polygons as masks: a pixel belongs to a polygon if its centre lies inside, by the even-odd rule."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medground.geometry import Size

_CROSSINGS = 4_000_000
"""Crossings of edges and rows that are held at once."""


def polygon_mask(polygons: Sequence[NDArray[np.float64]], size: Size) -> NDArray[np.bool_]:
    """Return the union of polygons, each V×2 of (x, y) in pixels, as H×W bool.

    >>> square = np.array([[1.0, 0.0], [3.0, 0.0], [3.0, 2.0], [1.0, 2.0]])
    >>> polygon_mask([square], (3, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    height, width = size
    starts = np.concatenate([np.zeros((0, 2)), *polygons])
    ends = np.concatenate([np.zeros((0, 2)), *(np.roll(polygon, -1, axis=0) for polygon in polygons)])
    owner = np.repeat(np.arange(len(polygons)), [len(polygon) for polygon in polygons])
    # An edge crosses the rows whose centre lies from its upper end to above its lower one.
    ys = np.sort([starts[:, 1], ends[:, 1]], axis=0)
    first, last = np.ceil(ys - 0.5).clip(0, height).astype(np.intp)
    mask = np.zeros(size, np.bool_)
    band = max(1, _CROSSINGS // max(1, len(owner)))
    for top in range(int(first.min(initial=height)), int(last.max(initial=0)), band):
        bottom = min(top + band, height)
        low = first.clip(top, bottom)
        counts = last.clip(top, bottom) - low
        edge = np.repeat(np.arange(len(owner)), counts)
        row = np.arange(len(edge)) - np.repeat(counts.cumsum() - counts - low, counts)
        (x1, y1), (x2, y2) = starts[edge].T, ends[edge].T
        crossing = x1 + (row + 0.5 - y1) * (x2 - x1) / (y2 - y1)
        # The first pixel whose centre lies right of each crossing.
        column = np.ceil(crossing - 0.5).clip(0, width).astype(np.intp)
        # Edges of one polygon in one row, from left to right: every other one enters it, the next one leaves.
        cells = (bottom - top) * (width + 1)
        inside = np.sort((owner[edge] * (bottom - top) + row - top) * (width + 1) + column) % cells
        steps = np.bincount(inside[::2], minlength=cells) - np.bincount(inside[1::2], minlength=cells)
        mask[top:bottom] = steps.reshape(bottom - top, width + 1).cumsum(axis=1)[:, :width] > 0
    return mask
