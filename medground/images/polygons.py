"""Polygons as masks: a pixel belongs to a polygon if its centre lies inside, by the even-odd rule."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medground.geometry import Size


def polygon_mask(polygons: Sequence[NDArray[np.float64]], size: Size) -> NDArray[np.bool_]:
    """Return the union of polygons, each V×2 of (x, y) in pixels, as H×W bool.

    >>> square = np.array([[1.0, 0.0], [3.0, 0.0], [3.0, 2.0], [1.0, 2.0]])
    >>> polygon_mask([square], (3, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    height, width = size
    mask = np.zeros(size, np.bool_)
    for polygon in polygons:
        start, end = polygon, np.roll(polygon, -1, axis=0)
        top = max(0, int(np.floor(max(polygon[:, 1].min(), 0))))
        bottom = min(height, int(np.ceil(min(polygon[:, 1].max(), height))))
        for row in range(top, bottom):
            centre = row + 0.5
            crossing = (start[:, 1] <= centre) != (end[:, 1] <= centre)
            (x1, y1), (x2, y2) = start[crossing].T, end[crossing].T
            # The first pixel whose centre lies right of each crossing.
            edges = np.ceil(np.sort(x1 + (centre - y1) * (x2 - x1) / (y2 - y1)) - 0.5).clip(0, width).astype(int)
            for left, right in zip(edges[::2], edges[1::2], strict=True):
                mask[row, left:right] = True
    return mask
