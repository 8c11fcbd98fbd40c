"""A recipe with a ``grpo`` or an ``sft`` section becomes a training run: everything it names, built."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from medground import registry
from medground.data.dataset import Dataset
from medground.errors import RecipeError, RunError
from medground.pipeline.completions import SplittingInterface
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.rollouts import RolloutPipeline
from medground.pipeline.slices import slice_pipeline
from medground.protocols import Engine, RolloutSource, TrainableReasoner
from medground.recipe import Recipe
from medground.recipe.schema import GrpoConfig, SftConfig, TrainingConfig
from medground.rewards.rubric import Rubric, rubric
from medground.rewards.term import Term
from medground.runs import provenance
from medground.runs.folder import RunMetadata
from medground.runs.inputs import RunInputs
from medground.training.grpo.overlong import SoftOverlong
from medground.training.grpo.rollouts import OwnSampler
from medground.training.grpo.step import GrpoTrainer
from medground.training.grpo.volume_rollouts import slice_rubric
from medground.training.launcher import world_size
from medground.training.local_engine import LocalEngine
from medground.training.method import Method
from medground.training.plan import method_kind, training_inputs, training_samples
from medground.training.schedule import LENGTH, depends_on_length
from medground.training.sft import SftTrainer
from medground.training.validation import Validation, checkpoint_rule, validation
from medground.training.volume_questions import asks_for_slices

OVERLONG = "overlong"
"""The label of the penalty for completions near the length limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """A training run, built and ready to step."""

    recipe: Recipe
    config: TrainingConfig
    """Its ``grpo`` or ``sft`` section."""
    method: Method
    engine: Engine
    reasoner: TrainableReasoner
    pipeline: Pipeline
    samples: Dataset[Any]
    images: Sequence[int] | None
    """A number for each sample's image, where the samples of an image are drawn together."""
    validation: Validation | None
    parameters: int
    """Of the policy, counted before the engine takes them."""
    trained_parameters: int
    """Of these, those that train."""

    @property
    def digest(self) -> str:
        """The hash of what decides the numbers of a step: the recipe but its trackers, its engine, and the run's length
        unless learning rates depend on it."""
        data = {key: value for key, value in self.recipe.data.items() if key not in ("trackers", "engine")}
        if not depends_on_length(self.config):
            kind = method_kind(self.recipe)
            data[kind] = {key: value for key, value in data[kind].items() if key not in LENGTH}
        return replace(self.recipe, data=data).digest()

    def inputs(self) -> RunInputs:
        """Return the digests of all that feeds the run."""
        return training_inputs(self.recipe, self.samples, self.validation.samples if self.validation else None)

    def metadata(self, inputs: RunInputs) -> RunMetadata:
        """Return what is known of the run before its first step; `inputs` are its own."""
        return RunMetadata(
            recipe=self.recipe.name,
            recipe_sha256=self.digest,
            planned_steps=self.method.planned,
            samples=len(self.samples),
            data_sha256=replace(inputs, components={}).digest,
            prompt_sha256=provenance.prompt_sha256(self.pipeline.prompt_interface),
            processor_sha256=provenance.processor_sha256(self.reasoner),
            frame=dict(self.reasoner.frame((480, 640)).to_dict()),
            seed=self.recipe.config.seed,
            checkpoint_rule=checkpoint_rule(self.recipe),
            plugins=provenance.plugins(self.recipe),
            objects=provenance.objects(self.recipe),
            versions=provenance.versions(),
        )


def build_engine(recipe: Recipe) -> Engine:
    """Return the engine a recipe trains with, in this one of its processes.

    Raises:
        RunError: if more processes were started than it connects.
    """
    engine: Engine = _component(recipe, "engine") if "engine" in recipe.data else LocalEngine()
    if world_size() > 1 and engine.world_size == 1:
        raise RunError(
            f"{world_size()} processes were started, and this engine is one process",
            hint="set an engine that connects them, for example engine=deepspeed",
        )
    return engine


