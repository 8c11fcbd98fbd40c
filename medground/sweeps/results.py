"""The results of a sweep: trials pooled over seeds, compared with the baseline.

The values of a sample are first averaged over the seeds of its variant. An interval then comes from resampling clusters
of samples, each with all its samples and all their seeds, and says how sure the mean is had other patients come; it does
not say how far another seed would fall, which the standard deviation between seeds does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np

from medground.evaluation import summary
from medground.evaluation.results import Comparison, MetricSummary, Resampling
from medground.evaluation.results_file import SampleRecord, mean_values
from medground.sweeps.plan import Plan, Trial

Records = Sequence[SampleRecord]
RESAMPLED = (
    "A sample's value is its mean over seeds. Intervals: clusters of samples (patient, else volume, else image), each with "
    "all its samples and seeds, are drawn with replacement; which seeds were used is not resampled. Between seeds: the "
    "standard deviation of the means of single seeds."
)
TESTED = (
    "Paired with the baseline over the same samples, clusters' signs flipped; Holm-corrected over all comparisons of the "
    "sweep. A small p speaks of these trained models on samples like these; of other seeds, only the spread between seeds."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """How a trial went, as in its trial.json."""

    identity: str
    """A digest of what decides its numbers."""
    status: Literal["begun", "done", "failed"]
    cause: str | None = None
    """Why it failed."""
    questions: int = 0
    """Put to the reasoner: what another trial had asked was taken from the store."""
    tokens: int = 0
    """Of the answers."""
    seconds: float = 0.0
    device: str | None = None
    training: str | None = None
    """The folder of its training."""
    conditions_skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """How a training went, as in its trained.json."""

    steps: int
    skipped: int
    tokens: int
    seconds: float
    seconds_of_the_last_call: float
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedMetric(MetricSummary):
    """A metric pooled over seeds."""

    by_seed: list[float | None]
    """The means of single seeds."""
    sd: float | None
    """Their standard deviation; None for fewer than two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepGroup:
    """Samples of one value of a label."""

    samples: int
    metrics: dict[str, SeedMetric]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow(SweepGroup):
    """One variant on one dataset under one condition."""

    variant: str
    dataset: str
    condition: str
    seeds: list[int | None]
    clusters: int
    failures: int
    answers: int
    groups: dict[str, SweepGroup]
    """Value of the label `SweepSummary.by` -> its samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResampling(Resampling):
    """How intervals and tests are drawn, and what they mean."""

    resampled: str = RESAMPLED
    tested: str = TESTED


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSummary:
    """The numbers of a sweep, as in sweep.json."""

    recipe: str
    baseline: str
    metrics: list[str]
    by: str | None
    variants: dict[str, str]
    """Variant -> its overrides, in a line."""
    rows: list[SweepRow]
    comparisons: list[Comparison]
    resampling: SweepResampling
    trials: dict[str, TrialRecord]
    trainings: dict[str, TrainingRecord]
    skipped: dict[str, str]
    """Trial -> why it cannot be done."""
    failed: dict[str, str]
    """Trial -> why it has no numbers."""
    published: list[str] = field(default_factory=list)
    """Tables of published numbers that stand beside it."""

    @property
    def measured(self) -> list[str]:
        """The metrics that any row has."""
        return [name for name in self.metrics if any(name in row.metrics for row in self.rows)]


def summarize(
    plan: Plan,
    records_of: Callable[[Trial], Records],
    done: Mapping[str, TrialRecord],
    failed: Mapping[str, str],
    trained: Mapping[str, TrainingRecord],
) -> SweepSummary:
    """Summarize a sweep.

    Args:
        plan: the sweep.
        records_of: reads the records of a trial that is done.
        done: trial -> how it went.
        failed: trial -> why it has no numbers.
        trained: training -> how it went.
    """
    config = plan.recipe.config.evaluate
    how = SweepResampling(n_boot=config.n_boot, level=config.level, seed=config.seed)
    rows: list[SweepRow] = []
    compared: dict[tuple[str, str], Records] = {}
    for (variant, dataset), trials in _by_variant(plan, done).items():
        by_seed = [records_of(trial) for trial in trials]
        for condition in dict.fromkeys(record.condition for record in by_seed[0]):
            seeds = [[record for record in records if record.condition == condition] for records in by_seed]
            pooled = pool(seeds)
            compared.setdefault((variant, dataset), pooled)  # the first condition
            answers = [answer for record in pooled for answer in record.answers]
            rows.append(
                SweepRow(
                    variant=variant,
                    dataset=dataset,
                    condition=condition,
                    seeds=[trial.seed for trial in trials],
                    samples=len(pooled),
                    clusters=len({record.cluster for record in pooled}),
                    failures=sum(answer.fault is not None for answer in answers),
                    answers=len(answers),
                    metrics=_metrics(plan.metrics, pooled, seeds, how),
                    groups=_groups(plan, pooled, seeds, how),
                )
            )
    return SweepSummary(
        recipe=plan.recipe.name,
        baseline=plan.baseline,
        metrics=plan.metrics,
        by=plan.by,
        variants=dict(plan.rows),
        rows=rows,
        comparisons=_comparisons(plan, compared, how),
        resampling=how,
        trials=dict(done),
        trainings=dict(trained),
        skipped=plan.skipped,
        failed=dict(failed),
        published=list(config.published or ()),
    )


def _by_variant(plan: Plan, done: Mapping[str, TrialRecord]) -> dict[tuple[str, str], list[Trial]]:
    """Return (variant, dataset) -> its trials that are done."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in plan.possible:
        if trial.name in done:
            groups.setdefault((trial.variant, trial.dataset), []).append(trial)
    return groups


