"""Measure a recipe on whole volumes: metrics in 3-D with intervals over clusters of patients, the error of the slice apart.

metrics.json         means with intervals, by category too; faults
report.html          the same for people, in one file
volumes.jsonl        one line per volume sample: the slice, both texts, the values
recipe.yaml          the recipe, resolved; recipe.source.yaml as written
inputs.json          the digests of all that feeds it: what must be equal to resume
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medground.data.volume_samples import VOLUMES, VolumeSample, read_volume_samples
from medground.errors import Interrupted, RecipeError, RunError
from medground.evaluation import statistics
from medground.evaluation.report import interval
from medground.evaluation.results import Comparison, MetricSummary, Resampling
from medground.evaluation.summary import comparison, holm_corrected, metric_summary
from medground.evaluation.volumes import volume_metrics
from medground.pipeline.cache import StageCache
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.volumes import VolumeResult, follow_answer, ground_volume, slice_distance, slice_rule
from medground.progress import Count
from medground.recipe import Recipe, check, resolve
from medground.recipe.recipe import Source
from medground.recipe.schema import Propagation
from medground.report import render
from medground.runs.files import JsonLines, content_sha256, lock_folder, write_atomic
from medground.runs.folder import write_recipe
from medground.runs.inputs import INPUTS, RunInputs, component_inputs
from medground.runs.jsonable import plain, restore
from medground.segmenters.propagation import volume_segmenter
from medground.types import Fault

RECORDS, METRICS, REPORT = "volumes.jsonl", "metrics.json", "report.html"
TOLERANCE = 2.0
"""Millimetres, of the surface Dice."""
DEFINITIONS: Mapping[str, str] = {
    "dice": "Dice of the voxels; an answer without a mask counts as 0",
    f"surface_dice_{TOLERANCE:g}mm": f"share of both surfaces within {TOLERANCE:g} mm of the other one; 0 without a mask",
    "hd95_mm": "95th percentile of the distances between the surfaces, mm; an empty mask has none and does not count",
    "slice_error_mm": "distance from the slice that was asked about to the one that holds most of the target, mm",
    "slice_off_mm": "distance from that slice to the nearest one that holds some of the target, mm; 0 where it does",
}
"""Metric -> what it is."""
OF_MASKS = tuple(DEFINITIONS)[:3]
"""What every way of following is measured by; the slice is one for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRecord:
    """What became of one volume sample."""

    id: str
    cluster: str
    """The patient, else the volume."""
    category: str
    question: str
    plane: str
    slice: int | None
    rule: str
    texts: list[str]
    """Of both exchanges, as far as there were any."""
    fault: Fault | None
    cause: str
    values: dict[str, float | None]
    """None where a metric is undefined; empty where the fault is not the model's."""
    conditions: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Another way of following the same answer -> its values, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeEvaluation:
    """The numbers of an evaluation of volumes."""

    samples: int
    clusters: int
    slice: str
    """The rule for the slice, or its number."""
    propagation: str
    metrics: dict[str, MetricSummary]
    by_category: dict[str, dict[str, MetricSummary]]
    conditions: dict[str, dict[str, MetricSummary]]
    """Another way of following the same answers -> metrics of masks."""
    comparisons: list[Comparison]
    """Of `propagation` with each of these ways."""
    faults: dict[str, int]
    """Fault -> samples. Those of the model count as 0, the others are left out of the means."""
    resampling: Resampling


