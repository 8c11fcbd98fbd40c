"""The words a recipe may use: one dataclass per section. A new setting is one field, its default and bounds beside it.

OmegaConf reads the sections (`medground.recipe.structured`), so every field has a type that it knows: ``int``,
``float``, ``bool``, ``str``, an enum, a list or a mapping of these. Members of an enum are named as recipes write them.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from medground.types import ChosenKind, TextSource

KINDS: Mapping[str, str] = {
    "reasoner": "reasoner",
    "prompt_interface": "prompt_interface",
    "proposer": "segmenter",
    "segmenter": "segmenter",
    "engine": "engine",
    "rollout": "rollout",
}
"""Top-level keys that hold one component -> its kind; null means none."""
COMPONENTS = tuple(KINDS)
GRID = "grid"
"""The proposer that is the recipe's own segmenter."""
RECIPE_WORDS = ("extends", "variants")
"""Keys about the recipe itself, gone once it is resolved."""


@dataclass(frozen=True)
class Bounds:
    """The least and the greatest value of a number."""

    least: float
    most: float = math.inf


def number(default: Any = REQUIRED, *, least: float, most: float = math.inf) -> Any:
    """Return a dataclass field for a number within bounds, which stand in its metadata."""
    return field(default=default, metadata={"bounds": Bounds(least, most)})


MAX_SEED = 2**32 - 1
BELOW_ONE = 0.9999999
"""The largest value of what must stay below 1."""


GrpoLoss = StrEnum("GrpoLoss", ["grpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo"])
"""The published losses; `medground.training.grpo.loss` defines each."""
Aggregation = StrEnum("Aggregation", ["by_loss", "sequence_mean", "token_mean", "constant", "sequence_sum"])
"""How the losses of tokens become one number; ``by_loss``: as the loss was published."""
AdvantageEstimator = StrEnum("AdvantageEstimator", ["grpo", "gdpo", "rloo", "reinforce_plus_plus"])
"""What an advantage is; `medground.training.grpo.advantage` defines each."""
RewardScale = StrEnum("RewardScale", ["by_estimator", "group", "batch", "none"])
"""What the standard deviation that divides an advantage is taken over; ``by_estimator``: as it was published."""
KlEstimator = StrEnum("KlEstimator", ["k3_ratio", "k3", "k1", "k2"])
"""The estimator of the divergence from the starting policy."""
SamplerCorrection = StrEnum("SamplerCorrection", ["none", "truncate", "mask"])
"""The use of importance weights where the sampler's probabilities differ from the trainer's.

``truncate`` caps weights above the cap; ``mask`` drops tokens with weights outside the floor and the cap.
"""
LearningRateSchedule = StrEnum("LearningRateSchedule", ["constant", "linear", "cosine"])
"""The course of the learning rate after the warm-up."""
Propagation = StrEnum("Propagation", ["model", "copy", "interpolate", "per_slice"])
"""How a target is followed through a volume: by the segmenter's own memory of slices, or by what needs none."""
SliceRule = StrEnum("SliceRule", ["ask", "middle", "largest"])
"""``ask``: the reasoner is shown a montage and chooses; ``middle`` of the volume; ``largest``: the slice that holds most of the
target, where the truth is known."""
SlicePlane = StrEnum("SlicePlane", ["axial", "coronal", "sagittal"])
"""A plane of a volume."""
EvaluationProtocol = StrEnum("EvaluationProtocol", ["corrected", "released"])
"""The rules of an evaluation; ``released``: also the published system's numbers and aggregation."""


