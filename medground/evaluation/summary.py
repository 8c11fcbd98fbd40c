"""From records to numbers: means with intervals, by groups of samples, faults by kind, and paired comparisons."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from medground.data.size_bins import SIZES
from medground.evaluation import instances, statistics
from medground.evaluation.conditions import Condition
from medground.evaluation.metrics import COMPAT, DEFINITIONS, DISTANCES
from medground.evaluation.results import (
    Calibration,
    CalibrationBin,
    ClusterCounts,
    Comparison,
    ConditionSummary,
    GroupSummary,
    MetricSummary,
    Resampling,
)
from medground.evaluation.results_file import AnswerRecord, SampleRecord
from medground.geometry import Floats, box_iou
from medground.images.rle import rle_area
from medground.types import Fault

GROUPS = ("modality", "supercategory", "category", "size")
"""Labels by which means are reported; a record's ``size`` is its target's."""
COMPARED = ("iou", "pdice", "dice_joint", "mask_iou", "boundary_f")
"""The metrics that are tested against a baseline or another condition, in this order; each test is one of its family."""
SHIFTED: Mapping[str, tuple[str, ...]] = {
    "ceiling": ("dice_joint",),
    "baseline": ("iou", "dice_joint"),
    "probe": ("iou", "pdice", "dice_joint"),
}
"""By kind of condition, what of `COMPARED` is tested against the answers; the rest would differ, or not, by construction."""
BINS = 10
"""Of predicted IoU, equally wide."""
FEW = 10
"""An interval of fewer clusters is marked."""

Records = Sequence[SampleRecord]


class Pair(NamedTuple):
    """Two sets of records to be compared, and what they are."""

    records: Records
    others: Records
    metrics: Sequence[str]
    against: str
    condition: str | None = None
    variant: str | None = None
    dataset: str | None = None


def estimate(values: Floats, records: Records, how: Resampling) -> list[statistics.Estimate | None]:
    """Return the mean of every column of values ``[N, M]`` of N records, with its interval."""
    clusters = [record.cluster for record in records]
    return statistics.estimate(values, clusters, n_boot=how.n_boot, level=how.level, seed=how.seed)


def table(records: Records, names: Sequence[str]) -> Floats:
    """Return [N, M] the values of records; NaN where a record has none."""
    rows = [[record.values.get(name, np.nan) for name in names] for record in records]
    return np.array(rows, np.float64).reshape(len(records), len(names))


def measured(records: Records) -> list[str]:
    """Return the metrics that any record has a value of, or lost, in the order of `DEFINITIONS`.

    Metrics of several regions, and of targets that may be absent, are among them only where there are such.
    """
    names = {name for record in records for name in record.values}
    names |= {name for record in records for answer in record.answers for name in answer.excluded}
    absent = "no_target_accuracy" in names or any(answer.abstains for answer in _answers(records))
    several = any(len(record.target.regions) > 1 for record in records)
    several = several or any(len(answer.regions) > 1 for answer in _answers(records))
    names -= set() if absent else set(instances.ABSENCE)
    names -= set() if absent or several else set(instances.INSTANCES)
    return [name for name in DEFINITIONS if name in names]


def summarize(
    records: Records, condition: Condition, how: Resampling, *, crossed: bool, answers: Records | None
) -> ConditionSummary:
    """Summarize the records of one condition.

    Args:
        records: of the condition.
        condition: what was changed.
        how: resampling.
        crossed: whether to summarize by all groups at once too.
        answers: the records of the condition ``answer``, for the agreement with them.
    """
    usage: Counter[str] = Counter()
    for answer in _answers(records):
        usage.update(answer.usage)
    return ConditionSummary(
        **_counts(records),
        kind=condition.kind,
        description=condition.description,
        usage=dict(usage),
        metrics=_metrics(records, how, thorough=True),
        groups={group: _grouped(records, (group,), how) for group in GROUPS},
        crossed=_grouped(records, GROUPS, how) if crossed else None,
        calibration=calibration(records),
        agreement=None if answers is None or condition.kind == "answer" else agreement(records, answers, how),
    )


def cluster_counts(records: Records) -> ClusterCounts:
    """Count the clusters of records, by kind."""
    names = {record.cluster for record in records}
    return ClusterCounts(count=len(names), by=dict(sorted(Counter(name.rpartition("-")[0] for name in names).items())))


def _answers(records: Records) -> list[AnswerRecord]:
    return [answer for record in records for answer in record.answers]


def _counts(records: Records) -> dict[str, Any]:
    """Return the fields of `AnswerCounts`."""
    answers = _answers(records)
    faults = [answer.fault for answer in answers if answer.fault is not None]
    failures = _counted(fault for fault in faults if fault.of_model)
    masks = [answer.masks["joint"] for answer in answers if "joint" in answer.masks]
    absent = sum(mask.absent for mask in masks)
    return {
        "samples": len(records),
        "clusters": len({record.cluster for record in records}),
        "answers": len(answers),
        "ok": len(answers) - len(faults),
        "failures": failures,
        "refusals": failures.get(Fault.NO_ANSWER, 0),
        "abstentions": sum(answer.abstains for answer in answers),
        "excluded": _counted(fault for fault in faults if not fault.of_model),
        "masks": len(masks),
        "empty_masks": sum(rle_area(mask.rle) == 0 for mask in masks) - absent,
        "absent_masks": absent,
    }


def _counted(faults: Iterable[Fault]) -> dict[str, int]:
    return dict(sorted(Counter(fault.value for fault in faults).items()))


def _metrics(records: Records, how: Resampling, *, thorough: bool = False) -> dict[str, MetricSummary]:
    """Summarize every metric; `thorough` adds definitions and what is special."""
    names = measured(records)
    estimates = estimate(table(records, names), records, how)
    return {
        name: metric_summary(row, **(_special(name, records) if thorough else {}))
        for name, row in zip(names, estimates, strict=True)
    }


def metric_summary(estimate: statistics.Estimate | None, **more: Any) -> MetricSummary:
    """Return an estimate as it is written; None is a metric without a value."""
    if estimate is None:
        return MetricSummary(mean=None, low=None, high=None, n=0, clusters=0, **more)
    return MetricSummary(**asdict(estimate), **more)


def _special(name: str, records: Records) -> dict[str, Any]:
    """Return a metric's definition, and what distances and released numbers need beside their mean."""
    answers = [answer for answer in _answers(records) if name in answer.values]
    more: dict[str, Any] = {"definition": DEFINITIONS[name]}
    if name in DISTANCES:
        defined = [
            value for answer in answers if name not in answer.undefined and (value := answer.values[name]) is not None
        ]
        more |= {"mean_defined": float(np.mean(defined)) if defined else None, "n_defined": len(defined)}
    if name in COMPAT:
        details = [answer.details.get(name, {}) for answer in answers]
        more |= {key: sum(word in detail for detail in details) for key, word in _RELEASED.items()}
    return more