def evaluate_volumes(
    recipe: Source,
    *overrides: str,
    out: str | Path,
    resume: bool = False,
    store: StageCache | None = None,
    stopped: Callable[[], bool] = lambda: False,
    progress: Count | None = None,
) -> VolumeEvaluation:
    """Measure a recipe on the volume samples of ``data.path``, one volume in memory at a time.

    Every way of ``evaluate.conditions`` follows the same answers as ``volume.propagation``, from the same masks on the same
    slices, and is measured and tested beside it.

    Args:
        recipe: a recipe's name, a file, a run folder or a mapping; its ``volume`` says which slice is asked about.
        overrides: ``"a.b=c"`` strings, as on the command line.
        out: the folder to write.
        resume: continue what `out` holds; without it, a folder that holds an evaluation is refused.
        store: caches completions and masks on slices.
        stopped: called before every volume; once it returns True the evaluation ends with `Interrupted`.
        progress: takes the volumes done and the volumes planned.

    Raises:
        RecipeError: if the recipe cannot be evaluated, or its segmenter cannot follow in one of the ways.
        UsageError: if it names no slice.
        InputError: if a volume cannot be read.
        RunError: if `out` holds another evaluation.
        Interrupted: if `stopped` ended it; it can be resumed.
    """
    resolved = resolve(recipe, *overrides)
    check(resolved)
    config, data = resolved.config.evaluate, resolved.config.data
    if data.path is None:
        raise RecipeError("data.path is not given", hint="add data.path=DIR, built with medground data build --volumes")
    samples = read_volume_samples(
        data.path, split=config.split or data.split, limit=config.limit if config.limit is not None else data.limit
    )
    pipeline = Pipeline.from_recipe(resolved, cache=store)
    ways = _ways(resolved, pipeline)
    folder = Path(out)
    with ExitStack() as stack:
        stack.enter_context(lock_folder(folder))
        lines = _begin(folder, resolved, Path(data.path) / VOLUMES, ways, resume)
        stack.callback(lines.close)
        records = {record.id: record for record in _records(lines)}
        for number, sample in enumerate(samples):
            if progress is not None:
                progress(number, len(samples))
            if sample.id in records:
                continue
            if stopped():
                raise Interrupted(f"stopped after {number} of {len(samples)} volumes", hint="add --resume to continue")
            records[sample.id] = _record(pipeline, sample, ways)
            lines.append(plain(records[sample.id]))
        ordered = [records[sample.id] for sample in samples]
        how = Resampling(n_boot=config.n_boot, level=config.level, seed=config.seed)
        measured = _summarize(resolved, ordered, ways, how)
        write_atomic(folder / METRICS, json.dumps(plain(measured), indent=1, allow_nan=False) + "\n")
        write_atomic(folder / REPORT, _report(resolved, measured, ordered))
    return measured


def _ways(recipe: Recipe, pipeline: Pipeline) -> list[Propagation]:
    """Return the ways of ``evaluate.conditions`` beside the recipe's own."""
    names = recipe.config.evaluate.conditions or []
    for name in names:
        volume_segmenter(name, pipeline.segmenter)
    return [way for way in Propagation if way in names and way != recipe.config.volume.propagation]


def _begin(folder: Path, recipe: Recipe, data: Path, ways: Sequence[Propagation], resume: bool) -> JsonLines:
    """Write what the evaluation is into its folder, or check that the folder holds a part of it."""
    components = component_inputs(recipe, "reasoner", "prompt_interface", "segmenter")
    keys = [key for key in (*_DECIDE, "data") if key in recipe.data]
    components |= {
        "the recipe": recipe.digest(*keys),
        "the data": content_sha256(data),
        "the conditions": ",".join(ways),
    }
    inputs = RunInputs(components=components)
    if (folder / INPUTS).exists():
        if not resume:
            raise RunError(f"{folder} holds a run already", hint="add --resume to continue it, or choose another --out")
        inputs.require_same(folder)
    write_recipe(recipe, folder)
    inputs.write(folder)
    return JsonLines(folder / RECORDS)


_DECIDE = ("reasoner", "prompt_interface", "segmenter", "prompt", "text_from", "allow_untrained", "sampling", "volume")


def _records(lines: JsonLines) -> list[VolumeRecord]:
    try:
        return [restore(VolumeRecord, line) for line in lines.read()]
    except ValueError as error:
        raise RunError(f"{lines.path} is damaged: {error}", hint="choose another --out") from error


def _record(pipeline: Pipeline, sample: VolumeSample, ways: Sequence[Propagation]) -> VolumeRecord:
    volume, truth = sample.read()
    config = pipeline.as_recipe.config.volume
    result = ground_volume(pipeline, volume, sample.question, window=sample.window, truth=truth)
    exchanges = (result.choice.completion, None if result.answer is None else result.answer.completion)
    return VolumeRecord(
        id=sample.id, cluster=sample.group, category=sample.labels.get("category", ""), question=sample.question,
        plane=result.choice.plane, slice=result.choice.index, rule=result.choice.rule,
        texts=[completion.text for completion in exchanges if completion is not None], fault=result.fault,
        cause=result.cause, values=_values(result, truth),
        conditions={
            str(way): _mask_values(
                follow_answer(pipeline, result, replace(config, propagation=way), window=sample.window), truth
            )
            for way in ways
        },
    )  # fmt: skip


