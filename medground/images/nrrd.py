"""NRRD files as volumes. Needs ``medground[nrrd]``: pynrrd reads the header; voxels are read here, slab by slab."""

import gzip
import hashlib
import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError, PluginError, ViewError
from medground.images.paths import NRRD_SUFFIXES, safe_name, stem
from medground.images.placement import Floats, Sides
from medground.images.slabs import OrderedSlabs, check_claims, guarded, pick, skip, slab_bytes
from medground.images.volume import Instance, Origin, Volume
from medground.images.windows import Numbers, apply_range_window

_MAX_HEADER = 1_000_000
"""The most bytes of a header: one of 200 segments has about 100 kB."""
_FLIPS = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1), "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
"""Space -> what makes its axes those of LPS."""
_WORDS = {
    "i1": "signed char,int8,int8_t", "u1": "uchar,unsigned char,uint8,uint8_t",
    "i2": "short,short int,signed short,signed short int,int16,int16_t",
    "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t", "i4": "int,signed int,int32,int32_t",
    "u4": "uint,unsigned int,uint32,uint32_t",
    "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
    "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t", "f4": "float", "f8": "double",
}  # fmt: skip
_TYPES = {word: kind for kind, words in _WORDS.items() for word in words.split(",")}
_UNREADABLE = "save it as .nrrd with gzip or raw encoding, for example with 3D Slicer"


def import_nrrd() -> ModuleType:
    """Import pynrrd.

    Raises:
        PluginError: where it is not installed.
    """
    try:
        nrrd: ModuleType = importlib.import_module("nrrd")
    except ImportError as error:
        raise PluginError("reading NRRD needs pynrrd", hint="pip install 'medground[nrrd]'") from error
    return nrrd


def is_nrrd(path: Path) -> bool:
    """Return True if a file is named as NRRD."""
    return path.name.lower().endswith(NRRD_SUFFIXES)


class NrrdFile:
    """An NRRD file whose header was checked; one slab of its voxels is in memory at once.

    Args:
        path: of a file that holds header and voxels.
        stack: of a file with an axis that is not of space, the index along it.

    Raises:
        InputError: if it is damaged, of another encoding than gzip or raw, claims more than may be read or more than the
            file holds, or does not say how it lies in the patient.
        ViewError: if it has an axis that is not of space and `stack` names no index along it.
        PluginError: without pynrrd.
    """

    def __init__(self, path: Path, stack: int | None = None) -> None:
        self.path, self.name = path, safe_name(path.name)
        header, self.offset = _header(path, self.name)
        self.sizes = [int(size) for size in np.atleast_1d(header["sizes"])]
        encoding = str(header["encoding"]).lower()
        if encoding not in ("raw", "gzip", "gz"):
            raise InputError(f"{self.name} is encoded in a way that is not read", hint=_UNREADABLE)
        self.zipped = encoding != "raw"
        self.dtype = _dtype(header, self.name)
        affine, self.listed = _geometry(header, len(self.sizes), self.name)
        self.affine = affine
        sides = [size for axis, size in enumerate(self.sizes) if axis != self.listed]
        if min(self.sizes) < 1:
            raise InputError(f"{self.name} claims sizes of {self.sizes}", hint="export it again")
        self.sides: Sides = (sides[0], sides[1], sides[2])
        self.volumes = 1 if self.listed is None else self.sizes[self.listed]
        if stack is None and self.volumes > 1:
            raise ViewError(
                f"{self.name} holds {self.volumes} values per voxel", hint=f"choose one: stack=0 to {self.volumes - 1}"
            )
        if not 0 <= (stack or 0) < self.volumes:
            raise ViewError(f"{self.name} has no volume {stack}", hint=f"it has 0 to {self.volumes - 1}")
        self.stack = stack or 0
        self._ordered = OrderedSlabs(self._slabs)
        size = path.stat().st_size
        check_claims(self.name, self.sides, self.dtype.itemsize * self.volumes, size)
        needed = self.offset + math.prod(self.sizes) * self.dtype.itemsize
        if not self.zipped and size < needed:
            raise InputError(f"{self.name} is cut short: {size} of {needed} bytes", hint="copy or export it again")

    def plane(self, axis: int, index: int) -> Numbers:
        """Return the values across one axis. Raises `InputError` if the file is damaged."""
        if axis == 2:
            return self._ordered.slab(index) if self.zipped else next(self._slabs(index))
        return pick(self._slabs(), axis, index)

    def planes(self) -> Iterator[Numbers]:
        """Yield the values across k. Raises as `plane`."""
        return self._slabs()

    def grey(self, axis: int, index: int, window: str | None) -> tuple[NDArray[np.uint8], str, dict[str, object]]:
        """Return (grey, window in words, details) across one axis. Raises `ViewError` for the file's window: it has none."""
        return *apply_range_window(self.plane(axis, index), window, None, self.name), {"format": "NRRD"}

    def _slabs(self, first: int = 0) -> Iterator[Numbers]:
        """The voxels along the last axis of space, from slab `first` on."""
        # Where the axis that is not of space comes last, it parts the file into volumes; else every slab holds all of it.
        last = self.listed == 3
        inner = self.sizes[:2] if last or self.listed is None else self.sizes[:3]
        size = math.prod(inner) * self.dtype.itemsize
        start = (self.stack * self.sides[2] * last + first) * size
        with guarded(self.name), self._stream() as stream:
            if self.zipped:
                skip(stream, start)
            else:
                stream.seek(start, 1)
            for _ in range(first, self.sides[2]):
                slab = np.frombuffer(slab_bytes(stream, size, self.name), self.dtype).reshape(inner, order="F")
                yield slab if len(inner) == 2 else slab.take(self.stack, axis=self.listed)
            skip(stream, 1)  # to the end, where a zipped stream's checksum is compared

    @contextmanager
    def _stream(self) -> Iterator[IO[bytes]]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            if self.zipped:
                with gzip.GzipFile(fileobj=file) as stream:
                    yield stream  # type: ignore[misc]
            else:
                yield file


