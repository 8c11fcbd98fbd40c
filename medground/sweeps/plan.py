"""What a sweep is going to do: every trial resolved and checked before the first one starts.

A trial is a variant on a dataset with a seed. What a trial trains is decided by less than what it measures, so trials may
share a training; a variant that draws nothing has one trial per dataset, whatever the seeds.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from medground import registry
from medground.errors import RecipeError, did_you_mean
from medground.evaluation.evaluate import prepare
from medground.evaluation.metrics import DEFINITIONS
from medground.recipe import InvalidRecipe, Recipe, check, find_problems, incompatibility, leaves, resolve
from medground.recipe.recipe import Source
from medground.training.plan import method_kind, training_samples

TRAINS = ("grpo", "sft")
_MEASURES = ("evaluate", "sampling", "sweep", "trackers")
"""Sections that change no training, unless it validates; trackers never do."""
_SEGMENTS = ("segmenter", "prompt", "text_from", "allow_untrained")
"""What a training sees only where a term or its validation looks at masks."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One variant on one dataset with one seed."""

    variant: str
    dataset: str
    """Empty where the recipe's own data is the only one."""
    seed: int | None
    """None where the variant draws nothing, or the recipe's own seed is the only one."""
    recipe: Recipe
    """To measure by."""
    to_train: Recipe | None
    """To train by; None where nothing is trained."""
    skipped: str | None
    """Why it cannot be done, or None."""

    @property
    def name(self) -> str:
        """Of its folder."""
        seed = "" if self.seed is None else f"seed{self.seed}"
        return ".".join(_word(part) for part in (self.variant, self.dataset, seed) if part)

    @property
    def trained(self) -> str:
        """The name of its training's folder, were it the first to need it."""
        return ".".join(_word(part) for part in (self.variant, "" if self.seed is None else f"seed{self.seed}") if part)

    @cached_property
    def training(self) -> str | None:
        """What decides its training, as a digest; trials that agree on it share one."""
        return None if self.to_train is None else _training_digest(self.to_train)

    @property
    def identity(self) -> str:
        """What decides its numbers, as a digest."""
        whole = self.recipe.digest(*(key for key in self.recipe.data if key not in ("sweep", "trackers")))
        return f"{whole}{self.training or ''}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A sweep, checked."""

    recipe: Recipe
    trials: list[Trial]
    baseline: str
    metrics: list[str]
    by: str | None
    rows: Mapping[str, str]
    """Variant -> what its row says, in a line."""

    @property
    def possible(self) -> list[Trial]:
        """The trials that can be done."""
        return [trial for trial in self.trials if trial.skipped is None]

    @property
    def skipped(self) -> dict[str, str]:
        """Trial -> why it cannot be done."""
        return {trial.name: trial.skipped for trial in self.trials if trial.skipped is not None}

    @cached_property
    def trainings(self) -> dict[str, Trial]:
        """Digest of a training -> the first trial that needs it."""
        trainings: dict[str, Trial] = {}
        for trial in self.possible:
            if trial.training is not None:
                trainings.setdefault(trial.training, trial)
        return trainings


def plan(recipe: Source, *overrides: str, **values: Any) -> Plan:
    """Resolve and check every trial of a recipe; no component is built.

    Args:
        recipe: a recipe's name, a file, a run folder or a mapping; it has variants.
        overrides: ``"a.b=c"`` for every trial, ``"variants.NAME.a.b=c"`` for the rows whose names fit NAME, in which ``*``
            stands for anything.
        values: from Python, by the recipe's top-level keys, for every trial: sections, or objects in the places of the
            prompt interface, the segmenter, reward terms and data.

    Raises:
        RecipeError: if a trial cannot be used as written; one whose parts cannot work together is only skipped.
        PluginError: if a trial names a component that is missing, broken or ambiguous.
        InputError: if a trial's data cannot be read.
    """
    common, own = _sorted_out(overrides)
    whole = resolve(recipe, *common, values=values)
    if "reasoner" in whole.objects:
        raise RecipeError("the reasoner of a sweep is an object", hint="pass reasoner=NAME: each trial builds its own")
    if not whole.variants:
        raise RecipeError(f"the recipe {whole.name!r} has no variants", hint="write variants: {name: {key: value}}")
    rows = {name: [text for glob, text in own if fnmatchcase(name, glob)] for name in whole.variants}
    for glob, _ in own:
        if not any(fnmatchcase(name, glob) for name in rows):
            raise RecipeError(f"no variant is called {glob!r}", hint=did_you_mean(glob, rows))
    config = whole.config.sweep
    seeds, datasets = _seeds(config.seeds), _datasets(config.datasets)
    baseline = config.baseline or next(iter(rows))
    if baseline not in rows:
        raise RecipeError(f"sweep.baseline names no variant: {baseline!r}", hint=did_you_mean(baseline, rows))
    trials = [
        trial
        for name, more in rows.items()
        for label, dataset in datasets.items()
        for trial in _trials(whole, name, more, label, dataset, seeds)
    ]
    if len({trial.name.casefold() for trial in trials}) < len(trials):
        raise RecipeError("two trials would have one name", hint="name variants and datasets by letters and digits")
    _check(trials)
    if all(trial.skipped for trial in trials):
        raise RecipeError(f"no trial of {whole.name!r} can be done", hint=trials[0].skipped)
    metrics = _metrics(config.metrics)
    row_lines = {name: _row_line(whole.variants[name], rows[name]) for name in rows}
    return Plan(recipe=whole, trials=trials, baseline=baseline, metrics=metrics, by=config.by, rows=row_lines)


