"""COCO: a JSON file of images, annotations and categories; polygons, run lengths and compressed run lengths.

Several files are read together where ``medground data export`` wrote one per split; see `medground.data.coco_words`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.data.coco_words import CocoWords, is_export, read_coco_words, stated_split
from medground.data.json_text import id_text, read_json, shown
from medground.data.source_samples import BadSample, SourceRegion, SourceSample
from medground.data.splits import GROUPS
from medground.errors import InputError
from medground.geometry import Box, Point, Size
from medground.images.mask_frames import in_frame_of, stored_orientation
from medground.images.paths import inside, safe_name
from medground.images.pictures import MAX_BYTES
from medground.images.polygons import polygon_mask
from medground.images.read import Inspect, image_size, inspect_repeated
from medground.images.rle import decode_rle
from medground.images.view import PLAIN

MAX_VERTICES = 100_000
"""The most corners of one annotation."""


class CocoReader:
    """Reads one JSON file of images and annotations."""

    description: ClassVar[str] = "one JSON file of images and annotations"

    def recognises(self, root: Path) -> bool:
        """Return True for a .json file with images and annotations, or a folder with just one such file, or our export."""
        return _are_one_source(_tables(root))

    def read(
        self, root: Path, *, images: str | None = None, modality: str | None = None, question: str | None = None
    ) -> Iterator[SourceSample | BadSample]:
        """Yield a source sample per annotation; its ``bbox`` (x, y, width, height) is taken as the stated box.

        Of a file that ``medground data export`` wrote, samples have the targets, question, points, reasoning and split they
        had. Of any other, an image without annotations is one without targets, and where an image has LVIS's
        ``neg_category_ids``, its categories are exhaustive: those, and all that are annotated, but for its
        ``not_exhaustive_category_ids``.

        Args:
            root: the JSON file, or the folder that holds it.
            images: the images' folder, relative to the file's; None looks beside the file and in ``images/``.
            modality: of every image.
            question: asked of every sample that has none.
        """
        tables = _tables(root)
        if not _are_one_source(tables):
            names = ", ".join(path.name for path in tables) or "none"
            raise InputError(
                f"{root.name} does not hold one COCO file but {len(tables)}", hint=f"name the file: {names}"
            )
        for path in tables:
            yield from _samples(path, images, modality, question)


def _samples(
    path: Path, images: str | None, modality: str | None, question: str | None
) -> Iterator[SourceSample | BadSample]:
    """The samples of one file; see `CocoReader.read`."""
    table = read_json(path)
    folder, split = path.parent, stated_split(table)
    folders = [folder / images] if images is not None else [folder, folder / "images", folder.parent / "images"]
    inspect, frame_of = inspect_repeated(folder.parent), lru_cache(maxsize=1)(_frame)
    pictures, categories = _by_id(table, "images"), _by_id(table, "categories")
    exhaustive = _exhaustive(table, pictures, categories) if split is None else {}
    for number, annotations in _questions(table, split).items():
        where = f"{safe_name(path.name)} annotation {number}"
        name = ""
        parts, names = [], []
        try:
            for annotation in annotations:
                picture = _named(pictures, annotation, "image_id")
                category = (
                    {} if annotation.get("category_id") is None else _named(categories, annotation, "category_id")
                )
                name = str(category.get("name", ""))
                labels = {
                    "category": name or None,
                    "supercategory": category.get("supercategory"),
                    "modality": modality,
                }
                words = CocoWords() if split is None else read_coco_words(annotation)
                sample = _sample(annotation, picture, folders, inspect, frame_of, where, labels, words)
                marked = exhaustive.get(id_text(picture["id"]) or "", ())
                parts.append(replace(sample, question=words.question or question, split=split, exhaustive=marked))
                names.append(words.label)
            yield parts[0] if names == [""] else _several(parts, names)
        except InputError as error:
            yield BadSample(where, error.message, category=name)
    yield from _without_targets(path, table, split, folders, inspect, modality, exhaustive)


def _without_targets(
    path: Path,
    table: Any,
    split: str | None,
    folders: list[Path],
    inspect: Inspect,
    modality: str | None,
    exhaustive: dict[str, tuple[str, ...]],
) -> Iterator[SourceSample | BadSample]:
    """The questions of an export whose targets are absent; of any other file, the images that no annotation is about."""
    annotated = {id_text(annotation.get("image_id")) for annotation in _objects(table, "annotations")}
    for number, picture in enumerate(_objects(table, "images"), start=1):
        key = id_text(picture.get("id"))
        where = f"{safe_name(path.name)} image {number}"
        try:
            if split is not None:
                absent = _objects(picture, "absent") if "absent" in picture else []
                for words in map(read_coco_words, absent):
                    yield replace(_bare(picture, folders, inspect, where, modality, (), words), split=split)
            elif key is not None and key not in annotated:
                yield _bare(picture, folders, inspect, where, modality, exhaustive.get(key, ()))
        except InputError as error:
            yield BadSample(where, error.message, image_key=where)


def _questions(table: Any, split: str | None) -> dict[int, list[dict[str, Any]]]:
    """The annotations of each question by the number of its first one: one each, and in an export those of one sample."""
    questions: dict[int, list[dict[str, Any]]] = {}
    firsts: dict[str, int] = {}
    for number, annotation in enumerate(_objects(table, "annotations"), start=1):
        name = None if split is None else id_text(annotation.get("sample_id"))
        first = number if name is None else firsts.setdefault(name, number)
        questions.setdefault(first, []).append(annotation)
    return questions


def _several(parts: list[SourceSample], names: list[str]) -> SourceSample:
    """One source sample of those of its targets, with what each is called.

    Raises:
        InputError: if they are of several images.
    """
    if len({part.image_key for part in parts}) > 1:
        raise InputError("its targets are of several images")
    regions = tuple(
        SourceRegion(load_mask=part.load_mask, box=part.box, points=part.points, label=name)
        for part, name in zip(parts, names, strict=True)
    )
    return replace(parts[0], load_mask=partial(_union, regions), box=None, points=(), regions=regions)


def _union(regions: tuple[SourceRegion, ...]) -> NDArray[np.bool_]:
    union: NDArray[np.bool_] = np.logical_or.reduce([region.load_mask() for region in regions])
    return union


def _are_one_source(tables: list[Path]) -> bool:
    return len(tables) == 1 or (bool(tables) and all(map(is_export, tables)))


def _tables(root: Path) -> list[Path]:
    files = [root] if root.is_file() else [*root.glob("*.json"), *root.glob("annotations/*.json")]
    return sorted(path for path in files if path.suffix == ".json" and _looks_coco(path))


def _looks_coco(path: Path) -> bool:
    """Return True if the keys occur; a file of any other kind is not parsed to find out.

    An export whose targets are all absent has no segmentation.
    """
    if is_export(path):
        return True
    with path.open("rb") as file:
        text = file.read(MAX_BYTES)
    return b'"annotations"' in text and b'"images"' in text and b'"segmentation"' in text


def _objects(table: Any, key: str) -> list[dict[str, Any]]:
    objects = table.get(key) if isinstance(table, dict) else None
    if not isinstance(objects, list):
        raise InputError(f"a COCO file needs a list of {key}", hint="export it again")
    return [entry for entry in objects if isinstance(entry, dict)]


def _by_id(table: Any, key: str) -> dict[str, list[dict[str, Any]]]:
    """The objects of a list by their ids; one id may wrongly have several."""
    objects: dict[str, list[dict[str, Any]]] = {}
    for entry in _objects(table, key):
        if (name := id_text(entry.get("id"))) is not None:
            objects.setdefault(name, []).append(entry)
    return objects


def _named(objects: dict[str, list[dict[str, Any]]], annotation: dict[str, Any], word: str) -> dict[str, Any]:
    """The one object that an annotation names."""
    name = id_text(annotation.get(word))
    same = objects.get(name, []) if name is not None else []
    if len(same) != 1:
        raise InputError(
            f"its {word} {shown(annotation.get(word))} is that of {len(same)} entries of the file, not of one"
        )
    return same[0]


def _sample(
    annotation: dict[str, Any],
    picture: dict[str, Any],
    folders: list[Path],
    inspect: Inspect,
    frame_of: Callable[..., "_Frame"],
    where: str,
    labels: dict[str, str | None],
    words: CocoWords,
) -> SourceSample:
    path = _image(picture.get("file_name"), folders)
    info = inspect(path, PLAIN)
    box = annotation.get("bbox")
    if box is not None and not (_numbers(box) and len(box) == 4):
        raise InputError("has a bbox that is not four finite numbers")
    if box is not None and min(box[2:]) <= 0:
        raise InputError(f"has a bbox of no width or no height: {shown(box)}")
    frame = frame_of(path, picture.get("height"), picture.get("width"))
    stated = words.labels if words.labels is not None else {key: value for key, value in labels.items() if value}
    corners = words.box or (None if box is None else Box(box[0], box[1], box[0] + box[2], box[1] + box[3]))
    return SourceSample(
        id=safe_name(words.id or f"{info.id}__{annotation.get('id', where.rpartition(' ')[2])}"),
        where=where,
        load_image=info.load,
        load_mask=_mask(annotation.get("segmentation"), path, frame),
        image_key=info.key,
        group=info.group,
        labels={**info.labels, **_owners(picture), **stated},
        think=words.think,
        box=None if corners is None else frame.box(corners),
        points=frame.points(words.points),
        spacing=words.spacing or info.spacing,
        crowd=annotation.get("iscrowd") == 1,
    )


def _bare(
    picture: dict[str, Any],
    folders: list[Path],
    inspect: Inspect,
    where: str,
    modality: str | None,
    exhaustive: tuple[str, ...],
    words: CocoWords = CocoWords(),  # noqa: B008  it is frozen
) -> SourceSample:
    """An image that no annotation is about, or a question about it whose target is absent."""
    info = inspect(_image(picture.get("file_name"), folders), PLAIN)
    labels = words.labels if words.labels is not None else {"modality": modality} if modality else {}
    return SourceSample(
        id=safe_name(words.id or info.id),
        where=where,
        load_image=info.load,
        load_mask=lambda: np.zeros(info.load().size, bool),
        image_key=info.key,
        group=info.group,
        labels={**info.labels, **_owners(picture), **labels},
        question=words.question,
        think=words.think,
        spacing=words.spacing or info.spacing,
        regions=(),
        exhaustive=exhaustive,
    )


def _exhaustive(
    table: Any, pictures: dict[str, list[dict[str, Any]]], categories: dict[str, list[dict[str, Any]]]
) -> dict[str, tuple[str, ...]]:
    """The exhaustive categories of the images that state LVIS's ``neg_category_ids``, by the image's id."""
    annotated: dict[str | None, list[Any]] = {}
    for annotation in _objects(table, "annotations"):
        annotated.setdefault(id_text(annotation.get("image_id")), []).append(annotation.get("category_id"))
    stated = {}
    for key, (picture, *_) in pictures.items():
        absent, partly = picture.get("neg_category_ids"), picture.get("not_exhaustive_category_ids")
        if not isinstance(absent, list):
            continue
        but = set(map(id_text, partly)) if isinstance(partly, list) else set()
        wanted = dict.fromkeys(id_text(one) for one in [*absent, *annotated.get(key, [])])
        entries = [categories.get(one, []) for one in wanted if one is not None and one not in but]
        stated[key] = tuple(str(same[0].get("name", "")) for same in entries if len(same) == 1)
    return stated


@dataclass(frozen=True, slots=True)
class _Frame:
    """What an image's annotations count."""

    size: Size
    """(H, W)."""
    scale: tuple[float, float] = (1.0, 1.0)
    """(y, x): how much larger that is than the picture that is there."""
    turned: bool = False
    """True if it is the picture as stored, which is shown otherwise."""

    def box(self, box: Box) -> Box | None:
        """A stated box in the picture as shown; None where it is turned, and the mask's box says the same."""
        down, right = self.scale
        return None if self.turned else Box(box.x1 / right, box.y1 / down, box.x2 / right, box.y2 / down)

    def points(self, points: tuple[Point, ...]) -> tuple[Point, ...]:
        """Stated points in the picture as shown; none where it is turned."""
        down, right = self.scale
        return () if self.turned else tuple(Point(x / right, y / down) for x, y in points)