@dataclass(frozen=True, kw_only=True)
class GeneralConfig:
    """The settings that stand at the top of a recipe, outside any section."""

    prompt: list[ChosenKind] = field(default_factory=lambda: [ChosenKind.box, ChosenKind.points])
    """The kinds of prompt that are made of a region for the segmenter; a word stands for a list of one."""
    text_from: TextSource = TextSource.label
    """Where the text of a prompt comes from: the region's label, or the question."""
    allow_untrained: bool = False
    """Give a segmenter prompt kinds it was not trained for."""
    seed: int = number(0, least=0, most=MAX_SEED)
    """Of what training draws."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """``sampling``: how a reasoner draws completions outside of training."""

    num_generations: int = number(1, least=1)
    """Completions per query."""
    temperature: float = number(0.0, least=0.0)
    """0 is greedy."""
    max_completion_length: int = number(2048, least=1)
    """Tokens."""
    seed: int = number(0, least=0, most=MAX_SEED)
    """Of the completions."""


@dataclass(frozen=True, kw_only=True)
class ProposalsConfig:
    """``proposals``: the candidates that a proposer offers, of which the answer chooses one."""

    k: int = number(8, least=1, most=32)
    """The most candidates of an image; the surest are kept."""
    side: int = number(8, least=1, most=32)
    """Points along a side of the grid that prompts the proposer, as many along the other; a text needs no grid."""
    overlap: float = number(0.7, least=0.0, most=1.0)
    """Of two candidates whose masks have a larger IoU, the surer one is kept."""
    least_score: float = number(0.0, least=0.0, most=1.0)
    """A mask with a lower score is no candidate."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """``data``: the dataset and the samples of it that are used."""

    path: str | None = None
    """A dataset's folder or file, or a hub id ``owner/name``."""
    split: str | None = None
    """The split whose samples are used; None: all."""
    reader: str | None = None
    """The layout of the files; None: recognised by what lies there."""
    limit: int | None = number(None, least=1)
    """The first so many samples."""
    leave_out: dict[str, list[Any]] | None = None
    """Label -> values that training does not see; evaluation has its own."""
    group_by_image: bool = False
    """Draw the questions about one image together in ``grpo``, so that it is computed once for all of them."""
    object: str | None = None
    """The hash of samples that were given from Python; where a path is given it has no meaning."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What ``grpo`` and ``sft`` have in common: length, batches, optimizer, checkpoints."""

    num_train_epochs: int = number(5, least=1)
    """Passes over the data, where max_steps is not given."""
    max_steps: int | None = number(None, least=1)
    """Steps of the run; None: as many as the epochs take."""
    train_batch_size: int = number(128, least=1)
    """Queries per step of GRPO; samples per optimizer update of SFT."""
    learning_rate: float = number(1e-6, least=0.0)
    """The highest learning rate."""
    schedule: LearningRateSchedule = LearningRateSchedule.constant
    """The course of the learning rate after the warm-up."""
    warmup_ratio: float = number(0.0, least=0.0, most=1.0)
    """The share of the steps in which the learning rate rises to its highest."""
    weight_decay: float = number(0.01, least=0.0)
    """Of AdamW."""
    adam_beta1: float = number(0.9, least=0.0, most=BELOW_ONE)
    """Decay of AdamW's mean of gradients."""
    adam_beta2: float = number(0.999, least=0.0, most=BELOW_ONE)
    """Decay of AdamW's mean of squared gradients."""
    max_grad_norm: float = number(1.0, least=0.0)
    """Gradients of a larger norm are scaled down to it."""
    save_every: int = number(10, least=1)
    """Steps between checkpoints."""


