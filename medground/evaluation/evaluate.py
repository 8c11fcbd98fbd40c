"""``medground.evaluate``: a recipe over a dataset, measured, with intervals; a folder that can be resumed and read again.

metrics.json         means with intervals, groups, faults, comparisons
report.html          the same for people, in one file
samples.jsonl        one line per arm and sample: every answer, its masks and values
run.json             versions, plugins, hashes, what was asked
recipe.yaml          the recipe, resolved; recipe.source.yaml as written
statistics.json      with ``evaluate.protocol: released``: the published system's own aggregation, and its results.json
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from medground.data.filters import read_part
from medground.errors import InputError, Interrupted, RecipeError, RunError, did_you_mean
from medground.evaluation import released, summary
from medground.evaluation.conditions import Arm, Around, Fact, arms_of
from medground.evaluation.evaluator import Stage
from medground.evaluation.predictions import LineSamples, Predictions
from medground.evaluation.report import report as report_of
from medground.evaluation.results_file import SAMPLES, Journal, cluster_of, read_lines, record
from medground.evaluation.scoring import reader
from medground.pipeline.cache import StageCache
from medground.pipeline.pipeline import Pipeline
from medground.recipe import Recipe, check, resolve
from medground.runs import failpoints, provenance
from medground.runs.checkpoint import write_atomically
from medground.types import Sample

METRICS, ABOUT, REPORT = "metrics.json", "run.json", "report.html"
_DECIDE = ("prompt_interface", "segmenter", "prompt", "allow_untrained", "sampling", "data")
_LATER = ("n_boot", "level", "batch_size", "published", "pictures")
"""Settings of ``evaluate`` that change no line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """How an evaluation ended."""

    folder: Path | None
    """Where it was written; None where it was not."""
    metrics: dict[str, Any]
    """What metrics.json holds."""
    lines: list[dict[str, Any]]
    """What samples.jsonl holds."""
    before: int
    """Lines that were there already when this call began."""

    def mean(self, metric: str, arm: str = "answer") -> float | None:
        """The mean of a metric over the samples of an arm; None where there is none.

        Raises:
            KeyError: if the arm was not done.
        """
        row = self.metrics["arms"][arm]["metrics"].get(metric)
        return None if row is None else row["mean"]


