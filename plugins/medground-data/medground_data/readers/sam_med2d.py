"""SAM-Med2D's tables: ``image2label_*.json`` (image: its masks) and ``label2image_*.json`` (mask: its image).

Names are those of SAM-Med2D's own sample (``IMAGE_left_lung_000.png``) or of SA-Med2D-20M
(``ct_00--DATASET--CASE--x_0040--0001_000.png``: modality, data set, case, slice, class, instance), whose table is
``SAMed2D_v1.json`` and whose class names are in ``SAMed2D_v1_class_mapping_id.json``.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from medground.data.json_text import read_json
from medground.data.source_samples import BadSample, SourceSample
from medground.errors import InputError
from medground.images.mask_frames import read_mask_of
from medground.images.paths import inside, safe_name, stem
from medground.images.read import Inspect, inspect_repeated
from medground.images.view import PLAIN

CLASSES = "SAMed2D_v1_class_mapping_id.json"
_PATTERNS = ("image2label_*.json", "label2image_*.json", "SAMed2D_v1.json")
_MODALITIES = {
    "ct": "CT", "mr": "MRI", "us": "ultrasound", "x": "X-ray", "xray": "X-ray", "pet": "PET", "endoscopy": "endoscopy",
    "dermoscopy": "dermoscopy", "fundus": "fundus", "microscopy": "microscopy",
}  # fmt: skip
_NUMBER = re.compile(r"_\d+$")


class SamMed2dReader:
    """Reads image2label or label2image tables."""

    description: ClassVar[str] = "image2label or label2image tables"

    def recognises(self, root: Path) -> bool:
        """Return True for a folder with such a table, or the table itself."""
        return bool(_tables(root))

    def read(
        self, root: Path, *, modality: str | None = None, question: str | None = None
    ) -> Iterator[SourceSample | BadSample]:
        """Yield a source sample per mask.

        Args:
            root: the folder of the tables, or one table.
            modality: of images whose names do not state it.
            question: asked of every sample.
        """
        tables = _tables(root)
        if not tables:
            raise InputError(f"{root.name} holds no {' or '.join(_PATTERNS)}", hint="give the folder of the tables")
        folder = tables[0].parent
        inspect = inspect_repeated(folder)
        classes = read_json(folder / CLASSES) if (folder / CLASSES).is_file() else {}
        for table in tables:
            split = "train" if "train" in table.stem else "test" if "test" in table.stem else None
            for number, (image, mask) in enumerate(_pairs(read_json(table), table), start=1):
                where = f"{safe_name(table.name)} entry {number}"
                try:
                    yield _sample(folder, inspect, image, mask, where, split, classes, modality, question)
                except InputError as error:
                    yield BadSample(where, error.message)


def _tables(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if any(root.match(pattern) for pattern in _PATTERNS) else []
    return sorted(path for pattern in _PATTERNS for path in root.glob(pattern))


def _pairs(table: Any, path: Path) -> Iterator[tuple[Any, Any]]:
    if not isinstance(table, dict):
        raise InputError(f"{path.name} is not a table of images and masks", hint="export it again")
    for first, second in table.items():
        if path.name.startswith("label2image"):
            yield second, first
        else:
            # SA-Med2D-20M keeps a table of masks, SAM-Med2D a list.
            for mask in second if isinstance(second, (list, dict)) else [second]:
                yield first, mask


def _sample(
    folder: Path,
    inspect: Inspect,
    image: Any,
    mask: Any,
    where: str,
    split: str | None,
    classes: Any,
    modality: str | None,
    question: str | None,
) -> SourceSample:
    picture = _file(folder, image, "an image")
    info = inspect(picture, PLAIN)
    path = _file(folder, mask, "a mask")
    labels = _labels(stem(str(image)), stem(path), classes)
    if modality is not None:
        labels.setdefault("modality", modality)
    return SourceSample(
        id=safe_name(stem(path)),
        where=where,
        load_image=info.load,
        load_mask=partial(read_mask_of, picture, path),
        image_key=info.key,
        group=info.group,
        labels={**info.labels, **labels},
        question=question,
        split=split,
        spacing=info.spacing,
        mask_file=path,
    )


def _file(folder: Path, name: Any, what: str) -> Path:
    """A path of a table counts from its folder, or from the folder above, whose name it then begins with."""
    text = str(name) if isinstance(name, str) else name
    if isinstance(text, str) and text.startswith(f"{folder.name}/") and not (folder / text).exists():
        text = text.removeprefix(f"{folder.name}/")
    return inside(folder, text, what)


def _labels(image: str, mask: str, classes: Any) -> dict[str, str]:
    fields = mask.split("--")
    if len(fields) >= 5:
        kind, _, _ = fields[0].partition("_")
        number = fields[4].partition("_")[0]
        labels = {
            "dataset": fields[1],
            "volume": f"{fields[1]}--{fields[2]}",
            "category": _class(classes, fields[1], number),
        }
        return {key: value for key, value in {**labels, "modality": _MODALITIES.get(kind, "")}.items() if value}
    name = _NUMBER.sub("", mask.removeprefix(image).strip("_")).replace("_", " ")
    return {"category": name} if mask.startswith(image) and name else {}


def _class(classes: Any, dataset: str, number: str) -> str:
    """Return the name of a class, whichever way round the table has it; its number where there is no table."""
    table = classes.get(dataset) if isinstance(classes, dict) else None
    if isinstance(table, dict):
        for key, value in table.items():
            for name, digits in ((key, value), (value, key)):
                if str(digits).isdigit() and int(digits) == int(number or -1) and isinstance(name, str):
                    return name.replace("_", " ")
    return f"class {number}"
