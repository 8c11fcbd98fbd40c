"""How sure answers are, what that is worth, and what the wording of a question changes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medground.evaluation import selective, statistics
from medground.evaluation.instances import agreement
from medground.evaluation.results import (
    ConfidenceBin,
    ConfidenceSummary,
    MetricSummary,
    Resampling,
    SelectiveResult,
    WordingSummary,
)
from medground.evaluation.results_file import AnswerRecord, RegionRecord, SampleRecord, TargetRecord
from medground.evaluation.summary import estimate, metric_summary
from medground.geometry import Box, Floats, mask_box
from medground.images.rle import decode_rle
from medground.recipe.schema import EvaluateConfig
from medground.types import Region

RIGHT = 0.5
"""An answer is right from this IoU on."""
BINS = 10
"""Of confidence, equally wide."""
POINTS = 60
"""Of a risk-coverage curve, at the most."""
WORDING_METRICS = ("iou", "pdice", "dice_joint", "mask_iou", "no_target_accuracy", "instance_f1_50", "union_dice")
"""The metrics that are reported over wordings; higher is better for all of them."""


def with_agreement(answers: Sequence[AnswerRecord]) -> list[AnswerRecord]:
    """Return the answers to one question with their agreement: of each, the mean over the others of how alike the two are.

    Two answers are alike as `medground.evaluation.instances.agreement` says. An answer with a fault agrees with none. An answer
    alone has no agreement.
    """
    if len(answers) < 2:
        return list(answers)
    placed = [places(answer) for answer in answers]
    alike = np.zeros((len(answers), len(answers)))
    for row in range(len(answers)):
        for column in range(row):
            if answers[row].fault is None and answers[column].fault is None:
                alike[row, column] = alike[column, row] = agreement(placed[row], placed[column])
    means = alike.sum(axis=1) / (len(answers) - 1)
    return [replace(answer, agreement=float(mean)) for answer, mean in zip(answers, means, strict=True)]


def places(record: AnswerRecord | TargetRecord) -> list[Region]:
    """Return the regions of a record, each by its box or the tight box of its mask."""
    whole = record.masks.get("joint") if isinstance(record, AnswerRecord) and len(record.regions) == 1 else None
    regions = []
    for region in record.regions:
        mask = region.mask or whole
        box = Box(*region.box) if region.box else None
        if box is None and mask is not None and (pixels := decode_rle(mask.rle)).any():
            box = mask_box(pixels)
        regions.append(Region(box=box))
    return regions


def representative(record: SampleRecord) -> AnswerRecord | None:
    """Return the answer that stands for a sample: the one that agrees most with the others, the first of several such.

    None where the sample has no answer, or what failed is not the model's doing.
    """
    usable = [answer for answer in record.answers if answer.fault is None or answer.fault.of_model]
    return max(usable, key=lambda answer: answer.agreement or 0.0, default=None)


def right(record: SampleRecord, answer: AnswerRecord) -> bool:
    """Return whether an answer is right: an IoU of 0.5 or more with the truth, of all masks together where they are measured.

    Without masks it is the agreement of its boxes with the true ones. Nothing is right about an absent target, and wrong about
    one that is there; an answer with a fault is wrong.
    """
    if answer.fault is not None:
        return False
    overlap = answer.values.get("mask_iou")
    return (agreement(places(answer), places(record.target)) if overlap is None else overlap) >= RIGHT


def stated(regions: Sequence[RegionRecord]) -> float:
    """Return the confidence that an answer states: that of its least sure region; one that states none is certain, 1."""
    return min((1.0 if region.confidence is None else region.confidence for region in regions), default=1.0)


class ConfidenceTable(NamedTuple):
    """One answer per sample."""

    source: Literal["agreement", "stated"]
    records: list[SampleRecord]
    confidence: Floats
    right: NDArray[np.bool_]

    @property
    def clusters(self) -> list[str]:
        """The cluster of each."""
        return [record.cluster for record in self.records]

    def part(self, rows: NDArray[np.bool_]) -> "ConfidenceTable":
        """Return the rows that a mask [N] keeps."""
        records = [record for record, there in zip(self.records, rows, strict=True) if there]
        return ConfidenceTable(self.source, records, self.confidence[rows], self.right[rows])


def confidence_table(records: Sequence[SampleRecord]) -> ConfidenceTable | None:
    """Return how sure the answers of one condition are, and whether they are right; None where there is no confidence.

    It is their agreement where samples have several answers, else what they state. The confidence of a fault is 0.
    """
    pairs = [(record, answer) for record in records if (answer := representative(record)) is not None]
    agreed = any(answer.agreement is not None for _, answer in pairs)
    states = any(region.confidence is not None for _, answer in pairs for region in answer.regions)
    if not agreed and not states:
        return None
    sure = [(answer.agreement or 0.0) if agreed else stated(answer.regions) for _, answer in pairs]
    return ConfidenceTable(
        source="agreement" if agreed else "stated",
        records=[record for record, _ in pairs],
        confidence=np.array([0.0 if answer.fault else one for (_, answer), one in zip(pairs, sure, strict=True)]),
        right=np.array([right(record, answer) for record, answer in pairs], bool),
    )


def confidence_summary(
    records: Sequence[SampleRecord], config: EvaluateConfig, how: Resampling
) -> ConfidenceSummary | None:
    """Summarize the confidence of the answers; None where there is none."""
    table = confidence_table(records)
    if table is None:
        return None
    bins = _bins(table)
    covered, risks = selective.risk_coverage(table.confidence, ~table.right)
    shown = np.unique(np.linspace(0, len(covered) - 1, POINTS).round().astype(int))
    return ConfidenceSummary(
        source=table.source,
        n=len(table.records),
        clusters=len(set(table.clusters)),
        right=float(table.right.mean()),
        auroc=_auroc(table, how),
        error=float(sum(row.n * abs(row.confidence - row.right) for row in bins) / len(table.records)),
        aurc=selective.aurc(table.confidence, ~table.right),
        bins=bins,
        curve=[(float(covered[index]), float(risks[index])) for index in shown],
        selective=_selective(table, config, how),
    )


def _bins(table: ConfidenceTable) -> list[ConfidenceBin]:
    index = np.clip((table.confidence * BINS).astype(int), 0, BINS - 1)
    return [
        ConfidenceBin(
            low=number / BINS,
            high=(number + 1) / BINS,
            n=int((index == number).sum()),
            confidence=float(table.confidence[index == number].mean()),
            right=float(table.right[index == number].mean()),
        )
        for number in sorted(set(index.tolist()))
    ]


def _auroc(table: ConfidenceTable, how: Resampling) -> MetricSummary:
    """Return the AUROC with the percentiles of its cluster bootstrap."""
    value = float(selective.auroc(table.confidence, table.right, np.ones((1, len(table.records))))[0])
    names, codes = np.unique(table.clusters, return_inverse=True)
    count, low, high = len(names), None, None
    if count > 1 and np.isfinite(value):
        rng = np.random.default_rng(how.seed)
        drawn = np.concatenate(
            [
                selective.auroc(
                    table.confidence, table.right, rng.multinomial(count, np.full(count, 1 / count), rows)[:, codes]
                )
                for rows in statistics.blocks(how.n_boot, len(table.records))
            ]
        )
        edges = ((1 - how.level) / 2, (1 + how.level) / 2)
        low, high = (float(np.nanquantile(drawn, edge)) for edge in edges)
    mean = value if np.isfinite(value) else None
    return MetricSummary(mean=mean, low=low, high=high, n=len(table.records), clusters=count)


def _selective(table: ConfidenceTable, config: EvaluateConfig, how: Resampling) -> SelectiveResult:
    """Choose a threshold on some of the clusters and measure it on the others."""
    names, codes = np.unique(table.clusters, return_inverse=True)
    order = np.random.default_rng(config.seed).permutation(len(names))
    calibrating = np.isin(codes, order[: round(config.calibration * len(names))])
    known, other = table.part(calibrating), table.part(~calibrating)
    selection = selective.choose_threshold(
        known.confidence, ~known.right, known.clusters, risk=config.risk, delta=config.delta, seed=config.seed
    )
    given = np.zeros(len(other.records), bool)
    if selection.threshold is not None:
        given = other.confidence >= selection.threshold
    errors = np.where(given, (~other.right).astype(np.float64), np.nan)
    shares = estimate(np.column_stack([given.astype(np.float64), errors]), other.records, how)
    return SelectiveResult(
        selection=selection,
        samples=len(other.records),
        clusters=len(set(other.clusters)),
        given=metric_summary(shares[0]),
        wrong=metric_summary(shares[1]) if shares[1] is not None else None,
    )


def wording_summary(
    records: Mapping[str, Sequence[SampleRecord]], wordings: Sequence[str], how: Resampling
) -> dict[str, WordingSummary] | None:
    """Return per metric the mean over a sample's wordings and the worst of them, over samples with a value for each.

    Args:
        records: condition -> records; ``answer`` holds the question's own wording.
        wordings: the conditions of the other wordings.
        how: resampling.
    """
    if not wordings:
        return None
    columns = [{record.id: record for record in records[name]} for name in ("answer", *wordings)]
    summaries = {}
    for name in WORDING_METRICS:
        rows = [
            (record, values)
            for record in records["answer"]
            if len(values := [column[record.id].values[name] for column in columns if name in column[record.id].values])
            == len(columns)
        ]
        if not rows:
            continue
        table = np.array([[np.mean(values), min(values)] for _, values in rows], np.float64)
        mean, worst = estimate(table, [record for record, _ in rows], how)
        summaries[name] = WordingSummary(wordings=len(columns), mean=metric_summary(mean), worst=metric_summary(worst))
    return summaries
