"""What a sweep is going to do: every cell resolved and checked before the first one starts.

A cell is a variant on a dataset with a seed. What a cell trains is decided by less than what it measures, so cells may
share a training; a variant that draws nothing has one cell per dataset, whatever the seeds.
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
from medground.recipe import InvalidRecipe, Recipe, check, find_problems, impossible, leaves, resolve
from medground.training.run import method_kind, training_samples

TRAINS = ("grpo", "sft")
_MEASURES = ("evaluate", "sampling", "sweep", "trackers")
"""Sections that change no training, unless it validates; trackers never do."""
_SEGMENTS = ("segmenter", "prompt", "allow_untrained")
"""What a training sees only where a term or its validation looks at masks."""


@dataclass(frozen=True, kw_only=True)
class Cell:
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
        """What decides its training, as a digest; cells that agree on it share one."""
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
    cells: list[Cell]
    baseline: str
    metrics: list[str]
    by: str | None
    rows: Mapping[str, str]
    """Variant -> what its row says, in a line."""

    @property
    def possible(self) -> list[Cell]:
        """The cells that can be done."""
        return [cell for cell in self.cells if cell.skipped is None]

    @property
    def skipped(self) -> dict[str, str]:
        """Cell -> why it cannot be done."""
        return {cell.name: cell.skipped for cell in self.cells if cell.skipped is not None}

    @cached_property
    def trainings(self) -> dict[str, Cell]:
        """Digest of a training -> the first cell that needs it."""
        found: dict[str, Cell] = {}
        for cell in self.possible:
            if cell.training is not None:
                found.setdefault(cell.training, cell)
        return found


def plan(recipe: Any, *overrides: str) -> Plan:
    """Resolve and check every cell of a recipe; no component is built.

    Args:
        recipe: a recipe's name, a file, a run folder or a mapping; it has variants.
        overrides: ``"a.b=c"`` for every cell, ``"variants.NAME.a.b=c"`` for the rows whose names fit NAME, in which ``*``
            stands for anything.

    Raises:
        RecipeError: if a cell cannot be used as written; one whose parts cannot work together is only skipped.
        PluginError: if a cell names a component that is missing, broken or ambiguous.
        InputError: if a cell's data cannot be read.
    """
    common, own = _sorted_out(overrides)
    whole = resolve(recipe, *common)
    if not whole.variants:
        raise RecipeError(f"the recipe {whole.name!r} has no variants", hint="write variants: {name: {key: value}}")
    rows = {name: [text for glob, text in own if fnmatchcase(name, glob)] for name in whole.variants}
    for glob, _ in own:
        if not any(fnmatchcase(name, glob) for name in rows):
            raise RecipeError(f"no variant is called {glob!r}", hint=did_you_mean(glob, rows))
    settings = whole.settings("sweep")
    seeds, datasets = _seeds(settings["seeds"]), _datasets(settings["datasets"])
    baseline = settings["baseline"] or next(iter(rows))
    if baseline not in rows:
        raise RecipeError(f"sweep.baseline names no variant: {baseline!r}", hint=did_you_mean(str(baseline), rows))
    cells = [
        cell
        for name, more in rows.items()
        for label, dataset in datasets.items()
        for cell in _cells(recipe, common, name, more, label, dataset, seeds)
    ]
    if len({cell.name.casefold() for cell in cells}) < len(cells):
        raise RecipeError("two cells would have one name", hint="name variants and datasets by letters and digits")
    _check(cells)
    if all(cell.skipped for cell in cells):
        raise RecipeError(f"no cell of {whole.name!r} can be done", hint=cells[0].skipped)
    metrics = _metrics(settings["metrics"])
    told = {name: _told(whole.variants[name], rows[name]) for name in rows}
    return Plan(recipe=whole, cells=cells, baseline=baseline, metrics=metrics, by=settings["by"], rows=told)


def _told(row: Any, more: Sequence[str]) -> str:
    said = [f"{'.'.join(path)}={value}" for path, value in leaves(row) if path]
    return ", ".join([*said, *more]) or "as the recipe says"


def _sorted_out(overrides: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Overrides for every cell, and (name or pattern, override) for some rows."""
    common, own = [], []
    for text in overrides:
        if found := re.fullmatch(r"variants\.([^.=]+)\.([^=]+=.*)", text, re.DOTALL):
            own.append((found[1], found[2]))
        else:
            common.append(text)
    return common, own


