"""The loop every kind of training runs in: steps, records, checkpoints, interruptions, numbers that are not finite.

What a step does belongs to a `Method`: `medground.training.grpo.step` and `medground.training.sft`.
"""

import logging
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError

from medground.errors import Interrupted, RunError
from medground.protocols import Tracker
from medground.runs import failpoints
from medground.runs.checkpoint import Checkpoints, verify
from medground.runs.folder import CheckpointState, RunFolder, read_events, read_state
from medground.runs.inputs import PARTS, RunInputs
from medground.training.build import TrainingRun
from medground.training.method import StepResult, StopRequested, TrainingState
from medground.training.report import write_report
from medground.training.rng_state import preserve_rng, read_rng, write_rng

IN_A_ROW, WINDOW, SHARE = 3, 500, 0.01
"""A run stops after so many skipped steps in a row, or when more than this share of the last `WINDOW` were skipped."""

logger = logging.getLogger(__name__)


class Loop:
    """Runs a method to its last step, from the newest checkpoint.

    On several ranks every one runs a loop over the same steps; the first writes and logs. Ranks agree on what depends on
    the moment: whether to stop, which checkpoint is the newest.

    Args:
        training: the built run.
        records: its folder.
        trackers: other places for its metrics.
        stopped: called often; once it returns True the run saves and ends with `Interrupted`.
        report: takes every step's number and metrics, and those of every validation.
    """

    def __init__(
        self,
        training: TrainingRun,
        records: RunFolder,
        trackers: Sequence[Tracker] = (),
        *,
        stopped: Callable[[], bool],
        report: Callable[[int, Mapping[str, float]], None],
    ) -> None:
        self.training, self.method, self.engine = training, training.method, training.engine
        self.records, self.trackers = records, trackers
        self.checkpoints = Checkpoints(records.folder / "checkpoints")
        self.stopped, self.report = stopped, report
        self.state = TrainingState()
        self.saved_step: int | None = None
        """The step of the newest checkpoint."""

    def resume(self, inputs: RunInputs) -> bool:
        """Continue from the newest checkpoint; return False if there is none and the run begins at the beginning.

        Args:
            inputs: what feeds the run now.

        Raises:
            RunError: if it was made with another recipe or other inputs, or cannot be read. Samples that are gone are
                accepted, those of the validation before the first one: a run whose data holds a bad one must go on.
        """
        removed, newest = self._newest(inputs) if self.engine.rank == 0 else ([], None)
        folder: Path | None = self.engine.gather(newest)[0]
        if folder is None:
            self.records.rewind(0)
            return False
        saved = read_state(folder)
        if saved.recipe != self.training.digest:
            raise RunError(
                f"{folder} was made with another recipe",
                hint=f"medground train {shlex.quote(str(self.records.folder))} --resume continues it as it was",
            )
        self.state = TrainingState.of(saved)
        try:
            self.engine.load(folder)
            read_rng(folder, saved.generators)
        except (ValueError, TypeError, LookupError, AttributeError, OSError, SafetensorError, RuntimeError) as error:
            raise RunError(
                f"{folder} cannot be used: {error}", hint="restore it, or begin anew with another --out"
            ) from error
        self.saved_step = self.state.step
        if self.engine.rank == 0:
            self.checkpoints.prune(self._protected())  # a kill may have come between a save and this
        self.records.point_to(folder, saved.argument)
        self.records.rewind(self.state.step, [step for step, _ in self.state.validated])
        if removed:
            self._warn(f"the run continues without {len(removed)} samples: {', '.join(map(repr, removed))}")
            self.records.event("removed", step=self.state.step, samples=removed)
            inputs.write(self.records.folder)
        return True

    def _newest(self, inputs: RunInputs) -> tuple[list[str], Path | None]:
        """Return the samples that are gone since the run began, and the newest checkpoint."""
        if orphans := self.checkpoints.clean():
            logger.info("removed %d unfinished checkpoints", len(orphans))
        newest = self.checkpoints.newest()
        if newest is None:
            return [], None
        parts = PARTS[:1] if read_events(self.records.folder, "validate") else PARTS
        return inputs.require_same(self.records.folder, *parts), newest

    def run(self) -> TrainingState:
        """Do the remaining steps; on the way out everything is on disk.

        Raises:
            Interrupted: if it was asked to stop; a checkpoint of the last finished step is written first.
            RunError: if too many steps had to be skipped, or the disk is full or read-only.
        """
        state, planned = self.state, self.method.planned
        self._validate()  # before the first step, or what an interruption left undone
        while state.step < planned:
            started = time.perf_counter()
            try:
                self._check_stop()
                result = self.method.step(state, self._check_stop)
            except StopRequested:
                self._interrupt()
            state.advance(result)
            with _disk_errors(state.step):
                self._record(result, time.perf_counter() - started)
            self._check_skips(result.skipped)
            best = self._validate()
            if best or state.step % self.training.config.save_every == 0 or state.step == planned:
                self._save()
        self._choose_result()
        return state

    def _check_stop(self) -> None:
        if self.engine.all_reduce({"stop": float(bool(self.stopped()))})["stop"]:
            raise StopRequested

    def _interrupt(self) -> None:
        self.engine.discard()
        step = self.state.step
        if step and self.saved_step != step:
            self._save()
        raise Interrupted(
            f"stopped after step {step} of {self.method.planned}",
            hint=self._how_to_continue(),
        )

    def _how_to_continue(self) -> str:
        folder, objects = self.records.folder, self.records.recipe.objects
        if not objects:
            return f"medground train {folder} --resume continues"
        return f"medground.train({str(folder)!r}, resume=True, ...) with the same {', '.join(objects)} continues"

    def _record(self, result: StepResult, seconds: float) -> None:
        step = self.state.step
        metrics = {**result.metrics, "num_tokens": float(self.state.tokens)}
        failpoints.failpoint("log.write")
        if result.skipped:
            self.state.skipped.append(step)
            self._warn(f"step {step} was skipped: {result.skipped}")
        if result.incident is not None:
            self.records.incident(step, result.skipped or "a reward was not finite", result.incident)
        for warning in result.warnings:
            self._warn(f"step {step}: {warning}")
        draws = step % self.training.config.save_every == 0 or step == self.method.planned
        self.records.completions(step, result.rows, result.pictures if draws else ())
        self.records.step(step, metrics, seconds=seconds, skipped=result.skipped, warnings=result.warnings)
        self._publish(metrics)

    def _publish(self, metrics: Mapping[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(self.state.step, metrics)
        self.report(self.state.step, metrics)

    def _validate(self) -> bool:
        """Validate if it is due; return True if this step is the best so far."""
        state, validation = self.state, self.training.validation
        done = {step for step, _ in state.validated}
        if validation is None or state.step in done or not validation.due(state.step, self.method.planned):
            return False
        started = time.perf_counter()
        try:
            with preserve_rng(), self.engine.full_parameters():
                result = validation(self._check_stop, self.engine)
        except StopRequested:
            self._interrupt()
        state.validated.append((state.step, result.value))
        seconds = round(time.perf_counter() - started, 4)
        with _disk_errors(state.step):
            self.records.completions(state.step, result.rows, result.pictures, kind="validation")
            samples = len(result.rows)
            self.records.event("validate", step=state.step, samples=samples, **result.metrics, validate_time=seconds)
            self._publish({name: value for name, value in result.metrics.items() if value is not None})
        return validation.best(state.validated) == state.step

    def _best_step(self) -> int | None:
        """Return the step whose checkpoint validation has chosen so far."""
        validation = self.training.validation
        return None if validation is None else validation.best(self.state.validated)

    def _protected(self) -> list[int]:
        """Return the steps whose checkpoints stay, however old."""
        best = self._best_step()
        return [] if best is None else [best]

    def _choose_result(self) -> None:
        """Make the folder the recipe of the run's result."""
        best = self._best_step()
        if best is not None and self.engine.rank == 0:
            chosen = self.checkpoints.path(best)
            if problem := verify(chosen):
                logger.warning(
                    "checkpoint %s, the best by validation, is damaged (%s); the newest is used", chosen.name, problem
                )
            else:
                self.records.point_to(chosen, read_state(chosen).argument)
                self.records.event("result", step=best, checkpoint=chosen.name)
        self._write_report()

    def _check_skips(self, reason: str | None) -> None:
        step, skipped = self.state.step, self.state.skipped
        recent = sum(number > step - WINDOW for number in skipped)
        in_a_row = all(step - back in skipped for back in range(IN_A_ROW))
        if in_a_row or recent > SHARE * WINDOW:
            self._write_report()
            count = f"{IN_A_ROW} steps in a row" if in_a_row else f"{recent} of the last {min(step, WINDOW)} steps"
            raise RunError(
                f"{count} had to be skipped, the last is step {step}: {reason}",
                hint=f"the batches are in {self.records.folder / 'incidents'}; with other data, rewards or settings it is "
                "another run: give it another --out",
            )

    def _save(self) -> None:
        step, argument, first = self.state.step, "", self.engine.rank == 0

        def write(temporary: Path | None) -> None:
            nonlocal argument
            folder = Path(self.engine.gather(str(temporary))[0])
            try:
                with self.engine.full_parameters():
                    if first:
                        (folder / "model").mkdir()
                        argument = self.training.reasoner.save(folder / "model")
                failpoints.failpoint("save.after_model")
                self.engine.save(folder)
                if first:
                    generators = write_rng(folder)
                    state = CheckpointState(
                        state=asdict(self.state), recipe=self.training.digest, argument=argument, generators=generators
                    )
                    self.records.write_state(folder, state)
            except SafetensorError as error:  # also for a full disk
                raise OSError(str(error)) from error

        self.records.flush()
        if first:
            published = lambda folder: self.records.point_to(folder, argument)  # noqa: E731
            self.checkpoints.save(step, write, published, keep=self._protected())
        else:
            write(None)
        self.saved_step = step
        self.records.event("save", step=step, checkpoint=self.checkpoints.path(step).name)
        self._write_report()

    def _write_report(self) -> None:
        """Write the report; one that cannot be written is a warning."""
        if self.engine.rank == 0:
            try:
                write_report(self.records.folder)
            except OSError as error:
                logger.warning("the report could not be written: %s", error.strerror or error)

    def _warn(self, message: str) -> None:
        if self.engine.rank == 0:
            logger.warning("%s", message)


@contextmanager
def _disk_errors(step: int) -> Iterator[None]:
    """Turn the errors of a disk that is full or read-only into one sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"the records of step {step} cannot be written: {error.strerror or error}",
            hint="make room, then --resume from the newest checkpoint",
        ) from error
