"""The images of a dataset that is being built: each is written once, without the words of its file."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Pillow

from medground.data.duplicates import Fingerprint, fingerprint
from medground.data.source_samples import SourceSample
from medground.images.loaded import LoadedImage
from medground.images.pictures import png_bytes


@dataclass(frozen=True, slots=True, eq=False)
class WrittenImage:
    """An image of the dataset."""

    image: LoadedImage
    fingerprint: Fingerprint
    name: str
    """Of its file, in the dataset."""


class ImageWriter:
    """Writes every image once and remembers the last: that of the next source sample is most often the same."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._last: tuple[str, WrittenImage] | None = None

    def write(self, sample: SourceSample) -> WrittenImage:
        """Read and write the image of a source sample."""
        if self._last is None or self._last[0] != sample.image_key:
            self._last = None
            image = sample.load_image()
            print_ = fingerprint(image.pixels)
            self._last = sample.image_key, WrittenImage(image, print_, self._file(sample, image, print_.pixels[:16]))
        return self._last[1]

    def _file(self, sample: SourceSample, image: LoadedImage, digest: str) -> str:
        name = f"images/{digest}"
        for suffix in (".png", ".jpg"):
            if (self.work / f"{name}{suffix}").exists():
                return f"{name}{suffix}"
        if sample.file is not None and (suffix := _copied_as(sample.file) or ""):
            shutil.copyfile(sample.file, self.work / f"{name}{suffix}")
            return f"{name}{suffix}"
        (self.work / f"{name}.png").write_bytes(png_bytes(image.pixels))
        return f"{name}.png"


def _copied_as(file: Path) -> str | None:
    """Return the suffix under which a PNG or JPEG file is copied as it is; None if it carries words or is neither.

    EXIF, comments and text chunks may name a person: of such a file only the pixels are taken.
    """
    if file.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        return None
    with Pillow.open(file) as picture:
        words = {"exif", "comment", "xmp", "photoshop", "XML:com.adobe.xmp"} | set(getattr(picture, "text", {}))
        if words & picture.info.keys():
            return None
        return {"PNG": ".png", "JPEG": ".jpg"}.get(picture.format or "")
