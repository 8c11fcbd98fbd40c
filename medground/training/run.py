"""``medground.train``: a recipe with a ``grpo`` or an ``sft`` section becomes a run, and its folder a recipe."""

import random
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from medground import registry
from medground.data.filters import read_part
from medground.data.samples import Samples
from medground.data.umrg import UmrgSamples
from medground.errors import Interrupted, RecipeError, RunError
from medground.pipeline.pipeline import Pipeline, RolloutPipeline
from medground.protocols import Engine, RolloutSource, TrainableReasoner
from medground.recipe import Recipe, check, resolve
from medground.rewards.rubric import rubric
from medground.runs import provenance
from medground.runs.checkpoint import Checkpoints
from medground.runs.folder import TRAINED, RunFolder, read_about
from medground.training.launcher import ranks
from medground.training.memory import Held, held
from medground.training.needs import require_for_training
from medground.training.validation import Validation, checkpoint_rule, validation


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a run ended."""

    folder: Path
    """A recipe: ``medground.load(folder)``."""
    steps: int
    """All that were planned."""
    skipped: int
    """Of these, how many changed nothing because a number was not finite."""
    before: int
    """Steps that were done already when this call began."""
    rank: int = 0
    """Of this process among those that trained together; what is said to people is said by the first."""


def train(
    recipe: Any,
    *overrides: str,
    out: str | Path | None = None,
    resume: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda text: None,
    report: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
    started: Callable[[int, int], None] = lambda done, planned: None,
) -> Trained:
    """Train the reasoner of a recipe; returns when every planned step is done.

    Args:
        recipe: a recipe's name, a file, a mapping; or with `resume` the folder of a run.
        overrides: ``"a.b=c"`` strings, as on the command line.
        out: the run's folder; with `resume` and a run's folder as recipe it may be left out.
        resume: continue from the newest checkpoint in `out`.
        stopped: asked often; once it says True the run saves and ends with `Interrupted`.
        say: takes a sentence for people.
        report: takes every step's number and metrics, and those of every validation, whose names begin with ``eval/``.
        started: takes the steps done before and the steps planned, once they are known.

    Raises:
        RecipeError: if the recipe cannot be trained.
        RunError: if the run could not do its steps, or `out` holds another run.
        Interrupted: if it was asked to stop; it can be resumed.
    """
    source, folder = _places(recipe, out, resume)
    resolved = _named(resolve(source, *overrides).rooted(), folder, source)
    check(resolved, strict_missing=True)
    kind = method_kind(resolved)
    if RunFolder.started(folder) and not resume:
        raise RunError(f"{folder} holds a run already", hint="add --resume to continue it, or choose another --out")
    require_for_training(resolved)

    from medground.training.loop import Loop, Parts  # imports torch

    engine = engine_of(resolved)
    first = engine.rank == 0
    run = RunFolder.of_rank(engine.rank, folder, resolved)
    trackers = [registry.build("tracker", name, **arguments) for name, arguments in resolved.trackers if first]
    made = None
    try:
        made = assemble(resolved, kind, engine)
        digest = trained_digest(resolved)
        loop = Loop(
            Parts(
                method=made.method,
                engine=made.engine,
                reasoner=made.reasoner,
                run=run,
                checkpoints=Checkpoints(folder / "checkpoints"),
                save_every=resolved.settings(kind)["save_every"],
                digest=digest,
                trackers=trackers,
                validation=made.validation,
                saved=(lambda: _report(folder, say)) if first else _quietly,
                stopped=stopped,
                say=say if first else _quietly,
                report=report if first else _quietly,
            )
        )
        if resume:
            _check_data(folder, made)
        if not (resume and loop.resume()):
            if resume and first:
                say("there is no checkpoint yet: the run begins at step 1")
            run.begin(about(resolved, made, digest))
        before = loop.state.step
        for tracker in trackers:
            tracker.begin(folder, before)
        if first:
            started(before, made.method.planned)
        if before:
            loop.parts.say(f"continuing after step {before}")
            run.event("resume", step=before)
        try:
            state = loop.run()
        except Interrupted:
            engine.close()  # all ranks have agreed to stop
            raise
        engine.close()
        return Trained(folder=folder, steps=state.step, skipped=len(state.skipped), before=before, rank=engine.rank)
    finally:
        if made is not None:
            made.close()
        for tracker in trackers:
            tracker.close()
        run.close()


def _places(recipe: Any, out: str | Path | None, resume: bool) -> tuple[Any, Path]:
    """The recipe to read, and the run's folder. A run's folder as recipe means what it was trained with."""
    folder = None if out is None else Path(out)
    if resume and isinstance(recipe, str | Path) and (Path(recipe) / TRAINED).is_file():
        return str(Path(recipe) / TRAINED), folder or Path(recipe)
    if folder is None:
        raise RecipeError("a run needs a folder", hint="give --out runs/NAME")
    return recipe, folder


def processes(recipe: Any, *overrides: str, out: str | Path | None = None, resume: bool = False) -> int:
    """How many processes a recipe asks for: its engine's argument ``processes``, else one.

    Raises:
        RecipeError: if the recipe cannot be used, so that this is said once and not by every process.
    """
    resolved = resolve(_places(recipe, out, True)[0] if resume else recipe, *overrides)
    count = (resolved.data.get("engine") or {}).get("processes")
    if not isinstance(count, int) or count < 2:
        return 1
    check(resolved, strict_missing=True)
    return count


def _named(recipe: Recipe, folder: Path, source: Any) -> Recipe:
    """The recipe under the name its run began with, where it is read from the run's own folder."""
    if source != str(folder / TRAINED):
        return recipe
    return replace(recipe, name=read_about(folder).get("recipe", recipe.name))


