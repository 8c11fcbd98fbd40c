"""report.html: an evaluation to be read by people, in one file."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medground.evaluation.confidence_report import confidence_section, wording_section
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
from medground.images.overlay import NOTHING, draw
from medground.images.rle import decode_rle
from medground.recipe import Recipe
from medground.report import Cell, Line, Table, render, rounded, unbroken
from medground.runs.jsonable import plain
from medground.runs.shareable import without_paths
from medground.types import Fault, Sample

Records = Sequence[SampleRecord]
Rows = list[list[Cell]]
NAMES = {
    "iou": "Box IoU",
    "pdice": "Point Dice",
    "iou_compat": "Box IoU (released)",
    "pdice_compat": "pDice (released, 0 to 2)",
    "dice_box": "Dice, box",
    "dice_points": "Dice, points",
    "dice_joint": "Dice",
    "mask_iou": "Mask IoU",
    "dice_ellipse": "Dice of the ellipse floor",
    "dice_over_ellipse": "Dice minus the ellipse floor",
    "boundary_f": "Boundary F",
    "hd95_px": "HD95, px",
    "hd95_mm": "HD95, mm",
    "no_target_accuracy": "No-target accuracy",
    "target_miss": "Target miss rate",
    "instance_precision_50": "Instance precision, IoU 0.5",
    "instance_recall_50": "Instance recall, IoU 0.5",
    "instance_f1_50": "Instance F1, IoU 0.5",
    "instance_precision_25": "Instance precision, IoU 0.25",
    "instance_recall_25": "Instance recall, IoU 0.25",
    "instance_f1_25": "Instance F1, IoU 0.25",
    "matched_iou": "Matched IoU",
    "count_error": "Count error",
    "union_dice": "Union Dice",
}
GROUPED = ("dice_joint", "iou")
"""The metrics that tables of groups show."""
RARE: Mapping[str, Callable[[GroupSummary], int]] = {
    "cut off": lambda group: group.failures.get(Fault.CUT_OFF, 0),
    "empty masks": lambda group: group.empty_masks,
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
    "Dice",
    "interval",
    "box IoU",
    "Dice minus floor",
    "Dice against answer",
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
    config = recipe.config.evaluate
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
        result=[[NAMES[key], row.mean, interval(row), row.n, row.clusters] for key, row in lead.metrics.items()],
        floor=lead.metrics.get("dice_over_ellipse"),
        meaning=[[NAMES[key], row.definition] for key, row in lead.metrics.items()],
        kinds=[kind for key in KINDS if (kind := _kind(key, summary))],
        against=[
            [
                row.condition,
                NAMES[row.metric],
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
        sizes=_sizes(own),
        ranked=NAMES[_ranked(own)],
        calibration=lead.calibration and _calibration(lead.calibration),
        galleries=_galleries(own, read, config.pictures, config.seed) if read is not None else {},
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
    tests = {row.condition: row for row in summary.comparisons if row.metric == "dice_joint"}
    alike = kind == "probe"
    rows: Rows = [
        [*_condition_row(name, conditions[name], tests.get(name)), *[_mean(conditions[name].agreement)] * alike]
        for name in shown
    ]
    return _Kind(
        title=title,
        about=about,
        table=Table([*COLUMNS, *["alike"] * alike], rows, title, shown=rounded),
        meaning=[[name, conditions[name].description] for name in shown],
        jitter=_jitter(conditions) if kind == "ceiling" else {},
    )


def _condition_row(name: str, condition: ConditionSummary, test: Comparison | None) -> list[Cell]:
    dice, iou, gain = (condition.metrics.get(key) for key in ("dice_joint", "iou", "dice_over_ellipse"))
    tested: list[Cell] = [test.difference, interval(test), test.p_holm] if test else [None] * 3
    return [name, _mean(dice), interval(dice), _mean(iou), _mean(gain), *tested]


def _jitter(conditions: Mapping[str, ConditionSummary]) -> dict[str, Line]:
    shares = {int(name.removeprefix("jitter_")): name for name in conditions if name.startswith("jitter_")}
    if "oracle_box" in conditions:
        shares[0] = "oracle_box"
    xs = sorted(shares)
    return {
        NAMES[key]: ([float(x) for x in xs], [_mean(conditions[shares[x]].metrics.get(key)) for x in xs])
        for key in ("iou", "dice_joint", "dice_ellipse")
        if len(shares) > 2
    }


def _group_table(groups: Sequence[GroupSummary], labels: Sequence[str], caption: str) -> Table:
    names = [name for name in GROUPED if any(name in group.metrics for group in groups)]
    rare = {word: count for word, count in RARE.items() if any(map(count, groups))}
    columns = [TITLES[label] for label in labels]
    columns += [word for name in names for word in (NAMES[name], f"interval of {NAMES[name]}")]
    rows: Rows = [
        [
            *((group.labels[label] or "not given").replace(" %", "\u00a0%") for label in labels),
            *(cell for key in names for cell in (_mean(group.metrics.get(key)), interval(group.metrics.get(key)))),
            group.samples,
            group.clusters,
            sum(group.failures.values()),
            group.refusals,
            *(count(group) for count in rare.values()),
        ]
        for group in groups
    ]
    return Table([*columns, "samples", "clusters", "failures", "refusals", *rare], rows, caption, shown=rounded)


def _failures(name: str, condition: ConditionSummary) -> Rows:
    kinds = [("ok", condition.ok, "")]
    kinds += [(fault, count, "counts as 0") for fault, count in condition.failures.items()]
    kinds += [(fault, count, "not the model's: left out of the means") for fault, count in condition.excluded.items()]
    total = condition.answers
    return [[name, fault, count, count / total if total else None, how] for fault, count, how in kinds]


def _sizes(records: Records) -> dict[str, Line]:
    """Return label -> (side of the target in % of the image's, score) of the samples that have it."""
    name, series = _ranked(records), dict[str, tuple[list[float], list[float | None]]]()
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


def _ranked(records: Records) -> str:
    """Return the metric by which samples are ranked."""
    names = (name for name in ("dice_joint", "iou", "pdice") if any(name in record.values for record in records))
    return next(names, "iou")


class _Picture(NamedTuple):
    """A sample with its answer drawn."""

    record: SampleRecord
    image: Any
    alt: str
    caption: str


def _galleries(records: Records, read: Callable[[str], Sample], count: int, seed: int) -> dict[str, list[_Picture]]:
    """Return title -> pictures."""
    name = _ranked(records)
    scored = (record for record in records if name in record.values)
    ranked = sorted(scored, key=lambda record: (-record.values[name], record.id))
    best, worst = ranked[:count], ranked[count:][-count:][::-1] if count else []
    rest = ranked[len(best) : len(ranked) - len(worst)]
    drawn = np.random.default_rng(seed).permutation(len(rest))[:count]
    galleries = {
        f"Best by {NAMES[name]}": best,
        f"Worst by {NAMES[name]}": worst,
        "Drawn at random": [rest[index] for index in sorted(drawn.tolist())],
    }
    return {
        title: [_picture(record, read(record.id), name) for record in chosen]
        for title, chosen in galleries.items()
        if chosen
    }


def _picture(record: SampleRecord, sample: Sample, name: str) -> _Picture:
    answer, score = record.answers[0], record.values[name]
    mask = answer.masks.get("joint") or next(iter(answer.masks.values()), None)
    parts = [region.mask.rle for region in answer.regions if region.mask is not None]
    image = draw(
        sample.query.image,
        box=[region.box for region in answer.regions if region.box is not None],
        points=[point for region in answer.regions for point in region.points],
        mask=[decode_rle(rle) for rle in parts or ([mask.rle] if mask else [])],
        target_box=[region.box for region in sample.target.regions if region.box is not None],
        target_mask=[region.mask.data for region in sample.target.regions if region.mask is not None],
        caption=NOTHING if answer.abstains else None,
    )
    count, fault = len(record.answers), f", {answer.fault}" if answer.fault else ""
    several = f" in the mean of {count} answers; the first is shown" if count > 1 else ""
    labels = ", ".join(value for key, value in record.labels.items() if key in ("modality", "category") and value)
    return _Picture(
        record=record,
        image=image,
        alt=f"{labels or 'image'}: answer and truth, {NAMES[name]} {score:.2f}{fault}",
        caption=f"{record.id}: {NAMES[name]} {score:.3f}{several}{fault}. {labels}",
    )


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
    caption = f"{NAMES['iou_compat']} by super-category, as published"
    return _Published(
        info=info,
        numbers=Table(["model", *(NAMES[name] for name in names)], numbers, f"published numbers, {info.title}"),
        by_supercategory=Table(["model", *parts], by_part, caption) if parts else None,
        meaning=[[NAMES[name], info.definitions[name]] for name in names],
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
