"""The published system's own files: ``results.json`` per sample and ``statistics.json``, with its keys and its rounding.

Every number is rounded to four decimals before it enters a mean, and the mean again; failures stay in every mean as 0;
an empty list has the mean 0; names are sorted without regard to case. A sample has failed when its box IoU and point Dice
could not both be computed, and all its numbers are 0 then, those of masks that could have been made included.

Where the released code would write NaN, which strict JSON cannot hold, null is written.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medground.evaluation.metrics import MaskPrompt
from medground.evaluation.results_file import AnswerRecord, SampleRecord
from medground.images.rle import decode_rle
from medground.runs.files import write_atomic
from medground.runs.jsonable import plain

MEANS = {
    "mean_iou": "iou",
    "mean_pdice": "pdice",
    "mean_dice_points": "dice_points",
    "mean_dice_bbox": "dice_bbox",
    "mean_dice_joint": "dice_joint",
}
_DICE: Mapping[str, MaskPrompt] = {"dice_points": "points", "dice_bbox": "box", "dice_joint": "joint"}


def write(folder: Path, records: Sequence[SampleRecord]) -> None:
    """Write both files for the records of the condition ``answer``, measured with ``evaluate.protocol: released``."""
    results = [released_record(record) for record in records]
    for name, data in (("results.json", results), ("statistics.json", statistics(results))):
        write_atomic(folder / name, json.dumps(plain(data), indent=2, ensure_ascii=False) + "\n")


def released_record(record: SampleRecord) -> dict[str, Any]:
    """Return the released record of one sample: its first answer's."""
    answer, labels = record.answers[0], record.labels
    failed = "failure" in answer.details.get("iou_compat", {}) or "iou_compat" not in answer.values
    raw = (answer.raw or {}) if not failed else {}
    return {
        "id": record.id,
        "problem": record.question,
        **{key: labels.get(key, "") for key in ("supercategory", "category")},
        "output": answer.text,
        "think": "error" if failed else answer.think,
        "bbox": raw.get("bbox"),
        "points": None if failed else [raw.get(key) for key in ("points_1", "points_2")],
        **{name: 0.0 if failed else _number(answer, f"{name}_compat") for name in ("iou", "pdice")},
        **{name: 0.0 if failed else _dice(record, answer, prompt) for name, prompt in _DICE.items()},
    }


def _number(answer: AnswerRecord, name: str) -> float:
    value = answer.values[name]
    return math.nan if value is None else round(value, 4)


def _dice(record: SampleRecord, answer: AnswerRecord, prompt: MaskPrompt) -> float:
    """Return 2·I / (P + G + 1e-6), rounded: whole counts from the mask, so that no rounding error can move a digit."""
    mask, area = answer.masks.get(prompt), record.target.area
    value = answer.values.get(f"dice_{prompt}")
    if mask is None or area is None or value is None:
        return 0.0
    total = int(decode_rle(mask.rle).sum()) + area
    return float(round(round(value * total) / (total + 1e-6), 4))


def statistics(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the released aggregation of released records.

    >>> means = statistics([{"supercategory": "lung", "category": "left lung", "think": "", "iou": 0.5, "pdice": 1.2}])
    >>> means["mean_pdice"], means["per_super"]["lung"]["categories"]["left lung"]["count"], means["mean_dice_joint"]
    (1.2, 1, 0)
    """
    failed = sum(record["think"] == "error" and record["iou"] == record["pdice"] == 0 for record in results)
    per_super: dict[str, Any] = {}
    for name in _names(results, "supercategory"):
        group = [record for record in results if record["supercategory"] == name]
        categories = {
            category: _means([record for record in group if record["category"] == category])
            for category in _names(group, "category")
        }
        per_super[name] = {**_means(group), "categories": categories}
    overall = _means(results)
    overall.pop("count")
    return {
        **overall,
        "valid_samples": len(results) - failed,
        "failed_samples": failed,
        "total_samples": len(results),
        "per_super": per_super,
    }


def _names(results: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return sorted({record[key] for record in results}, key=lambda name: (name.lower(), name))


def _means(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means: dict[str, Any] = {}
    for name, key in MEANS.items():
        values = [record[key] for record in results if key in record]
        means[name] = round(float(np.mean(values)), 4) if values else 0
    return {**means, "count": len(results)}
