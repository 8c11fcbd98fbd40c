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

from medground.images.rle import decode_rle
from medground.runs.checkpoint import write_atomically
from medground.runs.jsonable import plain

MEANS = {
    "mean_iou": "iou",
    "mean_pdice": "pdice",
    "mean_dice_points": "dice_points",
    "mean_dice_bbox": "dice_bbox",
    "mean_dice_joint": "dice_joint",
}
_DICE = {"dice_points": "points", "dice_bbox": "box", "dice_joint": "joint"}
Line = Mapping[str, Any]


def write(folder: Path, lines: Sequence[Line]) -> None:
    """Write both files for the lines of the arm ``answer``, measured with ``evaluate.protocol: released``."""
    results = [result(line) for line in lines]
    for name, data in (("results.json", results), ("statistics.json", statistics(results))):
        write_atomically(folder / name, json.dumps(plain(data), indent=2, ensure_ascii=False) + "\n")


def result(line: Line) -> dict[str, Any]:
    """The released record of one sample: its first answer's."""
    answer, labels = line["answers"][0], line["labels"]
    failed = "failure" in answer["details"].get("iou_compat", {}) or "iou_compat" not in answer["values"]
    raw = (answer.get("raw") or {}) if not failed else {}
    released = {name: _number(answer, f"{name}_compat", failed) for name in ("iou", "pdice")}
    return {
        "id": line["id"],
        "problem": line["question"],
        "supercategory": labels.get("supercategory", ""),
        "category": labels.get("category", ""),
        "output": answer["text"],
        "think": "error" if failed else answer["think"],
        "bbox": raw.get("bbox"),
        "points": None if failed else [raw.get("points_1"), raw.get("points_2")],
        **released,
        **{name: _dice(line, answer, part, failed) for name, part in _DICE.items()},
    }


def _number(answer: Line, name: str, failed: bool) -> float:
    if failed:
        return 0.0
    value = answer["values"][name]
    return math.nan if value is None else round(float(value), 4)


def _dice(line: Line, answer: Line, part: str, failed: bool) -> float:
    """2·I / (P + G + 1e-6), rounded: whole counts from the mask, so that no rounding error can move a digit."""
    mask, area = answer["masks"].get(part), line["target"]["area"]
    value = answer["values"].get(f"dice_{part}")
    if failed or mask is None or area is None or value is None:
        return 0.0
    total = int(decode_rle(mask["rle"]).sum()) + area
    return float(round(round(value * total) / (total + 1e-6), 4))


def statistics(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The released aggregation of released records.

    >>> found = statistics([{"supercategory": "lung", "category": "left lung", "think": "", "iou": 0.5, "pdice": 1.2}])
    >>> found["mean_pdice"], found["per_super"]["lung"]["categories"]["left lung"]["count"], found["mean_dice_joint"]
    (1.2, 1, 0)
    """
    failed = sum(each["think"] == "error" and each["iou"] == 0 and each["pdice"] == 0 for each in results)
    per_super: dict[str, Any] = {}
    for name in _names(results, "supercategory"):
        part = [each for each in results if each["supercategory"] == name]
        categories = {
            category: _means([each for each in part if each["category"] == category])
            for category in _names(part, "category")
        }
        per_super[name] = {**_means(part), "categories": categories}
    whole = _means(results)
    del whole["count"]
    return {
        **whole,
        "valid_samples": len(results) - failed,
        "failed_samples": failed,
        "total_samples": len(results),
        "per_super": per_super,
    }


def _names(results: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return sorted({each[key] for each in results}, key=lambda name: (name.lower(), name))


def _means(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, key in MEANS.items():
        values = [each[key] for each in results if key in each]
        found[name] = round(float(np.mean(values)), 4) if values else 0
    return {**found, "count": len(results)}
