"""Label maps: several regions in one picture, each pixel the number of its region."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

PALETTE = ((70, 195, 255), (255, 221, 64), (255, 112, 112), (120, 220, 130), (200, 140, 255), (255, 165, 60))
"""Colours of regions 1, 2, ... in a PNG, over and over."""


def label_map(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint16]:
    """Return H x W the number of the region, from 1, at each pixel: of several the first; 0 where there is none.

    >>> label_map([np.array([[True, True, False]]), np.array([[False, True, True]])]).tolist()
    [[1, 1, 2]]
    """
    labels = np.zeros(masks[0].shape, np.uint16)
    for number in range(len(masks), 0, -1):
        labels[masks[number - 1]] = number
    return labels


def write_label_map(path: Path, labels: NDArray[np.uint16]) -> None:
    """Write a label map as a PNG, whatever the suffix: 8 bits and coloured up to region 255, else 16 bits of grey."""
    if labels.max(initial=0) > 255:
        picture = Pillow.fromarray(labels)
    else:
        picture = Pillow.fromarray(labels.astype(np.uint8))
        picture.putpalette([0, 0, 0, *(value for number in range(255) for value in PALETTE[number % len(PALETTE)])])
    picture.save(path, "PNG")
