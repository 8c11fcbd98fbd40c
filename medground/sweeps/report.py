"""The report of a sweep: one HTML file."""

from medground.evaluation.metrics import DEFINITIONS
from medground.report import Cell, Table, render, unbroken
from medground.sweeps.published import published_tables
from medground.sweeps.results import SweepSummary
from medground.sweeps.tables import comparison_rows, cost_rows, headings, legend, names, value_cell, value_cells

Series = dict[str, dict[str, float | None]]
Spans = dict[str, dict[str, tuple[float, float]]]


def sweep_report(sweep: SweepSummary) -> str:
    """Return the page of a sweep."""
    rows: list[list[Cell]] = [
        [*names(sweep, row), len(row.seeds), row.samples, row.failures, *map(unbroken, value_cells(sweep, row))]
        for row in sweep.rows
    ]
    columns = [*headings(sweep), "seeds", "samples", "failures", *sweep.measured]
    return render(
        "sweep.html",
        title=f"Sweep {sweep.recipe}",
        sweep=sweep,
        definitions=DEFINITIONS,
        means=Table(columns, rows, f"Means of {sweep.recipe}"),
        legend=legend(sweep),
        bars_by_metric={name: _bars(sweep, name) for name in sweep.measured},
        comparisons=_comparisons(sweep),
        by=_by(sweep),
        bars_by_group={name: _bars_by_group(sweep, name) for name in sweep.measured},
        missing=_missing(sweep),
        cost=cost_rows(sweep),
        published=published_tables(sweep),
    )


def _comparisons(sweep: SweepSummary) -> Table:
    columns, rows = comparison_rows(sweep)
    sorts = ("difference", "p", "p (Holm)")  # as numbers: the order of words knows no sign
    cells: list[list[Cell]] = [
        [float(cell) if name in sorts else unbroken(str(cell)) for name, cell in zip(columns, row, strict=True)]
        for row in rows
    ]
    return Table(columns, cells, f"Differences from {sweep.baseline}")


def _bars(sweep: SweepSummary, name: str) -> tuple[Series, Spans]:
    series: Series = {}
    spans: Spans = {}
    for row in sweep.rows:
        metric = row.metrics.get(name)
        if metric is None or metric.mean is None:
            continue
        label, *more = names(sweep, row)
        key = " ".join(more) or name
        series.setdefault(key, {})[label] = round(metric.mean, 3)  # as the table has it: longer ones do not fit
        if metric.low is not None and metric.high is not None:
            spans.setdefault(key, {})[label] = (round(metric.low, 3), round(metric.high, 3))
    return series, spans


def _by(sweep: SweepSummary) -> Table:
    rows: list[list[Cell]] = [
        [
            *names(sweep, row),
            value,
            group.samples,
            *(unbroken(value_cell(group.metrics.get(name))) for name in sweep.measured),
        ]
        for row in sweep.rows
        for value, group in row.groups.items()
    ]
    return Table([*headings(sweep), sweep.by or "", "samples", *sweep.measured], rows, f"Means by {sweep.by}")


def _bars_by_group(sweep: SweepSummary, name: str) -> Series:
    series: Series = {}
    for row in sweep.rows:
        for value, group in row.groups.items():
            metric = group.metrics.get(name)
            if metric is not None and metric.mean is not None:
                series.setdefault(" ".join(names(sweep, row)), {})[value] = round(metric.mean, 3)
    return series


def _missing(sweep: SweepSummary) -> list[list[Cell]]:
    """Return the trials, and the conditions of single trials, that have no numbers, with the reason."""
    conditions = {
        f"{name}, condition {condition}": reason
        for name, trial in sweep.trials.items()
        for condition, reason in trial.conditions_skipped.items()
    }
    skipped: list[list[Cell]] = [[name, "skipped", reason] for name, reason in (sweep.skipped | conditions).items()]
    return skipped + [[name, "failed", cause] for name, cause in sweep.failed.items()]
