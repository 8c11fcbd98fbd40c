"""``medground.evaluate``: a recipe over a dataset, measured, with intervals; a folder that can be resumed and read again.

metrics.json         means with intervals, groups, faults, comparisons
report.html          the same for people, in one file
samples.jsonl        one line per condition and sample: every answer, its masks and values
run.json             versions, plugins, hashes, settings
inputs.json          the digests of all that feeds it: what must be equal to resume
recipe.yaml          the recipe, resolved; recipe.source.yaml as written
statistics.json      with ``evaluate.protocol: released``: the published system's own aggregation, and its results.json
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medground.data.dataset import Dataset
from medground.data.open_dataset import open_dataset
from medground.errors import InputError, Interrupted, RecipeError
from medground.evaluation import released, summary
from medground.evaluation.baseline import Baseline
from medground.evaluation.conditions import WORDED, Condition, EvalContext, SampleInfo, conditions_of, wordings_of
from medground.evaluation.confidence import confidence_summary, with_agreement, wording_summary
from medground.evaluation.evaluator import Evaluator, Start, Unreadable, read_sample
from medground.evaluation.identity import EvalSamples, begin, inputs_of, metadata_of
from medground.evaluation.predictions import LineSamples, Predictions
from medground.evaluation.report import evaluation_report
from medground.evaluation.results import EvaluationMetadata, EvaluationSummary, Resampling
from medground.evaluation.results_file import ResultsFile, SampleRecord, cluster_of, sample_record
from medground.evaluation.scoring import reader
from medground.pipeline.cache import StageCache
from medground.pipeline.pipeline import Pipeline
from medground.progress import Count, counted_in_notebook
from medground.recipe import Recipe, check, resolve
from medground.recipe.recipe import Source
from medground.recipe.schema import EvaluateConfig
from medground.runs import failpoints
from medground.runs.files import lock_folder, write_atomic
from medground.runs.inputs import RunInputs
from medground.runs.jsonable import plain
from medground.types import Sample, Sampling, boxes_of

logger = logging.getLogger(__name__)
METRICS, REPORT = "metrics.json", "report.html"
_COMPONENTS = ("reasoner", "prompt_interface", "proposer", "proposals", "segmenter", "data", "sampling", "evaluate")
"""Keys of a recipe that an evaluation reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """How an evaluation ended."""

    folder: Path | None
    """Where it was written; None where it was not."""
    summary: EvaluationSummary
    """As in metrics.json."""
    records: list[SampleRecord]
    """As in samples.jsonl."""
    before: int
    """Records that existed when this call began."""

    def mean(self, metric: str, condition: str = "answer") -> float | None:
        """Return the mean of a metric over the samples of a condition; None where there is none.

        Raises:
            KeyError: if the condition was not evaluated.
        """
        row = self.summary.conditions[condition].metrics.get(metric)
        return None if row is None else row.mean


