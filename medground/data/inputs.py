"""Inputs of a run: a folder of images, or a manifest of JSON lines."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from medground.data.manifest import Record, read_records
from medground.errors import InputError
from medground.images.dicom import is_dicom
from medground.images.paths import IMAGE_SUFFIXES, is_image, list_images, safe_name, within
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
    """Return the inputs of a folder (sorted by name) or of a manifest (in its order).

    A manifest line is ``{"image": path, "question": str, "id": str}``, with ``plane``, ``slice`` and ``window`` of DICOM and
    NIfTI; the path is relative to the manifest and stays under its folder; ``question`` and the view may come from the
    caller, ``id`` from the file. A line that cannot be used becomes an `Input` with a `problem`.

    Raises:
        InputError: if there is nothing to read at all.
    """
    if source.is_dir():
        inputs = _of_folder(source, question, view)
    elif source.is_file() and (is_image(source) or is_dicom(source)):
        raise InputError(
            f"{'a DICOM file' if is_dicom(source) else source.name} is one image, not a manifest",
            hint="give its folder, or use `medground ground`",
        )
    elif source.is_file():
        inputs = _of_manifest(source, question, view)
    else:
        raise InputError(f"{source.name} does not exist", hint="give a folder of images or a manifest.jsonl")
    if not inputs:
        raise InputError(f"{source.name} holds no images", hint=f"known suffixes: {', '.join(IMAGE_SUFFIXES)}")
    return _with_unique_ids(inputs)


def _of_folder(folder: Path, question: str | None, view: View) -> list[Input]:
    files = list_images(folder)
    if files and question is None:
        raise InputError("a folder of images needs one question for all of them", hint="give --question TEXT")
    return [_of_file(path, number, folder, question or "", view) for number, path in enumerate(files, start=1)]


def _of_file(path: Path, number: int, folder: Path, question: str, view: View) -> Input:
    try:
        name = image_id(path, view)
    except InputError as error:
        return Input(id=f"image-{number}", image=path, question=question, problem=str(error))
    subfolder = "" if is_dicom(path) else str(path.relative_to(folder).parent / "_")[:-1]
    return Input(id=safe_name(subfolder + name), image=path, question=question, view=view)


_USED = ("", "id", "image", "question", "plane", "slice", "window")
"""The words of a manifest that are used here; what is wrong with the others does not matter. "" is the line itself."""


def _of_manifest(manifest: Path, question: str | None, view: View) -> list[Input]:
    root = manifest.parent.resolve()
    inputs = []
    for record in read_records(manifest):
        try:
            inputs.append(_of_record(record, root, question, view))
        except InputError as error:
            problem = f"manifest line {record.number}: {error}"
            inputs.append(Input(id=f"line-{record.number}", image=root, question="", problem=problem))
    return inputs


def _of_record(record: Record, root: Path, question: str | None, default: View) -> Input:
    for flaw in record.flaws:
        if flaw.word in _USED:
            raise InputError(flaw.text)
    question = record.question or question
    if question is None:
        raise InputError('needs a "question", or give --question TEXT')
    view = View(
        plane=record.plane or default.plane,
        slice=default.slice if record.slice is None else record.slice,
        window=record.window or default.window,
    )
    path = within(root, record.image, "an image")
    return Input(
        id=safe_name(record.id) if record.id else image_id(path, view), image=path, question=question, view=view
    )


def _with_unique_ids(inputs: list[Input]) -> list[Input]:
    """Return the inputs, a later one of the same id renamed to the first free ``id-2``, ``id-3``, ..."""
    taken = {item.id for item in inputs}
    seen: set[str] = set()
    unique = []
    for item in inputs:
        name = item.id
        if name in seen:
            name = next(free for count in itertools.count(2) if (free := f"{item.id}-{count}") not in taken)
            taken.add(name)
        seen.add(name)
        unique.append(replace(item, id=name))
    return unique
