"""The sections of a report on confidence and on wordings, as ``confidence.html`` shows them."""

from collections.abc import Callable
from typing import NamedTuple

from medground.evaluation.results import (
    Comparison,
    ConfidenceSummary,
    EvaluationSummary,
    MetricSummary,
    SelectiveResult,
)
from medground.report import Cell, Line

Interval = Callable[[MetricSummary | Comparison | None], str | None]
SOURCES = {
    "agreement": "how far the answers to one question agree: of each, the mean over the others of twice the IoU of matched "
    "boxes over their number",
    "stated": "what the answer states, that of its least sure region; an answer that states none is certain",
}


class ConfidenceSection(NamedTuple):
    """What is shown of confidence."""

    summary: ConfidenceSummary
    source: str
    verdict: str
    rows: list[list[Cell]]
    curve: dict[str, Line]
    bins: dict[str, Line]
    bin_rows: list[list[Cell]]


class WordingSection(NamedTuple):
    """What is shown of wordings."""

    wordings: int
    rows: list[list[Cell]]


def confidence_section(summary: EvaluationSummary, interval: Interval) -> ConfidenceSection | None:
    """Return what is shown of confidence; None where there is none."""
    sure = summary.confidence
    if sure is None:
        return None
    result = sure.selective
    rows: list[list[Cell]] = [
        ["AUROC: a right answer is surer than a wrong one", sure.auroc.mean, interval(sure.auroc)],
        ["AURC: area under risk and coverage", sure.aurc, None],
        ["ECE: confidence against right answers", sure.error, None],
        ["threshold", result.selection.threshold, None],
        ["answers given, on the other samples", result.given.mean, interval(result.given)],
        ["wrong among them", result.wrong.mean if result.wrong else None, interval(result.wrong)],
    ]
    return ConfidenceSection(
        summary=sure,
        source=SOURCES[sure.source],
        verdict=verdict(result),
        rows=rows,
        curve={"answers": ([covered for covered, _ in sure.curve], [risk for _, risk in sure.curve])},
        bins={"bins": ([row.confidence for row in sure.bins], [row.right for row in sure.bins])},
        bin_rows=[[f"{row.low:.1f} to {row.high:.1f}", row.n, row.confidence, row.right] for row in sure.bins],
    )


def verdict(result: SelectiveResult) -> str:
    """Return in one sentence which answers may be given."""
    chosen = result.selection
    promise = f"at most {chosen.risk:.0%} of the given answers are wrong"
    sure = f"with probability {1 - chosen.delta:.0%} over calibration sets"
    basis = f"{chosen.samples} samples in {chosen.clusters} clusters"
    if chosen.threshold is None:
        return f"On {basis} no threshold passes the test that {promise}, {sure}: no answer is to be given."
    return (
        f"Answers with a confidence of {chosen.threshold:.3f} or more may be given: {promise}, {sure}. The threshold was "
        f"chosen on {basis} and holds for clusters of up to {chosen.largest} samples from the same source."
    )


def wording_section(summary: EvaluationSummary, interval: Interval) -> WordingSection | None:
    """Return what is shown of wordings; None where questions are asked in one."""
    if not summary.wordings:
        return None
    rows: list[list[Cell]] = [
        [name, row.mean.mean, interval(row.mean), row.worst.mean, interval(row.worst), row.mean.n]
        for name, row in summary.wordings.items()
    ]
    return WordingSection(wordings=next(iter(summary.wordings.values())).wordings, rows=rows)
