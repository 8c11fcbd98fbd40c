"""A run's result as a folder that transformers or peft loads as it is, with a model card that says what is known of it."""

import glob
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medground.errors import InputError, RecipeError, RunError
from medground.pipeline.pipeline import Pipeline
from medground.recipe import resolve
from medground.runs.checkpoint import verify
from medground.runs.folder import TRAINED, read_events, read_metadata, read_state
from medground.runs.provenance import prompt_text
from medground.training.method import TrainingState
from medground.training.model_card import model_card

Adapter = Literal["merge", "separate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """An exported model."""

    folder: Path
    step: int
    """Of the checkpoint that is the run's result."""
    adapter: bool
    """Whether the folder holds an adapter alone."""


def export(run: str | Path, to: str | Path, *, adapter: Adapter = "merge") -> ExportResult:
    """Write a run's result, by the run's own checkpoint rule, into a new folder; whole or not at all.

    >>> export("runs/toy", "exported")  # doctest: +SKIP

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
    folder, target = Path(run), Path(to)
    checkpoint = _result(folder)
    saved = read_state(checkpoint)
    state = TrainingState(**saved.state)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is not empty", hint="give a new folder with --to")
    separate = saved.argument == "adapter" and adapter == "separate"
    _remove_leftovers(target)
    temporary = target.parent / f".{target.name}.{os.getpid()}"
    try:
        if saved.argument == "adapter" and not separate:
            _merged(folder, temporary)
        else:
            shutil.copytree(checkpoint / "model", temporary)
        card = model_card(**_facts(folder, state, separate))
        (temporary / "README.md").write_text(card, encoding="utf-8")
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return ExportResult(folder=target, step=state.step, adapter=separate)


def _remove_leftovers(target: Path) -> None:
    """Remove what exports to the same folder left beside it when they were killed."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*"):
        process = path.suffix[1:]
        if process.isdecimal() and not _is_alive(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    with suppress(PermissionError, OverflowError):  # another user's; no number of a process
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


def _result(folder: Path) -> Path:
    """Return the checkpoint that the run's recipe names, verified."""
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
    reasoner = Pipeline.from_recipe(recipe).reasoner
    if not hasattr(reasoner, "save_merged"):
        name = recipe.component("reasoner").name
        raise RecipeError(f"the reasoner {name!r} cannot merge its adapter", hint="add --adapter separate")
    reasoner.save_merged(to)


def _facts(folder: Path, state: TrainingState, separate: bool) -> dict[str, Any]:
    """Return the recorded facts about the run's result."""
    trained = resolve(str(folder / TRAINED))
    steps = [line for line in read_events(folder) if line["step"] <= state.step]
    validations = [line for line in read_events(folder, "validate") if line["step"] == state.step]
    interface = trained.component("prompt_interface")
    return {
        "metadata": read_metadata(folder),
        "recipe": trained,
        "state": state,
        "last": steps[-1] if steps else {},
        "validation": validations[-1] if validations else {},
        "adapter": separate,
        "prompt": None
        if interface.arguments.get("template")
        else prompt_text(Pipeline.from_recipe(trained).prompt_interface),
    }
