"""Uploaded images: files with neutral names in a private folder, bounded in bytes, deleted when nobody asks about them."""

import secrets
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medground_serve.settings import Refusal

SUFFIXES = (".nii.gz", ".nii", ".dcm")
"""The suffixes that say how a file is read; every other kind is known by its content."""


@dataclass
class _Stored:
    path: Path
    size: int
    used: float


class ImageStore:
    """Images by their identifiers, which cannot be guessed.

    Args:
        folder: empty; holds one folder per image.
        most_bytes: of all images; the one that was not used for longest goes first.
        most_images: at once; likewise.
        seconds: without use after which an image is deleted.
        clock: tells the time, s.
    """

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int,
        most_images: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.most_bytes, self.most_images, self.seconds = folder, most_bytes, most_images, seconds
        self._clock = clock
        self._images: OrderedDict[str, _Stored] = OrderedDict()

    def __len__(self) -> int:
        return len(self._images)

    @property
    def bytes(self) -> int:
        """Of all images."""
        return sum(image.size for image in self._images.values())

    def put(self, stream: BinaryIO, name: str) -> str:
        """Store an image and return its identifier. Of its name, the suffix alone is used.

        Raises:
            Refusal: 507 if it cannot be written.
        """
        suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")

        def write(path: Path) -> None:
            with path.open("wb") as file:
                shutil.copyfileobj(stream, file)

        return self.add(f"image{suffix}", write)

    def put_series(self, streams: Sequence[BinaryIO]) -> str:
        """Store the files that make one image together, the slices of a DICOM series; return its identifier.

        Raises:
            Refusal: as `put`.
        """

        def write(path: Path) -> None:
            path.mkdir()
            for number, stream in enumerate(streams):
                with (path / f"{number:05}.dcm").open("wb") as file:
                    shutil.copyfileobj(stream, file)

        return self.add("series", write)

    def add(self, name: str, write: Callable[[Path], None]) -> str:
        """Store what `write` puts at the path that it is given, a file or a folder of files; return its identifier.

        Raises:
            Refusal: 507 if it cannot be written.
        """
        key = secrets.token_urlsafe(18)
        path = self.folder / key / name
        try:
            path.parent.mkdir(mode=0o700)
            write(path)
        except OSError as error:
            raise Refusal(507, f"the image cannot be stored: {error.strerror}") from None
        else:
            size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
            self._images[key] = _Stored(path, size, self._clock())
        finally:
            if key not in self._images:
                shutil.rmtree(path.parent, ignore_errors=True)
        while len(self) > 1 and (self.bytes > self.most_bytes or len(self) > self.most_images):
            self.delete(next(iter(self._images)))
        return key

    def has(self, key: str) -> bool:
        """Return True if an image is stored and has not expired."""
        self.expire()
        return key in self._images

    def path(self, key: str) -> Path:
        """Return where an image is, and count that as use.

        Raises:
            Refusal: 404 if there is none, or not any more.
        """
        if not self.has(key):
            raise Refusal(404, "there is no such image", "upload it again: images expire when nobody asks about them")
        self._images.move_to_end(key)
        self._images[key].used = self._clock()
        return self._images[key].path

    def delete(self, key: str) -> None:
        """Delete an image, if it is there."""
        if (image := self._images.pop(key, None)) is not None:
            shutil.rmtree(image.path.parent, ignore_errors=True)

    def expire(self) -> None:
        """Delete what was not used for too long."""
        end = self._clock() - self.seconds
        for key in [key for key, image in self._images.items() if image.used < end]:
            self.delete(key)