@dataclass(frozen=True, kw_only=True)
class GrpoConfig(TrainingConfig):
    """``grpo``: training by group-relative policy optimization."""

    num_generations: int = number(16, least=1)
    """G, completions per query."""
    temperature: float = number(1.0, least=0.0)
    """Of the completions drawn in training, and of their log-probabilities."""
    max_prompt_length: int = number(2048, least=1)
    """Tokens."""
    max_completion_length: int = number(2048, least=1)
    """Tokens."""
    mini_batch_size: int = number(64, least=1)
    """Queries per optimizer update."""
    micro_batch_size: int | None = number(None, least=1)
    """Completions per forward pass; None: a whole group."""
    num_iterations: int = number(1, least=1)
    """Passes over the completions of a step."""
    loss: GrpoLoss = GrpoLoss.grpo
    """The published loss, see the page on training."""
    aggregation: Aggregation = Aggregation.by_loss
    """How the losses of tokens become one number; ``by_loss``: as the loss was published."""
    advantage_estimator: AdvantageEstimator = AdvantageEstimator.grpo
    """How much better a completion did than its siblings; ``gdpo`` gives every reward term the same spread."""
    scale_rewards: RewardScale = RewardScale.by_estimator
    """With ``grpo``, what the standard deviation that divides an advantage is taken over."""
    advantage_eps: float = number(1e-4, least=0.0)
    """Added to the standard deviation."""
    beta: float = number(0.0, least=0.0)
    """Weight of the divergence from the starting policy."""
    kl_estimator: KlEstimator = KlEstimator.k3_ratio
    """The estimator of the divergence from the starting policy."""
    epsilon: float | None = number(None, least=0.0)
    """Clip range below 1; None: what the loss was published with."""
    epsilon_high: float | None = number(None, least=0.0)
    """Clip range above 1; None: what the loss was published with."""
    dual_clip: float | None = number(None, least=1.0)
    """Where the advantage is negative, bounds the loss of a token by this many times it; None: no bound."""
    entropy_bonus: float = number(0.0, least=0.0)
    """Weight of the entropy of the policy, which is added to what training raises."""
    overlong_buffer: int | None = number(None, least=1)
    """Tokens before max_completion_length in which a completion loses ever more reward, up to 1; None: no penalty."""
    correction: SamplerCorrection = SamplerCorrection.none
    """The use of importance weights where the sampler's probabilities differ from the trainer's."""
    correction_cap: float = number(2.0, least=0.0)
    """Importance weights above it are capped, or with ``mask`` their tokens dropped."""
    correction_floor: float = number(0.0, least=0.0)
    """With ``mask``, tokens with weights below it are dropped."""
    mismatch_alarm: float = number(0.05, least=0.0)
    """Mean difference of the sampler's and the trainer's log-probabilities above which a run warns."""
    mask_truncated: bool = False
    """Leave completions that reached the length limit out of the loss."""
    resample_constant: int = number(0, least=0)
    """Times that a group with constant rewards is replaced by another query's."""


