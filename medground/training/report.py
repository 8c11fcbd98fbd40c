"""The report of a run: one page made from nothing but the run's folder, so that it can be made again at any time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medground.evaluation.causes import Outcomes, total
from medground.report import (
    Html,
    Line,
    Section,
    details,
    figure,
    gallery,
    grid,
    heading,
    line_chart,
    page,
    paragraph,
    preformatted,
    table,
)
from medground.runs.checkpoint import write_atomically
from medground.runs.folder import PREFIX, Tables, read_about, read_events, read_table

REPORT = "report.html"
POINTS = 300
"""Values a curve is drawn from; more are averaged."""
STEPS, PICTURES, SIDE = 6, 3, 384
"""Steps whose samples are shown, pictures of each, and the longer side of a picture, px."""
LONGEST = 1500
"""Characters of a completion that are shown."""
KINDS = 6
"""Faults with a curve of their own; rarer ones are counted in the table."""

Events = Sequence[Mapping[str, Any]]


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run's folder; return its path."""
    path = folder / REPORT
    write_atomically(path, training_report(folder))
    return path


def training_report(folder: Path) -> str:
    """A run's report as one HTML document, whatever the run's length: curves are thinned and samples chosen."""
    about, steps, validations = read_about(folder), read_events(folder), read_events(folder, "validate")
    done, planned = len(steps), about.get("planned_steps", 0)
    sections = [
        Section("Curves", grid(*_curves(steps, validations))),
        Section("Samples over time", *_samples(folder, steps, validations)),
        Section("Faults", *_faults(steps)),
        Section("Skipped steps and warnings", *_troubles(folder, steps)),
        Section("The run", *_card(folder, about, steps, validations)),
    ]
    state = "finished" if done == planned else "not finished"
    note = f"{done} of {planned} steps done, {state}. Seed {about.get('seed')}."
    sampled, validated = _sampled(steps), _validated(validations)
    first = [*sampled.causes(), *(f"At the last validation: {cause}" for cause in validated.causes())]
    return page(f"Training run of {about.get('recipe', folder.name)}", sections, note=note, first=first)


def _sampled(steps: Events) -> Outcomes:
    """What became of all completions of a run."""
    rewards = [(line["reward"], line.get("reward_std")) for line in steps if line.get("reward") is not None]
    return Outcomes(
        answers=_sum(steps, "completions/count"),
        faults=total(steps, "faults/"),
        masks=_sum(steps, "masks/count"),
        empty_masks=_sum(steps, "masks/empty"),
        zero=bool(rewards) and not any(mean or spread for mean, spread in rewards),
        setting="grpo.max_completion_length",
        noun="completions",
    )


def _validated(validations: Events) -> Outcomes:
    """What became of the answers of the last validation."""
    last = validations[-1:]
    scores = [
        line[f"eval/{name}"] for line in last for name in ("iou", "pdice", "dice_joint") if f"eval/{name}" in line
    ]
    return Outcomes(
        answers=_sum(last, "eval/answers/n"),
        faults=total(last, "eval/faults/"),
        masks=_sum(last, "eval/masks/n"),
        empty_masks=_sum(last, "eval/masks/empty"),
        zero=bool(scores) and not any(scores),
    )


def _curves(steps: Events, validations: Events) -> list[Html]:
    labels = [key.split("/")[1] for key in _keys(steps) if key.startswith("reward/") and key.endswith("/mean")]
    charts: list[tuple[str, dict[str, Line]]] = [
        ("Reward", _lines(steps, {"mean": "reward", "spread within groups": "reward_std"})),
        ("Mean of each term", _lines(steps, {label: f"reward/{label}/mean" for label in labels})),
        (
            "Validation",
            _lines(validations, {key.removeprefix("eval/"): key for key in _keys(validations) if _is_score(key)}),
        ),
        ("Loss", _lines(steps, {"loss": "loss"})),
        ("Divergence from the starting policy", _lines(steps, {"kl": "kl"})),
        ("Entropy per token", _lines(steps, {"entropy": "entropy"})),
        (
            "Completion length in tokens",
            _lines(steps, {word: f"completions/{word}_length" for word in ("mean", "min", "max")}),
        ),
        ("Groups without a signal", _lines(steps, {"share": "frac_reward_zero_std"})),
        ("Gradient norm", _lines(steps, {"before clipping": "grad_norm"})),
    ]
    return [line_chart(title, lines) for title, lines in charts if any(xs for xs, _ in lines.values())]


def _sum(events: Events, key: str) -> int:
    return int(sum(line.get(key) or 0 for line in events))


def _is_score(key: str) -> bool:
    return key.startswith("eval/") and key.count("/") == 1


def _keys(events: Events) -> list[str]:
    return list(dict.fromkeys(key for line in events for key in line))


def _lines(events: Events, names: Mapping[str, str]) -> dict[str, Line]:
    """Label -> thinned (steps, values) of the metrics that were ever recorded."""
    found: dict[str, Line] = {}
    for label, key in names.items():
        there = [(line["step"], line[key]) for line in events if key in line]
        if there:
            found[label] = _thinned([step for step, _ in there], [value for _, value in there])
    return found


