"""Names of files as sources write them: kept inside the source's folder, and made fit for results."""

import re
import struct
from pathlib import Path
from typing import Any

from medground.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
"""Of pictures, lower case."""
DICOM_SUFFIXES = (".dcm", ".dicom")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
PREAMBLE = 132
"""Bytes of a DICOM file up to the end of its magic number."""
IMAGE_SUFFIXES = (*SUFFIXES, *DICOM_SUFFIXES, *NIFTI_SUFFIXES)
"""Of everything that can be an image."""


def is_image(path: Path) -> bool:
    """Return True if a file is named like an image of any kind that can be read."""
    return path.name.lower().endswith(IMAGE_SUFFIXES)


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder and its subfolders, sorted by path; DICOM files need no suffix and no preamble."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and (is_image(path) or _bare_dicom(path)))


def _bare_dicom(path: Path) -> bool:
    """Return True if a file is DICOM without the suffix, as archives export them; not their table of contents."""
    return path.name.upper() != "DICOMDIR" and is_dicom_content(path)


def is_dicom_content(path: Path) -> bool:
    """Return True if a file can be read and its first bytes are DICOM's, with or without a preamble."""
    try:
        with path.open("rb") as file:
            return dicom_start(file.read(PREAMBLE))
    except (OSError, ValueError):
        return False


def has_magic(start: bytes) -> bool:
    """Return True if the first `PREAMBLE` bytes of a file end with DICOM's magic number."""
    return start[128:PREAMBLE] == b"DICM"


def dicom_start(start: bytes) -> bool:
    """Return True if the first `PREAMBLE` bytes are of a DICOM file.

    One without preamble begins with a short element of group 2 or 8: a VR of text or numbers, or a small length.
    """
    if has_magic(start):
        return True
    for order in ("<", ">"):
        group, element, length = struct.unpack(f"{order}HHI", start[:8].ljust(8, b"\xff"))
        if group in (0x0002, 0x0008) and element <= 0x0018:
            return start[4:6] in (b"UL", b"CS", b"UI", b"OB", b"DA", b"TM", b"SH", b"LO") or length <= 64
    return False


def stem(name: str | Path) -> str:
    """Return the name of a path without its suffix; ``.nii.gz`` is one suffix.

    >>> stem("scans/case.7.nii.gz")
    'case.7'
    """
    last = Path(name).name
    return last[: -len(".nii.gz")] if last.lower().endswith(".nii.gz") else Path(last).stem


def safe_name(name: str) -> str:
    """Return a name fit to be a file's: separators and anything unusual become underscores.

    >>> safe_name("ward 3/left lung?.png")
    'ward_3_left_lung_.png'
    """
    return re.sub(r"[^\w.+-]+", "_", name).strip("._")[:120] or "unnamed"


def missing_name(name: str) -> str:
    """Return the name of a missing file for messages: that of a DICOM file may be its patient's and is not exposed.

    >>> missing_name("ward/doe_john.dcm"), missing_name("ward/lung.png")
    ('a DICOM file', 'ward_lung.png')
    """
    return "a DICOM file" if name.lower().endswith(DICOM_SUFFIXES) else safe_name(name)


def within(root: Path, name: Any, what: str = "a file") -> Path:
    """Return the path that `name`, a text relative to `root`, means; links are followed and stay under `root`.

    Raises:
        InputError: if it is no text, cannot be looked up, or lies outside `root`.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"names {what} by {str(name)[:80]!r}, not by a path")
    try:
        path = (root / name).resolve()
    except (OSError, ValueError) as error:
        raise InputError(f"names {what} that cannot be looked up") from error
    if not path.is_relative_to(root.resolve()):
        raise InputError(f"names {what} outside its folder")
    return path


def inside(root: Path, name: Any, what: str = "a file") -> Path:
    """Return the existing file that `name` means, as `within`.

    Raises:
        InputError: as `within`, or if there is no such file.
    """
    path = within(root, name, what)
    try:
        exists = path.is_file()
    except (OSError, ValueError) as error:
        raise InputError(f"names {what} that cannot be looked up") from error
    if not exists:
        raise InputError(f"names {what} that does not exist: {missing_name(name)}")
    return path
