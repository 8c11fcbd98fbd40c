"""report.html: an evaluation to be read by people, in one file."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from medground.evaluation.confidence_report import confidence_section, wording_section
from medground.evaluation.pictures import ABSENCE, pictures, ranked_by
from medground.evaluation.published import PublishedTable, published
from medground.evaluation.results import (
    Calibration,
    Comparison,
    ConditionSummary,
    EvaluationMetadata,
    EvaluationSummary,
    GroupSummary,
    MetricSummary,
)
from medground.evaluation.results_file import SampleRecord
from medground.evaluation.summary import FEW, GROUPS
from medground.recipe import Recipe
from medground.report import Cell, Line, Table, render, rounded, unbroken
from medground.runs.jsonable import plain
from medground.runs.shareable import without_paths
from medground.types import Fault, Sample

Records = Sequence[SampleRecord]
Rows = list[list[Cell]]
FLOORED, FLOOR = "dice_joint", "dice_ellipse"
"""A metric, and what an answer's own box reaches in it without the image: the two stand side by side in every table."""
GROUPED = (FLOORED, "iou")
"""The metrics that tables of groups show."""
RARE: Mapping[str, Callable[[GroupSummary], int]] = {
    "cut off": lambda group: group.failures.get(Fault.CUT_OFF, 0),
    "empty masks": lambda group: group.empty_masks,
    "not present": lambda group: group.absent_masks,
}
"""Counts with a column of their own where there are any."""
TITLES = {"modality": "modality", "supercategory": "super-category", "category": "category", "size": "target size"}
KINDS = {
    "ceiling": ("Ceilings", "What is lost where: the answer or its segmenter replaced by one that knows the truth."),
    "baseline": ("Blind baselines", "Boxes that never saw the image. An answer worth having is better than these."),
    "probe": (
        "Probes",
        "One thing the reasoner was shown is changed, the truth is not. Alike is the mean IoU of its box with that of the "
        "plain answer: near 1, what was changed was not used.",
    ),
}
COLUMNS = [
    "condition",
    FLOORED,
    "interval",
    FLOOR,
    "iou",
    "against answer",
    "its interval",
    "p (Holm)",
]
MOST_LABELS = 6
"""Series of a scatter plot that can be told apart."""


def evaluation_report(
    recipe: Recipe,
    metadata: EvaluationMetadata,
    summary: EvaluationSummary,
    records: Records,
    read: Callable[[str], Sample] | None,
) -> str:
    """Return the page of an evaluation.

    Args:
        recipe: the resolved recipe.
        metadata: as in run.json.
        summary: as in metrics.json.
        records: as in samples.jsonl.
        read: gives a sample by its id, for the pictures; None leaves them out.
    """
    name, lead = next(iter(summary.conditions.items()))
    own = [record for record in records if record.condition == name]
    ranking, config = ranked_by(own), recipe.config.evaluate
    return render(
        "evaluation.html",
        title=f"Evaluation of {recipe.name}",
        causes=summary.causes,
        recipe=without_paths(recipe.dump()),
        summary=summary,
        lead=lead,
        interval=interval,
        few=FEW,
        clusters=", ".join(f"{count} by {kind}" for kind, count in summary.clusters.by.items()),
        pictures=None if read is None else pictures(own, read, config.pictures, config.seed),
        ranking=ranking,
        headline=lead.metrics.get(ranking),
        absent=None if ranking == ABSENCE else lead.metrics.get(ABSENCE),
        floor=lead.metrics.get(FLOOR) if ranking == FLOORED else None,
        floor_name=FLOOR,
        gain=lead.metrics.get("dice_over_ellipse"),
        result=[
            [key, row.mean, interval(row), row.n, row.clusters, row.definition] for key, row in lead.metrics.items()
        ],
        kinds=[kind for key in KINDS if (kind := _kind(key, summary))],
        against=[
            [
                row.condition,
                row.metric,
                row.mean,
                row.other,
                row.difference,
                interval(row),
                row.p,
                row.p_holm,
                row.n,
            ]
            for row in (summary.baseline.comparisons if summary.baseline else ())
        ],
        groups=[_group_table(lead.groups[key], (key,), f"by {TITLES[key]}") for key in GROUPS if lead.groups[key]],
        crossed=len(lead.crossed or ()) > 1 and _group_table(lead.crossed or (), GROUPS, "by all of these at once"),
        outcomes=lead.outcomes(summary.length_limit),
        failures=[row for key, condition in summary.conditions.items() for row in _failures(key, condition)],
        sizes=_sizes(own, ranking),
        calibration=lead.calibration and _calibration(lead.calibration),
        published=[_published(published(table), lead) for table in config.published or ()],
        card=_card(metadata, summary),
        unusable=[[bad.where, bad.reason] for bad in summary.unusable],
        confidence=confidence_section(summary, interval),
        wordings=wording_section(summary, interval),
        resampling=json.dumps(plain(summary.resampling), indent=1),
    )


