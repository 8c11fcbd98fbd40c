"""NIfTI volumes: one slice in radiological display, and masks back into the voxels they came from.

Slices are displayed as `medground.images.placement` says, counted in the file's own voxels, from 0: axial slice 40 of an
unrotated volume is ``data[:, :, 40]``. Needs ``medground[nifti]``.

Voxels are read slab by slab, never more than one slab at once, and only after the header's claims have been checked.
"""

import gzip
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError, ViewError
from medground.images.loaded import LoadedImage
from medground.images.mask_values import target_pixels, whole_numbers
from medground.images.nifti_header import read_header
from medground.images.paths import NIFTI_SUFFIXES, safe_name
from medground.images.pictures import MAX_BYTES
from medground.images.placement import RAS_LPS, Placement, Sides, directions, letters, place_view, spacing_of
from medground.images.slabs import check_claims, guarded, is_zipped, pick, skip, slab_bytes
from medground.images.view import View
from medground.images.windows import Numbers, apply_range_window, grey_to_rgb

MAX_LABELS = 3000
"""The most labels of a label map: FreeSurfer's finest has about 200 of values up to 14175."""
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Code of a unit of space in xyzt_units -> mm: unstated, metre, millimetre, micron."""


def is_nifti(path: Path) -> bool:
    """Return True if a file is named as NIfTI."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


