"""A volume of voxels that are in memory already."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from medground.images.paths import safe_name
from medground.images.placement import Floats
from medground.images.volume import Origin, Volume
from medground.images.windows import Numbers, apply_range_window


class ArrayVoxels:
    """The voxels of an array ``[i, j, k]``; `name` names it in messages."""

    def __init__(self, values: Numbers, name: str) -> None:
        self.values, self.name = values, name

    def plane(self, axis: int, index: int) -> Numbers:
        """Return the values across one axis."""
        return np.asarray(np.moveaxis(self.values, axis, 0)[index])

    def planes(self) -> Iterator[Numbers]:
        """Yield the values across k."""
        return iter(np.moveaxis(self.values, 2, 0))

    def grey(self, axis: int, index: int, window: str | None) -> tuple[NDArray[np.uint8], str, dict[str, object]]:
        """Return (grey, window in words, details) across one axis. Raises `ViewError` for the file's window: it has none."""
        return *apply_range_window(self.plane(axis, index), window, None, self.name), {"format": "array"}


def array_volume(values: Numbers, affine: Floats, *, id: str = "array") -> Volume:
    """Return an array as a volume.

    Args:
        values: ``[i, j, k]``, of numbers.
        affine: 4×4: (i, j, k, 1) to the LPS mm of the voxel's centre.
        id: names results.

    Raises:
        InputError: if the affine does not place voxels on perpendicular axes.
    """
    name = safe_name(id)
    first, second, third = values.shape
    return Volume(
        id=name, kind="array", shape=(first, second, third), affine=affine, voxels=ArrayVoxels(values, name),
        origin=Origin(instances=()),
    )  # fmt: skip
