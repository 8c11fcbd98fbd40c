"""``medground.sweep``: the variants of a recipe over seeds and datasets, trained where they train, measured, compared.

sweep.json           all results
table.md .tex .csv   the table
report.html          the same for people, with plots
recipe.yaml          the recipe, resolved; recipe.source.yaml as written
trained/NAME/        a run, shared by the trials that need the same; trained.json once it is done
trials/NAME/         a recipe; eval/ its evaluation, trial.json once it is done
store/               completions and masks, shared by all trials
"""

import gc
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from medground.errors import Interrupted, MedgroundError, RunError
from medground.evaluation.evaluate import evaluate, evaluated_samples, require_unchanged_evaluation
from medground.evaluation.results_file import SAMPLES, SampleRecord, read_records
from medground.pipeline.cache import StageCache
from medground.progress import Count, counted_in_notebook
from medground.recipe import resolve
from medground.recipe.objects import as_values
from medground.recipe.recipe import Source
from medground.runs.files import lock_folder, read_json, write_atomic
from medground.runs.folder import RunFolder, read_events, write_recipe
from medground.runs.jsonable import plain
from medground.sweeps.pictures import SideBySide, side_by_side
from medground.sweeps.plan import Plan, Trial, plan, without_sweep
from medground.sweeps.report import sweep_report
from medground.sweeps.results import SweepSummary, TrainingRecord, TrialRecord, by_variant, pool, summarize
from medground.sweeps.tables import as_csv, as_latex, as_markdown
from medground.training.plan import require_unchanged_training
from medground.training.run import train

logger = logging.getLogger(__name__)