def nrrd_volume(path: Path, stack: int | None = None) -> Volume:
    """Return an NRRD file as a volume; see `medground.images.read_volume.read_volume`."""
    file = NrrdFile(path, stack)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    name = safe_name(stem(path)) + (f"_{file.stack}" if file.volumes > 1 else "")
    origin = Origin(instances=(Instance(path=path, digest=digest, frame=file.stack if file.volumes > 1 else None),))
    return Volume(id=name, kind="nrrd", shape=file.sides, affine=file.affine, voxels=file, origin=origin, group=name)


def _header(path: Path, name: str) -> tuple[dict[str, Any], int]:
    """(the fields of a header, the bytes before the voxels)."""
    nrrd = import_nrrd()
    if not path.is_file():
        raise InputError(f"{name} does not exist", hint="check the path")
    with guarded(name), path.open("rb") as file:
        lines, size = [], 0
        while line := file.readline(_MAX_HEADER - size):
            size += len(line)
            lines.append(line)
            if not line.strip():
                break
    if not lines or not lines[0].startswith(b"NRRD"):
        raise InputError(f"{name} is not an NRRD file", hint="export it again")
    if lines[-1].strip():
        raise InputError(f"{name} has a header without an end", hint="export it again")
    try:
        header = dict(nrrd.read_header(lines))
        missing = [field for field in ("type", "sizes", "encoding", "dimension") if field not in header]
    except (nrrd.NRRDError, ValueError, TypeError, StopIteration) as error:
        raise InputError(f"{name} has a damaged header", hint="export it again") from error
    if missing or len(np.atleast_1d(header["sizes"])) != header["dimension"]:
        raise InputError(f"{name} has an incomplete header", hint="export it again")
    if {"data file", "datafile"} & header.keys():
        raise InputError(f"{name} keeps header and voxels in two files", hint=_UNREADABLE)
    if any(header.get(field) for field in ("byte skip", "byteskip", "line skip", "lineskip")):
        raise InputError(f"{name} skips bytes before its voxels", hint=_UNREADABLE)
    return header, size


def _dtype(header: dict[str, Any], name: str) -> np.dtype[Any]:
    kind = _TYPES.get(str(header["type"]).lower())
    if kind is None:
        raise InputError(f"{name} holds voxels that are no numbers", hint="save it as integers or floats")
    dtype = np.dtype(kind)
    order = {"little": "<", "big": ">"}.get(str(header.get("endian")).lower())
    if dtype.itemsize > 1 and order is None:
        raise InputError(f"{name} does not say the order of its bytes", hint="export it again")
    return dtype if order is None else dtype.newbyteorder(order)  # type: ignore[arg-type]


def _geometry(header: dict[str, Any], dimension: int, name: str) -> tuple[Floats, int | None]:
    """(the affine to LPS mm, the axis that is not of space or None)."""
    flips = _FLIPS.get(str(header.get("space")).lower())
    if flips is None or "space directions" not in header or "space origin" not in header:
        raise InputError(
            f"{name} does not say how it lies in the patient: its space is not LPS, RAS or LAS, or has no directions",
            hint='if its axes run to the left, back and top, add the header lines "space: left-posterior-superior", '
            '"space directions: (SX,0,0) (0,SY,0) (0,0,SZ)" and "space origin: (0,0,0)"',
        )
    rows = [np.full(3, np.nan) if row is None else np.asarray(row, float) for row in header["space directions"]]
    listed = [axis for axis, row in enumerate(rows) if row.shape != (3,) or np.isnan(row).any()]
    if len(rows) != dimension or dimension - len(listed) != 3 or len(listed) > 1:
        raise InputError(f"{name} has {dimension - len(listed)} axes of space, not 3", hint="save one volume of it")
    units = {str(unit).lower() for unit in header.get("space units") or ()} - {"", "mm", "millimeter", "millimetre"}
    if units:
        raise InputError(f"{name} counts space in a unit other than mm", hint="save it in mm")
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row for axis, row in enumerate(rows) if axis not in listed], axis=1)
    affine[:3, 3] = header["space origin"]
    lps: Floats = np.diag([*map(float, flips), 1.0]) @ affine
    return lps, listed[0] if listed else None
