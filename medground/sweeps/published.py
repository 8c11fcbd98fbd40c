"""Published numbers beside those of a sweep: labelled as published, and never mixed with them."""

from collections.abc import Sequence

from medground.evaluation.published import PublishedTable, published
from medground.report import Cell, Table
from medground.sweeps.results import SweepSummary
from medground.sweeps.tables import names


def published_tables(sweep: SweepSummary) -> list[tuple[PublishedTable, Table]]:
    """Return every published table that the recipe names, with the sweep's own rows, times 100, above those of the table.

    A row of the sweep has a number only where it was measured by the same definition.
    """
    return [(table, _beside(sweep, table)) for table in map(published, sweep.published)]


def _beside(sweep: SweepSummary, table: PublishedTable) -> Table:
    metrics = [name for name in table.definitions if any(name in row.values for row in table.rows)]
    own: list[list[Cell]] = []
    for row in sweep.rows:
        means = [None if name not in row.metrics else row.metrics[name].mean for name in metrics]
        own.append(["here: " + " ".join(names(sweep, row)), *(_times_100(means))])
    theirs: list[list[Cell]] = [
        [" ".join(filter(None, (row.model, row.size))), *(row.values.get(name) for name in metrics)]
        for row in table.rows
    ]
    return Table(["model", *metrics], own + theirs, f"published numbers, {table.title}")


def _times_100(means: Sequence[float | None]) -> list[Cell]:
    return [None if mean is None else round(100 * mean, 2) for mean in means]