def _thinned(xs: Sequence[float], ys: Sequence[float | None]) -> Line:
    """At most `POINTS` points: the means of neighbours; a gap stays a gap where all of them are gaps."""
    size = -(-len(xs) // POINTS)
    if size <= 1:
        return xs, ys
    parts = [slice(start, start + size) for start in range(0, len(xs), size)]
    return [_mean(xs[part]) or 0.0 for part in parts], [_mean(ys[part]) for part in parts]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _samples(folder: Path, steps: Events, validations: Events) -> list[Html]:
    """The same validation samples after several steps; where none were drawn, some of what was trained on."""
    validated = _drawn(folder, "validation", validations)
    return validated or _drawn(folder, "completions", steps) or [paragraph("No sample has been drawn yet.")]


def _drawn(folder: Path, kind: Tables, events: Events) -> list[Html]:
    newest = max((line["step"] for line in events), default=-1)
    numbers = {int(path.stem.split("-")[1]) for path in (folder / "overlays").glob(f"{PREFIX[kind]}-*.png")}
    found = []
    for step in _spread(sorted(number for number in numbers if number <= newest)):
        rows = [row for row in read_table(folder, step, kind) if row.get("overlay")][:PICTURES]
        pictures = [_picture(folder, row) for row in rows if (folder / row["overlay"]).is_file()]
        if pictures:
            when = f"After step {step}" if kind == "validation" else f"Step {step}"
            found += [heading(when), gallery(pictures)]
    return found


def _spread(steps: Sequence[int]) -> list[int]:
    """The first, the last, and some between them."""
    if len(steps) <= STEPS:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (STEPS - 1))] for index in range(STEPS)]


def _picture(folder: Path, row: Mapping[str, Any]) -> Html:
    from PIL import Image

    scores = {
        key.removeprefix("eval/").removeprefix("reward/"): value
        for key, value in row.items()
        if key == "reward" or key.startswith(("reward/", "eval/"))
    }
    said = ", ".join(f"{label} {'–' if value is None else format(value, '.3g')}" for label, value in scores.items())
    fault = f"fault: {row['fault']}" if row["fault"] else "no fault"
    text = row["completion"]
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"
    with Image.open(folder / row["overlay"]) as image:
        return figure(
            image,
            f"The answer of sample {row['sample']}, drawn beside the truth",
            Html(
                paragraph(row["prompt"]) + paragraph(f"{said}; {fault}") + details("What it wrote", preformatted(cut))
            ),
            side=SIDE,
        )


def _faults(steps: Events) -> list[Html]:
    totals, sampled = Counter(total(steps, "faults/")), _sampled(steps)
    told = [paragraph(sentence) for sentence in (sampled.cut, sampled.empty) if sentence]
    if not totals:
        none = "No completion had a fault." if sampled.answers else "No completion was sampled in training."
        return [paragraph(none), *told]
    filled = [
        {"step": line["step"], **{f"faults/{kind}": line.get(f"faults/{kind}", 0.0) for kind in totals}}
        for line in steps
    ]
    most = [kind for kind, _ in totals.most_common(KINDS)]
    return [
        *told,
        grid(
            line_chart("Completions with a fault, by kind", _lines(filled, {kind: f"faults/{kind}" for kind in most})),
            table(["fault", "completions"], totals.most_common(), caption="Over the whole run"),
        ),
    ]


def _troubles(folder: Path, steps: Events) -> list[Html]:
    skipped = [(line["step"], line["skipped"]) for line in steps if "skipped" in line]
    warnings = [(line["step"], warning) for line in steps for warning in line.get("warnings", ())]
    incidents = [(line["step"], line["reason"]) for line in read_events(folder, "incident")]
    constant = _constant(steps)
    rows: list[tuple[str, Sequence[tuple[int, str]], str]] = [
        ("Steps that changed nothing", skipped, "why"),
        ("Batches kept in incidents/", incidents, "why"),
        ("Warnings", warnings, "what"),
    ]
    found = [
        table(["step", word], many[-50:], caption=f"{title}: {len(many)}" + (", the last 50" if len(many) > 50 else ""))
        for title, many, word in rows
        if many
    ]
    if constant:
        found.append(
            table(["term", "steps"], constant, caption="Terms that have said one and the same for so many steps")
        )
    return found or [paragraph("None.")]


def _constant(steps: Events) -> list[tuple[str, int]]:
    last = steps[-1] if steps else {}
    ends = "/constant_steps"
    runs = [(key.split("/")[1], int(value)) for key, value in last.items() if key.endswith(ends) and value]
    return [(label, length) for label, length in runs if length > 1]


def _card(folder: Path, about: Mapping[str, Any], steps: Events, validations: Events) -> list[Html]:
    saves, results = read_events(folder, "save"), read_events(folder, "result")
    rows: list[tuple[str, Any]] = [
        ("folder", folder.resolve().name),
        ("recipe", about.get("recipe")),
        ("training samples", about.get("samples")),
        ("tokens trained on", int(steps[-1].get("num_tokens", 0)) if steps else 0),
        ("seconds in steps", round(sum(line["step_time"] for line in steps), 1)),
        ("newest checkpoint", saves[-1]["checkpoint"] if saves else None),
        ("checkpoint rule", about.get("checkpoint_rule")),
        ("result", results[-1]["checkpoint"] if results else None),
        *((key.replace("_", " "), value) for key, value in about.items() if key.endswith("sha256")),
    ]
    shown = [table(["what", "value"], rows, sortable=False)]
    if validations:
        names = [key for key in _keys(validations) if key.startswith("eval/")]
        shown.append(
            table(
                ["step", *(name.removeprefix("eval/") for name in names)],
                [[line["step"], *(line.get(name) for name in names)] for line in validations[-50:]],
                caption="Validation",
            )
        )
    for title, key in (("Plugins", "plugins"), ("Versions", "versions")):
        shown.append(details(title, table(["what", "version"], about.get(key, {}).items(), sortable=False)))
    for title, name in (("Recipe as trained", "train.yaml"), ("Recipe as written", "recipe.source.yaml")):
        if (folder / name).is_file():
            shown.append(details(title, preformatted((folder / name).read_text(encoding="utf-8"))))
    return shown
