"""The loop every kind of training runs in: steps, records, checkpoints, interruptions, and what is done about numbers that
are not numbers. What a step is belongs to a `Method`: `medground.training.grpo.trainer` and `medground.training.sft`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from medground.errors import Interrupted, RunError
from medground.protocols import Engine, Tracker, TrainableReasoner
from medground.runs import failpoints
from medground.runs.checkpoint import Checkpoints, verify
from medground.runs.folder import RunFolder
from medground.training.rng_state import kept_generators, read_generators, write_generators
from medground.training.validation import Validation

IN_A_ROW, WINDOW, SHARE = 3, 500, 0.01
"""A run stops after so many skipped steps in a row, or when more than this share of the last `WINDOW` were skipped."""


class Stop(Exception):
    """Raised by `Pause` inside a step that has changed nothing yet: somebody wants the run to end."""


Pause = Callable[[], None]
"""Called where a step may be given up without a trace; raises `Stop` if it should be."""


@dataclass(slots=True)
class State:
    """Where a run is: with the parameters and the seed, all that its future depends on."""

    step: int = 0
    """Finished steps, skipped ones included."""
    drawn: int = 0
    """Samples taken from the endless stream."""
    tokens: int = 0
    """Tokens trained on: prompts once per group, and completions."""
    skipped: list[int] = field(default_factory=list)
    """Steps that changed nothing because a number was not finite."""
    alarm: dict[str, Any] = field(default_factory=dict)
    """`ConstantAlarm.runs`."""
    validated: list[tuple[int, float | None]] = field(default_factory=list)
    """(step, value of the metric that chooses) of every validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one step did."""

    metrics: Mapping[str, float]
    drawn: int
    tokens: int
    rows: Sequence[Mapping[str, Any]] = ()
    """The completions table."""
    pictures: Sequence[tuple[str, Any]] = ()
    """(name, callable that gives a picture) of the rows that may be drawn."""
    warnings: Sequence[str] = ()
    skipped: str | None = None
    """Why the step changed nothing, or not all it should have."""
    incident: Mapping[str, Any] | None = None
    """What to keep of a batch in which something was not finite."""


class Method(Protocol):
    """One kind of training."""

    planned: int
    """Steps of the whole run."""

    def step(self, state: State, pause: Pause) -> Result:
        """Do step ``state.step + 1``. `state` is read, only its alarm is written."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a loop works on."""

    method: Method
    engine: Engine
    reasoner: TrainableReasoner
    run: RunFolder
    checkpoints: Checkpoints
    save_every: int
    digest: str
    """Of the recipe; a checkpoint of another one is not continued."""
    trackers: Sequence[Tracker] = ()
    validation: Validation | None = None
    saved: Callable[[], None] = lambda: None
    """Called when a checkpoint is in place, and once more when the run ends, also where too much went wrong."""
    stopped: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda text: None
    report: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None


