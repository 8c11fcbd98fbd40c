"""One door to every kind of image: pictures, DICOM and NIfTI files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medground.geometry import Size
from medground.images import dicom, nifti
from medground.images.paths import safe_name, stem
from medground.images.pictures import MAX_BYTES, encoded_size, read_picture, read_picture_mask
from medground.images.view import PLAIN, Shown, View
from medground.types import Image

Kind = Literal["picture", "dicom", "nifti"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An image found and checked by its header."""

    id: str
    """Fit to be a file name's stem; never the file name of a DICOM file."""
    name: str
    """What to call it in messages."""
    read: Callable[[], Image]
    key: str
    """Equal for views of one image."""
    group: str
    """The patient or the volume where the file says, else the image."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the file says: modality, plane, slice, frame, window."""
    spacing: tuple[float, float] | None = None
    """(row, column) in mm."""
    file: Path | None = None
    """The picture's file, where `read` gives the whole of it as it stands."""


def kind(path: Path) -> Kind:
    """What sort of image a file is, by its name and, for DICOM, its magic number."""
    if nifti.is_nifti(path):
        return "nifti"
    return "dicom" if dicom.is_dicom(path) else "picture"


def image_id(path: Path, view: View = PLAIN) -> str:
    """What results about an image are called: its file's stem, with the slice of a volume; a DICOM file's hash.

    Raises:
        InputError: if a DICOM file cannot be read.
    """
    base = dicom.neutral_id(path) if kind(path) == "dicom" else stem(path)
    words = [base, view.plane, None if view.slice is None else str(view.slice)]
    return safe_name("_".join(word for word in words if word is not None))


def show(path: Path, view: View = PLAIN) -> Shown:
    """Read an image as `view` asks.

    Raises:
        ViewError: if a volume or a film comes without a plane or slice, or `view` names what this kind has not.
        InputError: if it cannot be read.
        PluginError: without the extra its kind needs.
    """
    match kind(path):
        case "nifti":
            return nifti.show(path, view)
        case "dicom":
            return dicom.show(path, view, dicom.neutral_id(path))
        case "picture":
            view.refuse_on(safe_name(path.name), "a picture", "plane", "slice", "window")
            return Shown(image=read_picture(path), about={})


def picture_size(path: Path) -> Size:
    """(H, W) of an image as it is shown; of a picture by its header. Errors as `show`."""
    if kind(path) != "picture":
        shape = show(path).image.shape
        return shape[0], shape[1]
    with path.open("rb") as file:
        return encoded_size(file.read(MAX_BYTES), safe_name(path.name))


def read_any_mask(path: Path, view: View = PLAIN, values: tuple[int, ...] | None = None) -> NDArray[np.bool_]:
    """Read a mask, H×W bool: what is not 0, or of a label map what is one of `values`. Errors as `show`."""
    match kind(path):
        case "nifti":
            return nifti.mask(path, view, values)
        case "dicom":
            return dicom.mask(path, view, dicom.neutral_id(path))
        case "picture":
            return read_picture_mask(path, values)


def mask_view(mask: Path, view: View) -> View:
    """The part of its image's view that a mask shares: one that is a picture is a mask of that slice already."""
    return PLAIN if kind(mask) == "picture" else replace(view, window=None)


def opened(path: Path, root: Path, view: View) -> Opened:
    """Look at the header of an image file under `root`, from where its key is counted.

    Raises:
        InputError: if it cannot be read as `view` asks.
    """
    key = path.resolve().relative_to(root.resolve()).as_posix()
    read, name = Reading(path, view), safe_name(path.name)
    labels = {} if view.window is None else {"window": view.window}
    match kind(path):
        case "picture":
            view.refuse_on(name, "a picture", "plane", "slice", "window")
            return Opened(id=safe_name(stem(path)), name=name, read=read, key=key, group=key, file=path)
        case "dicom":
            name = dicom.neutral_id(path)
            known = dicom.header(path, name)
            labels |= {"modality": known.modality} if known.modality else {}
            if known.frames > 1:
                labels["frame"] = str(view.slice)
            return Opened(
                id=image_id(path, view), name=name, read=read, key=f"{name}/{view.slice or 0}", group=known.group or name,
                labels=labels, spacing=known.spacing,
            )  # fmt: skip
        case "nifti":
            volume = nifti.Volume(path)
            place = volume.placement(view)
            labels |= {"plane": str(view.plane), "slice": str(view.slice)}
            return Opened(
                id=image_id(path, view), name=name, read=read, key=f"{key}/{view.plane}/{view.slice}", group=key,
                labels=labels, spacing=volume.spacing(place),
            )  # fmt: skip


class Reading:
    """Reads an image as a view asks, and says afterwards which window made its greys."""

    def __init__(self, path: Path, view: View) -> None:
        self.path, self.view = path, view
        self.window: str | None = None
        """Known once the image has been read; None of a picture, which needs none."""

    def __call__(self) -> Image:
        """The image, H×W×3 uint8 RGB; errors as `show`."""
        shown = show(self.path, self.view)
        self.window = str(shown.about["window"]) if "window" in shown.about else None
        return shown.image
