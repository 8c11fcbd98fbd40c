"""Validation during a run: greedy answers about samples that are not trained on, and the checkpoint they choose."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from medground.data.dataset import Dataset
from medground.errors import RecipeError, did_you_mean
from medground.evaluation.causes import is_empty
from medground.evaluation.metrics import (
    COMPAT,
    DEFINITIONS,
    DISTANCES,
    MaskPrompt,
    Measurement,
    measure,
    prompted_by,
)
from medground.images.overlay import draw_rollout
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.proposals import Proposed
from medground.protocols import Engine, Reasoner
from medground.recipe import InvalidRecipe, Problem, Recipe
from medground.runs.folder import completion_row
from medground.training.launcher import interleave
from medground.training.method import CheckStop
from medground.training.plan import validation_samples
from medground.types import (
    ChosenKind,
    Completion,
    Mask,
    PromptSelection,
    Rollout,
    Sample,
    Sampling,
    SpatialPrompt,
)

AT_ONCE = 32
"""Samples answered in one call; between calls a run can be stopped."""
DRAWN = 4
"""Samples that are drawn every time: the first ones."""
NEWEST = "the newest checkpoint is the result; the last step always makes one"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """The result of one validation."""

    metrics: Mapping[str, float | None]
    """``eval/<metric>`` and its ``eval/<metric>/n``, ``eval/grounded_ratio``, ``eval/faults/<kind>``, ``eval/answers/n`` and
    ``eval/abstained_ratio``; where masks are made also ``eval/masks/n`` and ``eval/masks/empty``."""
    value: float | None
    """The metric that chooses; None where there is none, or nothing could be measured."""
    rows: Sequence[Mapping[str, Any]]
    """One per sample."""
    pictures: Sequence[tuple[str, Callable[[], Any]]]
    """(name, callable that draws it) of the first samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Validates a run when it is due.

    Call it with what may raise `StopRequested` between batches, and the engine. Every rank answers its share of the
    samples, and all get the same result.
    """

    pipeline: Pipeline
    reasoner: Reasoner
    samples: Dataset[Any]
    sampling: Sampling
    every: int
    metric: str | None = None
    before_training: bool = False

    def due(self, step: int, planned: int) -> bool:
        """Return True if a finished step is validated: every so many, and the last."""
        return self.before_training if step == 0 else step % self.every == 0 or step == planned

    def best(self, values: Sequence[tuple[int, float | None]]) -> int | None:
        """Return the step whose checkpoint is the result, of (step, value) pairs; None if no metric chooses."""
        sign = -1 if self.metric in DISTANCES else 1
        ranked = [(sign * value, -step) for step, value in values if step and value is not None]
        return -max(ranked)[1] if self.metric is not None and ranked else None

    def __call__(self, check_stop: CheckStop, engine: Engine) -> ValidationResult:
        """Have every sample answered greedily and measure the answers."""
        rank, ranks = engine.rank, engine.world_size
        own = self.samples[rank::ranks]
        rollouts: list[Rollout] = []
        for start in range(0, -(-len(self.samples) // ranks), AT_ONCE):  # as often as the rank with the most
            check_stop()
            batch = own[start : start + AT_ONCE]
            rollouts += self._rollouts(batch) if batch else []
        answers = [self._answer(rollout, drawn=index * ranks + rank < DRAWN) for index, rollout in enumerate(rollouts)]
        return self._result(interleave(engine.gather(answers)))

    def _result(self, answers: Sequence["_Answer"]) -> ValidationResult:
        measurements = [answer.measurement for answer in answers]
        metrics: dict[str, float | None] = {}
        for name in [name for name in DEFINITIONS if any(name in item.values for item in measurements)]:
            values = [value for item in measurements if (value := item.values.get(name)) is not None]
            metrics |= {f"eval/{name}": fmean(values) if values else None, f"eval/{name}/n": float(len(values))}
        faults = Counter(item.fault.value for item in measurements if item.fault is not None)
        metrics["eval/grounded_ratio"] = 1 - faults.total() / len(answers)
        metrics["eval/abstained_ratio"] = sum(answer.abstains for answer in answers) / len(answers)
        metrics["eval/answers/n"] = float(len(answers))
        if masks := [answer.empty_mask for answer in answers if answer.empty_mask is not None]:
            metrics |= {"eval/masks/n": float(len(masks)), "eval/masks/empty": float(sum(masks))}
        metrics |= {f"eval/faults/{kind}": float(count) for kind, count in sorted(faults.items())}
        drawn = [answer.drawn for answer in answers if answer.drawn is not None]
        return ValidationResult(
            metrics=metrics,
            value=None if self.metric is None else metrics.get(f"eval/{self.metric}"),
            rows=[answer.row for answer in answers],
            pictures=[(rollout.sample.query.id, partial(draw_rollout, rollout)) for rollout in drawn],
        )

    def _answer(self, rollout: Rollout, *, drawn: bool) -> "_Answer":
        measurement = self._measure(rollout)
        return _Answer(
            measurement=measurement,
            row=_row(rollout, measurement),
            abstains=rollout.grounding.abstains,
            empty_mask=None if rollout.grounding.mask is None else is_empty(rollout.grounding.mask),
            drawn=rollout if drawn else None,
        )

    @property
    def _mask_prompt(self) -> MaskPrompt | None:
        return None if self.metric is None else prompted_by(self.metric)

    def _rollouts(self, samples: Sequence[Sample]) -> list[Rollout]:
        proposed = self.pipeline.proposed([sample.query for sample in samples])
        messages = [self.pipeline.prompt_interface.render(one.query) for one in proposed]
        groups = self.reasoner.generate(messages, self.sampling)
        rollouts = [
            self._rollout(sample, one, group[0]) for sample, one, group in zip(samples, proposed, groups, strict=True)
        ]
        prompt = self._mask_prompt
        if prompt is None or self.pipeline.keeps_masks:
            return rollouts
        selection = self.pipeline.selection if prompt == "joint" else PromptSelection((ChosenKind(prompt),))
        masks = self.pipeline.masks(
            [(rollout.sample.query.image, _prompts(rollout, selection)) for rollout in rollouts]
        )
        return [segmented.put_into(rollout) for rollout, segmented in zip(rollouts, masks, strict=True)]

    def _rollout(self, sample: Sample, proposed: Proposed, completion: Completion) -> Rollout:
        completion = proposed.refusal or completion
        return Rollout(
            sample=replace(sample, query=proposed.query),
            completion=completion,
            grounding=proposed.unanswered or self.pipeline.ground(proposed.query, completion),
            fault=completion.fault,
        )

    def _measure(self, rollout: Rollout) -> Measurement:
        prompt = self._mask_prompt
        masks: dict[MaskPrompt, Mask] = {prompt: rollout.mask} if prompt and rollout.mask else {}
        provides = self.pipeline.prompt_interface.provides
        prompts = [prompt] if prompt else []
        return measure(rollout, masks=masks, provides=provides, prompts=prompts, compat=self.metric in COMPAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What ranks exchange about one answer."""

    measurement: Measurement
    row: Mapping[str, Any]
    abstains: bool
    empty_mask: bool | None
    """None where no mask was made."""
    drawn: Rollout | None
    """The whole rollout of a sample that is drawn."""


