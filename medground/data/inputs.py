"""What a run is asked to ground: a folder of images, or a manifest of JSON lines."""

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medground.errors import InputError
from medground.images import dicom
from medground.images.paths import IMAGE_SUFFIXES, is_image, safe_name
from medground.images.paths import images as image_files
from medground.images.read import image_id
from medground.images.view import PLAIN, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One image and its question."""

    id: str
    """Names the results; safe as a file name. Of a DICOM file a hash, because its name may be a patient's."""
    image: Path
    question: str
    view: View = PLAIN
    problem: str = ""
    """Why this input cannot be used; empty when it can."""


def read_inputs(source: Path, question: str | None = None, view: View = PLAIN) -> list[Input]:
    """The inputs of a folder (sorted by name) or of a manifest (in its order).

    A manifest line is ``{"image": path, "question": str, "id": str}``, with ``plane``, ``slice`` and ``window`` of DICOM and
    NIfTI; the path is relative to the manifest and stays under its folder; ``question`` and the view may come from the
    caller, ``id`` from the file. A line that cannot be used becomes an `Input` with a `problem`.

    Raises:
        InputError: if there is nothing to read at all.
    """
    if source.is_dir():
        found = _of_folder(source, question, view)
    elif source.is_file() and (is_image(source) or dicom.is_dicom(source)):
        raise InputError(
            f"{'a DICOM file' if dicom.is_dicom(source) else source.name} is one image, not a manifest",
            hint="give its folder, or use `medground ground`",
        )
    elif source.is_file():
        found = _of_manifest(source, question, view)
    else:
        raise InputError(f"{source.name} does not exist", hint="give a folder of images or a manifest.jsonl")
    if not found:
        raise InputError(f"{source.name} holds no images", hint=f"known suffixes: {', '.join(IMAGE_SUFFIXES)}")
    return _with_unique_ids(found)


def _of_folder(folder: Path, question: str | None, view: View) -> list[Input]:
    files = image_files(folder)
    if files and question is None:
        raise InputError("a folder of images needs one question for all of them", hint="give --question TEXT")
    return [_of_file(path, number, folder, question or "", view) for number, path in enumerate(files, start=1)]


def _of_file(path: Path, number: int, folder: Path, question: str, view: View) -> Input:
    try:
        name = image_id(path, view)
    except InputError as error:
        return Input(id=f"image-{number}", image=path, question=question, problem=str(error))
    inside = "" if dicom.is_dicom(path) else str(path.relative_to(folder).parent / "_")[:-1]
    return Input(id=safe_name(inside + name), image=path, question=question, view=view)


def _of_manifest(manifest: Path, question: str | None, view: View) -> list[Input]:
    root = manifest.parent.resolve()
    found = []
    for number, text in enumerate(manifest.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if text.strip():
            found.append(_of_line(text, number, root, question, view))
    return found


def _of_line(text: str, number: int, root: Path, question: str | None, given: View) -> Input:
    fallback = f"line-{number}"

    def broken(why: str) -> Input:
        return Input(id=fallback, image=root, question="", problem=f"manifest line {number}: {why}")

    try:
        line: Any = json.loads(text)
    except (ValueError, RecursionError):
        return broken("not JSON")
    if not isinstance(line, dict) or not isinstance(line.get("image"), str):
        return broken('needs an "image" path')
    asked = line.get("question", question)
    if not isinstance(asked, str):
        return broken('needs a "question", or give --question TEXT')
    try:
        path = (root / line["image"]).resolve()
    except (OSError, ValueError):
        return broken("its image cannot be looked up")
    if not path.is_relative_to(root):
        return broken("its image lies outside the manifest's folder")
    chosen = {
        key: line[key] if line.get(key) is not None else getattr(given, key) for key in ("plane", "slice", "window")
    }
    if not _is_view(chosen):
        return broken("plane and window are words, slice is a whole number")
    try:
        view = View(**chosen)
        name = safe_name(str(line["id"])) if line.get("id") else image_id(path, view)
    except InputError as error:
        return broken(str(error))
    return Input(id=name, image=path, question=asked, view=view)


def _is_view(chosen: dict[str, Any]) -> bool:
    return type(chosen["slice"]) in (int, type(None)) and all(
        isinstance(chosen[key], (str, type(None))) for key in ("plane", "window")
    )


def _with_unique_ids(inputs: list[Input]) -> list[Input]:
    """The inputs, a later one of the same id renamed to the first free ``id-2``, ``id-3``, ..."""
    taken = {item.id for item in inputs}
    seen: set[str] = set()
    out = []
    for item in inputs:
        name = item.id
        if name in seen:
            name = next(free for count in itertools.count(2) if (free := f"{item.id}-{count}") not in taken)
            taken.add(name)
        seen.add(name)
        out.append(replace(item, id=name))
    return out