def interval(row: MetricSummary | Comparison | None) -> str | None:
    """Return an interval in words for a cell; few clusters are marked.

    >>> interval(MetricSummary(mean=0.4, low=0.25, high=0.5, n=3, clusters=3)).split()
    ['0.250', 'to', '0.500', '(few)']
    """
    if row is None or row.low is None or row.high is None:
        return None
    return unbroken(f"{rounded(row.low)} to {rounded(row.high)}{' (few)' if row.clusters < FEW else ''}")


def _mean(row: MetricSummary | None) -> float | None:
    return None if row is None else row.mean


class _Kind(NamedTuple):
    """The conditions of one kind."""

    title: str
    about: str
    table: Table
    meaning: Rows
    jitter: dict[str, Line]
    """Metric -> means by how far edges were moved."""


def _kind(kind: str, summary: EvaluationSummary) -> _Kind | None:
    conditions = summary.conditions
    names = [name for name, condition in conditions.items() if condition.kind == kind]
    if not names:
        return None
    title, about = KINDS[kind]
    shown = [name for name in conditions if name == "answer"] + names
    tests = {row.condition: row for row in summary.comparisons if row.metric == FLOORED}
    alike = kind == "probe"
    rows: Rows = [
        [*_condition_row(name, conditions[name], tests.get(name)), *[_mean(conditions[name].agreement)] * alike]
        for name in shown
    ]
    return _Kind(
        title=title,
        about=about,
        table=Table([*COLUMNS, *["alike"] * alike], rows, title, shown=rounded, always=[FLOOR]),
        meaning=[[name, conditions[name].description] for name in shown],
        jitter=_jitter(conditions) if kind == "ceiling" else {},
    )


def _condition_row(name: str, condition: ConditionSummary, test: Comparison | None) -> list[Cell]:
    dice, floor, iou = (condition.metrics.get(key) for key in (FLOORED, FLOOR, "iou"))
    tested: list[Cell] = [test.difference, interval(test), test.p_holm] if test else [None] * 3
    return [name, _mean(dice), interval(dice), _mean(floor), _mean(iou), *tested]


def _jitter(conditions: Mapping[str, ConditionSummary]) -> dict[str, Line]:
    shares = {int(name.removeprefix("jitter_")): name for name in conditions if name.startswith("jitter_")}
    if "oracle_box" in conditions:
        shares[0] = "oracle_box"
    xs = sorted(shares)
    return {
        key: ([float(x) for x in xs], [_mean(conditions[shares[x]].metrics.get(key)) for x in xs])
        for key in ("iou", FLOORED, FLOOR)
        if len(shares) > 2
    }


def _group_table(groups: Sequence[GroupSummary], labels: Sequence[str], caption: str) -> Table:
    names = [name for name in GROUPED if any(name in group.metrics for group in groups)]
    rare = {word: count for word, count in RARE.items() if any(map(count, groups))}
    columns = [TITLES[label] for label in labels]
    columns += [
        word
        for name in names
        for word in (name, "interval" if name == FLOORED else f"interval of {name}", *_floor_of(name))
    ]
    rows: Rows = [
        [
            *((group.labels[label] or "not given").replace(" %", "\u00a0%") for label in labels),
            *(cell for name in names for cell in _with_interval(group, name)),
            group.samples,
            group.clusters,
            sum(group.failures.values()),
            group.refusals,
            *(count(group) for count in rare.values()),
        ]
        for group in groups
    ]
    columns += ["samples", "clusters", "failures", "refusals", *rare]
    return Table(columns, rows, caption, shown=rounded, always=[FLOOR])