_RELEASED = {"failures": "failure", "nonfinite": "released"}
"""Counts of released numbers -> what an answer's details hold there."""


def _grouped(records: Records, labels: Sequence[str], how: Resampling) -> list[GroupSummary]:
    """Return one summary per combination of labels, sorted; none where no sample has any of them."""
    groups: dict[tuple[str, ...], list[SampleRecord]] = {}
    for record in records:
        groups.setdefault(tuple(record.labels.get(label, "") for label in labels), []).append(record)
    if set(groups) == {("",) * len(labels)}:
        return []
    return [
        GroupSummary(**_counts(group), labels=dict(zip(labels, key, strict=True)), metrics=_metrics(group, how))
        for key, group in sorted(groups.items(), key=lambda item: [natural(word) for word in item[0]])
    ]


def natural(word: str) -> tuple[int, str]:
    """Return a sort key: target sizes in their own order, everything else by name."""
    names = [name for _, name in SIZES]
    return (names.index(word), "") if word in names else (-1, word.casefold())


def calibration(records: Records) -> Calibration | None:
    """Compare the segmenter's scores with IoUs; None where no mask has a score, or all have the same."""
    pairs = [
        (answer.masks["joint"].score, answer.values["mask_iou"])
        for answer in _answers(records)
        if "mask_iou" in answer.values and "joint" in answer.masks and answer.masks["joint"].score is not None
    ]
    if not pairs or len({score for score, _ in pairs}) == 1:
        return None
    scores, ious = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    bins = np.clip((scores * BINS).astype(int), 0, BINS - 1)
    rows = [
        CalibrationBin(
            low=index / BINS,
            high=(index + 1) / BINS,
            n=int((bins == index).sum()),
            score=float(scores[bins == index].mean()),
            iou=float(ious[bins == index].mean()),
        )
        for index in sorted(set(bins.tolist()))
    ]
    constant = ious.std() == 0 or scores.std() == 0
    return Calibration(
        n=len(pairs),
        error=float(sum(row.n * abs(row.score - row.iou) for row in rows) / len(pairs)),
        correlation=None if constant else float(np.corrcoef(scores, ious)[0, 1]),
        bins=rows,
    )


