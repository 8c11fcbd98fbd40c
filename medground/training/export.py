"""A run's result as a folder that transformers or peft loads as it is, with a model card that says what is known of it."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medground.errors import InputError, RecipeError, RunError
from medground.pipeline.pipeline import Pipeline
from medground.protocols import MergeableReasoner
from medground.recipe import resolve
from medground.runs.checkpoint import verify
from medground.runs.folder import STATE, TRAINED, read_about, read_events
from medground.runs.provenance import prompt_text
from medground.training.model_card import model_card

Adapter = Literal["merge", "separate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    folder: Path
    step: int
    """Of the checkpoint that is the run's result."""
    adapter: bool
    """Whether the folder holds an adapter alone."""


def export(run: str | Path, to: str | Path, *, adapter: Adapter = "merge") -> Exported:
    """Write a run's result, by the run's own checkpoint rule, into a new folder; whole or not at all.

    Args:
        run: the folder of a run.
        to: a folder that does not exist, or is empty.
        adapter: what becomes of a LoRA adapter: ``merge`` folds it into the weights, ``separate`` leaves it an adapter of
            the checkpoint it was trained on. Weights that were trained themselves are written as they are.

    Raises:
        InputError: if `run` is no run, or `to` holds something.
        RunError: if the checkpoint is not whole.
        RecipeError: if the reasoner cannot merge.
    """
    folder, place = Path(run), Path(to)
    checkpoint = _result(folder)
    kept = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"{place} is not empty", hint="give a new folder with --to")
    separate = kept["argument"] == "adapter" and adapter == "separate"
    temporary = place.parent / f".{place.name}.{os.getpid()}"
    try:
        if kept["argument"] == "adapter" and not separate:
            _merged(folder, temporary)
        else:
            shutil.copytree(checkpoint / "model", temporary)
        told = _facts(folder, kept["state"], separate)
        (temporary / "README.md").write_text(model_card(**told), encoding="utf-8")
        temporary.rename(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Exported(folder=place, step=kept["state"]["step"], adapter=separate)


def _result(folder: Path) -> Path:
    """The checkpoint that the run's recipe names, verified."""
    if not (folder / TRAINED).is_file():
        raise InputError(f"{folder} is not the folder of a run", hint="medground train RECIPE --out DIR makes one")
    reasoner = resolve(str(folder)).data["reasoner"]
    parents = [Path(value).parent for value in reasoner.values() if isinstance(value, str) and value.endswith("model")]
    inside = [path for path in parents if path.parent.resolve() == (folder / "checkpoints").resolve()]
    if not inside:
        raise RunError(f"{folder} has no checkpoint yet", hint="let it train to its first checkpoint")
    if problem := verify(inside[0]):
        raise RunError(f"{inside[0].name} is damaged: {problem}", hint="--resume puts it aside for the one before it")
    return inside[0]


def _merged(folder: Path, to: Path) -> None:
    recipe = resolve(str(folder))
    reasoner = Pipeline(recipe).reasoner
    if not isinstance(reasoner, MergeableReasoner):
        name, _ = recipe.component("reasoner")
        raise RecipeError(f"the reasoner {name!r} cannot merge its adapter", hint="add --adapter separate")
    reasoner.save_merged(to)


def _facts(folder: Path, state: Mapping[str, Any], separate: bool) -> dict[str, Any]:
    """What is known of the run's result."""
    trained = resolve(str(folder / TRAINED))
    steps = [line for line in read_events(folder) if line["step"] <= state["step"]]
    validations = [line for line in read_events(folder, "validate") if line["step"] == state["step"]]
    _, asks = trained.component("prompt_interface")
    return {
        "about": read_about(folder),
        "recipe": trained,
        "state": state,
        "last": steps[-1] if steps else {},
        "validation": validations[-1] if validations else {},
        "adapter": separate,
        "prompt": None if asks.get("template") else prompt_text(Pipeline(trained).prompt_interface),
    }
