"""report.html: an evaluation to be read by people, in one file."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medground.evaluation.published import published
from medground.evaluation.summary import FEW, GROUPS, outcomes
from medground.geometry import Box
from medground.images.overlay import draw
from medground.images.rle import decode_rle
from medground.recipe import Recipe
from medground.report import (
    Html,
    Section,
    details,
    figure,
    gallery,
    grid,
    line_chart,
    page,
    paragraph,
    preformatted,
    rounded,
    scatter,
    table,
)
from medground.types import Fault, Sample

Lines = Sequence[Mapping[str, Any]]
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
}
HEADLINE = ("iou", "dice_joint", "dice_over_ellipse")
GROUPED = ("dice_joint", "iou")
RARE: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "cut off": lambda row: row["failures"].get(Fault.CUT_OFF, 0),
    "empty masks": lambda row: row["empty_masks"],
}
"""Counts with a column of their own where there are any."""
TITLES = {"modality": "modality", "supercategory": "super-category", "category": "category", "size": "target size"}
ARM_TABLES = {
    "ceiling": ("Ceilings", "What is lost where: the answer or its segmenter replaced by one that knows the truth."),
    "baseline": ("Blind baselines", "Boxes that never saw the image. An answer worth having is better than these."),
    "probe": (
        "Probes",
        "One thing the reasoner was shown is changed, the truth is not. Alike is the mean IoU of its box with that of the "
        "plain answer: near 1, what was changed was not used.",
    ),
}


def report(
    recipe: Recipe,
    about: Mapping[str, Any],
    metrics: Mapping[str, Any],
    lines: Lines,
    read: Callable[[str], Sample] | None,
) -> str:
    """The whole page.

    Args:
        recipe: the resolved recipe.
        about: what run.json holds.
        metrics: what metrics.json holds.
        lines: what samples.jsonl holds.
        read: gives a sample by its id, for the pictures; None leaves them out.
    """
    first = next(iter(metrics["arms"]))
    own = [line for line in lines if line["arm"] == first]
    pictures = recipe.settings("evaluate")["pictures"]
    sections = [
        _headline(metrics, first),
        *_arm_sections(metrics),
        *_baseline(metrics),
        _groups(metrics["arms"][first], metrics),
        _failures(metrics),
        _sizes(own),
        *_calibration(metrics["arms"][first]),
        *(
            _galleries(own, read, pictures, recipe.settings("evaluate")["seed"])
            if read is not None and pictures
            else []
        ),
        *_published(recipe, metrics["arms"][first]),
        _card(recipe, about, metrics),
    ]
    return page(f"Evaluation of {recipe.name}", sections, note=_note(metrics), first=metrics["causes"])


def _note(metrics: Mapping[str, Any]) -> str:
    resampling, clusters = metrics["resampling"], metrics["clusters"]
    by = ", ".join(f"{count} by {kind}" for kind, count in clusters["by"].items())
    split = f" of the split {metrics['split']}" if metrics["split"] else ""
    answers = metrics["answers_per_sample"]
    each = f", {answers} answers each (a sample counts their mean)" if answers > 1 else ""
    bad = len(metrics["unusable"])
    lost = f" {bad:,} rows of the data could not be used (run card)." if bad else ""
    untrained = metrics["untrained_prompts"]
    said = (
        f" The segmenter was given {' and '.join(untrained)} without having been trained for it." if untrained else ""
    )
    return (
        f"{metrics['samples']:,} samples{split}{each}, in {clusters['count']:,} clusters ({by}). Intervals of "
        f"{resampling['level']:.0%}: {resampling['interval']}; {resampling['n_boot']:,} resamples, seed "
        f"{resampling['seed']}. Failures of the model stay in every mean.{lost}{said}"
    )


def interval(row: Mapping[str, Any] | None) -> str | None:
    """An interval in words for a cell; few clusters are said.

    >>> interval({"low": 0.25, "high": 0.5, "clusters": 3}).split()
    ['0.250', 'to', '0.500', '(few)']
    """
    if row is None or row["low"] is None:
        return None
    few = " (few)" if row["clusters"] < FEW else ""
    return f"{rounded(row['low'])} to {rounded(row['high'])}{few}".replace(" ", "\u00a0")  # never broken over two lines


def _mean(row: Mapping[str, Any] | None) -> float | None:
    return None if row is None else row["mean"]


def _headline(metrics: Mapping[str, Any], first: str) -> Section:
    arm = metrics["arms"][first]
    rows = [
        [NAMES[name], row["mean"], interval(row), row["n"], row["clusters"]] for name, row in arm["metrics"].items()
    ]
    meaning = [[NAMES[name], row["definition"]] for name, row in arm["metrics"].items()]
    floor = arm["metrics"].get("dice_over_ellipse")
    said: list[object] = []
    if floor is not None and floor["mean"] is not None:
        said.append(
            f"Beyond the ellipse inscribed in its box, which needs no image and no segmenter, the mask gains "
            f"{floor['mean']:+.3f} Dice ({interval(floor) or 'one cluster'})."
        )
    if any(name.startswith("hd95") for name in arm["metrics"]):
        said.append("Where a distance is undefined it stands at the image's diagonal.")
    words = ["metric", "mean", f"{metrics['resampling']['level']:.0%} interval", "samples", "clusters"]
    return Section(
        "Result",
        table(words, rows, caption=arm["about"], sortable=False, shown=rounded),
        *said,
        details("What these names mean", table(["metric", "meaning"], meaning, caption="definitions", sortable=False)),
    )


def _arm_sections(metrics: Mapping[str, Any]) -> list[Section]:
    """One table per kind of arm, and why arms are missing."""
    arms, found = metrics["arms"], []
    tested = {(row["arm"], row["metric"]): row for row in metrics.get("comparisons", [])}
    for kind, (title, about) in ARM_TABLES.items():
        names = [name for name, arm in arms.items() if arm["kind"] == kind]
        if not names:
            continue
        shown = (["answer"] if "answer" in arms else []) + names
        rows = [_arm_row(name, arms[name], tested) for name in shown]
        words = [
            "arm",
            "Dice",
            "interval",
            "box IoU",
            "Dice minus floor",
            "Dice against answer",
            "its interval",
            "p (Holm)",
        ]
        if kind == "probe":
            words.append("alike")
            rows = [[*row, _mean(arms[name].get("agreement"))] for row, name in zip(rows, shown, strict=True)]
        meaning = [[name, arms[name]["about"]] for name in shown]
        bodies: list[object] = [
            about,
            table(words, rows, caption=title, shown=rounded),
            details("What the arms do", table(["arm", "what it does"], meaning, caption="arms", sortable=False)),
        ]
        if kind == "ceiling":
            bodies += _jitter(arms)
        found.append(Section(title, *bodies))
    if metrics["skipped"]:
        rows = [[name, reason] for name, reason in metrics["skipped"].items()]
        found.append(
            Section("Left out", table(["arm", "why"], rows, caption="arms that could not be done", sortable=False))
        )
    return found


def _arm_row(name: str, arm: Mapping[str, Any], tested: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[Any]:
    means = arm["metrics"]
    dice = means.get("dice_joint")
    against = tested.get((name, "dice_joint"))
    return [
        name,
        _mean(dice),
        interval(dice),
        _mean(means.get("iou")),
        _mean(means.get("dice_over_ellipse")),
        against and against["difference"],
        interval(against),
        against and against["p_holm"],
    ]


def _jitter(arms: Mapping[str, Any]) -> list[Html]:
    shares = {int(name.removeprefix("jitter_")): name for name in arms if name.startswith("jitter_")}
    if "oracle_box" in arms:
        shares[0] = "oracle_box"
    if len(shares) < 3:
        return []
    xs = sorted(shares)
    curves = {
        NAMES[name]: ([float(x) for x in xs], [_mean(arms[shares[x]]["metrics"].get(name)) for x in xs])
        for name in ("iou", "dice_joint", "dice_ellipse")
    }
    return [line_chart("How wrong a box may be", curves, x="edges moved by up to, % of a side", y="mean", holds=(0, 1))]


def _baseline(metrics: Mapping[str, Any]) -> list[Section]:
    against = metrics.get("baseline")
    if against is None:
        return []
    words = ["arm", "metric", "this run", against["name"], "difference", "interval", "p", "p (Holm)", "samples"]
    rows = [
        [row["arm"], NAMES[row["metric"]], row["mean"], row["other"], row["difference"], interval(row), row["p"],
         row["p_holm"], row["n"]]
        for row in against["comparisons"]
    ]  # fmt: skip
    about = f"Paired over the {against['samples_in_common']} samples both have; {metrics['resampling']['test']}."
    return [
        Section(f"Against {against['name']}", about, table(words, rows, caption="paired comparison", shown=rounded))
    ]


def _groups(arm: Mapping[str, Any], metrics: Mapping[str, Any]) -> Section:
    bodies: list[object] = [f"An interval of fewer than {FEW} clusters is marked few: it rests on little."]
    for group in GROUPS:
        if rows := arm["groups"][group]:
            bodies.append(_group_table(rows, (group,), f"by {TITLES[group]}"))
    if len(arm["cells"]) > 1:
        bodies.append(details("By all of these at once", _group_table(arm["cells"], GROUPS, "by all of these at once")))
    return Section("By what is shown", *bodies)


def _group_table(rows: Sequence[Mapping[str, Any]], groups: Sequence[str], caption: str) -> Html:
    names = [name for name in GROUPED if any(name in row["metrics"] for row in rows)]
    rare = {word: count for word, count in RARE.items() if any(map(count, rows))}
    words = [*(TITLES[group] for group in groups)]
    words += [word for name in names for word in (NAMES[name], f"interval of {NAMES[name]}")]
    cells = [
        [
            *((row[group] or "not said").replace(" %", "\u00a0%") for group in groups),
            *(cell for name in names for cell in (_mean(row["metrics"].get(name)), interval(row["metrics"].get(name)))),
            row["samples"],
            row["clusters"],
            sum(row["failures"].values()),
            row["refusals"],
            *(count(row) for count in rare.values()),
        ]
        for row in rows
    ]
    words += ["samples", "clusters", "failures", "refusals", *rare]
    return table(words, cells, caption=caption, shown=rounded)


def _failures(metrics: Mapping[str, Any]) -> Section:
    rows: list[list[Any]] = []
    for name, arm in metrics["arms"].items():
        kinds = [("ok", arm["ok"], "")]
        kinds += [(fault, count, "counts as 0") for fault, count in arm["failures"].items()]
        kinds += [(fault, count, "not the model's: left out of the means") for fault, count in arm["excluded"].items()]
        rows += [
            [name, fault, count, count / arm["answers"] if arm["answers"] else None, how] for fault, count, how in kinds
        ]
    first = next(iter(metrics["arms"].values()))
    told = outcomes(first, metrics["length_limit"])
    said = [
        f"{first['refusals']} of {first['answers']} answers end without any answer block (refusals).",
        *filter(None, (told.cut, told.empty)),
    ]
    words = ["arm", "outcome", "answers", "share", "how it counts"]
    return Section("Failures", *said, table(words, rows, caption="every answer, by what became of it", shown=rounded))


def _sizes(lines: Lines) -> Section:
    name = _ranked(lines)
    by: dict[str, tuple[list[float], list[float | None]]] = {}
    kept = _most(lines)
    for line in lines:
        if name in line["values"]:
            label = line["labels"].get("supercategory") or line["labels"].get("modality") or "samples"
            xs, ys = by.setdefault(label if label in kept else "others", ([], []))
            xs.append(float(np.sqrt(line["target"]["share"])) * 100)
            ys.append(line["values"][name])
    chart = scatter(
        f"Target size and {NAMES[name]}", by, x="side of the target, % of the image's", y=NAMES[name], holds=(0,)
    )
    return Section(
        "Size and score", "The side is the square root of the share of the image that the target covers.", chart
    )


def _most(lines: Lines, most: int = 6) -> set[str]:
    """The labels that occur most, no more than can be told apart."""
    labels = [line["labels"].get("supercategory") or line["labels"].get("modality") or "samples" for line in lines]
    return set(sorted(set(labels), key=lambda label: (-labels.count(label), label))[:most])


def _calibration(arm: Mapping[str, Any]) -> list[Section]:
    found = arm["calibration"]
    if found is None:
        return []
    rows = [[f"{row['from']:.1f} to {row['to']:.1f}", row["n"], row["score"], row["iou"]] for row in found["bins"]]
    line = ([row["score"] for row in found["bins"]], [row["iou"] for row in found["bins"]])
    told = (
        f"The segmenter's own score of {found['n']} masks is on average {found['error']:.3f} away from their IoU, bin by bin"
        + ("." if found["correlation"] is None else f"; the two correlate with r = {found['correlation']:.2f}.")
    )
    chart = scatter(
        "Own score and IoU", {"bins": line}, x="segmenter's score", y="IoU with the truth", holds=(0, 1), diagonal=True
    )
    rated = table(
        ["score", "masks", "mean score", "mean IoU"], rows, caption="calibration by bin", sortable=False, shown=rounded
    )
    return [Section("Calibration of predicted IoU", told, grid(chart, rated))]


def _ranked(lines: Lines) -> str:
    """The metric by which samples are ranked."""
    return next(
        (name for name in ("dice_joint", "iou", "pdice") if any(name in line["values"] for line in lines)), "iou"
    )


def _galleries(lines: Lines, read: Callable[[str], Sample], count: int, seed: int) -> list[Section]:
    name = _ranked(lines)
    ranked = sorted(
        (line for line in lines if name in line["values"]), key=lambda line: (-line["values"][name], line["id"])
    )
    best, worst = ranked[:count], ranked[count:][-count:][::-1]
    rest = ranked[len(best) : len(ranked) - len(worst)]
    drawn = np.random.default_rng(seed).permutation(len(rest))[:count]
    parts = {
        f"Best by {NAMES[name]}": best,
        f"Worst by {NAMES[name]}": worst,
        "Drawn at random": [rest[place] for place in sorted(drawn.tolist())],
    }
    found = []
    for title, chosen in parts.items():
        if chosen:
            found.append(Section(title, gallery(_picture(line, read(line["id"]), name) for line in chosen)))
    return found


def _picture(line: Mapping[str, Any], sample: Sample, name: str) -> Html:
    answer = line["answers"][0]
    mask = answer["masks"].get("joint") or next(iter(answer["masks"].values()), None)
    picture = draw(
        sample.query.image,
        box=answer["box"],
        points=answer["points"],
        mask=None if mask is None else decode_rle(mask["rle"]),
        target_box=Box(*line["target"]["box"]),
        target_mask=sample.target.mask,
    )
    score, count = line["values"][name], len(line["answers"])
    fault = f", {answer['fault']}" if answer["fault"] else ""
    several = f" in the mean of {count} answers; the first is shown" if count > 1 else ""
    labels = ", ".join(value for key, value in line["labels"].items() if key in ("modality", "category") and value)
    think = details("Reasoning", preformatted(answer["think"])) if answer.get("think") else ""
    text = details("Whole answer", preformatted(answer["text"])) if answer.get("text") else ""
    alt = f"{labels or 'image'}: answer and truth, {NAMES[name]} {score:.2f}{fault}"
    caption = [
        paragraph(f"{line['id']}: {NAMES[name]} {score:.3f}{several}{fault}. {labels}"),
        paragraph(line["question"]),
    ]
    return figure(picture, alt, Html("".join(str(each) for each in [*caption, think, text] if each)))


def _published(recipe: Recipe, arm: Mapping[str, Any]) -> list[Section]:
    found = []
    for name in recipe.settings("evaluate")["published"] or ():
        those = published(name)
        metrics = [metric for metric in those["definitions"] if any(metric in row["values"] for row in those["rows"])]
        own = ["this run, x100", *(_times_100(arm["metrics"].get(metric)) for metric in metrics)]
        rows = [own, *([_model(row), *(row["values"].get(metric) for metric in metrics)] for row in those["rows"])]
        meaning = [[NAMES[metric], those["definitions"][metric]] for metric in metrics]
        found.append(
            Section(
                f"Published: {those['title']}",
                f"As published, not measured here. Source: {those['source']}. Data: {those['data']}; {those['prompt']}; "
                f"segmenter: {those['segmenter']}. Comparable only on the same data and by the same definitions; a "
                "number that this run has not measured by the definition used there is a dash.",
                table(
                    ["model", *(NAMES[metric] for metric in metrics)],
                    rows,
                    caption=f"published numbers, {those['title']}",
                ),
                *_published_parts(those, arm),
                table(["there", "means"], meaning, caption="definitions used there", sortable=False),
                *those["notes"],
            )
        )
    return found


def _published_parts(those: Mapping[str, Any], arm: Mapping[str, Any]) -> list[Html]:
    """The published box IoU by super-category, this run's above it; nothing where none was published."""
    key = "iou_compat_by_supercategory"
    rows = [row for row in those["rows"] if key in row]
    if not rows:
        return []
    names = list(dict.fromkeys(name for row in rows for name in row[key]))
    own = {group["supercategory"].casefold(): group["metrics"] for group in arm["groups"]["supercategory"]}
    cells = [
        ["this run, x100", *(_times_100(own.get(name.casefold(), {}).get("iou_compat")) for name in names)],
        *([_model(row), *(row[key].get(name) for name in names)] for row in rows),
    ]
    return [table(["model", *names], cells, caption=f"{NAMES['iou_compat']} by super-category, as published")]