def comparisons(pairs: Sequence[Pair], how: Resampling) -> list[Comparison]:
    """Test records against others of the same samples; Holm-corrected over all that are given together.

    Where no sample differs at all there is nothing to test: p is 1, and the family is one smaller. Sign flips condition
    on the sizes of the differences, so this takes nothing from the correction.
    """
    rows: list[Comparison] = []
    for pair in pairs:
        by_id = {other.id: other for other in pair.others}
        ours = [record for record in pair.records if record.id in by_id]
        theirs = [by_id[record.id] for record in ours]
        shared = set(measured(ours)) & set(measured(theirs))
        names = [name for name in pair.metrics if name in shared]
        values, others, clusters = table(ours, names), table(theirs, names), [record.cluster for record in ours]
        for column, name in enumerate(names):
            result = statistics.compare(
                values[:, column], others[:, column], clusters, n_boot=how.n_boot, level=how.level, seed=how.seed
            )
            if result is not None:
                row = comparison(result, metric=name, against=pair.against)
                rows.append(replace(row, condition=pair.condition, variant=pair.variant, dataset=pair.dataset))
    return holm_corrected(rows)


def holm_corrected(rows: Sequence[Comparison]) -> list[Comparison]:
    """Return tests with their p-values corrected over all of them that differ at all."""
    corrected = iter(statistics.holm([row.p for row in rows if row.differ]))
    return [replace(row, p_holm=next(corrected)) if row.differ else row for row in rows]


def comparison(result: statistics.Difference, *, metric: str, against: str) -> Comparison:
    """Return a test as results hold it, before its correction."""
    return Comparison(
        against=against,
        metric=metric,
        n=result.n,
        clusters=result.clusters,
        mean=result.mean,
        other=result.other,
        difference=result.difference.mean,
        low=result.difference.low,
        high=result.difference.high,
        differ=result.differ,
        p=result.p,
        p_holm=1.0,
    )


def agreement(records: Records, answers: Records, how: Resampling) -> MetricSummary:
    """Return the mean IoU of the boxes of a condition with those of the answers, over first answers that have both.

    High under a probe means that what was changed was not used.
    """
    by_id = {record.id: record for record in answers}
    pairs = [(record, by_id[record.id]) for record in records if record.id in by_id]
    boxed = [
        (one.answers[0].box, other.answers[0].box, one)
        for one, other in pairs
        if one.answers and other.answers and one.answers[0].box and other.answers[0].box
    ]
    if not boxed:
        return metric_summary(None)
    values = np.array([[float(box_iou(box, other))] for box, other, _ in boxed])
    return metric_summary(*estimate(values, [record for _, _, record in boxed], how))
