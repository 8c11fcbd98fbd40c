"""Validation during a run: greedy answers about samples that are not trained on, and the checkpoint they choose."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from medground.data.filters import read_part
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
from medground.protocols import Engine, Reasoner
from medground.recipe import InvalidRecipe, Problem, Recipe
from medground.runs.folder import completion_row
from medground.training.launcher import dealt
from medground.types import Completion, Grounding, Mask, Rollout, Sample, Sampling

AT_ONCE = 32
"""Samples answered in one call; between calls a run can be stopped."""
DRAWN = 4
"""Samples that are drawn every time: the first ones."""
NEWEST = "the newest checkpoint is the result; the last step always makes one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """What one validation found."""

    metrics: Mapping[str, float | None]
    """``eval/<metric>`` and its ``eval/<metric>/n``, ``eval/grounded_ratio``, ``eval/faults/<kind>``, ``eval/answers/n``;
    where masks are made also ``eval/masks/n`` and ``eval/masks/empty``."""
    value: float | None
    """The metric that chooses; None where there is none, or nothing could be measured."""
    rows: Sequence[Mapping[str, Any]]
    """One per sample."""
    pictures: Sequence[tuple[str, Callable[[], Any]]]
    """(name, callable that draws it) of the first samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Validates, and knows when to."""

    graph: Pipeline
    reasoner: Reasoner
    samples: Sequence[Sample]
    sampling: Sampling
    every: int
    metric: str | None = None
    before_training: bool = False

    def due(self, step: int, planned: int) -> bool:
        """Whether a finished step is validated: every so many, and the last."""
        return self.before_training if step == 0 else step % self.every == 0 or step == planned

    def best(self, values: Sequence[tuple[int, float | None]]) -> int | None:
        """The step whose checkpoint is the result, of (step, value) pairs; None where no metric chooses."""
        there = [(value, -step) for step, value in values if step and value is not None]
        if self.metric is None or not there:
            return None
        sign = -1 if self.metric in DISTANCES else 1
        return -max((sign * value, earliest) for value, earliest in there)[1]

    def __call__(self, pause: Callable[[], None], engine: Engine) -> Validated:
        """Have every sample answered greedily and measure the answers; `pause` may raise between batches.

        Every rank answers its share of the samples, and all find the same.
        """
        rank, ranks = engine.rank, engine.world_size
        mine = self.samples[rank::ranks]
        rollouts: list[Rollout] = []
        for start in range(0, -(-len(self.samples) // ranks), AT_ONCE):  # as often as the rank with the most
            pause()
            part = mine[start : start + AT_ONCE]
            rollouts += self._rollouts(part) if part else []
        pairs = [(rollout, self._measure(rollout)) for rollout in rollouts]
        told = [
            (
                measured,
                _row(rollout, measured),
                None if rollout.mask is None else is_empty(rollout.mask),
                rollout if place * ranks + rank < DRAWN else None,
            )
            for place, (rollout, measured) in enumerate(pairs)
        ]
        everyone = dealt(engine.gather(told))
        measured = [each for each, _, _, _ in everyone]
        metrics: dict[str, float | None] = {}
        for name in [name for name in DEFINITIONS if any(name in each.values for each in measured)]:
            values = [value for each in measured if (value := each.values.get(name)) is not None]
            metrics |= {f"eval/{name}": fmean(values) if values else None, f"eval/{name}/n": float(len(values))}
        faults = Counter(each.fault.value for each in measured if each.fault is not None)
        metrics["eval/grounded_ratio"] = 1 - faults.total() / len(measured)
        metrics["eval/answers/n"] = float(len(measured))
        if masks := [empty for _, _, empty, _ in everyone if empty is not None]:
            metrics |= {"eval/masks/n": float(len(masks)), "eval/masks/empty": float(sum(masks))}
        metrics |= {f"eval/faults/{kind}": float(count) for kind, count in sorted(faults.items())}
        return Validated(
            metrics=metrics,
            value=None if self.metric is None else metrics.get(f"eval/{self.metric}"),
            rows=[row for _, row, _, _ in everyone],
            pictures=[
                (each.sample.query.id, partial(draw_rollout, each)) for _, _, _, each in everyone if each is not None
            ],
        )

    @property
    def _part(self) -> MaskPrompt | None:
        return None if self.metric is None else prompted_by(self.metric)

    def _rollouts(self, samples: Sequence[Sample]) -> list[Rollout]:
        asked = [self.graph.prompt_interface.render(sample.query) for sample in samples]
        written = self.reasoner.generate(asked, self.sampling)
        found = [self._rollout(sample, group[0]) for sample, group in zip(samples, written, strict=True)]
        part = self._part
        if part is None:
            return found
        answers = [(each.sample.query.image, self._prompting(each.grounding, part)) for each in found]
        masks = self.graph.masks(answers, "both")
        return [
            replace(each, mask=segmented.mask, fault=each.fault or segmented.fault, cause=segmented.cause)
            for each, segmented in zip(found, masks, strict=True)
        ]

    def _rollout(self, sample: Sample, completion: Completion) -> Rollout:
        grounding = self.graph.ground(sample.query, completion)
        return Rollout(sample=sample, completion=completion, grounding=grounding, fault=completion.fault)

    def _prompting(self, grounding: Grounding, part: MaskPrompt) -> Grounding:
        """What of an answer the segmenter is given; nothing of one that failed."""
        if grounding.prompt is None or grounding.fault is not None:
            return Grounding(prompt=None)
        return Grounding(prompt=grounding.prompt.only(self.graph.part if part == "joint" else part))

    def _measure(self, rollout: Rollout) -> Measurement:
        part = self._part
        masks: dict[MaskPrompt, Mask] = {part: rollout.mask} if part and rollout.mask else {}
        provides = self.graph.prompt_interface.provides
        prompts = [part] if part else []
        return measure(rollout, masks=masks, provides=provides, prompts=prompts, compat=self.metric in COMPAT)


def validation(recipe: Recipe, graph: Pipeline, trained: Sequence[str], most_tokens: int) -> Validation | None:
    """The validation a recipe asks for; None where it asks for none.

    Args:
        recipe: with its ``validate`` section.
        graph: the run's own.
        trained: the ids of the samples that are trained on.
        most_tokens: the longest answer.

    Raises:
        RecipeError: if it could not be trusted: a metric that is none, validation on what is trained on, or a choice by
            the test split.
    """
    settings = recipe.settings("validate")
    if not settings["every"]:
        return None
    if problem := objection(recipe):
        raise InvalidRecipe([problem])
    data = recipe.settings("data")
    samples = read_part(
        data["path"],
        split=settings["split"],
        limit=settings["limit"],
        reader=data["reader"],
        leave_out=data["leave_out"],  # a checkpoint chosen by what was left out would not be without it
    )
    both = set(samples.ids) & set(trained)
    if both:
        raise RecipeError(
            f"{len(both)} of the {len(samples)} validation samples are trained on too, such as {min(both)!r}",
            hint="set data.split and validate.split to different splits",
        )
    return Validation(
        graph=graph,
        reasoner=graph.reasoner,
        samples=samples,
        sampling=Sampling(num_generations=1, temperature=0.0, max_completion_length=most_tokens),
        every=settings["every"],
        metric=settings["metric"],
        before_training=settings["before_training"],
    )


def objection(recipe: Recipe) -> Problem | None:
    """Why a recipe's ``validate`` section cannot be followed; None where it can."""
    settings = recipe.settings("validate")
    metric, split = settings["metric"], settings["split"]
    if metric is None:
        return None
    if metric not in DEFINITIONS:
        return _problem(recipe, "metric", f"there is no metric {metric!r}", did_you_mean(str(metric), DEFINITIONS))
    if prompted_by(metric) and "segmenter" not in recipe.data:
        what = f"{metric} needs a mask, and the recipe names no segmenter"
        return _problem(recipe, "metric", what, "add segmenter=NAME")
    if split == "test" and not recipe.name.rpartition("/")[2].startswith("medreasoner_"):
        hint = "set validate.split=val; only the medreasoner_* recipes choose as the released system did"
        return _problem(recipe, "split", "a checkpoint chosen by the test split cannot be tested on it", hint)
    return None


def _problem(recipe: Recipe, key: str, what: str, hint: str) -> Problem:
    dotted = f"validate.{key}"
    return Problem(dotted, recipe.place(dotted), f"{dotted}: {what}", hint)


def checkpoint_rule(recipe: Recipe) -> str:
    """Which checkpoint a run's result is, in words: fixed before its first step."""
    settings = recipe.settings("validate")
    if not settings["every"] or settings["metric"] is None:
        return NEWEST
    extreme = "lowest" if settings["metric"] in DISTANCES else "highest"
    limit = "" if settings["limit"] is None else f", its first {settings['limit']} samples"
    return (
        f"the checkpoint with the {extreme} {settings['metric']} on split {settings['split']}{limit} is the result, "
        f"validated every {settings['every']} steps and after the last; of equals the earliest"
    )


def _row(rollout: Rollout, measured: Measurement) -> dict[str, Any]:
    return {
        "name": rollout.sample.query.id,
        **completion_row(rollout),
        **{f"eval/{name}": value for name, value in measured.values.items()},
    }