def build(recipe: Recipe, engine: Engine | None = None) -> TrainingRun:
    """Build everything a recipe names: data first, because it is the quickest to fail.

    Args:
        recipe: with a ``grpo`` or an ``sft`` section.
        engine: the recipe's, if it is built already.
    """
    kind = method_kind(recipe)
    config = recipe.config.grpo if kind == "grpo" else recipe.config.sft
    samples = training_samples(recipe)
    images = _image_numbers(samples) if recipe.config.data.group_by_image else None
    seed = recipe.config.seed
    source: RolloutSource = OwnSampler()
    if kind == "grpo" and "rollout" in recipe.data:
        source = _component(recipe, "rollout")
    torch.manual_seed(seed)  # a fresh adapter starts from random numbers
    random.seed(seed)
    np.random.seed(seed)  # nothing here draws from it; a third-party reward may
    pipeline = Pipeline.from_recipe(recipe)
    if isinstance(pipeline.prompt_interface, SplittingInterface):
        name = recipe.component("prompt_interface").name
        raise RecipeError(
            f"the prompt interface {name!r} asks several times per question, and a policy is trained on one answer to each",
            hint="train with the interface that it asks, for example prompt_interface=regions, on tiles as samples",
        )
    reasoner = pipeline.reasoner
    if not isinstance(reasoner, TrainableReasoner):
        name = recipe.component("reasoner").name
        raise RecipeError(f"the reasoner {name!r} has no policy that can be trained", hint="use a model, not a twin")
    if isinstance(config, GrpoConfig) and config.beta:
        reasoner.keep_reference()
    if isinstance(config, GrpoConfig) and config.entropy_bonus:
        _require_entropy_gradient(recipe, reasoner)
    engine = engine or build_engine(recipe)
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in reasoner.policy.parameters()]
    policy = engine.prepare(reasoner.policy, _adamw(config), max_grad_norm=config.max_grad_norm)
    method: Method
    asking = slice_pipeline(pipeline) if asks_for_slices(recipe) else None
    if isinstance(config, SftConfig):
        method = SftTrainer(pipeline, reasoner, policy, engine, samples, config, seed, asking)
        longest = recipe.config.sampling.max_completion_length
    else:
        terms = rubric(recipe).terms
        if config.overlong_buffer is not None:
            terms += (Term(OVERLONG, SoftOverlong(config.max_completion_length, config.overlong_buffer)),)
        rollouts = RolloutPipeline(pipeline, Rubric(terms))
        own = (*recipe.config.volume.slice_rewards, OVERLONG)
        first = None if asking is None else RolloutPipeline(asking, slice_rubric(terms, own))
        method = GrpoTrainer(rollouts, reasoner, policy, engine, samples, config, seed, source, images, first)
        longest = config.max_completion_length
    return TrainingRun(
        recipe=recipe,
        config=config,
        method=method,
        engine=engine,
        reasoner=reasoner,
        pipeline=pipeline,
        samples=samples,
        images=images,
        validation=validation(recipe, pipeline, samples.ids, longest),
        parameters=sum(count for count, _ in counts),
        trained_parameters=sum(count for count, trains in counts if trains),
    )


def _image_numbers(samples: Dataset[Any]) -> list[int]:
    numbers: dict[str, int] = {}
    return [numbers.setdefault(entry.image_key, len(numbers)) for entry in samples.entries]


def _require_entropy_gradient(recipe: Recipe, reasoner: TrainableReasoner) -> None:
    """Make the policy give entropies with gradient.

    Raises:
        RecipeError: if it cannot.
    """
    policy: Any = reasoner.policy
    if not hasattr(policy, "entropy_gradient"):
        raise RecipeError(
            f"the reasoner {recipe.component('reasoner').name!r} gives entropies without gradient, and "
            f"grpo.entropy_bonus={recipe.config.grpo.entropy_bonus:g} needs one",
            hint="set grpo.entropy_bonus=0",
        )
    policy.entropy_gradient = True


def _adamw(config: TrainingConfig) -> Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.weight_decay,
    )


def _component(recipe: Recipe, kind: Literal["engine", "rollout"]) -> Any:
    if kind in recipe.objects:
        return recipe.objects[kind]
    component = recipe.component(kind)
    return registry.build(kind, component.name, **component.arguments)
