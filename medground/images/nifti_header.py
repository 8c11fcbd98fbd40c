"""The header of a NIfTI file."""

import gzip
from pathlib import Path
from types import ModuleType
from typing import Any

from medground.errors import InputError, MedgroundError, PluginError
from medground.images.slabs import is_zipped


def import_nibabel() -> ModuleType:
    """Import nibabel.

    Raises:
        PluginError: where it is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise PluginError("reading NIfTI needs nibabel", hint="pip install 'medground[nifti]'") from error
    return nibabel


def read_header(path: Path, name: str) -> Any:
    """Return nibabel's header of a file.

    Raises:
        InputError: if the file is missing, no NIfTI or damaged, or keeps its voxels in another file.
        PluginError: without nibabel.
    """
    nibabel = import_nibabel()
    if not path.is_file():
        raise InputError(f"{name} does not exist", hint="check the path")
    opened = gzip.open if is_zipped(path) else open
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
