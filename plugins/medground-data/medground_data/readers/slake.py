"""SLAKE: ``imgs/xmlabN/`` with ``source.jpg`` and ``mask.png``, ``mask.txt`` (value:name), and questions in ``train.json`` ...

A question belongs to a mask if its answer is the mask's name, so that what is asked for is what is outlined; other questions
about an image are not used. A mask that no question asks for comes without one.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from medground.data.json_text import read_json
from medground.data.source_samples import BadSample, SourceSample
from medground.errors import InputError
from medground.images.mask_frames import read_mask_of
from medground.images.paths import inside, safe_name
from medground.images.pictures import read_label_map
from medground.images.read import inspect_image

TABLES = {"train": "train.json", "val": "validate.json", "test": "test.json"}
NAMES = "mask.txt"


class SlakeReader:
    """Reads imgs/ and mask.txt, questions as JSON."""

    description: ClassVar[str] = "imgs/ and mask.txt, questions as JSON"

    def recognises(self, root: Path) -> bool:
        """Return True for a folder with imgs/ and mask.txt."""
        return (root / "imgs").is_dir() and (root / NAMES).is_file()

    def read(self, root: Path, *, q_lang: str = "en", asked_only: bool = False) -> Iterator[SourceSample | BadSample]:
        """Yield a source sample per mask and question.

        Args:
            root: the folder ``Slake1.0``.
            q_lang: language of the questions, ``en`` or ``zh``.
            asked_only: leave out masks that no question asks for.
        """
        if not self.recognises(root):
            raise InputError(f"{root.name} has no imgs/ beside {NAMES}", hint="give the folder Slake1.0")
        names = _names(root / NAMES)
        tables = {split: root / name for split, name in TABLES.items() if (root / name).is_file()}
        if not tables:
            raise InputError(f"{root.name} has no {' or '.join(TABLES.values())}", hint="give the folder Slake1.0")
        for split, path in tables.items():
            by_image: dict[str, list[dict[str, Any]]] = {}
            for number, line in enumerate(_lines(path), start=1):
                if not isinstance(line, dict) or not isinstance(line.get("img_name"), str):
                    yield BadSample(f"{path.name} question {number}", "names no image")
                else:
                    by_image.setdefault(line["img_name"], []).append(line)
            for image, questions in by_image.items():
                yield from _of_image(root, image, questions, names, split, q_lang, asked_only)


def _names(path: Path) -> dict[int, str]:
    names = {}
    for line in path.read_text(encoding="utf-8-sig", errors="replace").split("\n"):
        value, _, name = line.partition(":")
        if value.strip().isdigit() and name.strip():
            names[int(value)] = name.strip()
    return names


def _lines(path: Path) -> list[Any]:
    table = read_json(path)
    if not isinstance(table, list):
        raise InputError(f"{path.name} is not a list of questions", hint="download it again")
    return table


def _of_image(
    root: Path,
    image: str,
    questions: list[dict[str, Any]],
    names: dict[int, str],
    split: str,
    q_lang: str,
    asked_only: bool,
) -> Iterator[SourceSample | BadSample]:
    where = f"{split} {safe_name(image)}"
    imgs = root / "imgs"
    try:
        path = inside(imgs, image, "an image")
        folder = path.parent
        mask = inside(imgs, f"{folder.relative_to(imgs.resolve())}/mask.png", "a mask")
        info = inspect_image(path, imgs)
        values = np.unique(read_label_map(mask))
    except InputError as error:
        yield BadSample(where, error.message)
        return
    modality = next((str(line["modality"]) for line in questions if line.get("modality")), None)
    for value in values.tolist():
        if value == 0:
            continue
        name = names.get(value, f"value {value}")
        fitting = [line for line in questions if _asks_for(line, name, q_lang)]
        for number, line in enumerate(fitting or ([] if asked_only else [{}])):
            labels = {"category": name, **({"modality": modality} if modality else {})}
            if line.get("location"):
                labels["site"] = str(line["location"])
            yield SourceSample(
                id=safe_name(f"{folder.name}__{name}" + (f"-{number + 1}" if number else "")),
                where=where,
                load_image=info.load,
                load_mask=partial(read_mask_of, path, mask, values=(value,)),
                image_key=info.key,
                group=folder.name,
                labels=labels,
                question=line.get("question"),
                split=split,
            )


def _asks_for(line: dict[str, Any], name: str, q_lang: str) -> bool:
    answer, question = line.get("answer"), line.get("question")
    fits = isinstance(answer, str) and answer.strip().rstrip(".").lower() == name.lower()
    return fits and line.get("q_lang", "en") == q_lang and isinstance(question, str) and bool(question.strip())
