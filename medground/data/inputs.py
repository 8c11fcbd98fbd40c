"""What a run is asked to ground: a folder of images, or a manifest of JSON lines."""

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medground.data.places import SUFFIXES, safe_name
from medground.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One image and its question."""

    id: str
    """Names the results; safe as a file name."""
    image: Path
    question: str
    problem: str = ""
    """Why this input cannot be used; empty when it can."""


def read_inputs(source: Path, question: str | None = None) -> list[Input]:
    """The inputs of a folder (sorted by name) or of a manifest (in its order).

    A manifest line is ``{"image": path, "question": str, "id": str}``; the path is relative to the manifest and stays
    under its folder; ``question`` may come from the caller, ``id`` from the file name. A line that cannot be used
    becomes an `Input` with a `problem`.

    Raises:
        InputError: if there is nothing to read at all.
    """
    if source.is_dir():
        found = _of_folder(source, question)
    elif source.suffix.lower() in SUFFIXES:
        raise InputError(
            f"{source.name} is one image, not a manifest", hint="give its folder, or use `medground ground`"
        )
    elif source.is_file():
        found = _of_manifest(source, question)
    else:
        raise InputError(f"{source.name} does not exist", hint="give a folder of images or a manifest.jsonl")
    if not found:
        raise InputError(f"{source.name} holds no images", hint=f"known suffixes: {', '.join(SUFFIXES)}")
    return _with_unique_ids(found)


def _of_folder(folder: Path, question: str | None) -> list[Input]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if files and question is None:
        raise InputError("a folder of images needs one question for all of them", hint="give --question TEXT")
    return [
        Input(id=safe_name(str(path.relative_to(folder).with_suffix(""))), image=path, question=question or "")
        for path in files
    ]


def _of_manifest(manifest: Path, question: str | None) -> list[Input]:
    root = manifest.parent.resolve()
    found = []
    for number, text in enumerate(manifest.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if text.strip():
            found.append(_of_line(text, number, root, question))
    return found


def _of_line(text: str, number: int, root: Path, question: str | None) -> Input:
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
    path = (root / line["image"]).resolve()
    if not path.is_relative_to(root):
        return broken("its image lies outside the manifest's folder")
    return Input(id=safe_name(str(line.get("id") or Path(line["image"]).stem)), image=path, question=asked)


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