def evaluate(
    recipe: Any,
    *overrides: str,
    out: str | Path | None = None,
    predictions: str | Path | None = None,
    baseline: str | Path | None = None,
    resume: bool = False,
    store: StageCache | None = None,
    stopped: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda text: None,
    report: Callable[[int, int], None] = lambda done, planned: None,
) -> Evaluated:
    """Measure a recipe on its data.

    Args:
        recipe: a recipe's name, a file, a run folder or a mapping.
        overrides: ``"a.b=c"`` strings, as on the command line.
        out: the folder to write; without one the result is only returned.
        predictions: saved answers to score again; the reasoner is not built then.
        baseline: the folder of another evaluation of the same samples, to be tested against.
        resume: go on with what `out` holds; without, a folder that holds an evaluation is refused.
        store: where completions and masks are kept; evaluations that share one share what they have in common.
        stopped: asked before every batch; once it says True the evaluation ends with `Interrupted`.
        say: takes a sentence for people.
        report: takes the lines done and the lines planned, now and then.

    Raises:
        RecipeError: if the recipe cannot be evaluated.
        InputError: if data, predictions or baseline cannot be read or do not fit.
        RunError: if `out` holds another evaluation.
        Interrupted: if it was asked to stop; it can be resumed.
    """
    resolved = resolve(recipe, *overrides)
    check(resolved)
    _complete(resolved, saved=predictions is not None)
    settings = _sensible(resolved)
    arms = arms_of(settings["arms"])
    saved = None if predictions is None else Predictions(Path(predictions))
    rivals = None if baseline is None else _rivals(Path(baseline))
    graph = Pipeline(resolved, store)
    if saved is not None and "prompt_interface" in resolved.data:
        graph.prompt_interface = reader(resolved)  # it only reads: a template that is still to be given is not needed
    samples = _samples(resolved, graph, saved)
    if not samples.ids:
        raise InputError("there are no samples to measure", hint="mend evaluate.limit")
    if saved is not None:
        saved.match(samples.ids)
    places = {name: place for place, name in enumerate(samples.ids)}
    stage = Stage(
        graph=graph,
        samplings=[graph.sampling] if settings["seeds"] is None else _seeded(graph, settings["seeds"]),
        released=settings["protocol"] == "released",
        predictions=saved,
        places=places,
    )
    folder = None if out is None else Path(out)
    about = _about(resolved, graph, samples, saved)
    _begin(folder, resolved, about, resume)
    journal = Journal(folder)
    run = Run(stage, samples, places, journal, settings, stopped, report)
    before = len(journal.lines)
    if before:
        say(f"{before} lines are there already")
    skipped = {arm.name: reason for arm in arms if (reason := stage.impossible(arm))}
    for name, reason in skipped.items():
        say(f"the arm {name} is left out: {reason}")
    done = [arm for arm in arms if arm.name not in skipped]
    if not done:
        raise RecipeError(f"no arm of {resolved.name!r} can be done", hint=next(iter(skipped.values())))
    run(done)
    metrics = _measure(resolved, about, done, skipped, journal, stage, rivals)
    if folder is not None:
        write_atomically(folder / METRICS, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
        read = None if resolved.settings("data")["path"] is None else lambda name: samples[places[name]]
        page = report_of(resolved, about, metrics, list(journal.lines.values()), read)
        write_atomically(folder / REPORT, page)
        if stage.released:
            released.write(folder, journal.of("answer"))
    return Evaluated(folder=folder, metrics=metrics, lines=list(journal.lines.values()), before=before)


def prepare(recipe: Recipe) -> list[str]:
    """The ids of the samples that evaluating a recipe would measure; no component is built.

    Raises:
        RecipeError: if it cannot be evaluated.
        InputError: if its data cannot be read.
    """
    check(recipe)
    _complete(recipe, saved=False)
    arms_of(recipe.settings("evaluate")["arms"])
    found: list[str] = _samples(recipe, Pipeline(recipe), None).ids
    return found


def _complete(recipe: Recipe, *, saved: bool) -> None:
    """Stop where a value must still be given, or where the recipe would be measured on what it was trained on."""
    for key in recipe.missing:
        needed = key.split(".")[0] in ("reasoner", "prompt_interface", "segmenter", "data", "sampling", "evaluate")
        unasked = saved and (key.startswith("reasoner") or key == "prompt_interface.template")
        if needed and not unasked:
            raise RecipeError(f"{recipe.place(key)}: {key} must be given", hint=f"add {key}=VALUE")
    trained = "grpo" in recipe.data or "sft" in recipe.data
    if trained and recipe.settings("data")["path"] and recipe.settings("evaluate")["split"] is None:
        raise RecipeError(
            f"the recipe {recipe.name!r} trains on data.split={recipe.settings('data')['split']}",
            hint="say what to measure it on: evaluate.split=test",
        )


def _sensible(recipe: Recipe) -> dict[str, Any]:
    """The settings of ``evaluate``, each within its bounds."""
    settings: dict[str, Any] = recipe.settings("evaluate")
    for name, good, rule in (
        ("batch_size", settings["batch_size"] >= 1, "at least 1"),
        ("n_boot", settings["n_boot"] >= 2, "at least 2"),
        ("level", 0 < settings["level"] < 1, "between 0 and 1"),
        ("seed", settings["seed"] >= 0, "not negative"),
        ("pictures", settings["pictures"] >= 0, "not negative"),
    ):
        if not good:
            raise RecipeError(f"evaluate.{name} is {settings[name]}", hint=f"it must be {rule}")
    return settings


def _samples(recipe: Recipe, graph: Pipeline, saved: Predictions | None) -> Any:
    data, settings = recipe.settings("data"), recipe.settings("evaluate")
    split, limit = settings["split"] or data["split"], settings["limit"] or data["limit"]
    if data["path"] is None:
        if saved is None or saved.named:
            raise RecipeError(f"the recipe {recipe.name!r} names no data", hint="add data.path=DIR")
        return LineSamples(saved.path, graph.prompt_interface)
    part = {key: settings[key] for key in ("only", "leave_out")}
    return read_part(data["path"], split=split, limit=limit, reader=data["reader"], **part)


def _seeded(graph: Pipeline, seeds: Any) -> list[Any]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise RecipeError("evaluate.seeds is not a list of whole numbers", hint="write evaluate.seeds=[0,1,2]")
    if graph.sampling.temperature == 0:
        raise RecipeError(
            "evaluate.seeds with sampling.temperature 0 asks the same again", hint="add sampling.temperature=1"
        )
    return [replace(graph.sampling, seed=seed) for seed in seeds]


def _about(recipe: Recipe, graph: Pipeline, samples: Any, saved: Predictions | None) -> dict[str, Any]:
    """What is known before the first answer; `identity` is what a resumed evaluation must share."""
    ids: list[str] = samples.ids
    settings = {key: value for key, value in recipe.settings("evaluate").items() if key not in _LATER}
    decide = {key: recipe.data.get(key) for key in _DECIDE} | {"evaluate": settings, "ids": list(ids)}
    if saved is None:
        decide["reasoner"] = recipe.data.get("reasoner")
    else:
        decide["predictions"] = sha256(saved.path.read_bytes()).hexdigest()
    asked = saved is None and "prompt_interface" in recipe.data
    return {
        "recipe": recipe.name,
        "identity": sha256(json.dumps(decide, sort_keys=True).encode()).hexdigest(),
        "samples": len(ids),
        "split": recipe.settings("evaluate")["split"] or recipe.settings("data")["split"],
        "unusable": [{"where": bad.where, "reason": bad.reason} for bad in getattr(samples, "bad", ())],
        "predictions_sha256": decide.get("predictions"),
        "prompt_sha256": provenance.prompt_sha256(graph.prompt_interface) if asked else None,
        "untrained_prompts": graph.untrained,
        "plugins": provenance.plugins(recipe),
        "versions": provenance.versions(),
    }


def _begin(folder: Path | None, recipe: Recipe, about: Mapping[str, Any], resume: bool) -> None:
    """Make the folder, or check that it holds a part of this evaluation."""
    if folder is None:
        return
    if (folder / ABOUT).exists() or (folder / SAMPLES).exists():
        if not resume:
            raise RunError(f"{folder} holds a run already", hint="add --resume to continue it, or choose another --out")
        try:
            identity = json.loads((folder / ABOUT).read_text(encoding="utf-8")).get("identity")
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{folder / ABOUT} cannot be read: {error}") from error
        if identity != about["identity"]:
            raise RunError(f"{folder} holds another evaluation", hint="choose another --out")
    recipe.write(folder)
    write_atomically(folder / ABOUT, json.dumps(about, indent=1) + "\n")


class Run:
    """The work: every arm over every sample that has no line yet, in batches."""

    def __init__(
        self,
        stage: Stage,
        samples: Any,
        places: Mapping[str, int],
        journal: Journal,
        settings: Mapping[str, Any],
        stopped: Callable[[], bool],
        report: Callable[[int, int], None],
    ) -> None:
        self.stage, self.samples, self.places, self.journal = stage, samples, places, journal
        self.settings, self.stopped, self.report = settings, stopped, report

    def __call__(self, arms: Sequence[Arm]) -> None:
        """Do the arms one after the other, and leave the lines in their order."""
        ids, size = self.samples.ids, self.settings["batch_size"]
        planned = len(arms) * len(ids)
        around = Around(seed=self.settings["seed"])
        if any(arm.needs_others for arm in arms):
            around = self._around()
        for arm in arms:
            todo = [place for place, name in enumerate(ids) if (arm.name, name) not in self.journal.lines]
            for start in range(0, len(todo), size):
                if self.stopped():
                    raise Interrupted(
                        f"stopped after {len(self.journal.lines)} of {planned} lines", hint="add --resume to continue"
                    )
                self._batch(arm, todo[start : start + size], around)
                self.report(len(self.journal.lines), planned)
        self.journal.rewrite([(arm.name, name) for arm in arms for name in ids])

    def _batch(self, arm: Arm, places: Sequence[int], around: Around) -> None:
        samples = [self.samples[place] for place in places]
        given = [self._given(arm, sample, around) for sample in samples]
        answers, asked = self.stage.answers(arm, samples, around, given)
        label = self.settings["cluster"]
        lines = [
            record(arm.name, sample, cluster_of(sample, label)[1], group, asked=question)
            for sample, group, question in zip(samples, answers, asked, strict=True)
        ]
        failpoints.failpoint("eval.mid")
        self.journal.add(lines)

    def _given(self, arm: Arm, sample: Sample, around: Around) -> list[dict[str, Any]]:
        """The written answers an arm starts from, and for each the reasoning it is to go on from."""
        if not arm.after_answers:
            return []
        own = self.journal.lines["answer", sample.query.id]["answers"]
        instead = ""
        if arm.think == "shuffled":
            stranger = self.samples.ids[around.stranger(sample)]
            instead = self.journal.lines["answer", stranger]["answers"][0]["think"] or ""
        return [{**answer, "instead": instead} for answer in own]

    def _around(self) -> Around:
        """Read every sample once for what the others must know of it."""
        facts = []
        for place in range(len(self.samples)):
            sample = self.samples[place]
            height, width = sample.query.size
            x1, y1, x2, y2 = sample.target.box
            facts.append(
                Fact(
                    id=sample.query.id,
                    cluster=cluster_of(sample, self.settings["cluster"])[1],
                    category=sample.labels.get("category", ""),
                    unit_box=(x1 / width, y1 / height, x2 / width, y2 / height),
                )
            )
        return Around(
            seed=self.settings["seed"], facts=facts, places=self.places, read=lambda place: self.samples[place]
        )  # fmt: skip


def _measure(
    recipe: Recipe,
    about: Mapping[str, Any],
    arms: Sequence[Arm],
    skipped: Mapping[str, str],
    journal: Journal,
    stage: Stage,
    rivals: tuple[str, dict[str, list[dict[str, Any]]]] | None,
) -> dict[str, Any]:
    settings = recipe.settings("evaluate")
    how = summary.Resampling(n_boot=settings["n_boot"], level=settings["level"], seed=settings["seed"])
    lines = {arm.name: journal.of(arm.name) for arm in arms}
    first = next(iter(lines.values()))
    clusters = {line["cluster"] for line in first}
    found: dict[str, Any] = {
        "recipe": recipe.name,
        "samples": len(first),
        "split": about["split"],
        "answers_per_sample": max((len(line["answers"]) for line in first), default=0),
        "unusable": about["unusable"],
        "protocol": settings["protocol"],
        "clusters": {"count": len(clusters), "by": _kinds(clusters)},
        "resampling": how.to_dict(),
        "untrained_prompts": stage.graph.untrained,
        "arms": {
            arm.name: {
                "kind": arm.kind,
                "about": arm.about,
                **summary.summarise(lines[arm.name], how, cells=arm.name in ("answer", next(iter(lines)))),
            }
            for arm in arms
        },
        "skipped": dict(skipped),
    }
    limit = max(each.max_completion_length for each in stage.samplings) if stage.predictions is None else None
    told = summary.outcomes(next(iter(found["arms"].values())), limit)
    found |= {"causes": told.causes(), "length_limit": limit}
    if "answer" in lines:
        others = [arm for arm in arms if arm.kind != "answer"]
        for arm in others:
            found["arms"][arm.name]["agreement"] = summary.agreement(lines[arm.name], lines["answer"], how)
        found["comparisons"] = summary.comparisons(
            [
                ({"arm": arm.name, "against": "answer"}, lines[arm.name], lines["answer"], summary.SHIFTED[arm.kind])
                for arm in others
            ],
            how,
        )
    if rivals is not None:
        found["baseline"] = _against(lines, *rivals, how)
    return found


def _kinds(clusters: set[str]) -> dict[str, int]:
    kinds = sorted(cluster.rpartition("-")[0] for cluster in clusters)
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def _rivals(folder: Path) -> tuple[str, dict[str, list[dict[str, Any]]]]:
    """The name of another evaluation and its lines by arm."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in read_lines(folder / SAMPLES):
        lines.setdefault(line["arm"], []).append(line)
    return folder.name, lines


def _against(
    lines: Mapping[str, list[dict[str, Any]]],
    name: str,
    rivals: Mapping[str, list[dict[str, Any]]],
    how: summary.Resampling,
) -> dict[str, Any]:
    """Paired tests against the same arms of another evaluation.

    Raises:
        InputError: if it has none of these arms and samples, or measured other targets under the same names.
    """
    shared = [arm for arm in lines if arm in rivals]
    if not shared:
        raise InputError(f"the baseline {name} has none of these arms", hint=did_you_mean(next(iter(lines)), rivals))
    targets = {line["id"]: line["target"]["box"] for line in rivals[shared[0]]}
    both = [line for line in lines[shared[0]] if line["id"] in targets]
    if not both:
        raise InputError(f"the baseline {name} has none of these samples", hint="evaluate it on the same data")
    if other := next((line for line in both if targets[line["id"]] != line["target"]["box"]), None):
        raise InputError(
            f"the baseline {name} has another target for {other['id']}", hint="evaluate it on the same data"
        )
    rows = summary.comparisons(
        [({"arm": arm, "against": name}, lines[arm], rivals[arm], summary.COMPARED) for arm in shared], how
    )
    return {"name": name, "samples_in_common": len(both), "comparisons": rows}
