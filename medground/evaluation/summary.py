"""From lines to numbers: means with intervals, by what the samples are, faults by kind, and paired comparisons."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medground.data.size_bins import SIZES
from medground.evaluation import statistics
from medground.evaluation.causes import Outcomes
from medground.evaluation.metrics import COMPAT, DEFINITIONS, DISTANCES
from medground.geometry import Floats, box_iou
from medground.images.rle import rle_area
from medground.types import Fault

Line = Mapping[str, Any]
GROUPS = ("modality", "supercategory", "category", "size")
"""Labels by which means are told; a line's ``size`` is its target's."""
COMPARED = ("iou", "pdice", "dice_joint", "mask_iou", "boundary_f")
"""The metrics that are tested against a baseline or another arm, in this order; each test is one of its family."""
SCORES = ("iou", "pdice", "dice_joint")
"""The metrics that are 0 where nothing was hit."""
SHIFTED: Mapping[str, tuple[str, ...]] = {
    "ceiling": ("dice_joint",),
    "baseline": ("iou", "dice_joint"),
    "probe": ("iou", "pdice", "dice_joint"),
}
"""By kind of arm, what of `COMPARED` is tested against the answers; the rest would differ, or not, by construction."""
BINS = 10
"""Of predicted IoU, equally wide."""
FEW = 10
"""Under so many clusters an interval is marked: it rests on little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How intervals and tests are drawn."""

    n_boot: int = 2000
    level: float = 0.95
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """What reports say about it."""
        return {
            "interval": statistics.INTERVAL,
            "level": self.level,
            "n_boot": self.n_boot,
            "seed": self.seed,
            "test": statistics.TEST,
            "n_flips": statistics.N_FLIPS,
        }


def table(lines: Sequence[Line], names: Sequence[str]) -> Floats:
    """[N, M] the values of lines; NaN where a line has none."""
    rows = [[line["values"].get(name, np.nan) for name in names] for line in lines]
    return np.array(rows, np.float64).reshape(len(lines), len(names))


def measured(lines: Sequence[Line]) -> list[str]:
    """The metrics that any line has a value of, or lost, in the order of `DEFINITIONS`."""
    there = {name for line in lines for name in line["values"]}
    there |= {name for line in lines for answer in line["answers"] for name in answer["excluded"]}
    return [name for name in DEFINITIONS if name in there]


def summarise(lines: Sequence[Line], how: Resampling, *, cells: bool = True) -> dict[str, Any]:
    """Everything about the lines of one arm, as plain data; `cells` also by all groups at once."""
    return {
        **_outcomes(lines),
        "usage": _used([answer for line in lines for answer in line["answers"]]),
        "metrics": _metrics(lines, how, thorough=True),
        "groups": {group: _grouped(lines, (group,), how) for group in GROUPS},
        **({"cells": _grouped(lines, GROUPS, how)} if cells else {}),
        "calibration": calibration(lines),
    }


def _outcomes(lines: Sequence[Line]) -> dict[str, Any]:
    """How many samples, clusters and answers there are, and what became of the answers."""
    answers = [answer for line in lines for answer in line["answers"]]
    faults = [Fault(answer["fault"]) for answer in answers if answer["fault"]]
    failures = _counted(fault for fault in faults if fault.of_model)
    masks = [answer["masks"]["joint"]["rle"] for answer in answers if "joint" in answer["masks"]]
    return {
        "samples": len(lines),
        "clusters": len({line["cluster"] for line in lines}),
        "answers": len(answers),
        "ok": len(answers) - len(faults),
        "failures": failures,
        "refusals": failures.get(Fault.NO_ANSWER, 0),
        "excluded": _counted(fault for fault in faults if not fault.of_model),
        "masks": len(masks),
        "empty_masks": sum(rle_area(rle) == 0 for rle in masks),
    }


def outcomes(arm: Mapping[str, Any], limit: int | None) -> Outcomes:
    """What became of the answers of a summarised arm, to be told.

    Args:
        arm: what `summarise` gives.
        limit: tokens an answer could have; None where it is not known.
    """
    means = [arm["metrics"][name]["mean"] for name in SCORES if name in arm["metrics"]]
    return Outcomes(
        answers=arm["answers"],
        faults=arm["failures"] | arm["excluded"],
        masks=arm["masks"],
        empty_masks=arm["empty_masks"],
        zero=bool(means) and not any(means),
        limit=limit,
    )


def _metrics(lines: Sequence[Line], how: Resampling, *, thorough: bool = False) -> dict[str, Any]:
    """Metric -> mean, interval and counts; thorough also says definitions and what is special."""
    names = measured(lines)
    clusters = [line["cluster"] for line in lines]
    found = statistics.estimate(
        table(lines, names), clusters, n_boot=how.n_boot, level=how.level, seed=how.seed
    )  # fmt: skip
    rows: dict[str, Any] = {}
    for name, estimate in zip(names, found, strict=True):
        rows[name] = _row(estimate)
        if thorough:
            rows[name] |= {"definition": DEFINITIONS[name], **_special(name, lines)}
    return rows


def _row(estimate: statistics.Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {"mean": None, "low": None, "high": None, "n": 0, "clusters": 0}
    return {
        "mean": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "clusters": estimate.clusters,
    }


def _special(name: str, lines: Sequence[Line]) -> dict[str, Any]:
    """What distances and released numbers need said beside their mean."""
    answers = [answer for line in lines for answer in line["answers"] if name in answer["values"]]
    if name in DISTANCES:
        defined = [answer["values"][name] for answer in answers if name not in answer["undefined"]]
        return {"mean_defined": float(np.mean(defined)) if defined else None, "n_defined": len(defined)}
    if name in COMPAT:
        details = [answer["details"].get(name, {}) for answer in answers]
        return {
            "failures": sum("failure" in each for each in details),
            "nonfinite": sum("released" in each for each in details),
        }
    return {}


def _used(answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What servers said the answers took, added up: tokens, and cost where prices were given."""
    total: dict[str, float] = {}
    for name, amount in (pair for answer in answers for pair in answer.get("usage", {}).items()):
        total[name] = total.get(name, 0) + amount
    return total


