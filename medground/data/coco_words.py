"""What a COCO file of ours holds beyond COCO, so that reading it gives the samples it was written from.

``info`` holds ``{"split": NAME, "medground": 1}``, 1 being the version of these words. An annotation holds ``sample_id``,
``question``, ``bbox_2d`` and ``point_2d`` (as in a manifest: half-open pixels), ``labels`` (name -> text) and, where the sample
has them, ``label`` (of the target), ``think`` and ``spacing``. Annotations of one ``sample_id`` are the targets of one
question, in their order. A question without a target is in ``absent`` of its image, with the words that are about no box.
COCO's own ``category_id`` names a category for each annotation; a sample has one only where ``labels`` holds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medground.data.json_text import JsonLine, id_text, shown
from medground.data.manifest import parse_record
from medground.data.splits import without_names
from medground.errors import InputError
from medground.geometry import Box, Point
from medground.types import Region, Sample

VERSION = 1
_START = b'{"info": {"split": '
_WORDS = ("question", "think", "bbox_2d", "point_2d", "spacing")
"""Words with the meaning and the form they have in a manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoWords:
    """The further words of one annotation."""

    id: str | None = None
    question: str | None = None
    think: str | None = None
    box: Box | None = None
    """Half-open pixels of the image at its stated size, as are `points`."""
    points: tuple[Point, ...] = ()
    label: str = ""
    """What the target is, in words."""
    spacing: tuple[float, float] | None = None
    labels: Mapping[str, str] | None = None
    """None: those of COCO hold."""


def coco_info(split: str) -> dict[str, Any]:
    """Return ``info`` of a file that holds one split."""
    return {"split": split, "medground": VERSION}


def coco_words(sample: Sample, region: Region | None = None) -> dict[str, Any]:
    """Return the further words of an annotation of a sample: of one of its targets, or of its absent one (None)."""
    labels = {name: text for name, text in without_names(sample.labels).items() if name != "think"}
    words = {
        "sample_id": sample.query.id,
        "question": sample.query.question,
        "bbox_2d": None if region is None or region.box is None else list(region.box),
        "point_2d": None if region is None else [list(point) for point in region.points],
        "label": (region and region.label) or None,
        "labels": labels,
        "think": sample.labels.get("think"),
        "spacing": None if sample.spacing is None else list(sample.spacing),
    }
    return {word: value for word, value in words.items() if value is not None}


def is_export(path: Path) -> bool:
    """Return True if a file begins as those that were written with `coco_info`."""
    with path.open("rb") as file:
        return file.read(len(_START)) == _START


def stated_split(table: Any) -> str | None:
    """Return the split of a parsed file that holds the further words; None for any other COCO file."""
    info = table.get("info") if isinstance(table, dict) else None
    if not isinstance(info, dict) or info.get("medground") != VERSION:
        return None
    return info["split"] if isinstance(info.get("split"), str) else None


def read_coco_words(annotation: Mapping[str, Any]) -> CocoWords:
    """Read the further words of an annotation of a file that has a `stated_split`.

    Raises:
        InputError: if one of them is of another kind.
    """
    words = {word: annotation[word] for word in _WORDS if annotation.get(word) is not None}
    record = parse_record(JsonLine(0, {"image": "-", **words}))
    record.refuse_flaws()
    labels = annotation.get("labels")
    if not isinstance(labels, dict) or not all(isinstance(text, str) for text in labels.values()):
        raise InputError(f"its labels are not names with texts: {shown(labels)}")
    label = annotation.get("label", "")
    if not isinstance(label, str):
        raise InputError(f"its label is no text: {shown(label)}")
    return CocoWords(
        id=id_text(annotation.get("sample_id")),
        question=record.question,
        think=record.think,
        box=record.box,
        points=record.points,
        label=label,
        spacing=record.spacing,
        labels=labels,
    )