SUMMARY, TRIAL, TRAINED = "sweep.json", "trial.json", "trained.json"
Record = TypeVar("Record", TrialRecord, TrainingRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """How a sweep ended."""

    folder: Path
    summary: SweepSummary
    """As in sweep.json."""
    before: int
    """Trials that were done when this call began."""


def sweep(
    recipe: Source,
    *overrides: str,
    out: str | Path,
    resume: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    progress: Count | None = None,
    **values: Any,
) -> SweepResult:
    """Do every trial of a recipe that can be done; a trial that fails is recorded and does not stop the others.

    >>> sweep("sweep/asm_swap", "data.path=phantoms", out="sweeps/asm")  # doctest: +SKIP

    Args:
        recipe: a recipe's name, a file, or a mapping, with variants.
        overrides: ``"a.b=c"`` for every trial, ``"variants.NAME.a.b=c"`` for the rows whose names match NAME.
        out: the sweep's folder.
        resume: continue what `out` holds: done trials are kept, interrupted ones continued, failed ones tried again, and
            added ones done.
        stopped: called often; once it returns True the sweep saves and ends with `Interrupted`.
        progress: takes the trainings and evaluations done, the one in work as a fraction, how many there are, and what is
            being done; without it there is a bar in a notebook, and nothing elsewhere.
        values: for every trial, by the recipe's top-level keys, as `medground.train` takes them; ``prompt_interface``,
            ``segmenter``, ``rewards`` and ``data`` can be objects. A reasoner cannot: every trial builds its own.

    Raises:
        RecipeError, PluginError, InputError: before anything starts, if a trial cannot be used as written.
        RunError: if `out` holds another sweep, or no trial could be done.
        Interrupted: if `stopped` ended it; it can be resumed.
    """
    checked = plan(recipe, *overrides, **values)
    folder = Path(out)
    with lock_folder(folder), counted_in_notebook("sweeping", progress) as report:
        run = _Run(checked, folder, stopped, report)
        before = run.begin(resume)
        for name, reason in checked.skipped.items():
            logger.info("%s is skipped: %s", name, reason)
        for trial in checked.possible:
            run(trial)
        return SweepResult(folder=folder, summary=run.finish(), before=before)


class _Run:
    def __init__(self, checked: Plan, folder: Path, stopped: Callable[[], bool], progress: Count) -> None:
        self.plan, self.folder, self.stopped, self.progress = checked, folder, stopped, progress
        self.done: dict[str, TrialRecord] = {}
        self.trained: dict[str, TrainingRecord] = {}
        self.failed: dict[str, str] = {}
        self.failed_trainings: dict[str, str] = {}
        """Digest of a training -> why it failed."""

    def begin(self, resume: bool) -> int:
        """Read what the folder holds; return how many trials are done."""
        if (self.folder / "trials").exists() and not resume:
            raise RunError(
                f"{self.folder} holds a sweep already", hint="add --resume to continue it, or choose another --out"
            )
        for trial in self.plan.possible:
            record = _read(self._path(trial) / TRIAL, TrialRecord)
            if record is None:
                continue
            if record.identity != trial.identity:
                raise RunError(f"{self.folder} holds another {trial.name}", hint="choose another --out")
            lost = self._require_unchanged(trial) if record.status == "done" else []
            if record.status == "done" and not lost:
                self.done[trial.name] = record
        write_recipe(self.plan.recipe, self.folder)
        self.store = StageCache(self.folder / "store")
        self._show("", 0, 1)
        return len(self.done)

    def _show(self, work: str, done: float, planned: float) -> None:
        """Show the trainings and evaluations that ended, and the fraction of the one in work."""
        ended = len(self.done) + len(self.failed) + len(self.trained) + len(self.failed_trainings)
        note = f"{work}: {done:.0f} of {planned:.0f}" if work else ""
        self.progress(ended + done / max(1, planned), len(self.plan.possible) + len(self.plan.trainings), note)

    def _require_unchanged(self, trial: Trial) -> list[str]:
        """Stop if something that fed a trial or its training has changed; return the samples that are gone."""
        training = self._training(trial)
        if training is not None and trial.to_train is not None:
            require_unchanged_training(training, as_values(trial.to_train.objects))
        recipe = resolve(str(self._path(trial)), values=as_values(trial.recipe.objects))
        return require_unchanged_evaluation(recipe, self._path(trial) / "eval")

    def _path(self, trial: Trial) -> Path:
        return self.folder / "trials" / trial.name

    def __call__(self, trial: Trial) -> None:
        """Do one trial, unless it is done; an error in it is written down."""
        training = self._training(trial)
        if trial.name in self.done:
            if training is not None and (record := _read(training / TRAINED, TrainingRecord)) is not None:
                self.trained[training.name] = record
            return
        if self.stopped():
            raise self._interrupted(trial)
        count = f"{len(self.done) + len(self.failed) + 1} of {len(self.plan.possible)}"
        logger.info("%s: %s", count, trial.name)
        try:
            self._do(trial, training)
        except Interrupted as error:
            raise self._interrupted(trial) from error
        except Exception as error:  # noqa: BLE001  models and plugins may raise anything; the other trials go on
            cause = str(error) if isinstance(error, MedgroundError) else f"{type(error).__name__}: {error}"
            self.failed[trial.name] = cause
            _write(self._path(trial) / TRIAL, TrialRecord(identity=trial.identity, status="failed", cause=cause))
            logger.info("%s failed: %s", trial.name, cause)
        finally:
            _free_memory()

    def _interrupted(self, trial: Trial) -> Interrupted:
        done = f"{len(self.done)} of {len(self.plan.possible)} trials are done"
        return Interrupted(f"stopped at {trial.name}; {done}", hint="add --resume to continue")

    def _training(self, trial: Trial) -> Path | None:
        """Return the folder of a trial's training; None where it trains nothing."""
        return None if trial.training is None else self.folder / "trained" / self.plan.trainings[trial.training].trained

    def _do(self, trial: Trial, training: Path | None) -> None:
        recipe, path = without_sweep(trial.recipe), self._path(trial)
        if training is not None:
            recipe = replace(recipe, data={**recipe.data, "reasoner": self._reasoner(trial, training)})
        before = _read(path / TRIAL, TrialRecord) or TrialRecord(identity=trial.identity, status="begun")
        write_recipe(recipe, path)
        questions, tokens, start = self.store.misses["completions"], self.store.tokens, time.perf_counter()

        def record() -> TrialRecord:
            return TrialRecord(
                identity=trial.identity,
                status="begun",
                questions=before.questions + self.store.misses["completions"] - questions,
                tokens=before.tokens + self.store.tokens - tokens,
                seconds=round(before.seconds + time.perf_counter() - start, 3),
                device=_device(),
                training=None if training is None else training.name,
            )

        _write(path / TRIAL, replace(before, identity=trial.identity, status="begun", cause=None))
        try:
            result = evaluate(
                str(path),
                out=path / "eval",
                resume=True,
                store=self.store,
                stopped=self.stopped,
                progress=lambda done, planned, note="": self._show(f"evaluating {trial.name}", done, planned or 1),
                **as_values(recipe.objects),
            )
        except Interrupted:
            _write(path / TRIAL, record())
            raise
        done = replace(record(), status="done", conditions_skipped=result.summary.skipped)
        _write(path / TRIAL, done)
        self.done[trial.name] = done

    def _reasoner(self, trial: Trial, training: Path) -> dict[str, Any]:
        """Return the reasoner that a trial's training gives; train it unless that is done."""
        digest = trial.training
        assert digest is not None
        if digest in self.failed_trainings:
            raise RunError(f"its training {training.name} failed: {self.failed_trainings[digest]}")
        record = _read(training / TRAINED, TrainingRecord)
        if record is None:
            try:
                record = self._train(self.plan.trainings[digest], training)
            except Interrupted:
                raise
            except Exception as error:
                self.failed_trainings[digest] = str(error)
                raise
            finally:
                _free_memory()
        self.trained[training.name] = record
        name, arguments = resolve(str(training)).with_absolute_paths().component("reasoner")
        return {"name": name, **arguments}

    def _train(self, trial: Trial, training: Path) -> TrainingRecord:
        assert trial.to_train is not None
        resume = RunFolder.started(training)
        if not resume:
            write_recipe(without_sweep(trial.to_train), training)
        start = time.perf_counter()
        given = as_values(trial.to_train.objects)
        planned = 1

        def started(done: int, steps: int) -> None:
            nonlocal planned
            planned = steps
            self._show(f"training {training.name}", done, planned)

        def report(step: int, metrics: Mapping[str, float]) -> None:
            self._show(f"training {training.name}", step, planned)

        done = train(
            str(training), out=training, resume=resume, stopped=self.stopped, report=report, started=started, **given
        )
        steps = read_events(training)
        record = TrainingRecord(
            steps=done.steps,
            skipped=done.skipped,
            tokens=int(max((step.get("num_tokens") or 0 for step in steps), default=0)),
            seconds=round(sum(step.get("step_time") or 0.0 for step in steps), 3),
            seconds_of_the_last_call=round(time.perf_counter() - start, 3),
            device=_device(),
        )
        _write(training / TRAINED, record)
        return record

    def finish(self) -> SweepSummary:
        """Write and return the summary."""
        if not self.done:
            name, cause = next(iter(self.failed.items()))
            raise RunError(f"no trial could be done; {name}: {cause}")
        summary = summarize(self.plan, self._records, self.done, self.failed, self.trained)
        for name, text in (
            (SUMMARY, json.dumps(plain(summary), indent=1, allow_nan=False) + "\n"),
            ("table.md", as_markdown(summary)),
            ("table.tex", as_latex(summary)),
            ("table.csv", as_csv(summary)),
            ("report.html", sweep_report(summary, self._pictures())),
        ):
            write_atomic(self.folder / name, text)
        return summary

    def _records(self, trial: Trial) -> list[SampleRecord]:
        return list(read_records(self._path(trial) / "eval" / SAMPLES))

    def _pictures(self) -> SideBySide | None:
        """Draw some samples of the first dataset, under each variant and its first condition."""
        groups = by_variant(self.plan, self.done)
        dataset, trial = next((dataset, trials[0]) for (_, dataset), trials in groups.items())
        count = trial.recipe.config.evaluate.pictures
        if not count:
            return None
        records = {
            variant: pool([_of_first_condition(self._records(trial)) for trial in trials])
            for (variant, its_dataset), trials in groups.items()
            if its_dataset == dataset
        }
        return side_by_side(dataset, records, evaluated_samples(trial.recipe), count)


def _write(path: Path, record: TrialRecord | TrainingRecord) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(plain(record), indent=1) + "\n")


def _read(path: Path, kind: type[Record]) -> Record | None:
    return read_json(path, kind) if path.exists() else None


def _of_first_condition(records: list[SampleRecord]) -> list[SampleRecord]:
    return [record for record in records if record.condition == records[0].condition]


def _cuda() -> Any:
    """Return torch.cuda where torch is in use and a device is available; else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _free_memory() -> None:
    """Free what a model held, so that the next one has room."""
    gc.collect()
    if cuda := _cuda():
        cuda.empty_cache()


def _device() -> str:
    cuda = _cuda()
    return str(cuda.get_device_name()) if cuda else "cpu"
