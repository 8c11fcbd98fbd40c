"""Labels that people saved: files in a folder of theirs, one folder per image."""

import hashlib
import json
from pathlib import Path
from typing import BinaryIO

from medground.images.paths import safe_name
from medground.runs.files import replacing
from medground_serve.settings import Refusal

SUFFIXES = {b"NRRD": ".nrrd", b"\x1f\x8b": ".nii.gz", b"\x5c\x01\0\0": ".nii"}
"""How a file begins -> its suffix."""


class LabelFolder:
    """Saves labels.

    Args:
        folder: where to; None refuses them.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def save(self, image: str, tag: str, stream: BinaryIO, params: str) -> None:
        """Write a label and what its sender says about it; the label that was there before is replaced.

        Raises:
            Refusal: 403 without a folder, 422 for a file that cannot be used, 507 if it cannot be written.
        """
        stem = self._stem(image, tag)
        try:
            about = json.loads(params)
        except ValueError:
            raise Refusal(422, "params is no JSON object", 'send {"label_info": []}') from None
        head = stream.read(4)
        suffix = next((suffix for start, suffix in SUFFIXES.items() if head.startswith(start)), None)
        if suffix is None:
            raise Refusal(422, "the label is neither NRRD nor NIfTI", "send .nrrd or .nii.gz")
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            with replacing(stem.with_name(stem.name + suffix)) as path, path.open("wb") as file:
                file.write(head)
                while block := stream.read(1 << 20):
                    file.write(block)
            for other in set(SUFFIXES.values()) - {suffix}:
                stem.with_name(stem.name + other).unlink(missing_ok=True)
            with replacing(stem.with_name(f"{stem.name}.json")) as path:
                path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise Refusal(507, f"the label cannot be written: {error.strerror}") from None

    def read(self, image: str, tag: str) -> tuple[str, bytes]:
        """Return (file name, content) of a label.

        Raises:
            Refusal: 404 if there is none.
        """
        stem = self._stem(image, tag)
        for suffix in SUFFIXES.values():
            path = stem.with_name(stem.name + suffix)
            if path.is_file():
                return path.name, path.read_bytes()
        raise Refusal(404, "there is no such label")

    def _stem(self, image: str, tag: str) -> Path:
        if self.folder is None:
            raise Refusal(403, "labels are not saved here", "start the server with --labels FOLDER")
        return self.folder / file_name(image) / f"label-{file_name(tag)}"


def file_name(name: str) -> str:
    """Return a name that is a file's, another one for each name.

    >>> file_name("1.2.840.7"), file_name("../2: CT chest")
    ('1.2.840.7', '2_CT_chest-f232152b')
    """
    safe = safe_name(name)
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
