"""COCO: one JSON file of images, annotations and categories; polygons, run lengths and compressed run lengths."""

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.data.source_samples import BadSample, SourceSample
from medground.errors import InputError
from medground.geometry import Box
from medground.images.paths import inside, safe_name
from medground.images.pictures import MAX_BYTES
from medground.images.polygons import polygon_mask
from medground.images.read import opened, picture_size
from medground.images.rle import decode_rle
from medground.images.view import View

MAX_VERTICES = 100_000
"""The most corners of one annotation."""


def recognises(root: Path) -> bool:
    """A .json file with images and annotations, or a folder with just one such file."""
    return len(_tables(root)) == 1


def cases(
    root: Path, *, images: str | None = None, modality: str | None = None, question: str | None = None
) -> Iterator[SourceSample | BadSample]:
    """A case per annotation; its ``bbox`` (x, y, width, height) is taken as the stated box.

    Args:
        root: the JSON file, or the folder that holds it.
        images: the images' folder, relative to the file's; None looks beside the file and in ``images/``.
        modality: of every image.
        question: asked of every case.
    """
    tables = _tables(root)
    if len(tables) != 1:
        found = ", ".join(path.name for path in tables) or "none"
        raise InputError(f"{root.name} does not hold one COCO file but {len(tables)}", hint=f"name the file: {found}")
    table = load_json(tables[0])
    folder = tables[0].parent
    places = [folder / images] if images is not None else [folder, folder / "images", folder.parent / "images"]
    pictures = {each.get("id"): each for each in _objects(table, "images")}
    names = {each.get("id"): str(each.get("name")) for each in _objects(table, "categories")}
    super_names = {each.get("id"): each.get("supercategory") for each in _objects(table, "categories")}
    for number, annotation in enumerate(_objects(table, "annotations"), start=1):
        where = f"{safe_name(tables[0].name)} annotation {number}"
        try:
            picture = pictures.get(_key(annotation.get("image_id")))
            if picture is None:
                raise InputError("names an image that the file does not list")
            kind = _key(annotation.get("category_id"))
            labels = {"category": names.get(kind), "supercategory": super_names.get(kind), "modality": modality}
            yield _case(annotation, picture, places, where, labels, question)
        except InputError as error:
            yield BadSample(where, error.message)


def load_json(path: Path) -> Any:
    """The content of a JSON file of bounded size.

    Raises:
        InputError: if it is none.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path.name} takes {path.stat().st_size / 1e6:.0f} MB", hint="split it")
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is not JSON", hint="download or export it again") from error


def _tables(root: Path) -> list[Path]:
    files = [root] if root.is_file() else [*root.glob("*.json"), *root.glob("annotations/*.json")]
    return sorted(path for path in files if path.suffix == ".json" and _looks_coco(path))


def _looks_coco(path: Path) -> bool:
    """Whether the keys occur; a file of any other kind is not parsed to find out."""
    with path.open("rb") as file:
        text = file.read(MAX_BYTES)
    return b'"annotations"' in text and b'"images"' in text and b'"segmentation"' in text


def _objects(table: Any, key: str) -> list[dict[str, Any]]:
    found = table.get(key) if isinstance(table, dict) else None
    if not isinstance(found, list):
        raise InputError(f"a COCO file needs a list of {key}", hint="export it again")
    return [each for each in found if isinstance(each, dict)]


def _key(value: Any) -> Any:
    return value if isinstance(value, (int, str)) else None


def _case(
    annotation: dict[str, Any],
    picture: dict[str, Any],
    places: list[Path],
    where: str,
    labels: dict[str, str | None],
    question: str | None,
) -> SourceSample:
    path = _image(picture.get("file_name"), places)
    found = opened(path, places[0].parent, View())
    box = annotation.get("bbox")
    if box is not None and not (_numbers(box) and len(box) == 4):
        raise InputError("has a bbox that is not four finite numbers")
    return SourceSample(
        id=safe_name(f"{found.id}__{annotation.get('id', where.rpartition(' ')[2])}"),
        where=where,
        read_image=found.read,
        read_mask=_mask(annotation.get("segmentation"), path),
        image_key=found.key,
        group=str(picture.get("patient") or found.group),
        labels={**found.labels, **{key: value for key, value in labels.items() if value}},
        question=question,
        box=None if box is None else Box(box[0], box[1], box[0] + box[2], box[1] + box[3]),
        spacing=found.spacing,
    )


def _image(name: Any, places: list[Path]) -> Path:
    for place in places[:-1]:
        try:
            return inside(place, name, "an image")
        except InputError:
            continue
    return inside(places[-1], name, "an image")


def _mask(segmentation: Any, image: Path) -> Callable[[], NDArray[np.bool_]]:
    if isinstance(segmentation, dict):
        return partial(decode_rle, segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        raise InputError("has no segmentation")
    if not all(_numbers(each) and len(each) >= 6 and len(each) % 2 == 0 for each in segmentation):
        raise InputError("has a polygon that is not pairs of finite numbers, three at least")
    if sum(map(len, segmentation)) > 2 * MAX_VERTICES:
        raise InputError(f"has polygons of more than {MAX_VERTICES} corners")
    polygons = [np.asarray(each, np.float64).reshape(-1, 2) for each in segmentation]
    return partial(_polygons, polygons, image)


def _polygons(polygons: list[NDArray[np.float64]], image: Path) -> NDArray[np.bool_]:
    return polygon_mask(polygons, picture_size(image))


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(each) in (int, float) and math.isfinite(each) and abs(each) < 1e9 for each in values
    )
