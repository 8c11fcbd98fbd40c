"""What the training loop and the kinds of training exchange."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from medground.errors import RunError
from medground.runs.folder import CheckpointState
from medground.runs.jsonable import restore
from medground.types import Sample


class StopRequested(Exception):
    """Raised by `CheckStop` inside a step that has changed nothing yet: the run is to end."""


CheckStop = Callable[[], None]
"""Called where a step may be given up without a trace; raises `StopRequested` if it should be."""


@dataclass(slots=True)
class TrainingState:
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

    @classmethod
    def of(cls, saved: CheckpointState) -> "TrainingState":
        """Return what a checkpoint holds.

        Raises:
            RunError: if it is something else.
        """
        try:
            state: TrainingState = restore(cls, saved.state)
        except ValueError as error:
            raise RunError(
                f"the state of the checkpoint is damaged: {error}", hint="restore it, or begin anew with another --out"
            ) from error
        return state

    def advance(self, result: "StepResult") -> None:
        """Count a finished step."""
        self.step += 1
        self.drawn += result.drawn
        self.tokens += result.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one step did."""

    metrics: Mapping[str, float]
    drawn: int
    """Samples taken from the stream."""
    tokens: int
    rows: Sequence[Mapping[str, Any]] = ()
    """The completions table."""
    pictures: Sequence[tuple[str, Callable[[], Any]]] = ()
    """(name, callable that gives a picture) of the rows that may be drawn."""
    warnings: Sequence[str] = ()
    skipped: str | None = None
    """Why the step changed nothing, or not all it should have."""
    incident: Mapping[str, Any] | None = None
    """The record of a batch in which something was not finite."""


class Method(Protocol):
    """One kind of training."""

    planned: int
    """Steps of the whole run."""

    def check(self, sample: Sample) -> None:
        """Check that a sample can be trained on, without its length.

        Raises:
            InputError: if not.
        """
        ...

    def check_length(self, sample: Sample) -> None:
        """Check that a sample takes no more tokens than the recipe allows.

        Raises:
            RecipeError: if it does.
        """
        ...

    def step(self, state: TrainingState, check_stop: CheckStop) -> StepResult:
        """Do step ``state.step + 1``. `state` is read; only its alarm is written."""
        ...

    def close(self) -> None:
        """Close what the method has opened."""
        ...
