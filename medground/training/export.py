"""A run's result as a folder that transformers or peft loads as it is, with a model card that says what is known of it."""

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medground.errors import InputError, RecipeError, RunError
from medground.pipeline.pipeline import Pipeline
from medground.recipe import resolve
from medground.runs import failpoints
from medground.runs.checkpoint import verify
from medground.runs.files import lock_folder
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
    state = TrainingState.of(saved)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is not empty", hint="give a new folder with --to")
    from safetensors import SafetensorError  # there is no run without it

    separate = saved.argument == "adapter" and adapter == "separate"
    temporary = target.parent / f".{target.name}.export"  # what a killed export has left is used again
    if temporary.is_symlink():
        raise InputError(f"{temporary} is a link", hint=f"rm {shlex.quote(str(temporary))}")
    lock = lock_folder(temporary)
    try:
        for path in temporary.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if saved.argument == "adapter" and not separate:
            _merged(folder, temporary)
        else:
            shutil.copytree(checkpoint / "model", temporary, dirs_exist_ok=True)
        failpoints.failpoint("export.mid")
        card = model_card(**_facts(folder, state, separate))
        (temporary / "README.md").write_text(card, encoding="utf-8")
        (temporary / ".lock").unlink()
        temporary.rename(target)
    except (shutil.Error, SafetensorError) as error:  # also for a full disk
        cause = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        raise RunError(f"{target} cannot be written: {cause}", hint="make room, and give the command again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        lock.release()
    return ExportResult(folder=target, step=state.step, adapter=separate)


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