def _values(result: VolumeResult, truth: np.ndarray) -> dict[str, float | None]:
    values = _mask_values(result, truth)
    return {**values, **(slice_distance(result.volume, result.choice, truth) or {})} if values else {}


def _mask_values(result: VolumeResult, truth: np.ndarray) -> dict[str, float | None]:
    if result.fault is not None and not result.fault.of_model:
        return {}
    mask = np.zeros_like(truth) if result.mask is None else result.mask
    return volume_metrics(mask, truth, result.volume.spacing, TOLERANCE)


def _summarize(
    recipe: Recipe, records: Sequence[VolumeRecord], ways: Sequence[Propagation], how: Resampling
) -> VolumeEvaluation:
    config = recipe.config.volume
    categories = sorted({record.category for record in records} - {""})
    return VolumeEvaluation(
        samples=len(records), clusters=len({record.cluster for record in records}), slice=str(slice_rule(config)),
        propagation=config.propagation, metrics=_metrics(records, how),
        by_category={
            name: _metrics([record for record in records if record.category == name], how) for name in categories
        },
        conditions={str(way): _metrics(_in_condition(records, way), how, OF_MASKS) for way in ways},
        comparisons=_comparisons(records, ways, how),
        faults=dict(Counter(str(record.fault) for record in records if record.fault is not None)), resampling=how,
    )  # fmt: skip


def _in_condition(records: Sequence[VolumeRecord], way: Propagation) -> list[VolumeRecord]:
    return [replace(record, values=record.conditions[way]) for record in records]


def _table(records: Sequence[VolumeRecord], names: Sequence[str]) -> np.ndarray:
    values = [[record.values.get(name) for name in names] for record in records]
    return np.array([[np.nan if value is None else value for value in row] for row in values], np.float64)


def _metrics(
    records: Sequence[VolumeRecord], how: Resampling, names: Sequence[str] = tuple(DEFINITIONS)
) -> dict[str, MetricSummary]:
    clusters = [record.cluster for record in records]
    estimates = statistics.estimate(_table(records, names), clusters, n_boot=how.n_boot, level=how.level, seed=how.seed)
    return {name: metric_summary(row, definition=DEFINITIONS[name]) for name, row in zip(names, estimates, strict=True)}


def _comparisons(records: Sequence[VolumeRecord], ways: Sequence[Propagation], how: Resampling) -> list[Comparison]:
    """Test the recipe's way against the others on the volumes where both have a value."""
    clusters = [record.cluster for record in records]
    rows: list[Comparison] = []
    ours = _table(records, OF_MASKS)
    for way in ways:
        theirs = _table(_in_condition(records, way), OF_MASKS)
        for column, name in enumerate(OF_MASKS):
            row = statistics.compare(
                ours[:, column], theirs[:, column], clusters, n_boot=how.n_boot, level=how.level, seed=how.seed
            )
            if row is not None:
                rows.append(comparison(row, metric=name, against=str(way)))
    return holm_corrected(rows)


def _report(recipe: Recipe, measured: VolumeEvaluation, records: Sequence[VolumeRecord]) -> str:
    def rows(metrics: Mapping[str, MetricSummary]) -> list[list[Any]]:
        return [[name, row.mean, interval(row), row.n, row.clusters, row.definition] for name, row in metrics.items()]

    groups = [
        [category, *(metrics[name].mean for name in DEFINITIONS), metrics["dice"].n]
        for category, metrics in measured.by_category.items()
    ]
    ways = [
        [way, *(word for name in OF_MASKS for word in (metrics[name].mean, interval(metrics[name]))), metrics["dice"].n]
        for way, metrics in {measured.propagation: measured.metrics, **measured.conditions}.items()
    ]
    tests = [
        [row.against, row.metric, row.difference, interval(row), row.p, row.p_holm, row.n]
        for row in measured.comparisons
    ]
    volumes = [
        [
            record.id,
            record.category,
            record.slice,
            *(record.values.get(name) for name in DEFINITIONS),
            str(record.fault or ""),
        ]
        for record in records
    ]
    return render(
        "volumes.html", title=f"{recipe.name} on volumes", causes=(), measured=measured, result=rows(measured.metrics),
        groups=groups, volumes=volumes, names=list(DEFINITIONS), ways=ways, tests=tests, of_masks=OF_MASKS,
        faults=[list(pair) for pair in measured.faults.items()],
    )  # fmt: skip
