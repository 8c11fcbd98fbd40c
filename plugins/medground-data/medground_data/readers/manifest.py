"""A manifest: a line of JSON per mask, its paths relative to it and under its folder.

A line holds ``image``; its target as ``mask`` (a file, or a COCO run-length object); and optionally ``id``, ``question``,
``think``, ``split``, ``bbox_2d`` or ``bbox`` (x1, y1, x2, y2, half-open), ``point_2d`` ([[x, y], ...]), ``patient`` and
``volume`` (what may not part between splits), ``mask_value`` (the value of a label map that is meant), and
``plane``, ``slice``, ``window`` of DICOM and NIfTI. Any further text or number is a label.
"""

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
from medground.geometry import Box, Point
from medground.images.paths import inside, safe_name
from medground.images.read import mask_view, opened, read_any_mask
from medground.images.rle import decode_rle
from medground.images.view import View

MANIFEST = "manifest.jsonl"
MAX_LINE = 10_000_000
"""Characters; a longer line is refused before it is parsed."""
_OWN = (
    "id", "image", "mask", "mask_value", "question", "think", "split", "bbox", "bbox_2d", "point_2d", "plane", "slice",
    "window", "width", "height", "size", "mask_area", "components", "box_fill", "area_frac",
)  # fmt: skip
"""Not labels: what has a place of its own in a case, and figures that are measured anew."""


def recognises(root: Path) -> bool:
    """A file of JSON lines, or a folder with manifest.jsonl."""
    return (root / MANIFEST).is_file() if root.is_dir() else root.suffix.lower() in (".jsonl", ".ndjson")


def cases(root: Path, *, question: str | None = None, window: str | None = None) -> Iterator[SourceSample | BadSample]:
    """A case per line.

    Args:
        root: the manifest, or its folder.
        question: for lines that hold none.
        window: for lines that hold none, see `View`.
    """
    manifest = root / MANIFEST if root.is_dir() else root
    if not manifest.is_file():
        raise InputError(f"{root.name} has no {MANIFEST}", hint="give a manifest or its folder")
    with manifest.open(encoding="utf-8", errors="replace") as lines:
        number = 0
        while text := lines.readline(MAX_LINE + 1):
            number += 1
            where = f"{safe_name(manifest.name)} line {number}"
            if len(text) > MAX_LINE:
                while text and not text.endswith("\n"):
                    text = lines.readline(MAX_LINE)
                yield BadSample(where, f"is longer than {MAX_LINE} characters")
            elif text.strip():
                try:
                    yield _case(text, where, manifest.parent.resolve(), question, window)
                except InputError as error:
                    yield BadSample(where, str(error))


def _case(text: str, where: str, root: Path, question: str | None, window: str | None) -> SourceSample:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("is not JSON") from error
    if not isinstance(line, dict):
        raise InputError("is not a JSON object")
    view = _view(line, window)
    picture = opened(inside(root, line.get("image"), "an image"), root, view)
    labels = {
        str(key): str(value)
        for key, value in line.items()
        if key not in _OWN and type(value) in (str, int, float, bool) and value != ""
    }
    box = line.get("bbox_2d", line.get("bbox"))
    return SourceSample(
        id=safe_name(str(line.get("id") or picture.id)),
        where=where,
        read_image=picture.read,
        read_mask=_mask(line, root, view),
        image_key=picture.key,
        group=labels.get("patient") or labels.get("volume") or picture.group,
        labels={**picture.labels, **labels},
        question=_text(line, "question") or question,
        think=_text(line, "think"),
        split=_text(line, "split"),
        box=None if box is None else Box(*_numbers(box, 4, "bbox")),
        points=tuple(Point(*_numbers(point, 2, "point_2d")) for point in _list(line.get("point_2d"))),
        spacing=picture.spacing,
        file=picture.file,
    )


def _view(line: dict[str, Any], window: str | None) -> View:
    number = line.get("slice")
    if number is not None and type(number) is not int:
        raise InputError(f"has a slice that is not a whole number: {str(number)[:40]!r}")
    return View(plane=_text(line, "plane"), slice=number, window=_text(line, "window") or window)


def _mask(line: dict[str, Any], root: Path, view: View) -> Callable[[], NDArray[np.bool_]]:
    stored = line.get("mask")
    if stored is None:
        raise InputError("needs a mask")
    if isinstance(stored, dict):
        return partial(decode_rle, stored)
    values = line.get("mask_value")
    if values is not None and type(values) is not int:
        raise InputError("has a mask_value that is not a whole number")
    found = inside(root, stored, "a mask")
    return partial(read_any_mask, found, mask_view(found, view), None if values is None else (values,))


def _text(line: dict[str, Any], key: str) -> str | None:
    value = line.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"has a {key} that is not text")
    return value or None


def _list(value: Any) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise InputError("has a point_2d that is not a list")
    return value or []


def _numbers(values: Any, count: int, key: str) -> list[float]:
    good = isinstance(values, list) and len(values) == count
    if not good or not all(type(each) in (int, float) and math.isfinite(each) for each in values):
        raise InputError(f"has a {key} that is not {count} finite numbers each")
    return [float(each) for each in values]
