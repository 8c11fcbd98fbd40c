"""``medground.train``: build what a recipe names, resume from the newest checkpoint, run to the last step."""

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medground import registry
from medground.errors import Interrupted, RecipeError, RunError
from medground.pipeline.load import load
from medground.pipeline.pipeline import Pipeline
from medground.progress import in_notebook, training_progress
from medground.runs.folder import RunFolder, read_events, read_metadata
from medground.runs.inputs import RunInputs
from medground.training.plan import TrainingPlan, plan_training, require_for_training

if TYPE_CHECKING:
    from medground.training.loop import Loop

Report = Callable[[int, Mapping[str, float]], None]

logger = logging.getLogger(__name__)

_NO_METRICS = ("step", "step_time", "samples", "validate_time")
"""Numbers of events that measure nothing of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """The end of a run."""

    folder: Path
    """A recipe: ``medground.load(folder)``."""
    steps: int
    """All that were planned."""
    skipped: int
    """Of these, how many changed nothing because a number was not finite."""
    before: int
    """Steps that were done already when this call began."""
    rank: int = 0
    """Of this process among those that trained together."""

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics of the last step, and those of the last validation, whose names begin with ``eval/``."""
        steps, validations = read_events(self.folder), read_events(self.folder, "validate")
        events = {**(steps[-1] if steps else {}), **(validations[-1] if validations else {})}
        numbers = {name: value for name, value in events.items() if isinstance(value, int | float | None)}
        return {name: value for name, value in numbers.items() if name not in _NO_METRICS}

    def load(self, *overrides: str, **objects: Any) -> Pipeline:
        """Return the pipeline of the run's result; arguments and errors are those of `medground.load`.

        Objects that the run was given in the places of components must be given again. A reasoner that was given as an
        object is used as it is: its trained weights are in the folder ``model`` of the newest checkpoint.
        """
        return load(self.folder, *overrides, **objects)


def train(
    recipe: Any,
    *overrides: str,
    out: str | Path | None = None,
    resume: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    report: Report | None = None,
    started: Callable[[int, int], None] | None = None,
    **values: Any,
) -> TrainingResult:
    """Train the reasoner of a recipe; return when every planned step is done.

    >>> train("train/toy", "data.path=phantoms", out="runs/toy")  # doctest: +SKIP

    What a recipe can say, Python values and objects can say too, by its top-level keys:

    >>> def short(rollout):
    ...     return 1 / (1 + len(rollout.completion.text))
    >>> run = train(  # doctest: +SKIP
    ...     "train/toy", out="runs/mine", data="phantoms", rewards={"short": (short, 0.5)}, grpo={"max_steps": 3}
    ... )
    >>> run.metrics["reward/short/mean"], run.load()  # doctest: +SKIP

    What happens is logged to the logger ``medground.training``.

    Args:
        recipe: a recipe's name, a file, a mapping; or with `resume` the folder of a run.
        overrides: ``"a.b=c"`` strings, as on the command line.
        out: the run's folder; with `resume` and a run's folder as recipe it may be left out.
        resume: continue from the newest checkpoint in `out`.
        stopped: called often; once it returns True the run saves and ends with `Interrupted`.
        report: takes every step's number and metrics, and those of every validation, whose names begin with ``eval/``.
        started: takes the steps done before and the steps planned, once they are known. Without `report` and `started`
            there is a bar in a notebook, and nothing elsewhere; the command line's is `medground.progress.training_progress`.
        values: of the recipe, by its top-level keys; they apply after the overrides. ``reasoner``, ``prompt_interface``,
            ``segmenter``, ``engine`` and ``rollout`` take an object in place of a component's name. ``data`` takes a
            path, a dataset or a sequence of samples. ``rewards`` takes ``{label: term}``: a function of a rollout, a
            `medground.Reward` or an adapter (`medground.from_trl`, `medground.from_verl`) adds a term with weight 1,
            or keeps the weight that the label has; ``(function, weight)`` sets it; a number changes a weight; None
            removes a term. The run records name, source and hash of every object. A run that is resumed needs the
            same objects again.

    Raises:
        RecipeError: if the recipe cannot be trained, or an object must be given again.
        RunError: if the run could not do its steps, `out` holds another run, or one that began with other objects.
        Interrupted: if it was asked to stop; it can be resumed.
    """
    plan = plan_training(recipe, *overrides, out=out, resume=resume, values=values)
    if report is None and started is None and in_notebook():
        with training_progress() as (begin, shown):
            return execute(plan, stopped=stopped, report=shown, started=begin)
    return execute(plan, stopped=stopped, report=report or _no_report, started=started or _no_start)


def execute(
    plan: TrainingPlan,
    *,
    stopped: Callable[[], bool],
    report: Report,
    started: Callable[[int, int], None],
) -> TrainingResult:
    """Do a planned run; arguments and errors are those of `train`."""
    folder, recipe = _checked_folder(plan), plan.recipe
    require_for_training(recipe)

    from medground.training.build import build, build_engine  # imports torch
    from medground.training.loop import Loop
    from medground.training.usable import require_usable_samples

    engine = build_engine(recipe)
    first = engine.rank == 0
    with ExitStack() as stack:
        records = RunFolder.of_rank(engine.rank, folder, recipe)
        stack.callback(records.close)
        trackers = [registry.build("tracker", name, **arguments) for name, arguments in recipe.trackers if first]
        for tracker in trackers:
            stack.callback(tracker.close)
        training = build(recipe, engine)
        stack.callback(training.method.close)

        if not plan.resume:
            require_usable_samples(training, stopped)
        loop = Loop(training, records, trackers, stopped=stopped, report=report if first else _no_report)
        before = _begin_or_resume(loop, plan.resume)
        if first:
            started(before, training.method.planned)
        try:
            state = loop.run()
        except Interrupted:
            engine.shutdown()  # all ranks have agreed to stop
            raise
        engine.shutdown()
    return TrainingResult(folder=folder, steps=state.step, skipped=len(state.skipped), before=before, rank=engine.rank)


def _checked_folder(plan: TrainingPlan) -> Path:
    if plan.folder is None:
        raise RecipeError("a run needs a folder", hint="add --out runs/NAME")
    if RunFolder.started(plan.folder) and not plan.resume:
        raise RunError(
            f"{plan.folder} holds a run already", hint="add --resume to continue it, or choose another --out"
        )
    return plan.folder


def _begin_or_resume(loop: "Loop", resume: bool) -> int:
    """Continue from the newest checkpoint if `resume`, else begin; return the steps that are done."""
    training, records = loop.training, loop.records
    first = training.engine.rank == 0
    inputs = training.inputs() if first else RunInputs()
    if not (resume and loop.resume(inputs)):
        if resume and first:
            logger.info("there is no checkpoint yet: the run begins at step 1")
        records.begin(training.metadata(inputs), inputs)
    before, planned = loop.state.step, training.method.planned
    if before > planned:
        raise RunError(
            f"the run in {records.folder} has done {before} steps already, more than the {planned} it is to have",
            hint=f"set max_steps to {before} or more",
        )
    if before and first and read_metadata(records.folder).planned_steps != planned:
        logger.info("the run now ends at step %d", planned)
        records.extend(planned, step=before)
    for tracker in loop.trackers:
        tracker.begin(records.folder, before)
    if before:
        if first:
            logger.info("continuing after step %d", before)
        records.event("resume", step=before)
    return before


def _no_report(step: int, metrics: Mapping[str, float]) -> None:
    """Only the first rank reports, and only where it is to."""


def _no_start(done: int, planned: int) -> None:
    """Nobody asked."""