class NiftiFile:
    """A NIfTI file whose header was checked; voxels are read when asked for.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        stack: of a file of several volumes, which of them, from 0; the fourth axis counts fastest.

    Raises:
        InputError: if the header is damaged, claims more than may be read or more than the file holds, or says nothing
            of how the volume lies in space.
        ViewError: if it holds several volumes and `stack` names none of them.
        PluginError: without nibabel.
    """

    affine: NDArray[np.float64]
    """4×4: a voxel (i, j, k, 1) to LPS mm, see `medground.images.placement`."""

    def __init__(self, path: Path, stack: int | None = None) -> None:
        self.path, self.name = path, safe_name(path.name)
        with guarded(self.name):
            self.header = read_header(path, self.name)
            shape = tuple(int(side) for side in self.header.get_data_shape())
            self.affine = self._in_lps(self.header.get_best_affine())
            self.dtype = np.dtype(self.header.get_data_dtype())
            slope, inter = self.header.get_slope_inter()
        self.shape = shape
        if not 2 <= len(shape) <= 7 or min(shape) < 1:
            raise InputError(f"{self.name} claims a shape of {shape}", hint="export it again")
        self.volumes = math.prod(shape[3:])
        self.stack = self._checked_stack(stack)
        colours = self.dtype.names == ("R", "G", "B")
        if not colours and (self.dtype.kind not in "iuf" or self.dtype.itemsize > 8):
            raise InputError(f"{self.name} holds voxels of type {self.dtype}", hint="save it as integers or floats")
        self.slope, self.inter = float(1.0 if slope is None else slope), float(0.0 if inter is None else inter)
        if not np.isfinite([self.slope, self.inter]).all() or self.slope == 0:
            raise InputError(f"{self.name} has a scale slope of {self.slope:g}", hint="export it again")
        self.sides: Sides = (shape[0], shape[1], shape[2] if len(shape) > 2 else 1)
        self._check_size()
        self._check_codes()
        axes = directions(self.affine)
        if axes is None:
            raise InputError(f"{self.name} does not say how it lies in space", hint="its affine is singular")
        self._directions = axes

    def _checked_stack(self, stack: int | None) -> int:
        last = self.volumes - 1
        if stack is None and last:
            raise ViewError(
                f"{self.name} holds several volumes: its shape is {self.shape}",
                hint=f"read one by medground.read_volume(PATH, stack=N), N from 0 to {last}, or save the one you mean",
            )
        if not 0 <= (stack or 0) <= last:
            raise ViewError(f"{self.name} has no volume {stack}", hint=f"it has 0 to {last}")
        return stack or 0

    def _check_size(self) -> None:
        size = self.path.stat().st_size
        check_claims(self.name, self.sides, self.dtype.itemsize, size)
        needed = self.offset + math.prod(self.sides) * self.dtype.itemsize * self.volumes
        if not is_zipped(self.path) and size < needed:
            raise InputError(f"{self.name} is cut short: {size} of {needed} bytes", hint="copy or export it again")

    @property
    def offset(self) -> int:
        """Bytes before the voxels."""
        start, least = float(self.header["vox_offset"]), int(self.header["sizeof_hdr"]) + 4
        if not np.isfinite(start) or not least <= start < MAX_BYTES or start != int(start):
            raise InputError(
                f"{self.name} says its voxels begin at byte {start:g}, and its header takes {least}",
                hint="export it again",
            )
        return int(start)

    def _in_lps(self, affine: NDArray[np.float64]) -> NDArray[np.float64]:
        """An affine of the header in mm and LPS; an unstated unit is taken for mm, as by ITK and FSL."""
        code = int(self.header["xyzt_units"]) & 7
        if code not in _MILLIMETRES:
            raise InputError(f"{self.name} counts space in an unknown unit: {code}", hint="export it again")
        scaled: NDArray[np.float64] = RAS_LPS @ affine * np.array([_MILLIMETRES[code]] * 3 + [1.0])[:, None]
        return scaled

    def _check_codes(self) -> None:
        """Refuse a header that does not say how the volume lies, or says it twice in two ways."""
        stated = [affine for affine in self.placements if np.isfinite(affine).all()]
        if not self.placements:
            raise InputError(
                f"{self.name} does not say how it lies in space: both of its codes are 0",
                hint='if its axes run to the left, front and top: python -c "import nibabel; '
                f"i = nibabel.load('{self.name}'); i.set_sform(i.affine, 1); nibabel.save(i, '{self.name}')\"",
            )
        if not np.isfinite(self.affine).all():
            raise InputError(f"{self.name} has an affine that is not finite", hint="export it again")
        codes = {letters(axes) if (axes := directions(affine)) else "a singular affine" for affine in stated}
        if len(codes) > 1:
            raise InputError(
                f"{self.name} says twice how it lies, {' and '.join(sorted(codes))}",
                hint="set the wrong one's code to 0",
            )

    @property
    def placements(self) -> list[NDArray[np.float64]]:
        """The affines that the header states with a code above 0, in LPS mm: sform, then qform."""
        stated = (self.header.get_sform(coded=True), self.header.get_qform(coded=True))
        return [self._in_lps(affine) for affine, code in stated if code > 0]

    @property
    def codes(self) -> str:
        """The directions of the voxel axes, for example ``RAS``."""
        return letters(self._directions)

    def placement(self, view: View) -> Placement:
        """Return where the picture that `view` names lies.

        Raises:
            ViewError: if it names no plane or no slice, or one that is not there.
        """
        return place_view(view, self.sides, self._directions, self.name)

    def spacing(self, placement: Placement) -> tuple[float, float]:
        """Return (row, column) of a picture, mm."""
        return spacing_of(self.affine, placement)

    def slabs(self, first: int = 0) -> Iterator[Numbers]:
        """Yield the stored voxels, X×Y at a time, along the last axis, from slab `first` on.

        Raises:
            InputError: if they end too soon.
        """
        x, y, z = self.sides
        size = x * y * self.dtype.itemsize
        start = self.offset + (self.stack * z + first) * size
        with guarded(self.name), self._stream() as stream:
            if isinstance(stream, gzip.GzipFile):
                skip(stream, start)
            else:
                stream.seek(start)
            for _ in range(first, z):
                yield np.frombuffer(slab_bytes(stream, size, self.name), self.dtype).reshape((x, y), order="F")
            skip(stream, 1)  # to the end, where a zipped file's checksum is compared

    def stored_plane(self, axis: int, index: int) -> Numbers:
        """Return the stored values across one axis, the other two axes in order.

        Reads one slab if it is all there is to it, else the whole file, so that one that is cut short is noticed.
        """
        if axis == 2 and not is_zipped(self.path):
            return next(self.slabs(index))
        return pick(self.slabs(), axis, index)

    def stored(self, placement: Placement) -> Numbers:
        """Return the stored values of a picture, H×W."""
        return placement.picture(self.stored_plane(placement.axis, placement.index))

    def values(self, placement: Placement) -> Numbers:
        """Return the values of a picture, H×W: scaled by the header's slope and intercept."""
        return self.scaled(self.stored(placement))

    def scaled(self, stored: Numbers) -> Numbers:
        """Return stored voxels scaled by the header's slope and intercept; colours as they are."""
        if (self.slope, self.inter) == (1.0, 0.0) or stored.dtype.kind == "V":
            return stored
        return stored * np.float64(self.slope) + self.inter

    def labels(self, stored: Numbers) -> Numbers:
        """Return stored voxels of a label map as integers; what the header's slope rounded is rounded back.

        Raises:
            InputError: for colours, NaN and fractions.
        """
        if stored.dtype.kind == "V":
            raise InputError(f"{self.name} is a colour volume, not a label map", hint="give a map of whole numbers")
        return whole_numbers(self.scaled(stored), self.name, self.slope if self.dtype.kind in "iu" else 0.0)

    @contextmanager
    def _stream(self) -> Iterator[IO[bytes]]:
        with self.path.open("rb") as file:
            if is_zipped(self.path):
                with gzip.GzipFile(fileobj=file) as stream:
                    yield stream  # type: ignore[misc]
            else:
                yield file

    @cached_property
    def window(self) -> tuple[float, float] | None:
        """(low, high) the file asks to be displayed by, in its values."""
        low, high = float(self.header["cal_min"]), float(self.header["cal_max"])
        return (low, high) if np.isfinite([low, high]).all() and high > low else None