def _counted(faults: Any) -> dict[str, int]:
    return dict(sorted(Counter(fault.value for fault in faults).items()))


def _grouped(lines: Sequence[Line], labels: Sequence[str], how: Resampling) -> list[dict[str, Any]]:
    """One row per combination of labels, sorted by name; empty where no sample has any of them."""
    parts: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        parts.setdefault(tuple(line["labels"].get(label, "") for label in labels), []).append(line)
    if set(parts) == {("",) * len(labels)}:
        return []
    return [
        {
            **dict(zip(labels, key, strict=True)),
            **_outcomes(part),
            "metrics": _metrics(part, how),
        }
        for key, part in sorted(parts.items(), key=lambda pair: [natural(word) for word in pair[0]])
    ]


def natural(word: str) -> tuple[int, str]:
    """Target sizes in their own order, everything else by name."""
    names = [name for _, name in SIZES]
    return (names.index(word), "") if word in names else (-1, word.casefold())


def calibration(lines: Sequence[Line]) -> dict[str, Any] | None:
    """How the segmenter's own score of the joint mask compares with that mask's IoU; None where it says nothing.

    ``error`` is the expected calibration error: the mean over masks of how far their bin's mean score lies from its mean
    IoU. A segmenter that always says the same gives no estimate.
    """
    pairs = [
        (answer["masks"]["joint"]["score"], answer["values"]["mask_iou"])
        for line in lines
        for answer in line["answers"]
        if "mask_iou" in answer["values"] and answer["masks"].get("joint", {}).get("score") is not None
    ]
    if not pairs or len({score for score, _ in pairs}) == 1:
        return None
    scores, ious = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    bins = np.clip((scores * BINS).astype(int), 0, BINS - 1)
    rows = [
        {
            "from": place / BINS,
            "to": (place + 1) / BINS,
            "n": int((bins == place).sum()),
            "score": float(scores[bins == place].mean()),
            "iou": float(ious[bins == place].mean()),
        }
        for place in sorted(set(bins.tolist()))
    ]
    constant = ious.std() == 0 or scores.std() == 0
    return {
        "n": len(pairs),
        "error": float(sum(row["n"] * abs(row["score"] - row["iou"]) for row in rows) / len(pairs)),
        "correlation": None if constant else float(np.corrcoef(scores, ious)[0, 1]),
        "bins": rows,
    }


def comparisons(
    pairs: Sequence[tuple[Mapping[str, Any], Sequence[Line], Sequence[Line], Sequence[str]]], how: Resampling
) -> list[dict[str, Any]]:
    """Paired tests of lines against others of the same samples; Holm-corrected over all that are given together.

    Where no sample differs at all there is nothing to test: p is 1, and the family is one smaller. Sign flips condition
    on the sizes of the differences, so this takes nothing from the correction.

    Args:
        pairs: (words that say what is compared, the lines, the others, the metrics).
        how: resampling.
    """
    rows: list[dict[str, Any]] = []
    for words, lines, others, metrics in pairs:
        by_id = {other["id"]: other for other in others}
        both = [line for line in lines if line["id"] in by_id]
        twins = [by_id[line["id"]] for line in both]
        there = set(measured(both)) & set(measured(twins))
        names = [name for name in metrics if name in there]
        ours, theirs, clusters = table(both, names), table(twins, names), [line["cluster"] for line in both]
        for column, name in enumerate(names):
            found = statistics.compare(
                ours[:, column], theirs[:, column], clusters, n_boot=how.n_boot, level=how.level, seed=how.seed
            )
            if found is not None:
                rows.append({**words, "metric": name, **_compared(found)})
    family = [row for row in rows if row["differ"]]
    for row, corrected in zip(family, statistics.holm([row["p"] for row in family]), strict=True):
        row["p_holm"] = corrected
    return rows


def _compared(found: statistics.Difference) -> dict[str, Any]:
    return {
        "n": found.n,
        "clusters": found.clusters,
        "mean": found.mean,
        "other": found.other,
        "difference": found.difference.mean,
        "low": found.difference.low,
        "high": found.difference.high,
        "differ": found.differ,
        "p": found.p,
        "p_holm": 1.0,
    }


def agreement(lines: Sequence[Line], answers: Sequence[Line], how: Resampling) -> dict[str, Any]:
    """How alike the boxes of an arm and of the answers are: the mean box IoU of the first answers that have both.

    High under a probe means that what was changed was not used.
    """
    by_id = {line["id"]: line for line in answers}
    values, clusters = [], []
    for line in lines:
        boxes = [each["answers"][0]["box"] for each in (line, by_id.get(line["id"])) if each and each["answers"]]
        if len(boxes) == 2 and all(boxes):
            values.append(float(box_iou(*boxes)))
            clusters.append(line["cluster"])
    if not values:
        return _row(None)
    (found,) = statistics.estimate(
        np.array(values)[:, None], clusters, n_boot=how.n_boot, level=how.level, seed=how.seed
    )
    return _row(found)
