"""NIfTI volumes: one slice in radiological display, and masks back into the voxels they came from.

Display, whatever the axes of the file: **axial** and **coronal** show the patient's right on the left of the picture,
**sagittal** shows anterior on the left; anterior (axial) or superior (coronal, sagittal) is up. Planes are the voxel
axes nearest to the anatomical ones; nothing is resampled. A slice is counted in the file's own voxels, from 0: axial
slice 40 of an unrotated volume is ``data[:, :, 40]``. Needs ``medground[nifti]``.

Voxels are read slab by slab, never more than one slab at once, and only after the header's claims have been checked.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError, MedgroundError, PluginError, ViewError
from medground.images.loaded import LoadedImage
from medground.images.paths import NIFTI_SUFFIXES, safe_name
from medground.images.pictures import MAX_BYTES, MAX_PIXELS, Numbers
from medground.images.view import View
from medground.images.windows import apply_window, describe_window, grey_to_rgb, window_grey

MAX_VOXEL_BYTES = 2_000_000_000
"""The most bytes of voxels a header may claim: a whole-body CT has 0.6e9."""
_NORMAL = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Plane -> the anatomical axis across it: 0 left-right, 1 back-front, 2 foot-head."""
_ACROSS = {"sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}
"""Plane -> the anatomical axes along the picture's columns and rows. Both run against RAS+ order: to the left or to the back,
and to the back or down."""


def is_nifti(path: Path) -> bool:
    """Return True if a file is named as NIfTI."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Placement:
    """How a picture lies in a volume: undoes what showing it did."""

    axis: int
    """The voxel axis across it."""
    index: int
    transpose: bool
    """True if rows and columns are exchanged, from voxel order to the picture."""
    flip_rows: bool
    flip_columns: bool

    def picture(self, plane: Numbers) -> Numbers:
        """Return the remaining two voxel axes, in their order, as H×W."""
        out = plane.T if self.transpose else plane
        return out[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def plane(self, picture: Numbers) -> Numbers:
        """Invert `picture`."""
        out = picture[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return out.T if self.transpose else out


class Volume:
    """A NIfTI file whose header was checked; voxels are read when asked for.

    Args:
        path: ``.nii`` or ``.nii.gz``.

    Raises:
        InputError: if the header is damaged, claims more than may be read or more than the file holds, or says nothing
            of how the volume lies in space.
        PluginError: without nibabel.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, safe_name(path.name)
        with self._guard():
            self.header = _header(path, self.name)
            shape = tuple(int(side) for side in self.header.get_data_shape())
            self.affine: NDArray[np.float64] = self.header.get_best_affine()
            self.dtype = np.dtype(self.header.get_data_dtype())
            slope, inter = self.header.get_slope_inter()
        self.shape = shape
        if not 2 <= len(shape) <= 7 or min(shape) < 1:
            raise InputError(f"{self.name} claims a shape of {shape}", hint="export it again")
        if int(np.prod([float(side) for side in shape[3:]])) > 1:
            raise InputError(f"{self.name} holds several volumes: its shape is {shape}", hint="save the one you mean")
        if self.dtype.kind not in "iufV" or (self.dtype.kind == "V" and self.dtype.names != ("R", "G", "B")):
            raise InputError(f"{self.name} holds voxels of type {self.dtype}", hint="save it as integers or floats")
        self.slope, self.inter = float(1.0 if slope is None else slope), float(0.0 if inter is None else inter)
        if not np.isfinite([self.slope, self.inter]).all() or self.slope == 0:
            raise InputError(f"{self.name} has a scale slope of {self.slope:g}", hint="export it again")
        self.sides = (*shape[:3], 1)[:3] if len(shape) >= 3 else (*shape, 1)
        self._check_size()
        self._orientations = self._orientation()

    def _check_size(self) -> None:
        x, y, z = (float(side) for side in self.sides)
        if x * y * z * self.dtype.itemsize > MAX_VOXEL_BYTES or max(x * y, x * z, y * z) > MAX_PIXELS:
            raise InputError(
                f"{self.name} claims {x:g} x {y:g} x {z:g} voxels of {self.dtype.itemsize} bytes",
                hint=f"the limit is {MAX_VOXEL_BYTES / 1e9:g} GB and {MAX_PIXELS / 1e6:.0f} megapixels a slice; crop it",
            )
        needed = self.offset + int(x * y * z) * self.dtype.itemsize
        size = self.path.stat().st_size
        if not _zipped(self.path) and size < needed:
            raise InputError(f"{self.name} is cut short: {size} of {needed} bytes", hint="copy or export it again")
        if size > MAX_BYTES * 4:
            raise InputError(f"{self.name} takes {size / 1e6:.0f} MB", hint="crop it")

    @property
    def offset(self) -> int:
        """Bytes before the voxels."""
        start = float(self.header["vox_offset"])
        if not np.isfinite(start) or not 0 <= start < MAX_BYTES:
            raise InputError(f"{self.name} says its voxels begin at byte {start:g}", hint="export it again")
        return int(start)

    def _orientation(self) -> NDArray[np.float64]:
        """Per voxel axis: its anatomical axis, and 1 or -1 along or against it."""
        if not np.isfinite(self.affine).all():
            raise InputError(f"{self.name} has an affine that is not finite", hint="export it again")
        orientations: NDArray[np.float64] = _nibabel().orientations.io_orientation(self.affine)
        if not np.isfinite(orientations).all():
            raise InputError(f"{self.name} does not say how it lies in space", hint="its affine is singular")
        return orientations

    @property
    def codes(self) -> str:
        """The directions of the voxel axes, for example ``RAS``."""
        return "".join(["LR", "PA", "IS"][int(axis)][int(sign > 0)] for axis, sign in self._orientations)

    def placement(self, view: View) -> Placement:
        """Return where the picture that `view` names lies.

        Raises:
            ViewError: if it names no plane or no slice, or one that is not there.
        """
        if view.plane is None or view.slice is None:
            known = "" if view.plane is None else f" 0 to {self.sides[self._axis(_NORMAL[view.plane])] - 1}"
            missing = " and ".join(word for word in ("plane", "slice") if getattr(view, word) is None)
            raise ViewError(
                f"{self.name} is a volume of {' x '.join(map(str, self.sides))} voxels: name the {missing}",
                hint=f"--plane axial, coronal or sagittal, and --slice{known or ' N'}",
            )
        across = self._axis(_NORMAL[view.plane])
        if view.slice >= self.sides[across]:
            raise ViewError(
                f"{self.name} has no {view.plane} slice {view.slice}", hint=f"it has 0 to {self.sides[across] - 1}"
            )
        columns, rows = (self._axis(axis) for axis in _ACROSS[view.plane])
        return Placement(
            axis=across,
            index=view.slice,
            transpose=columns < rows,
            flip_rows=bool(self._orientations[rows, 1] > 0),
            flip_columns=bool(self._orientations[columns, 1] > 0),
        )

    def _axis(self, anatomical: int) -> int:
        """The voxel axis of an anatomical one."""
        return int(np.flatnonzero(self._orientations[:, 0] == anatomical)[0])

    def spacing(self, placement: Placement) -> tuple[float, float]:
        """Return (row, column) of a picture, mm."""
        steps = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        first, second = (float(steps[axis]) for axis in range(3) if axis != placement.axis)
        # The picture's rows run along the second remaining axis where it is transposed, so a step between rows is along it.
        return (second, first) if placement.transpose else (first, second)

    def slabs(self) -> Iterator[Numbers]:
        """Yield the stored voxels, X×Y at a time, along the last axis.

        Raises:
            InputError: if they end too soon.
        """
        x, y, z = self.sides
        size = x * y * self.dtype.itemsize
        with self._guard(), self._stream() as stream:
            _skip(stream, self.offset)
            for _ in range(z):
                data = _exactly(stream, size)
                if len(data) < size:
                    raise InputError(f"{self.name} is cut short", hint="copy or export it again")
                yield np.frombuffer(data, self.dtype).reshape((x, y), order="F")
            _skip(stream, 1)  # to the end, where a zipped file's checksum is compared

    def stored(self, placement: Placement) -> Numbers:
        """Return the stored values of a picture, H×W. Reads the whole file, so that one that is cut short is noticed."""
        slices = []
        for number, slab in enumerate(self.slabs()):
            if placement.axis == 2 and number == placement.index:
                slices.append(slab)
            elif placement.axis < 2:
                slices.append(slab.take(placement.index, axis=placement.axis))
        return placement.picture(slices[0] if placement.axis == 2 else np.stack(slices, axis=1))

    def values(self, placement: Placement) -> Numbers:
        """Return the values of a picture, H×W: scaled by the header's slope and intercept."""
        stored = self.stored(placement)
        if (self.slope, self.inter) == (1.0, 0.0) or stored.dtype.kind == "V":
            return stored
        return stored * np.float64(self.slope) + self.inter

    @contextmanager
    def _stream(self) -> Iterator[IO[bytes]]:
        with self.path.open("rb") as file:
            if _zipped(self.path):
                with gzip.GzipFile(fileobj=file) as stream:
                    yield stream  # type: ignore[misc]
            else:
                yield file

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except MedgroundError:
            raise
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"{self.name} is cut short or damaged", hint="copy or export it again") from error

    @cached_property
    def window(self) -> tuple[float, float] | None:
        """(low, high) the file asks to be displayed by, in its values."""
        low, high = float(self.header["cal_min"]), float(self.header["cal_max"])
        return (low, high) if np.isfinite([low, high]).all() and high > low else None


