"""Stored images as files and volumes: one slice of them, and what there is to choose."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medground.errors import MedgroundError, ViewError
from medground.images.dicom import DicomFile
from medground.images.loaded import LoadedImage
from medground.images.nifti import NiftiFile, is_nifti
from medground.images.nifti_header import import_nibabel
from medground.images.nifti_volume import NiftiVoxels
from medground.images.read import image_kind, open_image
from medground.images.read_volume import read_volume
from medground.images.slabs import is_zipped
from medground.images.view import PLANES, View
from medground.images.volume import Volume
from medground.images.windows import Numbers
from medground.images.writing.write import check_format

FORMATS = ("nifti", "seg")
"""In which masks can be downloaded, beside PNG."""
MOST_KEPT = 256_000_000
"""Bytes of the voxels of a zipped volume that stay in memory."""


class Opened:
    """Opens stored images; the volume that was opened last is kept."""

    def __init__(self) -> None:
        self._last: tuple[Path, Volume] | None = None

    def image(self, path: Path, view: View) -> LoadedImage:
        """Return one image: of a volume the slice that `view` names.

        Raises:
            ViewError: if it names none of a volume.
            MedgroundError: as `read_volume` and `open_image`.
        """
        volume = self.volume(path, view)
        if volume is None:
            return open_image(path, view)
        if view.plane is None or view.slice is None:
            raise ViewError("the files are slices of a volume", hint="name the plane and the slice")
        return volume.slice(view.plane, view.slice, window=view.window)

    def volume(self, path: Path, view: View) -> Volume | None:
        """Return the volume that a slice is of; None where `view` names one image: a picture, or a frame of a film."""
        if not path.is_dir() and (view.plane is None or not _is_volume(path)):
            return None
        return self.whole(path)

    def whole(self, path: Path) -> Volume:
        """Return the volume of a file or a folder. Raises as `read_volume`."""
        if self._last is None or self._last[0] != path:
            self._last = path, _read(path)
        return self._last[1]

    def choices(self, path: Path) -> tuple[dict[str, Any], View]:
        """Return (what there is to choose, the view that is shown first).

        ``planes`` is the number of slices of each plane, ``frames`` that of a film's frames, ``formats`` the reason why a mask
        cannot be written, or None where it can.

        Raises:
            MedgroundError: if it cannot be read.
        """
        volume, frames = self._volume_or_none(path), 0
        view = View()
        if volume is not None:
            view = View(plane=volume.plane, slice=volume.count(volume.plane) // 2)
        elif image_kind(path) == "dicom" and (frames := DicomFile.read(path).header().frames) > 1:
            view = View(slice=0)
        facts = {
            "planes": None if volume is None else {plane: volume.count(plane) for plane in PLANES},
            "frames": frames if frames > 1 else None,
            "modality": None if volume is None else volume.modality,
            "notes": [] if volume is None else list(volume.notes),
            "formats": {form: _reason(form, path if volume is None else volume, view) for form in FORMATS},
        }
        return facts, view

    def _volume_or_none(self, path: Path) -> Volume | None:
        """Return the volume of a folder or a file; None of pictures, single slices and films without a place in space."""
        if path.is_dir() or is_nifti(path):
            return self.volume(path, View(plane="axial"))
        if image_kind(path) != "dicom" or DicomFile.read(path).header().frames == 1:
            return None
        try:
            return self.volume(path, View(plane="axial"))
        except MedgroundError:
            return None


def _is_volume(path: Path) -> bool:
    if is_nifti(path):
        return NiftiFile(path).dtype.names is None  # a volume holds measured values, no colours
    return image_kind(path) == "dicom"


def _read(path: Path) -> Volume:
    try:
        volume = read_volume(path)
    except ViewError as error:
        raise ViewError(error.message, hint="send the files of one series, or a file of one volume") from None
    if isinstance(volume.voxels, NiftiVoxels) and is_zipped(path):
        size = np.prod(volume.shape) * volume.voxels.file.dtype.itemsize
        if size <= MOST_KEPT:
            return replace(volume, voxels=_Unzipped(volume.voxels.file))
    return volume


class _Unzipped(NiftiVoxels):
    """The voxels of a zipped file, unzipped once: any slice of any plane is at hand."""

    def __init__(self, file: NiftiFile) -> None:
        super().__init__(file)
        self._stored: Numbers | None = None

    def plane(self, axis: int, index: int) -> Numbers:
        """Return the scaled values across one axis. Raises `InputError` if the file is damaged."""
        if self._stored is None:
            self._stored = np.stack(list(self.file.slabs()), axis=2)
        return self.file.scaled(np.moveaxis(self._stored, axis, 0)[index])


def _reason(form: str, source: Path | Volume, view: View) -> str | None:
    try:
        if form == "nifti":
            import_nibabel()
        check_format(form, source, view=view)
    except MedgroundError as error:
        return error.message
    return None