def _frame(path: Path, height: Any, width: Any) -> _Frame:
    """The frame that an image's ``height`` and ``width`` state: the picture's own where they state none.

    Raises:
        InputError: if the picture is neither that size, nor that shape at another size.
    """
    size, orientation = image_size(path), stored_orientation(path)
    if height is None and width is None:
        if orientation != 1:
            raise InputError("its image is stored turned (EXIF), and the file states no height and width")
        return _Frame(size)
    if not (type(height) is int and type(width) is int and height > 0 and width > 0):
        raise InputError(f"its image states a height and width of {shown((height, width))}")
    stated = (height, width)
    if stated == size or (orientation >= 5 and stated == size[::-1]):
        return _Frame(stated, turned=stated != size)
    scale = stated[0] / size[0], stated[1] / size[1]
    if abs(scale[0] - scale[1]) * max(size) > 1 + max(scale):
        raise InputError(f"its image is {size[0]} x {size[1]}, and the file says {stated[0]} x {stated[1]}")
    return _Frame(stated, scale)


def _owners(picture: dict[str, Any]) -> dict[str, str]:
    """The patient, study, volume and group that an image states."""
    owners = {}
    for word in GROUPS:
        if picture.get(word) not in (None, ""):
            if (name := id_text(picture[word])) is None:
                raise InputError(f"its image has a {word} that is no text and no whole number: {shown(picture[word])}")
            owners[word] = name
    return owners


