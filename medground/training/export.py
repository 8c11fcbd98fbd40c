"""A run's result as a folder that transformers or peft loads as it is, with a recipe that asks it and a model card that says
what is known of it."""

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medground.errors import InputError, RecipeError, RunError
from medground.pipeline.pipeline import Pipeline
from medground.recipe import Recipe, resolve
from medground.recipe.sources import RESOLVED
from medground.runs import failpoints
from medground.runs.checkpoint import verify
from medground.runs.files import lock_folder
from medground.runs.folder import TRAINED, read_events, read_metadata, read_state
from medground.runs.provenance import prompt_text
from medground.training.exported_recipe import exported_recipe, must_be_given, recipe_text
from medground.training.method import TrainingState
from medground.training.model_card import Declared, model_card

Adapter = Literal["merge", "separate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """An exported model."""

    folder: Path
    step: int
    """Of the checkpoint that is the run's result."""
    adapter: bool
    """Whether the folder holds an adapter alone."""


def export(
    run: str | Path,
    to: str | Path,
    *,
    adapter: Adapter = "merge",
    base_model: str | None = None,
    data: str | None = None,
    licence: str | None = None,
) -> ExportResult:
    """Write a run's result, by the run's own checkpoint rule, into a new folder; whole or not at all.

    The folder is a recipe too: `medground.load` takes it, also after it was moved.

    >>> export("runs/toy", "exported", licence="cc-by-nc-4.0")  # doctest: +SKIP
    >>> medground.load("exported")("scan.png", "Which region is dark?")  # doctest: +SKIP

    Args:
        run: the folder of a run.
        to: a folder that does not exist, or is empty.
        adapter: what becomes of a LoRA adapter: ``merge`` folds it into the weights, ``separate`` leaves it an adapter of
            the checkpoint it was trained on. Weights that were trained themselves are written as they are.
        base_model: what the model card calls the model that training started from: a hub id, or words.
        data: what the card calls the training data: a hub id, or words.
        licence: of the weights, as the Hugging Face Hub writes it: ``apache-2.0``, ``other``. Of these three the card holds
            what the run recorded or the user declares; nothing is guessed.

    Raises:
        InputError: if `run` is no run, `to` holds something, or a declaration is no single line of text.
        RunError: if the checkpoint is not whole.
        RecipeError: if the reasoner cannot merge.
    """
    folder, target = Path(run), Path(to)
    declared = Declared(base_model=base_model, data=data, licence=licence)
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
        recipe = resolve(str(folder))
        if saved.argument == "adapter" and not separate:
            argument = _merged(recipe, temporary)
        else:
            shutil.copytree(checkpoint / "model", temporary, dirs_exist_ok=True)
            argument = saved.argument
        failpoints.failpoint("export.mid")
        values = exported_recipe(recipe, argument)
        (temporary / RESOLVED).write_text(recipe_text(values), encoding="utf-8")
        card = model_card(**_facts(folder, state, separate), declared=declared, required=must_be_given(values))
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


def _merged(recipe: Recipe, to: Path) -> str:
    """Write the merged weights; return the argument of the reasoner's factory that takes their folder."""
    reasoner: Any = Pipeline.from_recipe(recipe).reasoner
    if not hasattr(reasoner, "save_merged"):
        name = recipe.component("reasoner").name
        raise RecipeError(f"the reasoner {name!r} cannot merge its adapter", hint="add --adapter separate")
    argument: str = reasoner.save_merged(to)
    return argument


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
