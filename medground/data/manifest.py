"""Manifests: a line of JSON per target, its paths relative to the manifest and under its folder.

A line holds ``image`` and, of its target, ``mask`` (a file, or a COCO run-length object) or ``bbox_2d`` (x1, y1, x2, y2 in
pixels, half-open; ``bbox`` is the same). Optional are ``id``, ``question``, ``think`` (a reasoning trace), ``split``,
``point_2d`` ([[x, y], ...]), ``mask_value`` (the value of a label map that is meant), ``segment`` (of a DICOM
segmentation, a segment's number or label), ``size`` ([H, W]), ``spacing`` (mm per
pixel along y and x), and ``plane``, ``slice`` and ``window`` of DICOM and NIfTI. Any further text, number or truth value is
a label.

Every reader of a manifest parses it here. What is wrong with a line is collected in its record: who reads samples raises
the first flaw, the linter reports all of them.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.geometry import Box, Point
from medground.images.paths import inside
from medground.images.read import read_mask_in_view
from medground.images.rle import decode_rle
from medground.images.view import View

MANIFEST = "manifest.jsonl"
MAX_LINE = 10_000_000
"""Characters; a longer line is refused before it is parsed."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing that is wrong with a line."""

    code: str
    """A key of `medground.data.lint.findings.CODES`."""
    word: str
    """The word that is wrong; empty where the whole line is."""
    text: str
    """What is wrong, for example ``bbox_2d is not 4 finite numbers: [1, 2]``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """One line of a manifest as it is stated; its files are unread. A word that is wrong is None and among `flaws`."""

    number: int
    """Of the line, from 1."""
    id: str | None = None
    image: str | None = None
    """A path relative to the manifest."""
    mask: str | Mapping[str, Any] | None = None
    """A path relative to the manifest, or a COCO run-length object."""
    mask_value: int | None = None
    segment: int | str | None = None
    """Of a DICOM segmentation: a segment's number or label."""
    question: str | None = None
    think: str | None = None
    split: str | None = None
    box: Box | None = None
    points: tuple[Point, ...] = ()
    size: Any = None
    """As stated, unchecked."""
    spacing: tuple[float, float] | None = None
    plane: str | None = None
    slice: int | None = None
    window: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    flaws: tuple[Flaw, ...] = ()

    def refuse_flaws(self) -> None:
        """Raise if anything is wrong with the line.

        Raises:
            InputError: saying the first flaw.
        """
        if self.flaws:
            raise InputError(self.flaws[0].text)

    def view(self, window: str | None = None) -> View:
        """Return how the image is to be shown; `window` where the line names none.

        Raises:
            ViewError: for a plane or window that does not exist.
        """
        return View(plane=self.plane, slice=self.slice, window=self.window or window)


def manifest_file(path: str | Path) -> Path:
    """Return the manifest of a folder, or the file itself.

    Raises:
        InputError: if there is none.
    """
    manifest = Path(path).expanduser()
    if manifest.is_dir():
        manifest = manifest / MANIFEST
    if not manifest.is_file():
        raise InputError(f"{manifest} does not exist", hint=f"give a folder with {MANIFEST}, or the file")
    return manifest


def read_records(manifest: Path) -> Iterator[Record]:
    """Parse the lines of a manifest one by one; empty lines are passed over, bad ones come with their flaws."""
    with manifest.open(encoding="utf-8", errors="replace") as lines:
        number = 0
        while text := lines.readline(MAX_LINE + 1):
            number += 1
            if len(text) > MAX_LINE:
                while text and not text.endswith("\n"):
                    text = lines.readline(MAX_LINE)
                flaw = Flaw("not_json", "", f"longer than {MAX_LINE} characters")
                yield Record(number=number, flaws=(flaw,))
            elif text.strip():
                yield parse_record(text, number)