def _times_100(row: Mapping[str, Any] | None) -> float | None:
    mean = _mean(row)
    return None if mean is None else 100 * mean


def _model(row: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (row["model"], row.get("size"))))


def _card(recipe: Recipe, about: Mapping[str, Any], metrics: Mapping[str, Any]) -> Section:
    rows = [
        ["recipe", about["recipe"]],
        ["protocol", metrics["protocol"]],
        ["samples", str(about["samples"])],
        ["split", about["split"] or "all"],
        ["prompt, SHA-256", about["prompt_sha256"] or "none"],
        ["saved answers, SHA-256", about["predictions_sha256"] or "none: the reasoner was asked"],
        ["identity", about["identity"]],
        *([key, value] for key, value in about["plugins"].items()),
        *([key, value] for key, value in about["versions"].items()),
    ]
    bad = [[each["where"], each["reason"]] for each in metrics["unusable"]]
    return Section(
        "Run card",
        table(["what", "value"], rows, caption="what made these numbers", sortable=False),
        *([details(f"{len(bad)} rows of the data could not be used", table(["where", "why"], bad))] if bad else []),
        details("The recipe, resolved", preformatted(recipe.dump())),
        details("Resampling and tests", preformatted(json.dumps(metrics["resampling"], indent=1))),
    )
