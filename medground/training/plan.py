"""What a training run is asked to do, known and checked before torch is imported."""

import importlib.util
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from medground import registry
from medground.data.dataset import Dataset
from medground.data.open_dataset import open_dataset
from medground.errors import PluginError, RecipeError, RunError
from medground.recipe import Recipe, check, require_checkpoints, resolve
from medground.recipe.objects import how_to_give
from medground.recipe.schema import LearningRateSchedule
from medground.registry.errors import missing_extra
from medground.runs import provenance
from medground.runs.folder import METADATA, TRAINED, read_metadata
from medground.runs.inputs import PARTS, RunInputs, component_inputs, sample_inputs
from medground.training.launcher import launched
from medground.training.schedule import LENGTH, depends_on_length
from medground.training.volume_questions import asks_for_slices, volume_questions

Kind = Literal["grpo", "sft"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """A checked recipe, and where its run goes."""

    recipe: Recipe
    folder: Path | None
    """None: nothing is to be written."""
    resume: bool

    @property
    def processes(self) -> int:
        """The number of processes the recipe asks for: its engine's argument ``processes``, else one."""
        if "engine" not in self.recipe.data:
            return 1
        count = self.recipe.component("engine").arguments.get("processes")
        return count if isinstance(count, int) and count > 1 else 1


def plan_training(
    recipe: Any,
    *overrides: str,
    out: str | Path | None = None,
    resume: bool = False,
    values: Mapping[str, Any] | None = None,
) -> TrainingPlan:
    """Resolve and check a recipe for training. Arguments are those of `medground.train`.

    Raises:
        RecipeError: if the recipe cannot be trained.
    """
    folder = None if out is None else Path(out)
    continued = resume and isinstance(recipe, str | Path) and (Path(recipe) / TRAINED).is_file()
    if continued:  # a run's folder as recipe means what it was trained with
        folder, recipe = folder or Path(recipe), str(Path(recipe) / TRAINED)
    resolved = resolve(recipe, *overrides, values=values).with_absolute_paths()
    if folder is not None and recipe == str(folder / TRAINED):
        resolved = replace(resolved, name=read_metadata(folder).recipe or resolved.name)
    check(resolved, strict_missing=True)
    if method_kind(resolved) == "sft" and resolved.config.data.group_by_image:
        raise RecipeError(
            "supervised training computes every sample alone, and data.group_by_image draws those of an image together",
            hint="set data.group_by_image=false",
        )
    plan = TrainingPlan(recipe=resolved, folder=folder, resume=resume)
    if resolved.objects and plan.processes > 1 and not launched():
        raise RunError(
            f"{plan.processes} processes of medground train cannot share the object {min(resolved.objects)}",
            hint=f"start your script in all of them: torchrun --nproc-per-node {plan.processes} SCRIPT.py",
        )
    if resume and folder is not None and (folder / METADATA).is_file():
        _require_same_objects(resolved, folder)
        _require_possible_length(resolved, folder)
    return plan


def _require_possible_length(recipe: Recipe, folder: Path) -> None:
    """Stop if a run is to end at another step than it began with, and its learning rates depend on that step.

    Raises:
        RunError: naming what it depends on.
    """
    kind = method_kind(recipe)
    config = recipe.config.grpo if kind == "grpo" else recipe.config.sft
    before = resolve(str(folder / TRAINED)).data.get(kind, {})
    changed = [key for key in LENGTH if recipe.data[kind].get(key) != before.get(key)]
    if not changed or not depends_on_length(config):
        return
    key = "schedule" if config.schedule is not LearningRateSchedule.constant else "warmup_ratio"
    raise RunError(
        f"{kind}.{changed[0]} of the run in {folder} cannot change: its learning rates follow "
        f"{kind}.{key}={getattr(config, key)} over its length from the first step on",
        hint=f"begin another run from its result: medground train {shlex.quote(str(folder))} "
        f"{kind}.{changed[0]}={recipe.data[kind].get(changed[0])} --out DIR",
    )


def _require_same_objects(recipe: Recipe, folder: Path) -> None:
    """Stop if a run that is to be continued began with other objects.

    Raises:
        RunError: naming the first that differs.
    """
    began_with, given = read_metadata(folder).objects, provenance.objects(recipe)
    for key in sorted({*began_with, *given}):
        before, now = began_with.get(key), given.get(key)
        if before is not None and now is not None and before.sha256 == now.sha256:
            continue
        if before is None:
            what, hint = f"the run in {folder} began without an object as {key}", "leave it out"
        elif now is None:
            what = f"the run in {folder} began with the object {before.name} as {key}, which is not given"
            hint = f"pass {how_to_give(key)} in Python"
        else:
            what = f"the object {now.name} as {key} is not what the run in {folder} began with, {before.name}"
            hint = "pass the same object: its source and its public attributes count"
        raise RunError(what, hint=f"{hint}, or begin a new run with another out")


def method_kind(recipe: Recipe) -> Kind:
    """Return the kind of training a recipe asks for.

    Raises:
        RecipeError: if it asks for none, or for both.
    """
    kinds: list[Kind] = [kind for kind in ("grpo", "sft") if kind in recipe.data]
    if len(kinds) != 1:
        what = "has both a grpo and an sft section" if kinds else "has neither a grpo nor an sft section"
        raise RecipeError(f"the recipe {recipe.name!r} {what}", hint="a run does one of the two: keep that section")
    return kinds[0]


def training_samples(recipe: Recipe) -> Dataset[Any]:
    """Return the samples a recipe trains on: of volumes the first exchanges, in ``sft`` both."""
    if asks_for_slices(recipe):
        return volume_questions(recipe, ("slice", "answer") if method_kind(recipe) == "sft" else ("slice",))
    data = recipe.config.data
    return open_dataset(
        recipe.data_source, split=data.split, limit=data.limit, reader=data.reader, leave_out=data.leave_out
    )


def validation_samples(recipe: Recipe) -> Dataset[Any]:
    """Return the samples a recipe's run is validated on."""
    config, data = recipe.config.validate, recipe.config.data
    return open_dataset(
        recipe.data_source,
        split=config.split,
        limit=config.limit,
        reader=data.reader,
        leave_out=data.leave_out,  # a checkpoint chosen by what was left out would not be without it
    )


def training_inputs(recipe: Recipe, samples: Dataset[Any], validated: Dataset[Any] | None) -> RunInputs:
    """Return the digests of all that feeds a run: plugins, weights, templates and every sample."""
    return RunInputs(
        components=component_inputs(recipe, "reasoner", "prompt_interface", "proposer", "segmenter", "reward"),
        samples=sample_inputs(samples.entries),
        validation=sample_inputs(() if validated is None else validated.entries),
    )


def require_unchanged_training(run: Path, values: Mapping[str, Any] | None = None) -> None:
    """Stop if something that fed a run has changed since, but for samples that are gone; nothing is built.

    Raises:
        RunError: naming the first that has.
        InputError: if its data cannot be read.
    """
    recipe = plan_training(run, resume=True, values=values).recipe
    validated = validation_samples(recipe) if recipe.config.validate.every else None
    training_inputs(recipe, training_samples(recipe), validated).require_same(run, *PARTS)


def require_for_training(recipe: Recipe) -> None:
    """Stop if torch or weights that a run needs are missing; import no torch.

    Raises:
        PluginError: if torch is not installed.
        InputError: if weights are missing or not whole.
    """
    if importlib.util.find_spec("torch") is None:
        name = None if recipe.is_object("reasoner") else recipe.component("reasoner").name
        extra = (name and missing_extra(registry.find("reasoner", name))) or "medground[qwen]"
        raise PluginError("training needs torch, which is not installed", hint=f"pip install '{extra}'")
    keys = ["reasoner"]
    if "grpo" in recipe.data:
        keys.append("rewards")
        terms = [
            recipe.objects.get(f"rewards.{label}") or registry.factory("reward", term.name)
            for label, term in recipe.terms.items()
        ]
        keys += ["segmenter"] * any(getattr(term, "needs_mask", False) is True for term in terms)
    require_checkpoints(recipe, *keys)