def evaluate(
    recipe: Source | Pipeline,
    *overrides: str,
    out: str | Path | None = None,
    predictions: str | Path | None = None,
    baseline: str | Path | None = None,
    resume: bool = False,
    store: StageCache | None = None,
    stopped: Callable[[], bool] = lambda: False,
    progress: Count | None = None,
    conditions: Sequence[str] | None = None,
    **values: Any,
) -> EvaluationResult:
    """Measure a recipe, or a pipeline, on data.

    >>> evaluate("eval/umrg", "reasoner=toy", "segmenter=ellipse", data="phantoms")  # doctest: +SKIP
    >>> evaluate(medground.load("infer/toy"), data="phantoms", conditions=["answer"]).mean("iou")  # doctest: +SKIP

    Args:
        recipe: a recipe's name, a file, a run folder or a mapping; or a pipeline, with the objects it is made of.
        overrides: ``"a.b=c"`` strings, as on the command line.
        out: the folder to write; without one the result is only returned.
        predictions: saved answers to score again; the reasoner is not built then.
        baseline: the folder of another evaluation of the same samples, to test against.
        resume: continue what `out` holds; without it, a folder that holds an evaluation is refused.
        store: caches completions and masks; evaluations that share one share what they have in common.
        stopped: called before every batch; once it returns True the evaluation ends with `Interrupted`.
        progress: takes the records done and the records planned, now and then, such as `medground.progress.counted` gives;
            without it there is a bar in a notebook, and nothing elsewhere.
        conditions: what is evaluated, instead of the recipe's ``evaluate.conditions``.
        values: of the recipe, by its top-level keys, as in `medground.train`: for example ``data``, a path or samples.

    Raises:
        RecipeError: if the recipe cannot be evaluated.
        InputError: if data, predictions or baseline cannot be read or do not fit.
        RunError: if `out` holds another evaluation.
        Interrupted: if `stopped` ended it; it can be resumed.
    """
    if conditions is not None:
        overrides = (*overrides, f"evaluate.conditions={json.dumps(list(conditions))}")
    given = recipe if isinstance(recipe, Pipeline) else None
    source = recipe.as_recipe if isinstance(recipe, Pipeline) else recipe
    resolved = resolve(source, *overrides, values=values)
    check(resolved)
    _require_values(resolved, saved=predictions is not None)
    config = resolved.config.evaluate
    requested = conditions_of(config.conditions)
    requested += wordings_of(config.paraphrases, requested)
    saved = None if predictions is None else Predictions(Path(predictions))
    against = None if baseline is None else Baseline(Path(baseline))
    # Saved answers are only read: a template that is still to be given is not needed.
    objects = {"prompt_interface": reader(resolved)} if saved and "prompt_interface" in resolved.data else {}
    pipeline = Pipeline.from_recipe(replace(resolved, objects={**resolved.objects, **objects}), cache=store)
    if given is not None:
        pipeline.reuse(given)
    samples = _samples(resolved, pipeline, saved)
    if not samples.ids:
        raise InputError("no samples to evaluate", hint="increase evaluate.limit")
    if saved is not None:
        saved.match(samples.ids)
    positions = {name: index for index, name in enumerate(samples.ids)}
    evaluator = Evaluator(
        pipeline=pipeline,
        samplings=_samplings(pipeline, config),
        released=config.protocol == "released",
        predictions=saved,
        positions=positions,
    )
    metadata = metadata_of(resolved, pipeline, samples, saved)
    with ExitStack() as stack:
        folder = None if out is None else Path(out)
        inputs, results = RunInputs(), ResultsFile(None)
        if folder is not None:
            stack.enter_context(lock_folder(folder))
            inputs = inputs_of(resolved, samples, saved)
            results = begin(folder, resolved, metadata, inputs, requested, resume)
        before = len(results.records)
        if before:
            logger.info("%d lines exist already", before)
        skipped = {condition.name: reason for condition in requested if (reason := evaluator.obstacle(condition))}
        for name, reason in skipped.items():
            logger.info("condition %s is skipped: %s", name, reason)
        evaluated = [condition for condition in requested if condition.name not in skipped]
        if not evaluated:
            raise RecipeError(f"every condition of {resolved.name!r} is skipped", hint=next(iter(skipped.values())))
        with counted_in_notebook("evaluating", progress, unit="answer") as report:
            _answer_all(evaluated, evaluator, samples, inputs, results, config, stopped, report)
        measured = _summarize(resolved, metadata, evaluated, skipped, results, evaluator, against)
        records = list(results.records.values())
        if folder is not None:
            write_atomic(folder / METRICS, json.dumps(plain(measured), indent=1, allow_nan=False) + "\n")
            read = None if isinstance(samples, LineSamples) else _by_id(samples)
            write_atomic(folder / REPORT, evaluation_report(resolved, metadata, measured, records, read))
            if evaluator.released:
                released.write(folder, results.of("answer"))
    return EvaluationResult(folder=folder, summary=measured, records=records, before=before)


def require_unchanged_evaluation(recipe: Recipe, folder: Path) -> list[str]:
    """Return the ids of the samples that an evaluation's data has lost since; no component is built.

    Raises:
        RunError: if something else that fed it has changed, naming the first.
        InputError: if its data cannot be read.
    """
    return inputs_of(recipe, _samples(recipe, Pipeline.from_recipe(recipe), None), None).require_same(folder, "samples")