def load(volume: Volume, view: View, image_id: str) -> LoadedImage:
    """Decode one slice as H×W×3 uint8 RGB, in the display this module states.

    The window is the one `view` names, else the file's (``cal_min`` to ``cal_max``), else the slice's percentiles.

    Raises:
        ViewError: if no plane or no slice is named, or one that is not there.
        InputError: if the file is damaged.
    """
    placement = volume.placement(view)
    values = volume.values(placement)
    if values.dtype.kind == "V":
        view.refuse_on(volume.name, "a colour volume", "window")
        pixels, window = np.stack([values[channel] for channel in "RGB"], axis=-1), "colours as stored"
    else:
        grey, window = _windowed(volume, values, view.window)
        pixels = grey_to_rgb(grey)
    spacing = volume.spacing(placement)
    details = {
        "format": "NIfTI", "plane": view.plane, "slice": view.slice, "window": window,
        "spacing_mm": [round(step, 6) for step in spacing],
        "voxels": list(volume.sides), "axes": volume.codes,
    }  # fmt: skip
    return LoadedImage(id=image_id, kind="nifti", pixels=pixels, spacing=spacing, window=window, details=details)


def mask(
    path: Path, view: View, values: tuple[int, ...] | None = None, placement: Placement | None = None
) -> NDArray[np.bool_]:
    """Return one slice of a label map as H×W bool: where it holds one of `values`, or is not 0.

    Args:
        path: the label map.
        view: names the slice.
        values: the values that are foreground.
        placement: where the slice lies, instead of where `view` says.

    Raises:
        ViewError, InputError, PluginError: as `load`.
    """
    volume = Volume(path)
    stored = volume.values(placement or volume.placement(view))
    if stored.dtype.kind == "V":
        raise InputError(f"{volume.name} is a colour volume, not a label map", hint="give a map of whole numbers")
    return np.isin(stored, values) if values is not None else stored != 0


