"""A recipe with a ``grpo`` or an ``sft`` section becomes a training run: everything it names, built."""

import random
from collections.abc import Callable, Iterable
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
from medground.protocols import Engine, RolloutSource, TrainableReasoner
from medground.recipe import Recipe
from medground.recipe.schema import GrpoConfig, SftConfig, TrainingConfig
from medground.rewards.rubric import rubric
from medground.runs import provenance
from medground.runs.folder import RunMetadata
from medground.runs.inputs import RunInputs
from medground.training.grpo.rollouts import OwnSampler
from medground.training.grpo.step import GrpoTrainer
from medground.training.launcher import world_size
from medground.training.local_engine import LocalEngine
from medground.training.method import Method
from medground.training.plan import method_kind, training_inputs, training_samples
from medground.training.sft import SftTrainer
from medground.training.validation import Validation, checkpoint_rule, validation


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
    validation: Validation | None
    parameters: int
    """Of the policy, counted before the engine takes them."""
    trained_parameters: int
    """Of these, those that train."""

    @property
    def digest(self) -> str:
        """The hash of what decides the numbers: the whole recipe but its trackers and its engine."""
        return self.recipe.digest(*(key for key in self.recipe.data if key not in ("trackers", "engine")))

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
    engine = engine or build_engine(recipe)
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in reasoner.policy.parameters()]
    policy = engine.prepare(reasoner.policy, _adamw(config), max_grad_norm=config.max_grad_norm)
    method: Method
    if isinstance(config, SftConfig):
        method = SftTrainer(pipeline.prompt_interface, reasoner, policy, engine, samples, config, seed)
        longest = recipe.config.sampling.max_completion_length
    else:
        rollouts = RolloutPipeline(pipeline, rubric(recipe))
        method = GrpoTrainer(rollouts, reasoner, policy, engine, samples, config, seed, source)
        longest = config.max_completion_length
    return TrainingRun(
        recipe=recipe,
        config=config,
        method=method,
        engine=engine,
        reasoner=reasoner,
        pipeline=pipeline,
        samples=samples,
        validation=validation(recipe, pipeline, samples.ids, longest),
        parameters=sum(count for count, _ in counts),
        trained_parameters=sum(count for count, trains in counts if trains),
    )


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
