"""The report of a run: one page made from nothing but the run's folder, so that it can be made again at any time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medground.evaluation.causes import Outcomes, total
from medground.evaluation.pictures import RANKING, ranked
from medground.evaluation.results import SCORES
from medground.report import Cell, Line, Table, render, rounded
from medground.runs.files import write_atomic
from medground.runs.folder import PREFIX, RunMetadata, Tables, read_events, read_metadata, read_table
from medground.runs.shareable import without_paths
from medground.training.sharing import shared_words

REPORT = "report.html"
POINTS = 300
"""Values a curve is drawn from; more are averaged."""
STEPS, PICTURES, SIDE = 6, 3, 384
"""Steps whose samples are shown, pictures of each, and the longer side of a picture, px."""
LONGEST = 1500
"""Characters of a completion that are shown."""
KINDS = 6
"""Faults with a curve of their own; rarer ones are counted in the table."""
TITLES = ("Highest", "Median", "Lowest")
LISTED = 50
"""The last rows of a table that are shown."""

Events = Sequence[Mapping[str, Any]]
Rows = list[list[Cell]]


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run's folder; return its path."""
    path = folder / REPORT
    write_atomic(path, training_report(folder))
    return path


def training_report(folder: Path) -> str:
    """Return a run's report, whatever the run's length: curves are thinned and samples chosen."""
    metadata, steps, validations = read_metadata(folder), read_events(folder), read_events(folder, "validate")
    sampled, validated = _sampled(steps), _validated(validations)
    faults = Counter(total(steps, "faults/"))
    # The same validation samples after several steps; where none were drawn, some of what was trained on.
    validated_samples = _drawn(folder, "validation", validations)
    samples = validated_samples or _drawn(folder, "completions", steps)
    sources = {"Recipe as trained": folder / "train.yaml", "Recipe as written": folder / "recipe.source.yaml"}
    return render(
        "training.html",
        title=f"Training run of {metadata.recipe or folder.name}",
        causes=[*sampled.causes(), *(f"At the last validation: {cause}" for cause in validated.causes())],
        done=len(steps),
        planned=metadata.planned_steps or 0,
        seed=metadata.seed,
        curves=_curves(steps, validations),
        which="The first samples of the validation." if validated_samples else "Completions of a step, by reward.",
        newest=next(reversed(samples.items()), None),
        earlier=dict(list(samples.items())[:-1]),
        side=SIDE,
        sampled=sampled,
        faults=faults.most_common(),
        fault_curves=_fault_curves(steps, faults),
        troubles=_troubles(folder, steps),
        shared=shared_words(steps),
        card=_card(folder, metadata, steps),
        validation=_validation(validations),
        installed={"Plugins": list(metadata.plugins.items()), "Versions": list(metadata.versions.items())},
        recipes={
            title: without_paths(path.read_text(encoding="utf-8")) for title, path in sources.items() if path.is_file()
        },
    )


def _sampled(steps: Events) -> Outcomes:
    """Return what became of all completions of a run."""
    rewards = _column(steps, "reward")
    return Outcomes(
        answers=_sum(steps, "completions/count"),
        faults=total(steps, "faults/"),
        masks=_sum(steps, "masks/count"),
        empty_masks=_sum(steps, "masks/empty"),
        zero=bool(rewards) and not any(rewards + _column(steps, "reward_std")),
        setting="grpo.max_completion_length",
        noun="completions",
    )


def _validated(validations: Events) -> Outcomes:
    """Return the outcomes of the answers of the last validation."""
    last = validations[-1:]
    scores = [score for name in SCORES for score in _column(last, f"eval/{name}")]
    return Outcomes(
        answers=_sum(last, "eval/answers/n"),
        faults=total(last, "eval/faults/"),
        masks=_sum(last, "eval/masks/n"),
        empty_masks=_sum(last, "eval/masks/empty"),
        zero=bool(scores) and not any(scores),
    )


