"""Manifests: a line of JSON per question, its paths relative to the manifest and under its folder.

A line holds ``image`` and, of its target, ``mask`` (a file, or a COCO run-length object) or ``bbox_2d`` (x1, y1, x2, y2 in
pixels, half-open; ``bbox`` is the same). Optional are ``id``, ``question``, ``think`` (a reasoning trace), ``split``,
``point_2d`` ([[x, y], ...]), ``mask_value`` (the value of a label map that is meant), ``mask_threshold`` (the least value of a
mask that is meant), ``segment`` (of a DICOM segmentation, a segment's number or label), ``size`` ([H, W] of the picture that
the numbers count), ``spacing`` (mm per pixel along y and x), and ``plane``, ``slice`` and ``window`` of DICOM and NIfTI.
``patient``, ``study``, ``volume`` and ``group`` name what may not part between splits. Any further text, number or truth
value is a label, unless its name is nearly one of these words: that is taken for a misspelling.

A question that does not mean exactly one target has ``regions`` instead: a list of objects that hold the words of a target
(``mask``, ``mask_value``, ``mask_threshold``, ``segment``, ``bbox_2d``, ``point_2d``) and perhaps a ``label``; ``[]`` says that
the target is absent. ``exhaustive`` lists the categories of which every instance in the image is marked, if there is any.

Every reader of a manifest parses it here. What is wrong with a line is collected in its record: who reads samples raises
the first flaw, the linter reports all of them.
"""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.data.json_text import JsonLine, id_text, read_json_lines, shown
from medground.data.splits import GROUPS, Owners, groups_of
from medground.errors import InputError, MedgroundError
from medground.geometry import Box, Point, Size
from medground.images.dicom import DicomFile, is_dicom
from medground.images.loaded import LoadedImage
from medground.images.mask_frames import in_frame_of, read_mask_of
from medground.images.paths import inside, within
from medground.images.rle import decode_rle
from medground.images.view import View

MANIFEST = "manifest.jsonl"


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
    mask_threshold: float | None = None
    segment: int | str | None = None
    """Of a DICOM segmentation: a segment's number or label."""
    question: str | None = None
    think: str | None = None
    split: str | None = None
    box: Box | None = None
    points: tuple[Point, ...] = ()
    size: Size | None = None
    """[H, W] of the picture that the numbers count."""
    spacing: tuple[float, float] | None = None
    plane: str | None = None
    slice: int | None = None
    window: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    flaws: tuple[Flaw, ...] = ()
    regions: "tuple[Record, ...] | None" = None
    """What the question means where that is not one target: a record of each, with the line's image; () where the target is
    absent. None where the line's own words state the one target."""
    label: str = ""
    """Of a region: what it is, in words."""
    exhaustive: tuple[str, ...] = ()
    """Categories of which every instance in the image is marked, see `medground.data.source_samples.SourceSample`."""

    @property
    def targets(self) -> "tuple[Record, ...]":
        """The records that state the targets: the regions, else the line itself."""
        return (self,) if self.regions is None else self.regions

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
    """Parse the lines of a manifest one by one; empty lines are passed over, bad ones come with their flaws.

    Raises:
        InputError: if the file cannot be read, or is no text.
    """
    return map(parse_record, read_json_lines(manifest))


def parse_record(line: JsonLine) -> Record:
    """Check the kind of every word of a line of a manifest."""
    words = line.value
    if line.problem or not isinstance(words, dict):
        return Record(number=line.number, flaws=(Flaw("not_json", "", line.problem or "not a JSON object"),))
    values, flaws = _parse(words, _KINDS)
    for word in words.keys() - _KINDS.keys():
        if near := difflib.get_close_matches(word.lower(), _KINDS, n=1, cutoff=0.8):
            flaws.append(
                Flaw("bad_word", word, f"{word} is no word of a manifest: write {near[0]}, or rename the label")
            )
    lists = {word: words[word] for word in ("regions", "exhaustive") if isinstance(words.get(word), (list, dict))}
    if "regions" in lists:
        values["regions"] = _regions(line.number, words, values.get("image"), flaws)
    if "exhaustive" in lists:
        values["exhaustive"] = _categories(words["exhaustive"], flaws)
    labels = {word: values.pop(word) for word in GROUPS if word in values} | {
        key: str(value)
        for key, value in words.items()
        if key not in _KINDS and type(value) in (str, int, float, bool) and value != ""
    }
    return Record(number=line.number, labels=labels, flaws=tuple(flaws), **values)