def prepare(recipe: Recipe) -> list[str]:
    """Return the ids of the samples that evaluating a recipe would measure; no component is built.

    Raises:
        RecipeError: if it cannot be evaluated.
        InputError: if its data cannot be read.
    """
    check(recipe)
    _require_values(recipe, saved=False)
    wordings_of(recipe.config.evaluate.paraphrases, conditions_of(recipe.config.evaluate.conditions))
    return _samples(recipe, Pipeline.from_recipe(recipe), None).ids


def evaluated_samples(recipe: Recipe) -> Callable[[str], Sample]:
    """Return what reads a sample of a recipe's evaluation by its id; no component is built.

    Raises:
        InputError: if its data cannot be read.
    """
    return _by_id(_samples(recipe, Pipeline.from_recipe(recipe), None))


def _by_id(samples: EvalSamples) -> Callable[[str], Sample]:
    positions = {name: index for index, name in enumerate(samples.ids)}
    return lambda name: samples[positions[name]]


def _require_values(recipe: Recipe, *, saved: bool) -> None:
    """Stop where a value must still be given, or where the recipe would be measured on what it was trained on."""
    for key in recipe.missing:
        unused = saved and (key.startswith("reasoner") or key == "prompt_interface.template")
        if key.split(".")[0] in _COMPONENTS and not unused:
            raise RecipeError(f"{recipe.origin(key)}: {key} must be given", hint=f"add {key}=VALUE")
    trained = "grpo" in recipe.data or "sft" in recipe.data
    if trained and recipe.config.data.path and recipe.config.evaluate.split is None:
        raise RecipeError(
            f"the recipe {recipe.name!r} trains on data.split={recipe.config.data.split}",
            hint="evaluate another split: evaluate.split=test",
        )


def _samples(recipe: Recipe, pipeline: Pipeline, saved: Predictions | None) -> EvalSamples:
    data, config = recipe.config.data, recipe.config.evaluate
    if data.path is None and "data" not in recipe.objects and saved is not None and not saved.with_ids:
        return LineSamples(saved.path, pipeline.prompt_interface)
    return open_dataset(
        recipe.data_source,
        split=config.split or data.split,
        limit=config.limit or data.limit,
        reader=data.reader,
        only=config.only,
        leave_out=config.leave_out,
    )


def _samplings(pipeline: Pipeline, config: EvaluateConfig) -> list[Sampling]:
    sampling = pipeline.sampling
    if config.samples is not None:
        if sampling.temperature == 0:
            raise RecipeError(
                "evaluate.samples with sampling.temperature 0 gives the same answer again",
                hint="add sampling.temperature=1",
            )
        sampling = replace(sampling, num_generations=config.samples)
    if config.seeds is None:
        return [sampling]
    if not config.seeds:
        raise RecipeError("evaluate.seeds is empty", hint="write evaluate.seeds=[0,1,2]")
    if sampling.temperature == 0:
        raise RecipeError(
            "evaluate.seeds with sampling.temperature 0 gives the same answers again", hint="add sampling.temperature=1"
        )
    return [replace(sampling, seed=seed) for seed in config.seeds]


def _answer_all(
    conditions: Sequence[Condition],
    evaluator: Evaluator,
    samples: EvalSamples,
    inputs: RunInputs,
    results: ResultsFile,
    config: EvaluateConfig,
    stopped: Callable[[], bool],
    progress: Count,
) -> None:
    """Evaluate every condition on every sample that has no record yet, in batches; leave the records in their order."""
    planned = len(conditions) * len(samples.ids)
    progress(len(results.records), planned)
    context, lost = EvalContext(seed=config.seed), dict[int, Unreadable]()
    if any(condition.needs_others for condition in conditions):
        entries = ((index, read_sample(samples, index, lost)) for index in range(len(samples)))
        infos = {index: _info(entry, config.cluster) for index, entry in entries if isinstance(entry, Sample)}
        usable = list(infos)
        context = EvalContext(
            seed=config.seed, samples=list(infos.values()), read=lambda position: samples[usable[position]]
        )
    for condition in conditions:
        todo = [index for index, name in enumerate(samples.ids) if (condition.name, name) not in results.records]
        for start in range(0, len(todo), config.batch_size):
            if stopped():
                raise Interrupted(
                    f"stopped after {len(results.records)} of {planned} lines", hint="add --resume to continue"
                )
            indices = todo[start : start + config.batch_size]
            if inputs.samples and isinstance(samples, Dataset):
                inputs.require_unchanged(samples.entries[index] for index in indices)
            read = [read_sample(samples, index, lost) for index in indices]
            batch = [sample for sample in read if isinstance(sample, Sample)]
            starts = [_starts(condition, sample, context, results) for sample in batch]
            groups, questions = evaluator.answers(condition, batch, context, starts)
            records = [
                sample_record(
                    condition.name,
                    sample,
                    cluster_of(sample, config.cluster)[1],
                    with_agreement(group),
                    asked_question=question,
                )
                for sample, group, question in zip(batch, groups, questions, strict=True)
            ]
            records += [
                sample_record(
                    condition.name,
                    entry.sample,
                    cluster_of(entry.sample, config.cluster)[1],
                    evaluator.unreadable(condition, *entry),
                    asked_question="",
                )
                for entry in read
                if isinstance(entry, Unreadable)
            ]
            failpoints.failpoint("eval.mid")
            results.add(records)
            progress(len(results.records), planned)
    results.rewrite([(condition.name, name) for condition in conditions for name in samples.ids])


