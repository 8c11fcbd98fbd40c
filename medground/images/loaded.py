"""An image file as it was identified, and as it was read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medground.geometry import Size
from medground.types import Image

ImageKind = Literal["picture", "dicom", "nifti", "nrrd", "array"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedImage:
    """An image as it is shown, with all that was learnt by reading its file."""

    id: str
    """Names results: the file's stem with the slice of a volume; of a DICOM file a hash of its content."""
    kind: ImageKind
    pixels: Image
    """H×W×3 uint8 RGB."""
    spacing: tuple[float, float] | None = None
    """(row, column) in mm."""
    window: str | None = None
    """The window that made the greys, in words; None where none is needed."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """For results: JSON-ready. Holds no free text of the file."""
    reoriented: bool = False
    """True if the file stores the pixels turned or mirrored, by an EXIF orientation."""

    @property
    def size(self) -> Size:
        """(H, W) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageInfo:
    """An image file that was identified; its pixels are decoded by `load`."""

    id: str
    """As of `LoadedImage`; fit to be a file name's stem."""
    name: str
    """Names the file in messages; never the name of a DICOM file."""
    load: Callable[[], LoadedImage]
    """Decode the pixels; raises `InputError`."""
    key: str
    """Equal for views of one image."""
    group: str
    """The patient or the volume where the file says, else the image."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the file says: modality, plane, slice, frame, window."""
    spacing: tuple[float, float] | None = None
    """(row, column) in mm."""
    file: Path | None = None
    """The picture's file, if `load` returns the whole of it as it stands."""
