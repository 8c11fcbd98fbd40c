"""What a sweep found: cells pooled over seeds, compared with the baseline, as plain data.

The values of a sample are first averaged over the seeds of its variant. An interval then comes from resampling clusters
of samples, each with all its samples and all their seeds, and says how sure the mean is had other patients come; it does
not say how far another seed would fall, which the standard deviation between seeds does.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medground.evaluation import summary
from medground.evaluation.statistics import estimate
from medground.sweeps.plan import Cell, Plan

Line = Mapping[str, Any]
RESAMPLED = (
    "A sample's value is its mean over seeds. Intervals: clusters of samples (patient, else volume, else image), each with "
    "all its samples and seeds, are drawn with replacement; which seeds were used is not resampled. Between seeds: the "
    "standard deviation of the means of single seeds."
)
TESTED = (
    "Paired with the baseline over the same samples, clusters' signs flipped; Holm-corrected over all comparisons of the "
    "sweep. A small p speaks of these trained models on samples like these; of other seeds, only the spread between seeds."
)


def tell(
    plan: Plan,
    lines_of: Callable[[Cell], Sequence[Line]],
    done: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
    trained: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Everything a sweep found.

    Args:
        plan: the sweep.
        lines_of: reads the lines of a cell that is done.
        done: cell -> what it took.
        failed: cell -> why it has no numbers.
        trained: training -> what it took.
    """
    settings = plan.recipe.settings("evaluate")
    how = summary.Resampling(n_boot=settings["n_boot"], level=settings["level"], seed=settings["seed"])
    rows: list[dict[str, Any]] = []
    pooled: dict[tuple[str, str], list[Line]] = {}
    for (variant, dataset), cells in _together(plan, done).items():
        by_seed = [lines_of(cell) for cell in cells]
        for arm in dict.fromkeys(line["arm"] for line in by_seed[0]):
            one = [[line for line in lines if line["arm"] == arm] for lines in by_seed]
            whole = pool(one)
            if (variant, dataset) not in pooled:  # the first arm is the one that is compared
                pooled[variant, dataset] = whole
            rows.append(
                {
                    "variant": variant,
                    "dataset": dataset,
                    "arm": arm,
                    "seeds": [cell.seed for cell in cells],
                    "samples": len(whole),
                    "clusters": len({line["cluster"] for line in whole}),
                    "failures": sum(line["failures"] for line in whole),
                    "answers": sum(len(line["answers"]) for line in whole),
                    "metrics": _metrics(plan.metrics, whole, one, how),
                    "groups": _groups(plan, whole, one, how),
                }
            )
    return {
        "recipe": plan.recipe.name,
        "baseline": plan.baseline,
        "metrics": plan.metrics,
        "by": plan.by,
        "variants": dict(plan.rows),
        "rows": rows,
        "comparisons": _comparisons(plan, pooled, how),
        "resampling": {**how.to_dict(), "resampled": RESAMPLED, "tested": TESTED},
        "cells": {name: dict(about) for name, about in done.items()},
        "trainings": {name: dict(about) for name, about in trained.items()},
        "skipped": plan.skipped,
        "failed": dict(failed),
    }


def _together(plan: Plan, done: Mapping[str, Any]) -> dict[tuple[str, str], list[Cell]]:
    """(variant, dataset) -> its cells that are done."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in plan.possible:
        if cell.name in done:
            found.setdefault((cell.variant, cell.dataset), []).append(cell)
    return found


def pool(by_seed: Sequence[Sequence[Line]]) -> list[Line]:
    """One line per sample, its values averaged over the seeds that have them."""
    lines: dict[str, list[Line]] = {}
    for line in (line for lines in by_seed for line in lines):
        lines.setdefault(line["id"], []).append(line)
    return [
        {
            "id": name,
            "cluster": same[0]["cluster"],
            "labels": same[0]["labels"],
            "answers": [
                {"fault": answer["fault"], "excluded": answer["excluded"]}
                for line in same
                for answer in line["answers"]
            ],
            "values": {
                metric: float(np.mean([line["values"][metric] for line in same if metric in line["values"]]))
                for metric in dict.fromkeys(metric for line in same for metric in line["values"])
            },
            "failures": sum(bool(answer["fault"]) for line in same for answer in line["answers"]),
        }
        for name, same in lines.items()
    ]


def _metrics(
    names: Sequence[str], whole: Sequence[Line], by_seed: Sequence[Sequence[Line]], how: summary.Resampling
) -> dict[str, Any]:
    """Metric -> mean, interval, counts, and what single seeds gave."""
    clusters = [line["cluster"] for line in whole]
    found = estimate(summary.table(whole, names), clusters, n_boot=how.n_boot, level=how.level, seed=how.seed)
    means = [_means(names, lines) for lines in by_seed]
    rows = {}
    for name, each in zip(names, found, strict=True):
        if each is None:
            continue
        own = [mean[name] for mean in means]
        known = [value for value in own if value is not None]
        rows[name] = {
            "mean": each.mean,
            "low": each.low,
            "high": each.high,
            "n": each.n,
            "clusters": each.clusters,
            "by_seed": own,
            "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        }
    return rows


def _means(names: Sequence[str], lines: Sequence[Line]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in names:
        values = [line["values"][name] for line in lines if name in line["values"]]
        found[name] = float(np.mean(values)) if values else None
    return found


def _groups(
    plan: Plan, whole: Sequence[Line], by_seed: Sequence[Sequence[Line]], how: summary.Resampling
) -> dict[str, Any]:
    """Value of the label `by` -> what `_metrics` says of its samples."""
    if plan.by is None:
        return {}
    label = plan.by
    values = sorted({line["labels"].get(label, "") for line in whole}, key=summary.natural)

    def part(lines: Sequence[Line], value: str) -> list[Line]:
        return [line for line in lines if line["labels"].get(label, "") == value]

    return {
        value: {
            "samples": len(part(whole, value)),
            "metrics": _metrics(plan.metrics, part(whole, value), [part(lines, value) for lines in by_seed], how),
        }
        for value in values
    }


def _comparisons(
    plan: Plan, pooled: Mapping[tuple[str, str], Sequence[Line]], how: summary.Resampling
) -> list[dict[str, Any]]:
    pairs = [
        (
            {"variant": variant, "dataset": dataset, "against": plan.baseline},
            lines,
            pooled[plan.baseline, dataset],
            plan.metrics,
        )
        for (variant, dataset), lines in pooled.items()
        if variant != plan.baseline and (plan.baseline, dataset) in pooled
    ]
    return summary.comparisons(pairs, how)