def _floor_of(name: str) -> list[str]:
    """Return what stands beside a metric."""
    return [FLOOR] if name == FLOORED else []


def _with_interval(group: GroupSummary, name: str) -> list[Cell]:
    """Return a metric's mean and interval, and the mean of what stands beside it."""
    row = group.metrics.get(name)
    return [_mean(row), interval(row), *(_mean(group.metrics.get(beside)) for beside in _floor_of(name))]


def _failures(name: str, condition: ConditionSummary) -> Rows:
    kinds = [("ok", condition.ok, "")]
    kinds += [(fault, count, "counts as 0") for fault, count in condition.failures.items()]
    kinds += [(fault, count, "not the model's: left out of the means") for fault, count in condition.excluded.items()]
    total = condition.answers
    return [[name, fault, count, count / total if total else None, how] for fault, count, how in kinds]


def _sizes(records: Records, name: str) -> dict[str, Line]:
    """Return label -> (side of the target in % of the image's, value of a metric) of the samples that have it."""
    series: dict[str, tuple[list[float], list[float | None]]] = {}
    labels = [
        next(filter(None, map(record.labels.get, ("supercategory", "modality"))), "samples") for record in records
    ]
    common = sorted(set(labels), key=lambda label: (-labels.count(label), label))[:MOST_LABELS]
    for record, label in zip(records, labels, strict=True):
        if name in record.values:
            xs, ys = series.setdefault(label if label in common else "others", ([], []))
            xs.append(float(np.sqrt(record.target.share)) * 100)
            ys.append(record.values[name])
    return dict(series)


def _calibration(scores: Calibration) -> tuple[dict[str, Line], Rows]:
    curve: dict[str, Line] = {"bins": ([row.score for row in scores.bins], [row.iou for row in scores.bins])}
    return curve, [[f"{row.low:.1f} to {row.high:.1f}", row.n, row.score, row.iou] for row in scores.bins]


class _Published(NamedTuple):
    """A published table with this run's numbers above it."""

    info: PublishedTable
    numbers: Table
    by_supercategory: Table | None
    meaning: Rows


def _published(info: PublishedTable, lead: ConditionSummary) -> _Published:
    names = [name for name in info.definitions if any(name in row.values for row in info.rows)]
    models = [" ".join(filter(None, (row.model, row.size))) for row in info.rows]
    own = {group.labels["supercategory"].casefold(): group.metrics for group in lead.groups["supercategory"]}
    parts = list(dict.fromkeys(part for row in info.rows for part in row.iou_compat_by_supercategory))
    by_part: Rows = [
        ["this run, x100", *(_times_100(own.get(part.casefold(), {}).get("iou_compat")) for part in parts)]
    ]
    by_part += [
        [model, *(row.iou_compat_by_supercategory.get(part) for part in parts)]
        for model, row in zip(models, info.rows, strict=True)
        if row.iou_compat_by_supercategory
    ]
    numbers: Rows = [["this run, x100", *(_times_100(lead.metrics.get(name)) for name in names)]]
    numbers += [
        [model, *(row.values.get(name) for name in names)] for model, row in zip(models, info.rows, strict=True)
    ]
    caption = "iou_compat by super-category, as published"
    return _Published(
        info=info,
        numbers=Table(["model", *names], numbers, f"published numbers, {info.title}"),
        by_supercategory=Table(["model", *parts], by_part, caption) if parts else None,
        meaning=[[name, info.definitions[name]] for name in names],
    )


def _times_100(row: MetricSummary | None) -> float | None:
    mean = _mean(row)
    return None if mean is None else 100 * mean


def _card(metadata: EvaluationMetadata, summary: EvaluationSummary) -> list[tuple[str, str]]:
    return [
        ("recipe", metadata.recipe),
        ("protocol", summary.protocol),
        ("samples", str(metadata.samples)),
        ("split", metadata.split or "all"),
        ("prompt, SHA-256", metadata.prompt_sha256 or "none"),
        ("saved answers, SHA-256", metadata.predictions_sha256 or "none: the reasoner was asked"),
        ("identity", metadata.identity),
        *(metadata.plugins | metadata.versions).items(),
    ]
