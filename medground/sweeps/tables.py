"""The table of a sweep as Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Sequence

from medground.evaluation.results import Comparison
from medground.sweeps.results import SeedMetric, SweepRow, SweepSummary

Cells = list[str | int | float]
LEVEL = 0.05
"""Corrected p-values below it are marked."""


def headings(sweep: SweepSummary) -> list[str]:
    """Return the headings of what a row is called: its variant, and dataset and condition where there are several."""
    several = {
        "dataset": len({row.dataset for row in sweep.rows}) > 1,
        "condition": len({row.condition for row in sweep.rows}) > 1,
    }
    return ["variant", *(key for key, shown in several.items() if shown)]


def names(sweep: SweepSummary, row: SweepRow) -> list[str]:
    """Return what a row is called, a word for each of `headings`."""
    return [getattr(row, heading) for heading in headings(sweep)]


def compared(sweep: SweepSummary, row: SweepRow, metric: str) -> Comparison | None:
    """Return the comparison of a row with the baseline; None where there is none, or for another condition."""
    if row.condition != sweep.rows[0].condition:
        return None
    wanted = (row.variant, row.dataset, metric)
    tests = (test for test in sweep.comparisons if (test.variant, test.dataset, test.metric) == wanted)
    return next(tests, None)


def value_cell(metric: SeedMetric | None, test: Comparison | None = None) -> str:
    """Return ``mean [low, high] ± between seeds``, and a star where it differs from the baseline.

    >>> value_cell(SeedMetric(mean=0.5, low=0.4, high=0.6, n=8, clusters=8, by_seed=[0.49, 0.51], sd=0.01))
    '0.500 [0.400, 0.600] ± 0.010'
    """
    if metric is None:
        return "–"
    between = "" if metric.low is None else f" [{metric.low:.3f}, {metric.high:.3f}]"
    spread = "" if metric.sd is None else f" ± {metric.sd:.3f}"
    star = " *" if test is not None and test.p_holm < LEVEL else ""
    return f"{metric.mean:.3f}{between}{spread}{star}"


def value_cells(sweep: SweepSummary, row: SweepRow) -> list[str]:
    """Return a row's cell for every measured metric."""
    return [value_cell(row.metrics.get(name), compared(sweep, row, name)) for name in sweep.measured]


def as_markdown(sweep: SweepSummary) -> str:
    """Return the table, comparisons, what is missing, cost, and what the numbers mean."""
    rows: list[Cells] = [
        [*names(sweep, row), len(row.seeds), row.samples, *value_cells(sweep, row)] for row in sweep.rows
    ]
    parts = [_markdown([*headings(sweep), "seeds", "samples", *sweep.measured], rows), legend(sweep)]
    if sweep.comparisons:
        parts.append(_markdown(*comparison_rows(sweep)))
    if missing := sweep.skipped | {name: f"failed: {cause}" for name, cause in sweep.failed.items()}:
        parts.append(_markdown(["trial", "why it has no numbers"], [[*pair] for pair in missing.items()]))
    return "\n".join([*parts, _markdown(*cost_rows(sweep))])


def legend(sweep: SweepSummary) -> str:
    """Return what the numbers of the table mean, and how they come about."""
    return f"{cell_meaning(sweep)} {sweep.resampling.resampled} {sweep.resampling.tested}\n"


def cell_meaning(sweep: SweepSummary) -> str:
    """Return what a cell of the table says."""
    return (
        f"mean [{sweep.resampling.level:.0%} interval] ± standard deviation between seeds; * differs from "
        f"{sweep.baseline} (Holm-corrected p < {LEVEL})."
    )


