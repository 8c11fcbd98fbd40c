"""Read volumes of any supported format."""

import os
from collections.abc import Iterable
from pathlib import Path

from medground.errors import InputError, ViewError
from medground.images import dicom, nifti
from medground.images.dicom_volume import dicom_volume
from medground.images.nifti_volume import nifti_volume
from medground.images.nrrd import is_nrrd, nrrd_volume
from medground.images.paths import list_images, safe_name
from medground.images.volume import Volume

Source = str | os.PathLike[str]


def read_volume(path: Source | Iterable[Source], *, series: str | None = None, stack: int | None = None) -> Volume:
    """Read a volume: a folder or a list of DICOM slices, an enhanced multi-frame DICOM file, a NIfTI or an NRRD file.

    Headers are read at once, voxels when they are asked for. DICOM slices are sorted by their positions. A missing slice,
    a tilted gantry, or anything else that leaves the place of a voxel uncertain is refused, never guessed.

    >>> read_volume("ct/", series="series-1f0c9a3e5b7d").spacing  # doctest: +SKIP
    (0.7, 0.7, 2.5)

    Args:
        path: a folder (its subfolders too), a file, or a list of files. Of a folder, files without a picture are left out.
        series: of several DICOM series, the one that is meant: the name that the error lists, or the SeriesInstanceUID.
        stack: of several volumes in one, which of them, from 0: of a NIfTI or NRRD file of four dimensions, or of a
            DICOM series that holds phases, echoes or a scout.

    Raises:
        ViewError: if there are several series or stacks and none is chosen, or a chosen one is not there.
        InputError: if files are missing, damaged, coloured, or do not make one regular grid.
        PluginError: if the format needs an extra that is not installed.
    """
    if not isinstance(path, str | os.PathLike):
        return dicom_volume([Path(one) for one in path], series, stack, every=True)
    path = Path(path)
    if path.is_dir():
        paths = [file for file in list_images(path) if dicom.is_dicom(file)]
        if not paths:
            raise InputError("the folder holds no DICOM files", hint="give the path of one DICOM, NIfTI or NRRD file")
        return dicom_volume(paths, series, stack, every=False)
    if nifti.is_nifti(path) or is_nrrd(path):
        if series is not None:
            raise ViewError(f"{safe_name(path.name)} is no DICOM file and has no series", hint="leave the series out")
        return nifti_volume(path, stack) if nifti.is_nifti(path) else nrrd_volume(path, stack)
    if dicom.is_dicom(path):
        return dicom_volume([path], series, stack, every=True)
    raise InputError(
        f"{safe_name(path.name)} is no volume", hint="give a folder of DICOM slices, or a DICOM, NIfTI or NRRD file"
    )