def validation(recipe: Recipe, pipeline: Pipeline, trained: Sequence[str], most_tokens: int) -> Validation | None:
    """Return the validation a recipe asks for; None if it asks for none.

    Args:
        recipe: with its ``validate`` section.
        pipeline: the run's own.
        trained: the ids of the samples that are trained on.
        most_tokens: the longest answer.

    Raises:
        RecipeError: if it could not be trusted: an unknown metric, validation on training samples, or a choice by the
            test split.
    """
    config = recipe.config.validate
    if not config.every:
        return None
    if problem := incompatible_validation(recipe):
        raise InvalidRecipe([problem])
    samples = validation_samples(recipe)
    shared = set(samples.ids) & set(trained)
    if shared:
        raise RecipeError(
            f"{len(shared)} of the {len(samples)} validation samples are trained on too, for example {min(shared)!r}",
            hint="set data.split and validate.split to different splits",
        )
    return Validation(
        pipeline=pipeline,
        reasoner=pipeline.reasoner,
        samples=samples,
        sampling=Sampling(num_generations=1, temperature=0.0, max_completion_length=most_tokens),
        every=config.every,
        metric=config.metric,
        before_training=config.before_training,
    )


def incompatible_validation(recipe: Recipe) -> Problem | None:
    """Return why a recipe's ``validate`` section cannot be followed; None if it can."""
    config = recipe.config.validate
    metric, split = config.metric, config.split
    if metric is None:
        return None
    if metric not in DEFINITIONS:
        return _problem(recipe, "metric", f"there is no metric {metric!r}", did_you_mean(metric, DEFINITIONS))
    if prompted_by(metric) and not {"segmenter", "proposer"} & set(recipe.data):
        what = f"{metric} needs a mask, and the recipe names no segmenter"
        return _problem(recipe, "metric", what, "add segmenter=NAME")
    if split == "test" and not recipe.name.rpartition("/")[2].startswith("medreasoner_"):
        hint = "set validate.split=val; only the medreasoner_* recipes choose as the released system did"
        return _problem(recipe, "split", "a checkpoint chosen by the test split cannot be tested on it", hint)
    return None


def _problem(recipe: Recipe, key: str, what: str, hint: str) -> Problem:
    dotted = f"validate.{key}"
    return Problem(dotted, recipe.origin(dotted), f"{dotted}: {what}", hint)


def checkpoint_rule(recipe: Recipe) -> str:
    """Return in words which checkpoint is a run's result: fixed before its first step."""
    config = recipe.config.validate
    if not config.every or config.metric is None:
        return NEWEST
    extreme = "lowest" if config.metric in DISTANCES else "highest"
    limit = "" if config.limit is None else f", its first {config.limit} samples"
    return (
        f"the checkpoint with the {extreme} {config.metric} on split {config.split}{limit} is the result, "
        f"validated every {config.every} steps and after the last; ties go to the earliest"
    )


def _prompts(rollout: Rollout, selection: PromptSelection) -> list[SpatialPrompt | None]:
    """Return the prompts for the segmenter; none for the regions of an answer that failed."""
    grounding = rollout.grounding
    if grounding.fault is not None:
        return [None] * len(grounding.regions)
    return selection.prompts(grounding.regions, rollout.sample.query.question)


def _row(rollout: Rollout, measurement: Measurement) -> dict[str, Any]:
    return {
        "name": rollout.sample.query.id,
        **completion_row(rollout),
        **{f"eval/{name}": value for name, value in measurement.values.items()},
    }