def _parse(words: Mapping[str, Any], kinds: Mapping[str, "_Kind"]) -> tuple[dict[str, Any], list[Flaw]]:
    """The fields of a record that an object of JSON states, and what is wrong with it."""
    values: dict[str, Any] = {}
    flaws = []
    for word, (convert, wrong) in kinds.items():
        if words.get(word) not in (None, "") and (value := convert(words[word])) is not None:
            values[word] = value
        elif words.get(word) not in (None, "") or word == "image":
            code = "missing_word" if word == "image" else "bad_number" if word in _NUMBERS else "bad_word"
            flaws.append(Flaw(code, word, f"{word} {wrong}: {shown(words.get(word))}"))
    boxes = [values.pop(word) for word in ("bbox_2d", "bbox") if word in values]
    if len(set(boxes)) > 1:
        flaws.append(Flaw("bad_word", "bbox", f"bbox is not the box of bbox_2d: {shown(words['bbox'])}"))
    elif boxes and (flaw := _impossible(boxes[0])):
        flaws.append(flaw)
    chosen = [word for word in ("mask_value", "mask_threshold") if word in values]
    if chosen and isinstance(values.get("mask"), dict):
        flaws.append(
            Flaw("bad_word", chosen[0], f"{chosen[0]} selects a value of a label map, and mask is run lengths")
        )
    if len(chosen) > 1:
        flaws.append(Flaw("bad_word", "mask_threshold", "mask_threshold and mask_value are both stated"))
    return {"box": boxes[0] if boxes else None, "points": values.pop("point_2d", ()), **values}, flaws


def _regions(number: int, words: Mapping[str, Any], image: str | None, flaws: list[Flaw]) -> tuple[Record, ...]:
    """The records of a line's regions; what is wrong with them is added to `flaws`."""
    stated = words["regions"]
    both = [word for word in _TARGET if word != "label" and words.get(word) not in (None, "")]
    if both:
        flaws.append(Flaw("bad_word", "regions", f"regions and {both[0]} are both stated"))
    if not isinstance(stated, list) or not all(isinstance(one, dict) for one in stated):
        flaws.append(Flaw("bad_word", "regions", f"regions is not a list of objects: {shown(stated)}"))
        return ()
    regions = []
    for index, one in enumerate(stated, start=1):
        values, wrong = _parse(one, _TARGET)
        wrong += [Flaw("bad_word", word, f"{word} is no word of a region") for word in one.keys() - _TARGET.keys()]
        if not wrong and "mask" not in values and values["box"] is None:
            wrong.append(Flaw("missing_word", "regions", "needs a mask or a bbox_2d"))
        flaws += [Flaw(flaw.code, flaw.word, f"region {index}: {flaw.text}") for flaw in wrong]
        regions.append(Record(number=number, image=image, **values))
    return tuple(regions)


def _categories(value: Any, flaws: list[Flaw]) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value):
        return tuple(value)
    flaws.append(Flaw("bad_word", "exhaustive", f"exhaustive is not a list of categories: {shown(value)}"))
    return ()


def _impossible(box: Box) -> Flaw | None:
    if box.width < 0 or box.height < 0:
        return Flaw("inverted_box", "bbox_2d", f"its box {list(box)} has its corners reversed")
    if box.width < 1 or box.height < 1:
        return Flaw("degenerate_box", "bbox_2d", f"its box {list(box)} is {box.width:g} x {box.height:g} px")
    return None


def misfits(record: Record, size: Size) -> Iterator[Flaw]:
    """Yield what of a line cannot be true of its image of `size` (H, W)."""
    height, width = size
    if record.size is not None and record.size != size:
        yield Flaw("size_stated", "size", f"it states the size {list(record.size)}, and its image is {list(size)}")
    for target in record.targets:
        box = target.box
        if box and box.clip(size) != box:
            yield Flaw("box_out_of_frame", "bbox_2d", f"its box {list(box)} leaves its image of {width} x {height} px")
        outside = next((point for point in target.points if not (0 <= point.x < width and 0 <= point.y < height)), None)
        if outside is not None:
            text = f"its point ({outside.x:g}, {outside.y:g}) leaves its image of {width} x {height} px"
            yield Flaw("point_out_of_frame", "point_2d", text)