def _check_data(folder: Path, made: "Assembled") -> None:
    """Stop where the data is not what the run began with: continued, it would be another run."""
    began = read_about(folder).get("data_sha256")
    if began is not None and began != _files_digest(made.data):
        raise RunError(
            f"the data is not what it was when the run in {folder} began", hint="restore it, or begin a new run"
        )


def _report(folder: Path, say: Callable[[str], None]) -> None:
    """Write the report; a report that cannot be written costs a sentence, not the run."""
    from medground.training.report import write_report

    try:
        write_report(folder)
    except OSError as error:
        say(f"the report could not be written: {error.strerror or error}")


def method_kind(recipe: Recipe) -> Literal["grpo", "sft"]:
    """Which kind of training a recipe asks for.

    Raises:
        RecipeError: if it asks for none, or for both.
    """
    has = [kind for kind in ("grpo", "sft") if kind in recipe.data]
    if len(has) != 1:
        what = "has both a grpo and an sft section" if has else "has neither a grpo nor an sft section"
        raise RecipeError(f"the recipe {recipe.name!r} {what}", hint="a run does one of the two: keep that section")
    return "grpo" if has == ["grpo"] else "sft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """The parts of a run, built."""

    method: Any
    engine: Any
    reasoner: TrainableReasoner
    graph: Pipeline
    samples: Samples | UmrgSamples
    data: Sequence[Path]
    validation: Validation | None
    parameters: int
    """Of the policy, counted before the engine takes them."""
    trained: int
    """Of these, those that train."""

    def close(self) -> None:
        """Let go of what was opened; the engine parts for itself."""
        if isinstance(self.method, _Sampling):
            self.method.source.close()


@runtime_checkable
class _Sampling(Protocol):
    """A method with a sampler."""

    source: RolloutSource


def engine_of(recipe: Recipe) -> Engine:
    """The engine a recipe trains with, in this one of its processes.

    Raises:
        RunError: if more processes were started than it connects.
    """
    from medground.training.local_engine import LocalEngine

    engine: Engine = _optional(recipe, "engine") or LocalEngine()
    if ranks() > 1 and engine.world_size == 1:
        raise RunError(
            f"{ranks()} processes were started, and this engine is one process",
            hint="name an engine that connects them, such as engine=deepspeed",
        )
    return engine


def _quietly(*what: Any) -> None:
    """The first rank says it."""


def assemble(recipe: Recipe, kind: Literal["grpo", "sft"], engine: Engine | None = None) -> Assembled:
    """Build everything a recipe names, but an engine that is there: data first, because it is the quickest to fail."""
    import torch

    from medground.training.grpo.rollouts import OwnSampler
    from medground.training.grpo.trainer import Grpo
    from medground.training.sft import Sft

    settings = recipe.settings(kind)
    samples = training_samples(recipe)
    seed = recipe.settings("seed")
    source: Any = _optional(recipe, "rollout") if kind == "grpo" else None
    torch.manual_seed(seed)  # a fresh adapter starts from random numbers
    random.seed(seed)
    np.random.seed(seed)  # as a belt, for terms that draw from the global generators
    graph = Pipeline(recipe)
    reasoner = graph.reasoner
    if not isinstance(reasoner, TrainableReasoner):
        name, _ = recipe.component("reasoner")
        raise RecipeError(f"the reasoner {name!r} has no policy that can be trained", hint="use a model, not a twin")
    if settings.get("beta"):
        reasoner.keep_reference()
    engine = engine or engine_of(recipe)

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters,
            lr=settings["learning_rate"],
            betas=(settings["adam_beta1"], settings["adam_beta2"]),
            weight_decay=settings["weight_decay"],
        )

    counts = [(each.numel(), each.requires_grad) for each in reasoner.policy.parameters()]
    policy = engine.prepare(reasoner.policy, optimizer, max_grad_norm=settings["max_grad_norm"])
    method: Any
    if kind == "sft":
        method = Sft(graph.prompt_interface, reasoner, policy, engine, samples, settings, seed)
    else:
        rollouts = RolloutPipeline(recipe, rubric(recipe))
        rollouts.grounding = graph
        source = source or OwnSampler()
        method = Grpo(rollouts, reasoner, policy, engine, samples, settings, seed, source)
    longest = settings.get("max_completion_length") or recipe.settings("sampling")["max_completion_length"]
    return Assembled(
        method=method, engine=engine, reasoner=reasoner, graph=graph, samples=samples, data=samples.files,
        parameters=sum(count for count, _ in counts), trained=sum(count for count, trains in counts if trains),
        validation=validation(recipe, graph, samples.ids, longest),
    )  # fmt: skip


def training_samples(recipe: Recipe) -> Samples | UmrgSamples:
    """The samples a recipe trains on."""
    data = recipe.settings("data")
    if data["path"] is None:
        raise RecipeError(f"the recipe {recipe.name!r} names no data", hint="add data.path=DIR")
    keys = ("split", "limit", "reader", "leave_out")
    return read_part(data["path"], **{key: data[key] for key in keys})


def _optional(recipe: Recipe, kind: str) -> Any:
    """The component of a kind, or None where the recipe names none."""
    if kind not in recipe.data:
        return None
    name, arguments = recipe.component(kind)
    return registry.build(kind, name, **arguments)


def trained_digest(recipe: Recipe) -> str:
    """What decides a run's numbers: the whole recipe but its trackers and its engine."""
    return recipe.digest(*(key for key in recipe.data if key not in ("trackers", "engine")))