@dataclass(frozen=True, kw_only=True)
class SftConfig(TrainingConfig):
    """``sft``: supervised fine-tuning on ideal answers."""

    train_batch_size: int = number(16, least=1)
    micro_batch_size: int = number(4, least=1)
    """Samples per forward pass."""
    max_length: int = number(2048, least=1)
    """Tokens of prompt and answer."""
    packing: bool = False
    """Put several samples into one row."""
    learning_rate: float = number(5e-6, least=0.0)
    schedule: LearningRateSchedule = LearningRateSchedule.cosine
    warmup_ratio: float = number(0.1, least=0.0, most=1.0)
    weight_decay: float = number(0.0, least=0.0)
    save_every: int = number(100, least=1)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """``validate``: measurements during training."""

    every: int = number(0, least=0)
    """Steps between validations; 0: none."""
    split: str = "val"
    """The split of ``data`` that is measured."""
    metric: str | None = None
    """The metric that chooses the best checkpoint."""
    limit: int | None = number(None, least=1)
    """The first so many of its samples; None: all."""
    before_training: bool = False
    """Measure before the first step, too."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """``evaluate``: what an evaluation measures, and how."""

    split: str | None = None
    """None: that of ``data``."""
    limit: int | None = number(None, least=1)
    """None: that of ``data``."""
    only: dict[str, list[Any]] | None = None
    """Label -> values that alone are measured."""
    leave_out: dict[str, list[Any]] | None = None
    """Label -> values that are not measured."""
    protocol: EvaluationProtocol = EvaluationProtocol.corrected
    """The rules; ``released``: also the published system's numbers and aggregation."""
    conditions: list[str] | None = None
    """The conditions that are compared; None: the answers alone."""
    seeds: list[int] | None = None
    """Sampling seeds, each of which draws ``num_generations`` more answers; None: that of ``sampling``."""
    samples: int | None = number(None, least=2)
    """Answers drawn per sample, in place of ``num_generations``; how far they agree is their confidence."""
    risk: float = number(0.1, least=1e-7, most=BELOW_ONE)
    """The most wrong answers among those given, where confidence decides which are given."""
    delta: float = number(0.1, least=1e-7, most=BELOW_ONE)
    """How likely, over calibration sets, there may be more."""
    calibration: float = number(0.5, least=1e-7, most=BELOW_ONE)
    """The share of the clusters on which that threshold is chosen."""
    paraphrases: int | None = number(None, least=2, most=5)
    """Wordings of every question, its own among them, of which the worst is reported; None: its own alone."""
    batch_size: int = number(8, least=1)
    """Samples per call of the reasoner."""
    cluster: str | None = None
    """The label of samples that belong together; None: patient, else volume, else image."""
    n_boot: int = number(2000, least=2)
    """Bootstrap resamplings."""
    level: float = number(0.95, least=1e-7, most=BELOW_ONE)
    """Coverage of the intervals."""
    seed: int = number(0, least=0)
    """Of resampling and of conditions that draw."""
    published: list[str] | None = None
    """Tables of published numbers that the report shows beside its own."""
    pictures: int = number(6, least=0)
    """In each gallery of a report, and images that a sweep shows side by side; 0: the report holds no image."""


@dataclass(frozen=True, kw_only=True)
class VolumeConfig:
    """``volume``: the slice of a volume that is asked about, and how targets are followed from there."""

    slice: SliceRule | None = None
    """Who chooses the slice; None: `index` or the user names it."""
    index: int | None = number(None, least=0)
    """The slice's number, from 0; in place of a rule."""
    plane: SlicePlane | None = None
    """Of the slice; None: the plane that the file stores slice by slice."""
    propagation: Propagation = Propagation.model
    """What follows a target: the segmenter's own ``model``; or, of any segmenter, ``copy``, ``interpolate``, ``per_slice``."""
    reach: float | None = number(None, least=0.0)
    """Millimetres that a target is followed beyond the slice; None: to the ends of the volume."""
    patience: int | None = number(3, least=1)
    """A target ends after so many slices in a row without it; None: never."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """``sweep``: how the variants of a recipe are repeated and compared."""

    seeds: list[int] | None = None
    """Of training and of sampling; None: the recipe's own, once."""
    datasets: dict[str, Any] | None = None
    """Label -> ``data.path``, or a section of overrides, for example ``{evaluate: {split: test}}``."""
    baseline: str | None = None
    """The variant the others are tested against; None: the first."""
    metrics: list[str] = field(default_factory=lambda: ["iou", "pdice", "dice_joint"])
    """The metrics of the tables."""
    by: str | None = None
    """A label, for example size, by which means are reported too."""


GENERAL = tuple(GeneralConfig.__dataclass_fields__)
"""The keys of `GeneralConfig`."""
SECTIONS: Mapping[str, type] = {
    "sampling": SamplingConfig,
    "proposals": ProposalsConfig,
    "data": DataConfig,
    "grpo": GrpoConfig,
    "sft": SftConfig,
    "validate": ValidationConfig,
    "evaluate": EvaluateConfig,
    "volume": VolumeConfig,
    "sweep": SweepConfig,
}
"""Top-level key -> its dataclass. ``sampling`` is in every resolved recipe; the others where a recipe names them."""
TOP = (*RECIPE_WORDS, *COMPONENTS, "rewards", "trackers", *GENERAL, *SECTIONS)
"""Every key at the top of a recipe."""