def write_mask(path: Path, source: Path, view: View, picture: NDArray[np.bool_]) -> None:
    """Write the mask of one shown slice as a volume of 0 and 1 with the source's shape, affine and header.

    Of the header, what describes the image's values and its free text is left out, and extensions, which may hold a whole
    DICOM header, are too.

    Raises:
        ValueError: if `picture` is not the size of that slice.
    """
    nibabel = _nibabel()
    volume = Volume(source)
    placement = volume.placement(view)
    voxels = np.zeros(volume.sides, np.uint8)
    plane = placement.plane(picture)
    target = np.moveaxis(voxels, placement.axis, 0)[placement.index]
    if plane.shape != target.shape:
        raise ValueError(f"a mask of {picture.shape} is not of this slice, {placement.picture(target).shape}")
    target[...] = plane
    header = volume.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        if field in header.keys():  # noqa: SIM118  a header is no mapping: `in` asks its bytes
            header[field] = b""
    header["cal_min"] = header["cal_max"] = 0
    header["intent_code"] = 0
    header.extensions.clear()
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    # An affine of None leaves both of the header's transforms, with their codes, as they are.
    nibabel.save(kind(voxels.reshape(volume.shape), None, header), path)


def _windowed(volume: Volume, values: Numbers, window: str | None) -> tuple[NDArray[np.uint8], str]:
    if window in (None, "file") and volume.window is not None:
        low, high = volume.window
        centre, width = (low + high) / 2, high - low
        return window_grey(values, centre, width, "LINEAR_EXACT"), describe_window("file", centre, width)
    if window == "file":
        raise ViewError(
            f"{volume.name} names no window", hint="take lung, bone, brain, soft_tissue, percentiles or CENTRE,WIDTH"
        )
    return apply_window(values, window or "percentiles")


def _nibabel() -> ModuleType:
    try:
        import nibabel
    except ImportError as error:
        raise PluginError("reading NIfTI needs nibabel", hint="pip install 'medground[nifti]'") from error
    return nibabel


def _header(path: Path, name: str) -> Any:
    nibabel = _nibabel()
    if not path.is_file():
        raise InputError(f"{name} does not exist", hint="check the path")
    opened = gzip.open if _zipped(path) else open
    with opened(path, "rb") as stream:
        start = stream.read(540)
    size = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    kinds = [
        kind
        for kind, length in ((nibabel.Nifti1Header, 348), (nibabel.Nifti2Header, 540))
        if size & {length} and len(start) >= length
    ]
    if not kinds:
        raise InputError(f"{name} is not a NIfTI file", hint="export it again, as .nii or .nii.gz")
    try:
        header = kinds[0](start[: 348 if kinds[0] is nibabel.Nifti1Header else 540], check=False)
        if header["magic"].item() not in (b"n+1", b"n+2", b"n+1\x00"):
            raise InputError(f"{name} keeps header and voxels in two files", hint="export it as .nii or .nii.gz")
        header.get_data_shape(), header.get_best_affine(), header.get_data_dtype(), header.get_slope_inter()
    except MedgroundError:
        raise
    except Exception as error:  # nibabel raises kinds of its own, of numpy and of struct on damaged headers
        raise InputError(f"{name} has a damaged header", hint="export it again") from error
    return header


def _zipped(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _skip(stream: IO[bytes], count: int) -> None:
    while count > 0 and (data := stream.read(min(count, 1 << 20))):
        count -= len(data)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    """`size` bytes, or fewer at the end; a zipped stream may give them in pieces."""
    chunks, count = [], 0
    while count < size and (data := stream.read(size - count)):
        chunks.append(data)
        count += len(data)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