def _image(name: Any, folders: list[Path]) -> Path:
    for folder in folders[:-1]:
        try:
            return inside(folder, name, "an image")
        except InputError:
            continue
    return inside(folders[-1], name, "an image")


def _mask(segmentation: Any, image: Path, frame: _Frame) -> Callable[[], NDArray[np.bool_]]:
    if isinstance(segmentation, dict):
        return lambda: in_frame_of(image, decode_rle(segmentation))
    if not isinstance(segmentation, list) or not segmentation:
        raise InputError("has no segmentation")
    if not all(_numbers(entry) and len(entry) >= 6 and len(entry) % 2 == 0 for entry in segmentation):
        raise InputError("has a polygon that is not pairs of finite numbers, three at least")
    if sum(map(len, segmentation)) > 2 * MAX_VERTICES:
        raise InputError(f"has polygons of more than {MAX_VERTICES} corners")
    y, x = frame.scale
    polygons = [np.asarray(entry, np.float64).reshape(-1, 2) / (x, y) for entry in segmentation]
    size = frame.size if frame.scale == (1.0, 1.0) else image_size(image)
    return lambda: in_frame_of(image, polygon_mask(polygons, size))


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(entry) in (int, float) and math.isfinite(entry) and abs(entry) < 1e9 for entry in values
    )