def about(recipe: Recipe, made: Assembled, digest: str) -> dict[str, Any]:
    """What is known of a run before its first step."""
    return {
        "recipe": recipe.name,
        "recipe_sha256": digest,
        "planned_steps": made.method.planned,
        "samples": len(made.samples),
        "data_sha256": _files_digest(made.data),
        "prompt_sha256": provenance.prompt_sha256(made.graph.prompt_interface),
        "processor_sha256": provenance.processor_sha256(made.reasoner),
        "seed": recipe.settings("seed"),
        "checkpoint_rule": checkpoint_rule(recipe),
        "plugins": provenance.plugins(recipe),
        "versions": provenance.versions(),
    }


def _files_digest(files: Sequence[Path]) -> str:
    """SHA-256 of a file; of several, of their digests."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()


def probe(recipe: Any, *overrides: str, steps: int = 2) -> dict[str, Any]:
    """What a run would take, from a few real steps on this device; nothing is written.

    Raises:
        RecipeError: if the recipe cannot be trained.
    """
    resolved = resolve(recipe, *overrides)
    check(resolved, strict_missing=True)
    kind = method_kind(resolved)
    require_for_training(resolved)

    import torch

    from medground.training.loop import State

    made = assemble(resolved, kind)
    state, seconds, metrics = State(), [], {}
    for _ in range(min(steps, made.method.planned)):
        begun = time.perf_counter()
        result = made.method.step(state, lambda: None)
        seconds.append(time.perf_counter() - begun)
        metrics = dict(result.metrics)
        state.step, state.drawn = state.step + 1, state.drawn + result.drawn
        state.tokens += result.tokens
    parameters = list(made.reasoner.policy.parameters())
    cuda = torch.cuda.is_available() and parameters[0].device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else _resident()
    state_bytes = state_of(made)
    made.close()
    made.engine.close()
    return {
        "method": kind,
        "rank": made.engine.rank,
        "samples": len(made.samples),
        "steps": made.method.planned,
        "parameters": made.parameters,
        "parameters_trained": made.trained,
        "tokens_per_step": state.tokens / state.step,
        "tokens": state.tokens / state.step * made.method.planned,
        "seconds_per_step": seconds[-1],
        "seconds": seconds[-1] * made.method.planned,
        "peak_memory_bytes": int(peak),
        "processes": made.engine.world_size,
        "state_bytes": {**asdict(state_bytes), "device": state_bytes.device},
        "device": str(parameters[0].device),
        "last_probe": {
            name: metrics[name] for name in ("reward", "loss", "completions/mean_length") if name in metrics
        },
        "assumptions": [
            f"{len(seconds)} steps of the run itself were done on this device; the last one is taken for all",
            "completions keep the length they have now; validation, checkpoints, overlays and reports are not counted",
            "memory is the peak of the probe" + ("" if cuda else ", of the whole process"),
            "state is arithmetic: weights, gradients and the optimiser's numbers, per process",
        ],
    }


def state_of(made: Assembled) -> Held:
    """What the parameters of a run take in each of its processes, by arithmetic."""
    engine = made.engine
    return held(
        made.parameters,
        made.trained,
        width=next(made.reasoner.policy.parameters()).element_size(),
        ranks=engine.world_size,
        stage=engine.stage,
        offload=engine.offload,
    )


def _resident() -> int:
    """The most memory this process ever held, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