def comparison_rows(sweep: SweepSummary) -> tuple[list[str], list[Cells]]:
    """Return headings and rows of the comparisons with the baseline."""
    several = len({test.dataset for test in sweep.comparisons}) > 1
    columns = ["variant", *["dataset"] * several, "metric", "difference", "interval", "p", "p (Holm)"]
    return columns, [
        [
            test.variant or "",
            *[test.dataset or ""] * several,
            test.metric,
            f"{test.difference:+.3f}",
            "–" if test.low is None else f"[{test.low:+.3f}, {test.high:+.3f}]",
            f"{test.p:.4f}",
            f"{test.p_holm:.4f}",
        ]
        for test in sweep.comparisons
    ]


def cost_rows(sweep: SweepSummary) -> tuple[list[str], list[Cells]]:
    """Return headings and rows of what the trials took; a training that trials share is counted once."""
    columns = [
        "trial",
        "training",
        "steps",
        "tokens trained",
        "s training",
        "questions",
        "tokens answered",
        "s",
        "device",
    ]
    rows: list[Cells] = []
    counted: set[str | None] = {None}
    for name, trial in sweep.trials.items():
        spent = None if trial.training in counted else sweep.trainings.get(trial.training or "")
        counted.add(trial.training)
        training: Cells = ["–"] * 3 if spent is None else [spent.steps, spent.tokens, f"{spent.seconds:.1f}"]
        took: Cells = [trial.questions, trial.tokens, f"{trial.seconds:.1f}", trial.device or "–"]
        rows.append([name, trial.training or "–", *training, *took])
    return columns, rows


def as_latex(sweep: SweepSummary) -> str:
    """Return the table for a paper (needs booktabs); differences that are marked in Markdown have a star here too."""
    left, metrics = headings(sweep), sweep.measured
    lines = [
        f"% {sweep.recipe}: {legend(sweep).strip()}",
        f"\\begin{{tabular}}{{{'l' * len(left)}{'r' * (len(metrics) + 1)}}}",
        "\\toprule",
        " & ".join([*left, "seeds", *map(_tex, metrics)]) + " \\\\",
        "\\midrule",
    ]
    for row in sweep.rows:
        cells = [*names(sweep, row), str(len(row.seeds)), *value_cells(sweep, row)]
        lines.append(" & ".join(map(_tex, cells)) + " \\\\")
    lines += [f"% {name}: {cause}" for name, cause in (sweep.skipped | sweep.failed).items()]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


_TEX = str.maketrans({
    "\\": "\\textbackslash{}", "_": "\\_", "%": "\\%", "&": "\\&", "#": "\\#", "$": "\\$", "{": "\\{", "}": "\\}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "±": "$\\pm$", "*": "$^{*}$",
})  # fmt: skip


def _tex(text: str) -> str:
    return text.translate(_TEX)


CSV = (
    "variant", "dataset", "condition", "group", "metric", "seeds", "samples", "clusters", "mean", "low", "high",
    "sd_between_seeds", "by_seed", "difference", "difference_low", "difference_high", "p", "p_holm", "note",
)  # fmt: skip


def as_csv(sweep: SweepSummary) -> str:
    """Return every number, a line per variant, dataset, condition, group and metric; trials without numbers have a note."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV)
    for row in sweep.rows:
        for group, part in {"": row, **row.groups}.items():
            for name, metric in part.metrics.items():
                test = None if group else compared(sweep, row, name)
                tested = [test.difference, test.low, test.high, test.p, test.p_holm] if test else [None] * 5
                by_seed = " ".join("" if value is None else f"{value:.6g}" for value in metric.by_seed)
                writer.writerow(
                    [row.variant, row.dataset, row.condition, group, name, len(row.seeds), metric.n, metric.clusters,
                     metric.mean, metric.low, metric.high, metric.sd, by_seed, *tested, ""]
                )  # fmt: skip
    for name, cause in (sweep.skipped | sweep.failed).items():
        writer.writerow([name, *[""] * (len(CSV) - 2), cause])
    return out.getvalue()


def _markdown(columns: Sequence[str], rows: Sequence[Cells]) -> str:
    lines = [list(columns), ["---"] * len(columns), *([str(cell).replace("|", "/") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
