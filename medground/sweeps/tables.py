"""The table of a sweep as Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]
LEVEL = 0.05
"""Corrected p-values below it are marked."""


def names(found: Found, row: Mapping[str, Any]) -> list[str]:
    """What a row is called: its variant, its dataset where there are several, its arm where there are several."""
    several = [len({other[key] for other in found["rows"]}) > 1 for key in ("dataset", "arm")]
    return [row["variant"], *(row[key] for key, there in zip(("dataset", "arm"), several, strict=True) if there)]


def headings(found: Found) -> list[str]:
    """Of the columns of `names`."""
    several = [(key, len({other[key] for other in found["rows"]}) > 1) for key in ("dataset", "arm")]
    return ["variant", *(key for key, there in several if there)]


def compared(found: Found, row: Mapping[str, Any], metric: str) -> Mapping[str, Any] | None:
    """The comparison of a row with the baseline, of the arm that is compared; None where there is none."""
    if row["arm"] != found["rows"][0]["arm"]:
        return None
    return next(
        (
            each
            for each in found["comparisons"]
            if (each["variant"], each["dataset"], each["metric"]) == (row["variant"], row["dataset"], metric)
        ),
        None,
    )


def shown(found: Found, row: Mapping[str, Any], metric: str) -> str:
    """``mean [low, high] ± between seeds``, and a star where it differs from the baseline.

    >>> row = {"variant": "a", "dataset": "", "arm": "answer",
    ...        "metrics": {"iou": {"mean": 0.5, "low": 0.4, "high": 0.6, "sd": 0.01}}}
    >>> shown({"rows": [row], "comparisons": []}, row, "iou")
    '0.500 [0.400, 0.600] ± 0.010'
    """
    each = row["metrics"].get(metric)
    if each is None:
        return "–"
    between = "" if each["low"] is None else f" [{each['low']:.3f}, {each['high']:.3f}]"
    spread = "" if each["sd"] is None else f" ± {each['sd']:.3f}"
    test = compared(found, row, metric)
    star = " *" if test is not None and test["p_holm"] < LEVEL else ""
    return f"{each['mean']:.3f}{between}{spread}{star}"


def as_markdown(found: Found) -> str:
    """Table, comparisons, what is missing, cost, and what the numbers mean."""
    metrics = _measured(found)
    parts = [
        _markdown(
            [*headings(found), "seeds", "samples", *metrics],
            [
                [*names(found, row), len(row["seeds"]), row["samples"], *(shown(found, row, name) for name in metrics)]
                for row in found["rows"]
            ],
        ),
        legend(found),
    ]
    if found["comparisons"]:
        parts.append(_markdown(*comparison_rows(found)))
    if missing := {**found["skipped"], **{name: f"failed: {why}" for name, why in found["failed"].items()}}:
        parts.append(_markdown(["cell", "why it has no numbers"], [[*pair] for pair in missing.items()]))
    return "\n".join([*parts, _markdown(*cost_rows(found))])


def legend(found: Found) -> str:
    """What the numbers of the table mean."""
    how = found["resampling"]
    return (
        f"mean [{how['level']:.0%} interval] ± standard deviation between seeds; * differs from {found['baseline']} "
        f"(Holm-corrected p < {LEVEL}). {how['resampled']} {how['tested']}\n"
    )


def comparison_rows(found: Found) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows of the comparisons with the baseline."""
    several = len({each["dataset"] for each in found["comparisons"]}) > 1
    columns = ["variant", *(["dataset"] if several else []), "metric", "difference", "interval", "p", "p (Holm)"]
    return columns, [
        [
            each["variant"],
            *([each["dataset"]] if several else []),
            each["metric"],
            f"{each['difference']:+.3f}",
            "–" if each["low"] is None else f"[{each['low']:+.3f}, {each['high']:+.3f}]",
            f"{each['p']:.4f}",
            f"{each['p_holm']:.4f}",
        ]
        for each in found["comparisons"]
    ]


def cost_rows(found: Found) -> tuple[list[str], list[list[Any]]]:
    """Headings and rows of what the cells took; what cells share is told where it was spent."""
    columns = [
        "cell",
        "training",
        "steps",
        "tokens trained",
        "s training",
        "questions",
        "tokens answered",
        "s",
        "device",
    ]
    rows, told = [], set()
    for name, cell in found["cells"].items():
        training = cell["training"]
        spent = found["trainings"].get(training) if training not in told else None
        told.add(training)
        rows.append(
            [
                name,
                training or "–",
                *(["–"] * 3 if spent is None else [spent["steps"], spent["tokens"], f"{spent['seconds']:.1f}"]),
                cell["questions"],
                cell["tokens"],
                f"{cell['seconds']:.1f}",
                cell["device"],
            ]
        )
    return columns, rows


def as_latex(found: Found) -> str:
    """The table for a paper (needs booktabs); differences that are marked in Markdown have a star here too."""
    metrics = _measured(found)
    left = headings(found)
    lines = [
        f"% {found['recipe']}: {legend(found).strip()}",
        f"\\begin{{tabular}}{{{'l' * len(left)}{'r' * (len(metrics) + 1)}}}",
        "\\toprule",
        " & ".join([*left, "seeds", *map(_tex, metrics)]) + " \\\\",
        "\\midrule",
    ]
    for row in found["rows"]:
        cells = [*map(_tex, names(found, row)), str(len(row["seeds"]))]
        lines.append(" & ".join([*cells, *(_tex(shown(found, row, name)) for name in metrics)]) + " \\\\")
    lines += [f"% {name}: {why}" for name, why in {**found["skipped"], **found["failed"]}.items()]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


_TEX = {
    "\\": "\\textbackslash{}", "_": "\\_", "%": "\\%", "&": "\\&", "#": "\\#", "$": "\\$", "{": "\\{", "}": "\\}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "±": "$\\pm$", "*": "$^{*}$",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)


CSV = (
    "variant", "dataset", "arm", "group", "metric", "seeds", "samples", "clusters", "mean", "low", "high", "sd_between_seeds",
    "by_seed", "difference", "difference_low", "difference_high", "p", "p_holm", "note",
)  # fmt: skip


def as_csv(found: Found) -> str:
    """Every number, a line per variant, dataset, arm, group and metric; cells without numbers have a note."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV, lineterminator="\n")
    writer.writeheader()
    for row in found["rows"]:
        own = {key: row[key] for key in ("variant", "dataset", "arm")} | {"seeds": len(row["seeds"])}
        for group, part in {"": row, **row["groups"]}.items():
            for metric, each in part["metrics"].items():
                test = (compared(found, row, metric) or {}) if not group else {}
                writer.writerow(
                    {
                        **own,
                        "group": group,
                        "metric": metric,
                        "samples": each["n"],
                        "clusters": each["clusters"],
                        "mean": each["mean"],
                        "low": each["low"],
                        "high": each["high"],
                        "sd_between_seeds": each["sd"],
                        "by_seed": " ".join("" if value is None else f"{value:.6g}" for value in each["by_seed"]),
                        "difference": test.get("difference"),
                        "difference_low": test.get("low"),
                        "difference_high": test.get("high"),
                        "p": test.get("p"),
                        "p_holm": test.get("p_holm"),
                    }
                )
    for name, why in {**found["skipped"], **found["failed"]}.items():
        writer.writerow({"variant": name, "note": why})
    return out.getvalue()


def _measured(found: Found) -> list[str]:
    """The metrics that any row has."""
    return [name for name in found["metrics"] if any(name in row["metrics"] for row in found["rows"])]


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |\n" for line in lines)