def load(volume: NiftiFile, view: View, image_id: str) -> LoadedImage:
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
        grey, window = apply_range_window(values, view.window, volume.window, volume.name)
        pixels = grey_to_rgb(grey)
    spacing = volume.spacing(placement)
    details = {
        "format": "NIfTI", "plane": view.plane, "slice": view.slice, "window": window,
        "spacing_mm": [round(step, 6) for step in spacing],
        "voxels": list(volume.sides), "axes": volume.codes,
    }  # fmt: skip
    return LoadedImage(id=image_id, kind="nifti", pixels=pixels, spacing=spacing, window=window, details=details)


def mask(
    path: Path,
    view: View,
    values: tuple[int, ...] | None = None,
    threshold: float | None = None,
    placement: Placement | None = None,
) -> NDArray[np.bool_]:
    """Return one slice of a mask as H×W bool: the target by the rules of `medground.images.mask_values`.

    The labels of the whole volume decide which rule applies, so that all of its slices are read alike.

    Args:
        path: the label map.
        view: names the slice.
        values: the labels that are meant.
        threshold: the least value that is meant.
        placement: where the slice lies, instead of where `view` says.

    Raises:
        ViewError, InputError, PluginError: as `load`; `InputError` too if the target cannot be known.
    """
    volume = NiftiFile(path)
    placement = placement or volume.placement(view)
    if threshold is not None and volume.dtype.kind != "V":
        return target_pixels(volume.values(placement), volume.name, threshold=threshold)
    if values is not None:
        return np.isin(volume.labels(volume.stored(placement)), values)
    present: set[int] = set()
    labels = placement.picture(pick(_counted(volume, present), placement.axis, placement.index))
    return target_pixels(labels, volume.name, present=np.array(sorted(present)))


def _counted(volume: NiftiFile, present: set[int]) -> Iterator[Numbers]:
    """The labels of a volume, slab by slab; they are added to `present`."""
    for slab in map(volume.labels, volume.slabs()):
        present.update(np.unique(slab).tolist())
        if len(present) > MAX_LABELS:
            raise InputError(f"the mask {volume.name} holds more than {MAX_LABELS} labels", hint="give a label map")
        yield slab
