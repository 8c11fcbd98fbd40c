"""``medground.sweep``: the variants of a recipe over seeds and datasets, trained where they train, measured, compared.

sweep.json           everything that was found
table.md .tex .csv   the table
report.html          the same for people, with plots
recipe.yaml          the recipe, resolved; recipe.source.yaml as written
trained/NAME/        a run, shared by the cells that need the same; trained.json once it is done
cells/NAME/          a recipe; eval/ its evaluation, cell.json once it is done
store/               completions and masks, shared by all cells
"""

import fcntl
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medground.errors import Interrupted, MedgroundError, RunError
from medground.evaluation.evaluate import evaluate
from medground.evaluation.results_file import SAMPLES, read_lines
from medground.pipeline.cache import StageCache
from medground.recipe import resolve
from medground.runs.checkpoint import write_atomically
from medground.runs.folder import RunFolder, read_events
from medground.sweeps.plan import Cell, Plan, plan, without_sweep
from medground.sweeps.report import page
from medground.sweeps.results import tell
from medground.sweeps.tables import as_csv, as_latex, as_markdown
from medground.training.run import train

FOUND, CELL, TRAINED = "sweep.json", "cell.json", "trained.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """How a sweep ended."""

    folder: Path
    found: dict[str, Any]
    """What sweep.json holds."""
    before: int
    """Cells that were done already when this call began."""

    @property
    def failed(self) -> dict[str, str]:
        """Cell -> why it has no numbers."""
        return dict(self.found["failed"])


def sweep(
    recipe: Any,
    *overrides: str,
    out: str | Path,
    resume: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda text: None,
) -> Swept:
    """Do every cell of a recipe that can be done; one that fails is told, and costs no other.

    Args:
        recipe: a recipe's name, a file, or a mapping, with variants.
        overrides: ``"a.b=c"`` for every cell, ``"variants.NAME.a.b=c"`` for the rows that NAME fits.
        out: the sweep's folder.
        resume: go on with what `out` holds: what is done is kept, what was cut short is gone on with, what failed is tried
            again, and cells that were added are done.
        stopped: asked often; once it says True the sweep saves and ends with `Interrupted`.
        say: takes a sentence for people.

    Raises:
        RecipeError, PluginError, InputError: before anything starts, if a cell cannot be used as written.
        RunError: if `out` holds another sweep, or no cell could be done.
        Interrupted: if it was asked to stop; it can be resumed.
    """
    made = plan(recipe, *overrides)
    folder = Path(out)
    with _alone(folder):
        run = _Run(made, folder, stopped, say)
        before = run.begin(resume)
        for name, reason in made.skipped.items():
            say(f"{name} is skipped: {reason}")
        for cell in made.possible:
            run(cell)
        return Swept(folder=folder, found=run.finish(), before=before)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder; two sweeps do not write to one."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"another process writes to {folder}", hint="wait for it, or choose another --out"
            ) from error
        yield


class _Run:
    def __init__(self, made: Plan, folder: Path, stopped: Callable[[], bool], say: Callable[[str], None]) -> None:
        self.plan, self.folder, self.stopped, self.say = made, folder, stopped, say
        self.done: dict[str, dict[str, Any]] = {}
        self.trained: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self.broken: dict[str, str] = {}
        """Digest of a training -> why it failed."""

    def begin(self, resume: bool) -> int:
        """Look at what the folder holds; how many cells are done."""
        if (self.folder / "cells").exists() and not resume:
            raise RunError(
                f"{self.folder} holds a sweep already", hint="add --resume to continue it, or choose another --out"
            )
        for cell in self.plan.possible:
            about = _read(self._place(cell) / CELL)
            if about is None:
                continue
            if about.get("identity") != cell.identity:
                raise RunError(f"{self.folder} holds another {cell.name}", hint="choose another --out")
            if about["status"] == "done":
                self.done[cell.name] = about
        self.plan.recipe.write(self.folder)
        self.store = StageCache(self.folder / "store")
        return len(self.done)

    def _place(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.name

    def __call__(self, cell: Cell) -> None:
        """Do one cell, unless it is done; what goes wrong in it is written down."""
        training = self._training(cell)
        if cell.name in self.done:
            if training is not None and (about := _read(training / TRAINED)) is not None:
                self.trained[training.name] = about
            return
        if self.stopped():
            raise self._interrupted(cell)
        count = f"{len(self.done) + len(self.failed) + 1} of {len(self.plan.possible)}"
        self.say(f"{count}: {cell.name}")
        try:
            self._do(cell, training)
        except Interrupted as error:
            raise self._interrupted(cell) from error
        except Exception as error:  # noqa: BLE001  models and plugins may raise anything; the other cells go on
            known = isinstance(error, MedgroundError)
            self.failed[cell.name] = str(error) if known else f"{type(error).__name__}: {error}"
            self._write(cell, status="failed", cause=self.failed[cell.name])
            self.say(f"{cell.name} failed: {self.failed[cell.name]}")
        finally:
            _let_go()

    def _interrupted(self, cell: Cell) -> Interrupted:
        done = f"{len(self.done)} of {len(self.plan.possible)} cells are done"
        return Interrupted(f"stopped at {cell.name}; {done}", hint="add --resume to continue")

    def _training(self, cell: Cell) -> Path | None:
        """The folder of a cell's training; None where it trains nothing."""
        return None if cell.training is None else self.folder / "trained" / self.plan.trainings[cell.training].trained

    def _do(self, cell: Cell, training: Path | None) -> None:
        recipe = without_sweep(cell.recipe)
        if training is not None:
            recipe = replace(recipe, data={**recipe.data, "reasoner": self._reasoner(cell, training)})
        before = _read(self._place(cell) / CELL) or {}
        recipe.write(self._place(cell))
        asked, tokens, begun = self.store.misses["completions"], self.store.tokens, time.perf_counter()

        def took() -> dict[str, Any]:
            return {
                "questions": before.get("questions", 0) + self.store.misses["completions"] - asked,
                "tokens": before.get("tokens", 0) + self.store.tokens - tokens,
                "seconds": round(before.get("seconds", 0.0) + time.perf_counter() - begun, 3),
                "device": _device(),
                "training": training and training.name,
            }

        self._write(cell, status="begun", **_spent(before))
        try:
            found = evaluate(
                str(self._place(cell)),
                out=self._place(cell) / "eval",
                resume=True,
                store=self.store,
                stopped=self.stopped,
                say=self.say,
            )
        except Interrupted:
            self._write(cell, status="begun", **took())
            raise
        self.done[cell.name] = self._write(cell, status="done", **took(), arms_skipped=found.metrics["skipped"])

    def _reasoner(self, cell: Cell, training: Path) -> dict[str, Any]:
        """The reasoner that a cell's training gave, trained now unless it was."""
        digest = cell.training
        assert digest is not None
        if digest in self.broken:
            raise RunError(f"its training {training.name} failed: {self.broken[digest]}")
        if _read(training / TRAINED) is None:
            try:
                self._train(self.plan.trainings[digest], training)
            except Interrupted:
                raise
            except Exception as error:
                self.broken[digest] = str(error)
                raise
            finally:
                _let_go()
        self.trained[training.name] = _read(training / TRAINED) or {}
        reasoner: dict[str, Any] = resolve(str(training)).rooted().data["reasoner"]
        return reasoner

    def _train(self, cell: Cell, training: Path) -> None:
        assert cell.to_train is not None
        going_on = RunFolder.started(training)
        if not going_on:
            without_sweep(cell.to_train).write(training)
        begun = time.perf_counter()
        done = train(str(training), out=training, resume=going_on, stopped=self.stopped, say=self.say)
        steps = read_events(training)
        about = {
            "steps": done.steps,
            "skipped": done.skipped,
            "tokens": int(max((step.get("num_tokens") or 0 for step in steps), default=0)),
            "seconds": round(sum(step.get("step_time") or 0.0 for step in steps), 3),
            "seconds_of_the_last_call": round(time.perf_counter() - begun, 3),
            "device": _device(),
        }
        write_atomically(training / TRAINED, json.dumps(about, indent=1) + "\n")

    def _write(self, cell: Cell, **about: Any) -> dict[str, Any]:
        whole = {"identity": cell.identity, **about}
        self._place(cell).mkdir(parents=True, exist_ok=True)
        write_atomically(self._place(cell) / CELL, json.dumps(whole, indent=1) + "\n")
        return whole

    def finish(self) -> dict[str, Any]:
        """Write what was found."""
        if not self.done:
            name, cause = next(iter(self.failed.items()))
            raise RunError(f"no cell could be done; {name}: {cause}")
        found = tell(
            self.plan,
            lambda cell: list(read_lines(self._place(cell) / "eval" / SAMPLES)),
            self.done,
            self.failed,
            self.trained,
        )
        write_atomically(self.folder / FOUND, json.dumps(found, indent=1, allow_nan=False) + "\n")
        for name, text in (
            ("table.md", as_markdown(found)),
            ("table.tex", as_latex(found)),
            ("table.csv", as_csv(found)),
            ("report.html", page(found)),
        ):
            write_atomically(self.folder / name, text)
        return found


def _spent(about: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier call spent on a cell."""
    return {key: about[key] for key in ("questions", "tokens", "seconds") if key in about}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path} is damaged", hint="remove it: its cell is then done again") from error
    return found


def _let_go() -> None:
    """Free what a model held, so that the next finds room."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _device() -> str:
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_available() else "cpu"
