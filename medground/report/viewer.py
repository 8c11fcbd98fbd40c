"""A volume inside a page: three planes to scroll through, with its mask, and nothing loaded from elsewhere.

The grey values lie in one picture, the labels in another: tiles of rows j and columns i, one per k. The page's script reads
voxels from them and shows each plane as `medground.images.placement` says.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from medground.images.legend import ANSWER
from medground.images.montage import shared_window, spread
from medground.images.view import PLANES
from medground.images.volume import Volume

SIDE = 256
"""Voxels along each axis at most: of a longer one every second, third, ... voxel is shown."""
COLOURS = (ANSWER, (255, 149, 0), (100, 220, 130), (255, 105, 180), (190, 150, 255), (255, 221, 64))
"""Of the labels, from 1; they repeat."""
_WINDOWED = 16
"""Slices whose values decide the window where the file names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """What the template ``viewer.html`` shows."""

    grey: str
    """A ``data:`` address of the picture of grey values."""
    labels: str
    """Likewise of the labels, without loss."""
    geometry: str
    """JSON for the page's script: sides, steps, spacing, start, planes, colours."""
    planes: Sequence[tuple[str, int, int]]
    """(plane, how many slices it has, the slice that is shown first)."""
    legend: Sequence[tuple[str, str]]
    """(colour, name) of every label."""
    window: str
    """How values became grey, in words."""
    reduced: str
    """What was left out, in words; empty where every voxel is shown."""


def viewer(
    volume: Volume,
    labels: NDArray[np.uint8],
    names: Sequence[str] = (),
    *,
    start: tuple[int, int, int] | None = None,
    window: str | None = None,
) -> Viewer:
    """Return a volume and a label map of it for a page. Memory: the voxels that are shown, a byte each, twice.

    Args:
        volume: what is shown.
        labels: ``[i, j, k]``; 0 is background.
        names: of the labels, from 1.
        start: the voxel that is shown first; None is the middle.
        window: as `Volume.slice`; all slices have one.

    Raises:
        ValueError: if the labels are not of the volume's shape.
        ViewError: for a window that is not there.
        InputError: if the file is damaged or was changed.
    """
    if labels.shape != volume.shape:
        raise ValueError(f"labels of {labels.shape} do not fit a volume of {volume.shape}")
    steps = [-(-side // SIDE) for side in volume.shape]
    slices = range(0, volume.shape[2], steps[2])
    every = spread(volume.count(volume.plane), _WINDOWED)
    window = shared_window(volume, volume.plane, every, window)
    planes, words = [], ""
    for k in slices:
        grey, words, _ = volume.voxels.grey(2, k, window)
        planes.append(grey[:: steps[0], :: steps[1]])
    pooled = _pooled(labels, steps)
    first = start or tuple(side // 2 for side in volume.shape)
    placements = {plane: volume.placement(plane, 0) for plane in PLANES}
    sides = (*planes[0].shape, len(planes))
    geometry = {
        "sides": sides, "steps": steps, "first": [int(index) for index in first],
        "spacing": [step * space for step, space in zip(steps, volume.spacing, strict=True)],
        "columns": _columns(len(planes)), "colours": [list(colour) for colour in COLOURS],
        "planes": {
            plane: {
                "axis": one.axis, "rows": one.axes[0], "columns": one.axes[1], "flipRows": one.flip_rows,
                "flipColumns": one.flip_columns,
            }
            for plane, one in placements.items()
        },
    }  # fmt: skip
    shown, whole = (" x ".join(map(str, row)) for row in (sides, volume.shape))
    return Viewer(
        grey=_address(_tiled(planes), lossless=False),
        labels=_address(_tiled([pooled[:, :, k] for k in range(pooled.shape[2])]), lossless=True),
        geometry=json.dumps(geometry),
        planes=[(plane, volume.count(plane), int(first[one.axis])) for plane, one in placements.items()],
        legend=[("#{:02x}{:02x}{:02x}".format(*COLOURS[n % len(COLOURS)]), name) for n, name in enumerate(names)],
        window=words,
        reduced="" if shown == whole else f"{shown} of {whole} voxels are shown",
    )


def _pooled(labels: NDArray[np.uint8], steps: Sequence[int]) -> NDArray[np.uint8]:
    """The largest label of every block of voxels, so that nothing small vanishes."""
    for axis, step in enumerate(steps):
        labels = np.maximum.reduceat(labels, np.arange(0, labels.shape[axis], step), axis=axis)
    return labels


def _columns(count: int) -> int:
    return int(np.ceil(np.sqrt(count)))


def _tiled(planes: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Planes ``[i, j]`` side by side in rows, as a picture with i to the right."""
    width, height = planes[0].shape
    columns = _columns(len(planes))
    sheet = np.zeros((-(-len(planes) // columns) * height, columns * width), np.uint8)
    for number, plane in enumerate(planes):
        row, column = divmod(number, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = plane.T
    return sheet


def _address(sheet: NDArray[np.uint8], *, lossless: bool) -> str:
    from PIL import features

    kind = "png" if lossless else "webp" if features.check("webp") else "jpeg"
    stream = io.BytesIO()
    Pillow.fromarray(sheet).save(stream, kind, **({"optimize": True} if lossless else {"quality": 80}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
