"""The bytes of a file of voxels, zipped or not, read slab by slab: X×Y voxels of one place along the last axis."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from medground.errors import InputError
from medground.images.pictures import MAX_BYTES, MAX_PIXELS
from medground.images.windows import Numbers

MAX_VOXEL_BYTES = 2_000_000_000
"""The most bytes of voxels a header may claim: a whole-body CT has 0.6e9."""


def check_claims(name: str, sides: tuple[int, int, int], itemsize: int, file_size: int) -> None:
    """Refuse a volume that claims more than may be read.

    Raises:
        InputError: if it is too large.
    """
    x, y, z = (float(side) for side in sides)
    if x * y * z * itemsize > MAX_VOXEL_BYTES or max(x * y, x * z, y * z) > MAX_PIXELS:
        raise InputError(
            f"{name} claims {x:g} x {y:g} x {z:g} voxels of {itemsize} bytes",
            hint=f"the limit is {MAX_VOXEL_BYTES / 1e9:g} GB and {MAX_PIXELS / 1e6:.0f} megapixels a slice; crop it",
        )
    if file_size > MAX_BYTES * 4:
        raise InputError(f"{name} takes {file_size / 1e6:.0f} MB", hint="crop it")


def pick(slabs: Iterable[Numbers], axis: int, index: int) -> Numbers:
    """Return what slabs along the last axis hold across one axis, the other two in order. Reads all slabs."""
    slices = []
    for number, slab in enumerate(slabs):
        if axis == 2 and number == index:
            slices.append(slab)
        elif axis < 2:
            slices.append(slab.take(index, axis=axis))
    return slices[0] if axis == 2 else np.stack(slices, axis=1)


class OrderedSlabs:
    """Slabs of a zipped file: asked for in rising order, they are unzipped once; any other order begins again.

    Args:
        slabs: yields all slabs from the first on.
    """

    def __init__(self, slabs: Callable[[], Iterator[Numbers]]) -> None:
        self._slabs = slabs
        self._rest: Iterator[Numbers] = iter(())
        self._next = 0

    def slab(self, index: int) -> Numbers:
        """Return one slab. Raises as `slabs`."""
        if index < self._next or self._next == 0:
            self._rest, self._next = self._slabs(), 0
        skipped = index - self._next
        self._next = 0  # until it is read: what fails begins again
        slab = next(islice(self._rest, skipped, None))
        self._next = index + 1
        return slab


@contextmanager
def guarded(name: str) -> Iterator[None]:
    """Raise `InputError` for bytes that cannot be read or unzipped."""
    try:
        yield
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{name} is cut short or damaged", hint="copy or export it again") from error


def slab_bytes(stream: IO[bytes], size: int, name: str) -> bytes:
    """Return the next `size` bytes.

    Raises:
        InputError: if the stream ends before.
    """
    data = read_exactly(stream, size)
    if len(data) < size:
        raise InputError(f"{name} is cut short", hint="copy or export it again")
    return data


def is_zipped(path: Path) -> bool:
    """Return True if a file is zipped by its first bytes; names are sometimes wrong."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def skip(stream: IO[bytes], count: int) -> None:
    """Read past `count` bytes."""
    while count > 0 and (data := stream.read(min(count, 1 << 20))):
        count -= len(data)


def read_exactly(stream: IO[bytes], size: int) -> bytes:
    """Return `size` bytes, or fewer at the end; a zipped stream may give them in pieces."""
    chunks, count = [], 0
    while count < size and (data := stream.read(size - count)):
        chunks.append(data)
        count += len(data)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