def _seeds(given: Any) -> list[int]:
    if given is None:
        return []
    if not isinstance(given, list) or not given or not all(type(seed) is int for seed in given):
        raise RecipeError("sweep.seeds is not a list of whole numbers", hint="write sweep.seeds=[0,1,2]")
    if len(set(given)) < len(given):
        raise RecipeError("sweep.seeds names a seed twice", hint="keep one")
    return given


def _datasets(given: Any) -> dict[str, list[str]]:
    """Label -> overrides."""
    if given is None:
        return {"": []}
    if not isinstance(given, dict) or not given:
        raise RecipeError("sweep.datasets is not a section", hint="write label: FOLDER lines")
    return {label: _overrides(label, row) for label, row in given.items()}


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


def _cells(
    source: Any, common: list[str], variant: str, own: list[str], label: str, dataset: list[str], seeds: list[int]
) -> Iterator[Cell]:
    said = resolve(source, *common, *own, variant=variant)
    trains = any(kind in said.data for kind in TRAINS)
    used: Sequence[int | None] = seeds if trains or _draws(said) else ()
    for seed in used or (None,):
        more = [] if seed is None else [f"seed={seed}", f"sampling.seed={seed}"]
        measured = resolve(source, *common, *own, *more, *dataset, variant=variant)
        yield Cell(
            variant=variant,
            dataset=label,
            seed=seed,
            recipe=measured,
            to_train=resolve(source, *common, *own, *more, variant=variant) if trains else None,
            skipped=impossible(measured),
        )


def _draws(recipe: Recipe) -> bool:
    """Whether a sampling seed changes the answers."""
    return bool(recipe.settings("sampling")["temperature"] > 0)


def _check(cells: Sequence[Cell]) -> None:
    """Stop at the first cell that cannot be used as written."""
    read: dict[str, Any] = {}
    for cell in cells:
        problems = find_problems(cell.recipe, strict_missing=True)
        try:
            if cell.skipped is not None:
                if others := [each for each in problems if each.message != cell.skipped]:
                    raise InvalidRecipe(others)
                continue
            check(cell.recipe, strict_missing=True)
            data = f"{cell.to_train is None} {cell.recipe.digest('data', 'evaluate')}"
            if data not in read:
                read[data] = prepare(cell.recipe)
            if cell.to_train is not None:
                method_kind(cell.to_train)
                data = f"to train {cell.to_train.digest('data')}"
                if data not in read:
                    read[data] = len(training_samples(cell.to_train))
        except RecipeError as error:
            raise RecipeError(f"cell {cell.name}: {error.message}", hint=error.hint) from error


def _metrics(names: Any) -> list[str]:
    if not names:
        raise RecipeError("sweep.metrics is empty", hint="write sweep.metrics=[iou, dice_joint]")
    for name in names:
        if name not in DEFINITIONS:
            raise RecipeError(f"sweep.metrics names {name!r}", hint=did_you_mean(str(name), DEFINITIONS))
    return list(names)


def _training_digest(recipe: Recipe) -> str:
    masks = any(_needs_mask(component) for component, _, _ in recipe.terms.values()) and "grpo" in recipe.data
    validates = bool(recipe.settings("validate")["every"])
    left_out = {*_MEASURES, *(() if masks or validates else _SEGMENTS)} - ({"sampling"} if validates else set())
    return recipe.digest(*(key for key in recipe.data if key not in left_out))


def _needs_mask(component: str) -> bool:
    """Whether a term looks at masks, or might: a factory that does not say is taken to."""
    return bool(getattr(registry.factory("reward", component), "needs_mask", True))


def without_sweep(recipe: Recipe) -> Recipe:
    """A cell's recipe to be written: itself alone, its paths good from anywhere."""
    rooted = recipe.rooted()
    return replace(rooted, data={key: value for key, value in rooted.data.items() if key != "sweep"}, variants={})


def _word(text: str) -> str:
    return re.sub(r"[^\w+-]+", "_", text)