def parse_record(text: str, number: int) -> Record:
    """Parse one line of a manifest and check the kind of every word."""
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        return Record(number=number, flaws=(Flaw("not_json", "", "not JSON"),))
    if not isinstance(words, dict):
        return Record(number=number, flaws=(Flaw("not_json", "", "not a JSON object"),))
    values: dict[str, Any] = {}
    flaws = []
    for word, (convert, wrong) in _KINDS.items():
        if words.get(word) not in (None, "") and (value := convert(words[word])) is not None:
            values[word] = value
        elif words.get(word) not in (None, "") or word == "image":
            code = "missing_word" if word == "image" else "bad_number" if word in _NUMBERS else "bad_word"
            flaws.append(Flaw(code, word, f"{word} {wrong}: {_shown(words.get(word))}"))
    boxes = [values.pop(word) for word in ("bbox_2d", "bbox") if word in values]
    if len(set(boxes)) > 1:
        flaws.append(Flaw("bad_word", "bbox", f"bbox is not the box of bbox_2d: {_shown(words['bbox'])}"))
    if isinstance(values.get("mask"), dict) and "mask_value" in values:
        flaws.append(
            Flaw("bad_word", "mask_value", "mask_value selects a value of a label map, and mask is run lengths")
        )
    labels = {
        str(key): str(value)
        for key, value in words.items()
        if key not in _KINDS and key != "size" and type(value) in (str, int, float, bool) and value != ""
    }
    return Record(
        number=number, box=boxes[0] if boxes else None, points=values.pop("point_2d", ()), size=words.get("size"),
        labels=labels, flaws=tuple(flaws), **values,
    )  # fmt: skip


def finite_numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """Return a JSON list of `count` finite numbers as floats; None for anything else."""
    good = isinstance(values, list) and len(values) == count
    if not good or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        return None
    return tuple(float(value) for value in values)


def read_record_mask(record: Record, root: Path, view: View) -> NDArray[np.bool_]:
    """Read the mask that a record names, H×W bool.

    Args:
        record: with a mask.
        root: the manifest's folder.
        view: how its image is shown.

    Raises:
        InputError: if it cannot be read.
    """
    if isinstance(record.mask, Mapping):
        return decode_rle(record.mask)
    values = None if record.mask_value is None else (record.mask_value,)
    image = inside(root, record.image, "an image")
    return read_mask_in_view(inside(root, record.mask, "a mask"), view, values, image, record.segment)


def _of_types(*types: type) -> Callable[[Any], Any]:
    return lambda value: value if type(value) in types else None


def _box(value: Any) -> Box | None:
    numbers = finite_numbers(value, 4)
    return None if numbers is None else Box(*numbers)


def _points(value: Any) -> tuple[Point, ...] | None:
    pairs = [finite_numbers(pair, 2) for pair in value] if isinstance(value, list) else [None]
    return None if None in pairs else tuple(Point(*pair) for pair in pairs if pair is not None)


def _shown(value: Any) -> str:
    return "None" if value is None else repr(str(value)[:60])


_TEXT, _WHOLE = (_of_types(str), "is not text"), (_of_types(int), "is not a whole number")
_NUMBERS = ("bbox_2d", "bbox", "point_2d", "spacing")
_KINDS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "id": (lambda value: str(value) if type(value) in (str, int, float) else None, "is not text"),
    "image": (_of_types(str), "is not a path"),
    "mask": (lambda value: value if isinstance(value, (str, dict)) and value else None, "is no path and no run lengths"),
    "mask_value": _WHOLE, "segment": (_of_types(int, str), "is no number and no label"), "question": _TEXT,
    "think": _TEXT, "split": _TEXT, "plane": _TEXT, "slice": _WHOLE, "window": _TEXT,
    "bbox_2d": (_box, "is not 4 finite numbers"), "bbox": (_box, "is not 4 finite numbers"),
    "point_2d": (_points, "is not a list of pairs of finite numbers"),
    "spacing": (lambda value: finite_numbers(value, 2), "is not 2 finite numbers"),
}  # fmt: skip
"""Word -> (its value if it is of the right kind, else None; what is wrong otherwise)."""
