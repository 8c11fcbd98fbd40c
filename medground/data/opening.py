"""One door to every kind of image: what a reader must know of one before its pixels are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from medground.data.images import read_image
from medground.data.places import safe_name, stem
from medground.types import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What of a volume or a film is shown, and how its values become grey."""

    plane: str | None = None
    """``axial``, ``coronal`` or ``sagittal``; of a volume only."""
    slice: int | None = None
    """The voxel index across the plane, or the frame of a film; from 0."""
    window: str | None = None
    """``lung``, ``bone``, ``brain``, ``soft_tissue``, ``file``, ``full``, ``percentiles`` or ``CENTRE,WIDTH``;
    of DICOM and NIfTI only."""


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
    spacing: tuple[float, float] | None = None
    """(row, column) in mm."""
    file: Path | None = None
    """The picture's file, where `read` gives the whole of it as it stands."""


def opened(path: Path, root: Path, view: View) -> Opened:
    """Look at the header of an image file under `root`, from where its key is counted.

    Raises:
        InputError: if it cannot be read as `view` asks.
    """
    key = path.resolve().relative_to(root.resolve()).as_posix()
    return Opened(
        id=safe_name(stem(path)), name=safe_name(path.name), read=partial(read_image, path), key=key, group=key,
        file=path,
    )  # fmt: skip