class Loop:
    """Runs a method to its last step, from wherever the newest checkpoint left it.

    On several ranks every one runs a loop over the same steps; the first writes, and what depends on the moment (whether to
    stop, which checkpoint is the newest) is agreed on.

    Args:
        parts: what it works on.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.state = State()
        self.saved: int | None = None
        """The step of the newest checkpoint."""

    def resume(self) -> bool:
        """Take up the newest checkpoint; False where there is none and the run begins at the beginning.

        Raises:
            RunError: if it was made with another recipe.
        """
        p = self.parts
        folder: Path | None = p.engine.gather(self._newest() if p.engine.rank == 0 else None)[0]
        if folder is None:
            p.run.rewind(0)
            return False
        kept = p.run.read_state(folder)
        if kept["recipe"] != p.digest:
            raise RunError(
                f"{folder} was made with another recipe", hint="resume with the recipe and overrides of the run"
            )
        p.engine.load(folder)
        read_generators(folder, kept["generators"])
        self.state = State(**kept["state"])
        self.saved = self.state.step
        if p.engine.rank == 0:
            p.checkpoints.prune(self._kept())  # a kill may have come between a save and this
        p.run.point_to(folder, kept["argument"])
        p.run.rewind(self.state.step, [step for step, _ in self.state.validated])
        return True

    def _newest(self) -> Path | None:
        p = self.parts
        if orphans := p.checkpoints.clean():
            p.say(f"removed {len(orphans)} unfinished checkpoints")
        return p.checkpoints.newest(p.say)

    def run(self) -> State:
        """Do what is left; on the way out everything is on disk.

        Raises:
            Interrupted: if it was asked to stop; a checkpoint of the last finished step is written first.
            RunError: if too many steps had to be skipped, or the disk does not take what is written.
        """
        p, state = self.parts, self.state
        self._validate()  # before the first step, or what an interruption left undone
        while state.step < p.method.planned:
            try:
                self._pause()
                result, seconds = self._step()
            except Stop:
                self._interrupt()
            state.step += 1
            state.drawn += result.drawn
            state.tokens += result.tokens
            with _records(state.step):
                self._record(result, seconds)
            self._check_skips()
            better = self._validate()
            if better or state.step % p.save_every == 0 or state.step == p.method.planned:
                self._save()
        self._choose()
        return state

    def _step(self) -> tuple[Result, float]:
        started = time.perf_counter()
        result = self.parts.method.step(self.state, self._pause)
        return result, time.perf_counter() - started

    def _pause(self) -> None:
        if self.parts.engine.all_reduce({"stop": float(bool(self.parts.stopped()))})["stop"]:
            raise Stop

    def _interrupt(self) -> None:
        p, state = self.parts, self.state
        p.engine.discard()
        if state.step and self.saved != state.step:
            self._save()
        raise Interrupted(
            f"stopped after step {state.step} of {p.method.planned}",
            hint=f"medground train {p.run.folder} --resume continues",
        )

    def _record(self, result: Result, seconds: float) -> None:
        p, step = self.parts, self.state.step
        metrics = {**result.metrics, "num_tokens": float(self.state.tokens)}
        failpoints.failpoint("log.write")
        if result.skipped:
            self.state.skipped.append(step)
            p.say(f"step {step} was skipped: {result.skipped}")
        if result.incident is not None:
            p.run.incident(step, {"reason": result.skipped or "a reward was not finite", **result.incident})
        for warning in result.warnings:
            p.say(f"step {step}: {warning}")
        pictures = result.pictures if step % p.save_every == 0 or step == p.method.planned else ()
        p.run.completions(step, result.rows, pictures)
        p.run.step(step, metrics, seconds=seconds, skipped=result.skipped, warnings=result.warnings)
        for tracker in p.trackers:
            tracker.log(step, metrics)
        p.report(step, metrics)

    def _validate(self) -> bool:
        """Validate where it is time to; True where a checkpoint of this step must be kept: it is the best so far."""
        p, state, validation = self.parts, self.state, self.parts.validation
        done = {step for step, _ in state.validated}
        if validation is None or state.step in done or not validation.due(state.step, p.method.planned):
            return False
        started = time.perf_counter()
        try:
            with kept_generators(), p.engine.whole():
                found = validation(self._pause, p.engine)
        except Stop:
            self._interrupt()
        state.validated.append((state.step, found.value))
        told = {name: value for name, value in found.metrics.items() if value is not None}
        with _records(state.step):
            p.run.completions(state.step, found.rows, found.pictures, kind="validation")
            p.run.event(
                "validate",
                step=state.step,
                samples=len(found.rows),
                **found.metrics,
                validate_time=round(time.perf_counter() - started, 4),
            )
            for tracker in p.trackers:
                tracker.log(state.step, told)
        p.report(state.step, told)
        return validation.best(state.validated) == state.step

    def _best(self) -> int | None:
        """The step whose checkpoint validation has chosen so far."""
        return self.parts.validation.best(self.state.validated) if self.parts.validation else None

    def _kept(self) -> list[int]:
        best = self._best()
        return [] if best is None else [best]

    def _choose(self) -> None:
        """At the end the folder is the recipe of the run's result."""
        p, best = self.parts, self._best()
        if best is not None and p.engine.rank == 0:
            chosen = p.checkpoints.path(best)
            if problem := verify(chosen):
                p.say(f"checkpoint {chosen.name}, the best by validation, is damaged ({problem}); the newest is used")
            else:
                p.run.point_to(chosen, p.run.read_state(chosen)["argument"])
                p.run.event("result", step=best, checkpoint=chosen.name)
        p.saved()

    def _check_skips(self) -> None:
        step, skipped = self.state.step, self.state.skipped
        recent = [each for each in skipped if each > step - WINDOW]
        row = all(step - back in skipped for back in range(IN_A_ROW))
        if row or len(recent) > SHARE * WINDOW:
            self.parts.saved()
            many = f"{IN_A_ROW} steps in a row" if row else f"{len(recent)} of the last {min(step, WINDOW)} steps"
            raise RunError(
                f"{many} had to be skipped, the last is step {step}",
                hint=f"the batches are in {self.parts.run.folder / 'incidents'}",
            )

    def _save(self) -> None:
        p, state = self.parts, self.state
        argument, first = "", p.engine.rank == 0

        def write(made: Path | None) -> None:
            nonlocal argument
            folder = Path(p.engine.gather(str(made))[0])
            with _disk_errors():
                with p.engine.whole():
                    if first:
                        (folder / "model").mkdir()
                        argument = p.reasoner.save(folder / "model")
                failpoints.failpoint("save.after_model")
                p.engine.save(folder)
                if first:
                    kept = {"state": asdict(state), "recipe": p.digest, "argument": argument}
                    p.run.write_state(folder, {**kept, "generators": write_generators(folder)})

        p.run.flush()
        if first:
            p.checkpoints.save(state.step, write, lambda folder: p.run.point_to(folder, argument), keep=self._kept())
        else:
            write(None)
        self.saved = state.step
        p.run.event("save", step=state.step, checkpoint=p.checkpoints.path(state.step).name)
        p.saved()


@contextmanager
def _records(step: int) -> Iterator[None]:
    """Within, a disk that takes no more ends the run in one sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"the records of step {step} cannot be written: {error.strerror or error}",
            hint="make room, then --resume from the newest checkpoint",
        ) from error


class _disk_errors:
    """Within, safetensors' own error for a disk that takes no more becomes the operating system's."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        from safetensors import SafetensorError

        if isinstance(error, SafetensorError):
            raise OSError(str(error)) from error
