"""Read images and masks of any supported format: pictures, DICOM and NIfTI files. A file is opened and hashed once."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.geometry import Size
from medground.images import dicom, nifti
from medground.images.dicom_seg import Segment
from medground.images.loaded import ImageInfo, ImageKind, LoadedImage
from medground.images.paths import PREAMBLE, dicom_start, safe_name, stem
from medground.images.pictures import MAX_BYTES, decode_mask, decode_picture, encoded_size, open_file, printable
from medground.images.view import PLAIN, View
from medground.types import Image

Result = TypeVar("Result")
Inspect = Callable[[Path, View], ImageInfo]


def read_image(
    path: str | Path, *, plane: str | None = None, slice: int | None = None, window: str | None = None
) -> Image:
    """Read an image as H×W×3 uint8 RGB, upright: a picture, a DICOM file or one slice of a NIfTI volume.

    >>> read_image("scan.nii.gz", plane="axial", slice=40, window="lung").shape  # doctest: +SKIP
    (512, 512, 3)

    Args:
        path: the file; its suffix says its kind, DICOM's first bytes do too.
        plane: of a volume: ``axial``, ``coronal`` or ``sagittal``; never guessed.
        slice: of a volume, or the frame of a film, from 0; never guessed.
        window: of DICOM and NIfTI: how values become grey, see `medground.images.view.View`.

    Raises:
        ViewError: if a volume or a film comes without a plane or slice, or a picture with one.
        InputError: if the file is missing, damaged, of no known format or too large.
        PluginError: if the kind needs an extra that is not installed.
    """
    return open_image(path, View(plane=plane, slice=slice, window=window)).pixels


def open_image(path: str | Path, view: View = PLAIN) -> LoadedImage:
    """Identify, hash and decode an image file in one pass, as `view` asks. Raises as `read_image`."""
    path = Path(path)
    if nifti.is_nifti(path):
        return nifti.load(nifti.NiftiFile(path), view, image_id(path, view))
    return _read_stream(
        path,
        of_dicom=lambda file: dicom.load(file, view, _with_view(file.name, view)),
        of_picture=lambda stream: _load_picture(stream, path, view),
    )


def read_mask(
    path: str | Path,
    *,
    plane: str | None = None,
    slice: int | None = None,
    values: tuple[int, ...] | None = None,
    threshold: float | None = None,
    image: Path | None = None,
    segment: Segment | None = None,
) -> NDArray[np.bool_]:
    """Read a mask as H×W bool: the target by the rules of `medground.images.mask_values`.

    Args:
        path: the file.
        plane: of a volume, as `read_image`.
        slice: of a volume or film; of a DICOM segmentation, the frame of `image`.
        values: the labels that are meant.
        threshold: the least value that is meant, for example of probabilities.
        image: the image's file; a DICOM segmentation is matched to it.
        segment: of a DICOM segmentation, the number or the label of the segment that is meant.

    Raises:
        ViewError, InputError, PluginError: as `read_image`; `InputError` too if the target cannot be known.
    """
    path, view = Path(path), View(plane=plane, slice=slice)
    if segment is not None and image_kind(path) != "dicom":
        raise InputError(f"{safe_name(path.name)} is no DICOM segmentation and has no segments", hint="use mask_value")
    if nifti.is_nifti(path):
        return nifti.mask(path, view, values, threshold)
    return _read_stream(
        path,
        of_dicom=lambda file: dicom.mask(file, view, values, threshold, image, segment),
        of_picture=lambda stream: decode_mask(stream, printable(path.name), values, threshold),
    )


def inspect_image(path: Path, root: Path, view: View = PLAIN) -> ImageInfo:
    """Identify an image file under `root`; its pixels are decoded when `load` is called, from what was read here.

    The file of a DICOM image is read as a whole, and its content is held until the result is dropped.

    Raises:
        InputError: if the file cannot be read as `view` asks.
    """
    key = path.resolve().relative_to(root.resolve()).as_posix()
    labels = {} if view.window is None else {"window": view.window}
    if nifti.is_nifti(path):
        volume, name = nifti.NiftiFile(path, view.stack), image_id(path, view)
        placement = volume.placement(view)
        words = [str(word) for word in (view.stack, view.plane, view.slice) if word is not None]
        return ImageInfo(
            id=name, name=safe_name(path.name), load=partial(nifti.load, volume, view, name),
            key="/".join([key, *words]), group=key, spacing=volume.spacing(placement),
            labels={**labels, "plane": str(view.plane), "slice": str(view.slice)},
        )  # fmt: skip
    if not dicom.is_dicom(path):
        view.refuse_on(safe_name(path.name), "a picture", "plane", "slice")
        return ImageInfo(
            id=safe_name(stem(path)), name=safe_name(path.name), load=partial(open_image, path, view), key=key, group=key,
            labels=labels, file=path if view.window is None else None,
        )  # fmt: skip
    file = dicom.DicomFile.read(path)
    header, name = file.header(), _with_view(file.name, view)
    labels |= {"modality": header.modality} if header.modality else {}
    labels |= {"frame": str(view.slice)} if header.frames > 1 else {}
    return ImageInfo(
        id=name, name=file.name, load=partial(dicom.load, file, view, name), key=f"{file.name}/{view.slice or 0}",
        group=header.group or file.name, labels=labels, spacing=header.spacing,
    )  # fmt: skip


def inspect_repeated(root: Path) -> Inspect:
    """Return `inspect_image` for `root` with its last result remembered: masks of one image most often follow one another."""
    return lru_cache(maxsize=1)(lambda path, view: inspect_image(path, root, view))


def image_size(path: Path) -> Size:
    """Return (H, W) of an image as it is shown; of a picture by its header. Raises as `open_image`."""
    if image_kind(path) != "picture":
        return open_image(path).size
    with open_file(path) as stream:
        return encoded_size(stream.read(MAX_BYTES), safe_name(path.name))


def image_kind(path: Path) -> ImageKind:
    """Return the kind of an image file, by its name and, for DICOM, its magic number."""
    if nifti.is_nifti(path):
        return "nifti"
    return "dicom" if dicom.is_dicom(path) else "picture"


def image_id(path: Path, view: View = PLAIN) -> str:
    """Return what results about an image are called, without decoding it; see `LoadedImage.id`.

    Raises:
        InputError: if a DICOM file cannot be read.
    """
    return _with_view(dicom.neutral_id(path) if image_kind(path) == "dicom" else stem(path), view)


def _with_view(base: str, view: View) -> str:
    words = [base, view.stack, view.plane, view.slice]
    return safe_name("_".join(str(word) for word in words if word is not None))


def _load_picture(stream: BinaryIO, path: Path, view: View) -> LoadedImage:
    view.refuse_on(safe_name(path.name), "a picture", "plane", "slice")
    picture = decode_picture(stream, printable(path.name), view.window)
    details = {"window": picture.window} if picture.window else {}
    details |= {"orientation": "turned upright, by EXIF"} if picture.reoriented else {}
    return LoadedImage(
        id=_with_view(stem(path), view), kind="picture", pixels=picture.pixels, window=picture.window, details=details,
        reoriented=picture.reoriented,
    )  # fmt: skip


def _read_stream(
    path: Path, *, of_dicom: Callable[[dicom.DicomFile], Result], of_picture: Callable[[BinaryIO], Result]
) -> Result:
    """Open a file once, tell DICOM from a picture by its name or first bytes, and read it."""
    if dicom.has_suffix(path):
        return of_dicom(dicom.DicomFile.read(path))
    with open_file(path) as stream:
        if dicom_start(stream.read(PREAMBLE)):
            stream.seek(0)
            return of_dicom(dicom.DicomFile.parse(stream.read()))
        stream.seek(0)
        return of_picture(stream)