def _row_line(row: Any, more: Sequence[str]) -> str:
    words = [f"{'.'.join(path)}={value}" for path, value in leaves(row) if path]
    return ", ".join([*words, *more]) or "unchanged"


def _sorted_out(overrides: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the overrides for every trial, and (name or pattern, override) for some rows."""
    common, own = [], []
    for text in overrides:
        if match := re.fullmatch(r"variants\.([^.=]+)\.([^=]+=.*)", text, re.DOTALL):
            own.append((match[1], match[2]))
        else:
            common.append(text)
    return common, own


def _seeds(seeds: list[int] | None) -> list[int]:
    if seeds is not None and len(set(seeds)) < max(1, len(seeds)):
        raise RecipeError(f"sweep.seeds is empty or names a seed twice: {seeds}", hint="write sweep.seeds=[0,1,2]")
    return seeds or []


def _datasets(sections: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Return label -> overrides."""
    if sections is None:
        return {"": []}
    if not sections:
        raise RecipeError("sweep.datasets is empty", hint="write label: FOLDER lines")
    return {label: _overrides(label, section) for label, section in sections.items()}


def _overrides(label: str, row: Any) -> list[str]:
    if isinstance(row, str):
        return [f"data.path={_yaml(row)}"]
    if not isinstance(row, dict) or not set(row) <= {"data", "evaluate"}:
        raise RecipeError(
            f"sweep.datasets.{label} is neither a folder nor a section of data and evaluate",
            hint="write label: FOLDER, or label: {evaluate: {split: test}}",
        )
    # A part is one value: {label: [values]} replaces another, it is not merged with it.
    return [f"{section}.{key}={_yaml(value)}" for section, keys in row.items() for key, value in keys.items()]


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _trials(
    whole: Recipe, variant: str, own: list[str], label: str, dataset: list[str], seeds: list[int]
) -> Iterator[Trial]:
    row = whole.variant(variant)  # first: an override of a row may give an argument to the component that it names
    resolved = resolve(row, *own)
    trains = any(kind in resolved.data for kind in TRAINS)
    used: Sequence[int | None] = seeds if trains or _draws(resolved) else ()
    for seed in used or (None,):
        more = [] if seed is None else [f"seed={seed}", f"sampling.seed={seed}"]
        measured = resolve(row, *own, *more, *dataset)
        yield Trial(
            variant=variant,
            dataset=label,
            seed=seed,
            recipe=measured,
            to_train=resolve(row, *own, *more) if trains else None,
            skipped=incompatibility(measured),
        )


def _draws(recipe: Recipe) -> bool:
    """Return True if a sampling seed changes the answers."""
    return recipe.config.sampling.temperature > 0


def _check(trials: Sequence[Trial]) -> None:
    """Stop at the first trial that cannot be used as written."""
    read: dict[str, Any] = {}
    for trial in trials:
        problems = find_problems(trial.recipe, strict_missing=True)
        try:
            if trial.skipped is not None:
                if others := [problem for problem in problems if problem.message != trial.skipped]:
                    raise InvalidRecipe(others)
                continue
            check(trial.recipe, strict_missing=True)
            data = f"{trial.to_train is None} {trial.recipe.digest('data', 'evaluate')}"
            if data not in read:
                read[data] = prepare(trial.recipe)
            if trial.to_train is not None:
                method_kind(trial.to_train)
                data = f"to train {trial.to_train.digest('data')}"
                if data not in read:
                    read[data] = len(training_samples(trial.to_train))
        except RecipeError as error:
            raise RecipeError(f"trial {trial.name}: {error.message}", hint=error.hint) from error


def _metrics(names: list[str]) -> list[str]:
    if not names:
        raise RecipeError("sweep.metrics is empty", hint="write sweep.metrics=[iou, dice_joint]")
    for name in names:
        if name not in DEFINITIONS:
            raise RecipeError(f"sweep.metrics names {name!r}", hint=did_you_mean(name, DEFINITIONS))
    return names


def _training_digest(recipe: Recipe) -> str:
    masks = any(_needs_mask(recipe, label) for label in recipe.terms) and "grpo" in recipe.data
    validates = recipe.config.validate.every > 0
    left_out = {*_MEASURES, *(() if masks or validates else _SEGMENTS)} - ({"sampling"} if validates else set())
    return recipe.digest(*(key for key in recipe.data if key not in left_out))


def _needs_mask(recipe: Recipe, label: str) -> bool:
    """Return True if a term looks at masks, or might: a factory or an object that does not say is taken to."""
    term = recipe.objects.get(f"rewards.{label}") or registry.factory("reward", recipe.terms[label].name)
    return bool(getattr(term, "needs_mask", True))


def without_sweep(recipe: Recipe) -> Recipe:
    """Return a trial's recipe to be written: itself alone, with absolute paths."""
    absolute = recipe.with_absolute_paths()
    return replace(absolute, data={key: value for key, value in absolute.data.items() if key != "sweep"}, variants={})


def _word(text: str) -> str:
    return re.sub(r"[^\w+-]+", "_", text)
