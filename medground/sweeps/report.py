"""The report of a sweep: one HTML file."""

from collections.abc import Mapping
from typing import Any

from medground import report
from medground.evaluation.metrics import DEFINITIONS
from medground.sweeps.tables import comparison_rows, cost_rows, headings, legend, names, shown

Found = Mapping[str, Any]


def page(found: Found) -> str:
    """The page of what `medground.sweeps.results.tell` told."""
    metrics = [name for name in found["metrics"] if any(name in row["metrics"] for row in found["rows"])]
    table = report.table(
        [*headings(found), "seeds", "samples", "failures", *metrics],
        [
            [
                *names(found, row),
                len(row["seeds"]),
                row["samples"],
                row["failures"],
                *(_unbroken(shown(found, row, name)) for name in metrics),
            ]
            for row in found["rows"]
        ],
        caption=f"Means of {found['recipe']}",
    )
    sections = [
        report.Section("Table", table, legend(found), *(f"{name}: {DEFINITIONS[name]}" for name in metrics)),
        report.Section("Plots", report.grid(*(_bars(found, name) for name in metrics))),
    ]
    if found["comparisons"]:
        columns, rows = comparison_rows(found)
        sorts = ("difference", "p", "p (Holm)")  # as numbers: the order of words knows no sign
        rows = [
            [float(each) if name in sorts else _unbroken(each) for name, each in zip(columns, row, strict=True)]
            for row in rows
        ]
        tests = report.table(columns, rows, caption=f"Differences from {found['baseline']}")
        sections.append(report.Section(f"Compared with {found['baseline']}", tests, found["resampling"]["tested"]))
    else:
        why = f"{found['baseline']} has no numbers, or nothing to be compared with."
        sections.append(report.Section(f"Compared with {found['baseline']}", why))
    if found["by"]:
        sections.append(_by(found, metrics))
    if found["skipped"] or found["failed"] or _left_out(found):
        sections.append(_missing(found))
    sections += [
        report.Section(
            "Cost",
            report.table(*cost_rows(found), caption="What the cells took"),
            "Questions are those put to the reasoner: what another cell had asked already was taken from the store. Seconds "
            "of training are those of its steps; those of an evaluation leave out what a killed process had spent.",
        ),
        report.Section(
            "Variants", report.table(["variant", "changes"], [[*pair] for pair in found["variants"].items()])
        ),
    ]
    return report.page(f"Sweep {found['recipe']}", sections, note=_note(found))


def _unbroken(said: str) -> str:
    """Words that stay on one line: a narrow page scrolls its tables rather than stacking the ends of an interval."""
    return said.replace(" ", "\N{NO-BREAK SPACE}")


def _note(found: Found) -> str:
    done, rest = len(found["cells"]), len(found["skipped"]) + len(found["failed"])
    return (
        f"{done} of {done + rest} cells have numbers; {len(found['skipped'])} were skipped as impossible and "
        f"{len(found['failed'])} failed."
    )


def _bars(found: Found, metric: str) -> report.Html:
    series: dict[str, dict[str, float | None]] = {}
    spans: dict[str, dict[str, tuple[float, float]]] = {}
    for row in found["rows"]:
        if (each := row["metrics"].get(metric)) is None:
            continue
        label, *more = names(found, row)
        name = " ".join(more) or metric
        series.setdefault(name, {})[label] = round(each["mean"], 3)  # as the table has it: longer ones do not fit
        if each["low"] is not None:
            spans.setdefault(name, {})[label] = (round(each["low"], 3), round(each["high"], 3))
    return report.bars(metric, series, intervals=spans)


def _by(found: Found, metrics: list[str]) -> report.Section:
    rows = [
        [
            *names(found, row),
            value,
            part["samples"],
            *(_unbroken(shown(found, {**row, **part, "arm": ""}, name)) for name in metrics),
        ]
        for row in found["rows"]
        for value, part in row["groups"].items()
    ]
    table = report.table([*headings(found), found["by"], "samples", *metrics], rows, caption=f"Means by {found['by']}")
    return report.Section(f"By {found['by']}", table, report.grid(*(_bars_by(found, name) for name in metrics)))


def _bars_by(found: Found, metric: str) -> report.Html:
    series: dict[str, dict[str, float | None]] = {}
    for row in found["rows"]:
        for value, part in row["groups"].items():
            if (each := part["metrics"].get(metric)) is not None:
                series.setdefault(" ".join(names(found, row)), {})[value] = round(each["mean"], 3)
    return report.bars(f"{metric} by {found['by']}", series)


def _left_out(found: Found) -> dict[str, str]:
    """Arms that single cells could not do."""
    return {
        f"{name}, arm {arm}": why for name, cell in found["cells"].items() for arm, why in cell["arms_skipped"].items()
    }


def _missing(found: Found) -> report.Section:
    rows = [[name, "skipped", why] for name, why in {**found["skipped"], **_left_out(found)}.items()]
    rows += [[name, "failed", why] for name, why in found["failed"].items()]
    return report.Section("Without numbers", report.table(["cell", "what", "why"], rows, caption="What has no numbers"))
