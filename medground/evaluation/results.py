"""The numbers of an evaluation as dataclasses; `medground.runs.jsonable.plain` gives what its files hold."""

from dataclasses import dataclass
from typing import Literal

from medground.data.source_samples import BadSample
from medground.evaluation import statistics
from medground.evaluation.causes import Outcomes
from medground.evaluation.conditions import Kind
from medground.evaluation.selective import Selection
from medground.recipe.objects import ObjectRecord

SCORES = ("iou", "pdice", "dice_joint")
"""The metrics that are 0 where nothing was hit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How intervals and tests are drawn."""

    n_boot: int = 2000
    level: float = 0.95
    seed: int = 0
    interval: str = statistics.INTERVAL
    test: str = statistics.TEST
    n_flips: int = statistics.N_FLIPS


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSummary:
    """A metric over samples; the mean is None where no sample has a value."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    """Samples."""
    clusters: int
    definition: str | None = None
    mean_defined: float | None = None
    """Of a distance, where it is defined."""
    n_defined: int | None = None
    failures: int | None = None
    """Of a released number: answers that the released evaluation fails."""
    nonfinite: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCounts:
    """How many samples, clusters and answers there are, and what became of the answers."""

    samples: int
    clusters: int
    answers: int
    ok: int
    failures: dict[str, int]
    """Fault of the model -> answers; they count as 0."""
    refusals: int
    """Failures without any answer block."""
    abstentions: int = 0
    """Answers that nothing fits; they are no failures."""
    excluded: dict[str, int]
    """Fault that is not the model's -> answers; they are left out of the means."""
    masks: int
    empty_masks: int
    """Masks without a pixel, those apart by which the segmenter says that nothing is there."""
    absent_masks: int = 0
    """Answers of which the segmenter says that what they ask for is not in the image; no failures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSummary(AnswerCounts):
    """The samples that share some labels."""

    labels: dict[str, str]
    metrics: dict[str, MetricSummary]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBin:
    """The masks whose score lies within two bounds."""

    low: float
    high: float
    n: int
    score: float
    """Mean of the segmenter's score."""
    iou: float
    """Mean IoU with the truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How the segmenter's own score of the joint mask compares with that mask's IoU."""

    n: int
    error: float
    """Expected calibration error: the mean over masks of how far their bin's mean score lies from its mean IoU."""
    correlation: float | None
    bins: list[CalibrationBin]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceBin:
    """The answers whose confidence lies within two bounds."""

    low: float
    high: float
    n: int
    confidence: float
    """Mean confidence."""
    right: float
    """Share of right answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectiveResult:
    """What a threshold gives on the samples that it was not chosen on."""

    selection: Selection
    samples: int
    clusters: int
    given: MetricSummary
    """Share of the answers that are given."""
    wrong: MetricSummary | None
    """Share of wrong answers among them; None where none is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceSummary:
    """What the confidence of answers is worth: one answer per sample, right where its IoU is 0.5 or more."""

    source: Literal["agreement", "stated"]
    n: int
    clusters: int
    right: float
    """Share of right answers."""
    auroc: MetricSummary
    """How often a right answer is surer than a wrong one, ties counted half."""
    error: float
    """Expected calibration error: the mean over answers of how far their bin's mean confidence lies from its share of
    right answers."""
    aurc: float
    """Area under the risk-coverage curve."""
    bins: list[ConfidenceBin]
    curve: list[tuple[float, float]]
    """(coverage, share of wrong answers among those given)."""
    selective: SelectiveResult


@dataclass(frozen=True, slots=True, kw_only=True)
class WordingSummary:
    """A metric over the wordings of every question."""

    wordings: int
    mean: MetricSummary
    """Of the mean over a sample's wordings."""
    worst: MetricSummary
    """Of the worst of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionSummary(AnswerCounts):
    """Everything about the records of one condition."""

    kind: Kind
    description: str
    usage: dict[str, float]
    """What servers said the answers took, added up: tokens, and cost where prices were given."""
    metrics: dict[str, MetricSummary]
    groups: dict[str, list[GroupSummary]]
    """By each of `GROUPS`."""
    crossed: list[GroupSummary] | None = None
    """By all of `GROUPS` at once."""
    calibration: Calibration | None
    agreement: MetricSummary | None = None
    """Mean IoU of its boxes with those of the answers."""

    def outcomes(self, limit: int | None) -> Outcomes:
        """Return what became of the answers; `limit` is the tokens an answer could have, where that is known."""
        means = [self.metrics[name].mean for name in SCORES if name in self.metrics]
        return Outcomes(
            answers=self.answers,
            faults=self.failures | self.excluded,
            masks=self.masks,
            empty_masks=self.empty_masks,
            zero=bool(means) and not any(means),
            limit=limit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A paired test of one metric over the same samples."""

    condition: str | None = None
    variant: str | None = None
    dataset: str | None = None
    against: str
    metric: str
    n: int
    clusters: int
    mean: float
    other: float
    difference: float
    low: float | None
    high: float | None
    """Of the difference."""
    differ: int
    """Samples whose two values are not the same."""
    p: float
    p_holm: float
    """Holm-corrected over its table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineComparison:
    """Paired tests against another evaluation."""

    name: str
    """Of its folder."""
    samples_in_common: int
    comparisons: list[Comparison]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterCounts:
    """How many clusters there are."""

    count: int
    by: dict[str, int]
    """Kind, for example patient -> clusters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSummary:
    """The numbers of an evaluation, as in metrics.json."""

    recipe: str
    samples: int
    split: str | None
    answers_per_sample: int
    unusable: list[BadSample]
    """Rows of the data that could not be used."""
    protocol: str
    clusters: ClusterCounts
    resampling: Resampling
    untrained_prompts: list[str]
    """Prompt kinds the segmenter was given without having been trained for them."""
    conditions: dict[str, ConditionSummary]
    skipped: dict[str, str]
    """Condition -> why it was not evaluated."""
    causes: list[str]
    """Why the result says little, in sentences."""
    length_limit: int | None
    """Tokens an answer could have, where that is known."""
    comparisons: list[Comparison]
    """Of the other conditions with the answers."""
    baseline: BaselineComparison | None = None
    confidence: ConfidenceSummary | None = None
    """Of the answers, where they agree or state a confidence."""
    wordings: dict[str, WordingSummary] | None = None
    """Metric -> over all wordings, where questions are asked in several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationMetadata:
    """What is known before the first answer, as in run.json."""

    recipe: str
    identity: str
    """A digest that a resumed evaluation must share."""
    samples: int
    split: str | None
    unusable: list[BadSample]
    predictions_sha256: str | None
    prompt_sha256: str | None
    untrained_prompts: list[str]
    plugins: dict[str, str]
    objects: dict[str, ObjectRecord]
    """Dotted key -> what is recorded of an object that was given from Python."""
    versions: dict[str, str]