def _curves(steps: Events, validations: Events) -> dict[str, dict[str, Line]]:
    labels = [key.split("/")[1] for key in _keys(steps) if key.startswith("reward/") and key.endswith("/mean")]
    charts: list[tuple[str, dict[str, Line]]] = [
        ("Reward", _lines(steps, {"mean": "reward", "spread within groups": "reward_std"})),
        ("Mean of each term", _lines(steps, {label: f"reward/{label}/mean" for label in labels})),
        (
            "Validation",
            _lines(validations, {key.removeprefix("eval/"): key for key in _keys(validations) if _is_score(key)}),
        ),
        (
            "Distance of the chosen slice, mm",
            _lines(
                steps, {"from the one with most of it": "slice/error_mm", "from the nearest with it": "slice/off_mm"}
            ),
        ),
        ("Reward of each exchange", _lines(steps, {"slice": "slice/reward", "answer": "answer/reward"})),
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
    return {title: lines for title, lines in charts if any(xs for xs, _ in lines.values())}


def _column(events: Events, key: str) -> list[Any]:
    """Return the values of a metric, in order."""
    return [line[key] for line in events if line.get(key) is not None]


def _sum(events: Events, key: str) -> int:
    return int(sum(_column(events, key)))


def _is_score(key: str) -> bool:
    return key.startswith("eval/") and key.count("/") == 1


def _keys(events: Events) -> list[str]:
    return list(dict.fromkeys(key for line in events for key in line))


def _lines(events: Events, names: Mapping[str, str]) -> dict[str, Line]:
    """Return label -> thinned (steps, values) of the metrics that were ever recorded."""
    lines: dict[str, Line] = {}
    for label, key in names.items():
        points = [(line["step"], line[key]) for line in events if key in line]
        if points:
            lines[label] = _thinned([step for step, _ in points], [value for _, value in points])
    return lines


def _thinned(xs: Sequence[float], ys: Sequence[float | None]) -> Line:
    """Return at most `POINTS` points: the means of neighbours; a gap stays a gap where all of them are gaps."""
    size = -(-len(xs) // POINTS)
    if size <= 1:
        return xs, ys
    spans = [slice(start, start + size) for start in range(0, len(xs), size)]
    return [_mean(xs[span]) or 0.0 for span in spans], [_mean(ys[span]) for span in spans]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


class _Picture(NamedTuple):
    """A drawn answer."""

    image: Any
    sample: str
    prompt: str
    title: str | None
    score: str
    """The reward, or what samples are ranked by."""
    terms: str
    """The other scores."""
    fault: str | None
    text: str


def _drawn(folder: Path, kind: Tables, events: Events) -> dict[str, list[_Picture]]:
    """Return title -> pictures of a step."""
    newest = max((line["step"] for line in events), default=-1)
    numbers = {int(path.stem.split("-")[1]) for path in (folder / "overlays").glob(f"{PREFIX[kind]}-*.png")}
    word = "After step" if kind == "validation" else "Step"
    pictures = {
        f"{word} {step}": _of_step(folder, read_table(folder, step, kind))
        for step in _spread(sorted(number for number in numbers if number <= newest))
    }
    return {title: shown for title, shown in pictures.items() if shown}


def _of_step(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[_Picture]:
    """Return the pictures of a step's table, those with a title in the order of their titles."""
    rewards = {row["name"]: row["reward"] for row in rows if row.get("reward") is not None}
    titles = {name: title for title, name in ranked(rewards).extremes(*TITLES).items()}
    drawn = [row for row in rows if row.get("overlay") and (folder / row["overlay"]).is_file()]
    order = [*titles, *(row["name"] for row in drawn)]
    drawn.sort(key=lambda row: order.index(row["name"]))
    return [_picture(folder / row["overlay"], row, titles.get(row["name"])) for row in drawn[:PICTURES]]


def _spread(steps: Sequence[int]) -> list[int]:
    """Return the first, the last, and some between them."""
    if len(steps) <= STEPS:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (STEPS - 1))] for index in range(STEPS)]


def _picture(path: Path, row: Mapping[str, Any], title: str | None) -> _Picture:
    from PIL import Image

    scores = {
        key.removeprefix("eval/").removeprefix("reward/"): "–" if value is None else rounded(value)
        for key, value in row.items()
        if key == "reward" or key.startswith(("reward/", "eval/"))
    }
    first = next((key for key in ("reward", *RANKING) if key in scores), None)
    text = row["completion"]
    with Image.open(path) as image:
        image.load()
    return _Picture(
        image=image,
        sample=row["sample"],
        prompt=row["prompt"],
        title=title,
        score=f"{first} {scores[first]}" if first else "",
        terms=", ".join(f"{key} {value}" for key, value in scores.items() if key != first),
        fault=row["fault"],
        text=text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)",
    )


def _fault_curves(steps: Events, totals: Counter[str]) -> dict[str, Line]:
    names = {kind: f"faults/{kind}" for kind, _ in totals.most_common(KINDS)}
    filled = [{"step": line["step"], **{key: line.get(key, 0.0) for key in names.values()}} for line in steps]
    return _lines(filled, names)


def _troubles(folder: Path, steps: Events) -> list[Table]:
    tables = {
        ("Steps that changed nothing", "why"): [(line["step"], line["skipped"]) for line in steps if "skipped" in line],
        ("Batches kept in incidents/", "why"): [
            (line["step"], line["reason"]) for line in read_events(folder, "incident")
        ],
        ("Warnings", "what"): [(line["step"], warning) for line in steps for warning in line.get("warnings", ())],
    }
    result = [
        Table(["step", word], rows[-LISTED:], f"{title}: {len(rows)}" + ", the last 50" * (len(rows) > LISTED))
        for (title, word), rows in tables.items()
        if rows
    ]
    if constant := _constant(steps):
        result.append(Table(["reward term", "steps"], constant, "Reward terms that were constant in the last steps"))
    return result


def _constant(steps: Events) -> list[tuple[str, int]]:
    last = steps[-1] if steps else {}
    ends = "/constant_steps"
    runs = [(key.split("/")[1], int(value)) for key, value in last.items() if key.endswith(ends) and value]
    return [(label, length) for label, length in runs if length > 1]


def _card(folder: Path, metadata: RunMetadata, steps: Events) -> Rows:
    saves, results = read_events(folder, "save"), read_events(folder, "result")
    hashes: Rows = [[name, value] for name, value in metadata.hashes()]
    return [
        ["folder", folder.resolve().name],
        ["recipe", metadata.recipe],
        ["training samples", metadata.samples],
        ["tokens trained on", int(max(_column(steps, "num_tokens"), default=0))],
        ["seconds in steps", round(sum(_column(steps, "step_time")), 1)],
        ["newest checkpoint", saves[-1]["checkpoint"] if saves else None],
        ["checkpoint rule", metadata.checkpoint_rule],
        ["result", results[-1]["checkpoint"] if results else None],
        *hashes,
    ]


def _validation(validations: Events) -> Table | None:
    names = [key for key in _keys(validations) if key.startswith("eval/")]
    rows = [[line["step"], *(line.get(name) for name in names)] for line in validations[-LISTED:]]
    columns = ["step", *(name.removeprefix("eval/") for name in names)]
    return Table(columns, rows, "Validation") if rows else None