def refuse_misfits(record: Record, image: LoadedImage) -> None:
    """Raise if what a line states cannot be true of its image, or cannot be known to be.

    Raises:
        InputError: saying the first flaw; for numbers of a picture that is stored turned, where neither a mask nor the
            size says which way up they count.
    """
    for flaw in misfits(record, image.size):
        raise InputError(flaw.text)
    upright = record.size == image.size != image.size[::-1]
    if image.reoriented and record.spacing and record.spacing[0] != record.spacing[1] and not upright:
        raise InputError(
            "its image is stored turned (EXIF), and its spacing may be that of the picture as stored or as shown",
            hint='state "size": [HEIGHT, WIDTH] of the picture that it counts; of a square one, save the picture upright',
        )
    if image.reoriented and any(target.mask is None for target in record.targets) and not upright:
        raise InputError(
            "its image is stored turned (EXIF), and its box may count the picture as stored or as shown",
            hint='state "size": [HEIGHT, WIDTH] of the picture that it counts; of a square one, save the picture upright',
        )


def owners_of(record: Record, root: Path) -> Owners:
    """Return what a line's sample belongs to: its labels' groups, its image, and a DICOM file's patient or series."""
    owners = {**groups_of(record.labels), "image": str(record.image)}
    with suppress(MedgroundError):  # who reads the image says what is wrong with it
        path = within(root, record.image)
        owners["image"] = path.relative_to(root.resolve()).as_posix()
        if is_dicom(path) and (group := DicomFile.read(path).header().group):
            owners["source"] = group
    return owners


def finite_numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """Return a JSON list of `count` finite numbers as floats; None for anything else."""
    if not isinstance(values, list) or len(values) != count or not all(type(value) in (int, float) for value in values):
        return None
    try:
        numbers = tuple(float(value) for value in values)
    except OverflowError:  # a whole number beyond every float
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def read_record_mask(record: Record, root: Path, view: View) -> NDArray[np.bool_]:
    """Read the mask that a record names in the frame of its image, H×W bool.

    Args:
        record: with an image and a mask.
        root: the manifest's folder.
        view: how its image is shown.

    Raises:
        InputError: if it cannot be read.
    """
    image = inside(root, record.image, "an image")
    if isinstance(record.mask, Mapping):
        return in_frame_of(image, decode_rle(record.mask))
    values = None if record.mask_value is None else (record.mask_value,)
    path = inside(root, record.mask, "a mask")
    return read_mask_of(image, path, view, values, record.mask_threshold, record.segment)


def _of_types(*types: type) -> Callable[[Any], Any]:
    return lambda value: value if type(value) in types else None


def _box(value: Any) -> Box | None:
    numbers = finite_numbers(value, 4)
    return None if numbers is None else Box(*numbers)


def _points(value: Any) -> tuple[Point, ...] | None:
    pairs = [finite_numbers(pair, 2) for pair in value] if isinstance(value, list) else [None]
    return None if None in pairs else tuple(Point(*pair) for pair in pairs if pair is not None)


def _number(value: Any) -> float | None:
    numbers = finite_numbers([value], 1)
    return None if numbers is None else numbers[0]


def _size(value: Any) -> Size | None:
    good = isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)
    return (value[0], value[1]) if good else None


def spacing_of(value: Any) -> tuple[float, float] | None:
    """Return a JSON list of two finite positive numbers, mm along y and x; None for anything else."""
    numbers = finite_numbers(value, 2)
    return None if numbers is None or min(numbers) <= 0 else (numbers[0], numbers[1])


_TEXT, _WHOLE = (_of_types(str), "is not text"), (_of_types(int), "is not a whole number")
_NUMBERS = ("bbox_2d", "bbox", "point_2d", "spacing", "size", "mask_threshold")
_Kind = tuple[Callable[[Any], Any], str]
_KINDS: Mapping[str, _Kind] = {
    **dict.fromkeys(("id", *GROUPS), (id_text, "is no text and no whole number")),
    "image": (_of_types(str), "is not a path"),
    "mask": (lambda value: value if isinstance(value, (str, dict)) and value else None, "is no path and no run lengths"),
    "mask_value": _WHOLE, "mask_threshold": (_number, "is not a finite number"),
    "segment": (_of_types(int, str), "is no number and no label"), "question": _TEXT, "think": _TEXT,
    "split": _TEXT, "plane": _TEXT, "slice": _WHOLE, "window": _TEXT,
    "bbox_2d": (_box, "is not 4 finite numbers"), "bbox": (_box, "is not 4 finite numbers"),
    "point_2d": (_points, "is not a list of pairs of finite numbers"),
    "spacing": (spacing_of, "is not 2 positive numbers"), "size": (_size, "is not [height, width] in whole pixels"),
}  # fmt: skip
"""Word -> (its value if it is of the right kind, else None; what is wrong otherwise)."""
_TARGET: Mapping[str, _Kind] = {
    "label": _TEXT,
    **{
        word: _KINDS[word]
        for word in ("mask", "mask_value", "mask_threshold", "segment", "bbox_2d", "bbox", "point_2d")
    },
}
"""The words of a region."""