def pool(by_seed: Sequence[Records]) -> list[SampleRecord]:
    """Return one record per sample: its values averaged over the seeds that have them, its answers joined."""
    records: dict[str, list[SampleRecord]] = {}
    for record in (record for records in by_seed for record in records):
        records.setdefault(record.id, []).append(record)
    return [
        replace(same[0], values=mean_values(same), answers=[answer for record in same for answer in record.answers])
        for same in records.values()
    ]


def _metrics(
    names: Sequence[str], pooled: Records, by_seed: Sequence[Records], how: Resampling
) -> dict[str, SeedMetric]:
    estimates = summary.estimate(summary.table(pooled, names), pooled, how)
    means = [mean_values(records) for records in by_seed]
    metrics = {}
    for name, estimate in zip(names, estimates, strict=True):
        if estimate is not None:
            own = [mean.get(name) for mean in means]
            known = [value for value in own if value is not None]
            sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
            metrics[name] = SeedMetric(**asdict(estimate), by_seed=own, sd=sd)
    return metrics


def _groups(plan: Plan, pooled: Records, by_seed: Sequence[Records], how: Resampling) -> dict[str, SweepGroup]:
    if plan.by is None:
        return {}
    label = plan.by

    def having(records: Records, value: str) -> Records:
        return [record for record in records if record.labels.get(label, "") == value]

    return {
        value: SweepGroup(
            samples=len(having(pooled, value)),
            metrics=_metrics(plan.metrics, having(pooled, value), [having(records, value) for records in by_seed], how),
        )
        for value in sorted({record.labels.get(label, "") for record in pooled}, key=summary.natural)
    }


def _comparisons(plan: Plan, compared: Mapping[tuple[str, str], Records], how: Resampling) -> list[Comparison]:
    pairs = [
        summary.Pair(
            records,
            compared[plan.baseline, dataset],
            plan.metrics,
            against=plan.baseline,
            variant=variant,
            dataset=dataset,
        )
        for (variant, dataset), records in compared.items()
        if variant != plan.baseline and (plan.baseline, dataset) in compared
    ]
    return summary.comparisons(pairs, how)