def _starts(condition: Condition, sample: Sample, context: EvalContext, results: ResultsFile) -> list[Start]:
    """Return the written answers a condition starts from, each with the reasoning it is to go on from."""
    if not condition.starts_from_answers:
        return []
    think = ""
    if condition.think == "shuffled":
        other = context.samples[context.other_sample(sample)].id
        think = results.records["answer", other].answers[0].think or ""
    return [Start(answer, think) for answer in results.records["answer", sample.query.id].answers]


def _info(sample: Sample, cluster: str | None) -> SampleInfo:
    height, width = sample.query.size
    boxes = boxes_of(sample.target.regions)
    x1, y1 = (min((box[axis] for box in boxes), default=0.0) for axis in (0, 1))
    x2, y2 = (max((box[axis] for box in boxes), default=0.0) for axis in (2, 3))
    return SampleInfo(
        id=sample.query.id,
        cluster=cluster_of(sample, cluster)[1],
        category=sample.labels.get("category", ""),
        unit_box=(x1 / width, y1 / height, x2 / width, y2 / height) if sample.target.regions else None,
    )


def _summarize(
    recipe: Recipe,
    metadata: EvaluationMetadata,
    conditions: Sequence[Condition],
    skipped: Mapping[str, str],
    results: ResultsFile,
    evaluator: Evaluator,
    baseline: Baseline | None,
) -> EvaluationSummary:
    config = recipe.config.evaluate
    how = Resampling(n_boot=config.n_boot, level=config.level, seed=config.seed)
    records = {condition.name: results.of(condition.name) for condition in conditions}
    lead = next(iter(records))
    summaries = {
        condition.name: summary.summarize(
            records[condition.name],
            condition,
            how,
            crossed=condition.name in ("answer", lead),
            answers=records.get("answer"),
        )
        for condition in conditions
    }
    limit = None
    if evaluator.predictions is None:
        limit = max(sampling.max_completion_length for sampling in evaluator.samplings)
    pairs = [
        summary.Pair(
            records[condition.name],
            records["answer"],
            summary.SHIFTED[condition.kind],
            against="answer",
            condition=condition.name,
        )
        for condition in conditions
        if "answer" in records and condition.kind != "answer"
    ]
    return EvaluationSummary(
        recipe=recipe.name,
        samples=len(records[lead]),
        split=metadata.split,
        answers_per_sample=max((len(record.answers) for record in records[lead]), default=0),
        unusable=metadata.unusable,
        protocol=config.protocol,
        clusters=summary.cluster_counts(records[lead]),
        resampling=how,
        untrained_prompts=metadata.untrained_prompts,
        conditions=summaries,
        skipped=dict(skipped),
        causes=summaries[lead].outcomes(limit).causes(),
        length_limit=limit,
        comparisons=summary.comparisons(pairs, how),
        baseline=None if baseline is None else baseline.compare(records, how),
        confidence=confidence_summary(records["answer"], config, how) if "answer" in records else None,
        wordings=wording_summary(records, [name for name in records if name in WORDED], how),
    )
