"""``medground train --dry-run``: what a run would take, from a few real steps on this device."""

import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from medground.training.build import TrainingRun, build
from medground.training.memory import StateBytes, state_bytes
from medground.training.method import TrainingState
from medground.training.plan import Kind, TrainingPlan, method_kind
from medground.training.sharing import shared_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run would take."""

    method: Kind
    rank: int
    samples: int
    steps: int
    parameters: int
    parameters_trained: int
    tokens_per_step: float
    tokens: float
    seconds_per_step: float
    seconds: float
    peak_memory_bytes: int | None
    """None where the operating system does not tell."""
    processes: int
    state_bytes: StateBytes
    device: str
    last_probe: dict[str, float]
    """Some metrics of the last step."""
    shared: list[str]
    """What sharing prompts and images saves in an update."""
    assumptions: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON-ready values."""
        estimate = asdict(self)
        estimate["state_bytes"]["device"] = self.state_bytes.device
        return estimate


def probe(plan: TrainingPlan, *, steps: int = 2) -> Estimate:
    """Do a few steps of a run and estimate the rest; write nothing.

    Args:
        plan: checked by `medground.training.plan.require_for_training`.
        steps: to be done, at most those of the run.

    Raises:
        RecipeError: if the recipe cannot be trained.
    """
    training = build(plan.recipe)
    state, seconds, probed = TrainingState(), 0.0, []
    count = min(steps, training.method.planned)
    for _ in range(count):
        started = time.perf_counter()
        result = training.method.step(state, lambda: None)
        seconds = time.perf_counter() - started
        state.advance(result)
        probed.append(result.metrics)
    device = next(training.reasoner.policy.parameters()).device
    cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else _resident()
    sizes = state_of(training)
    training.method.close()
    training.engine.shutdown()
    planned = training.method.planned
    return Estimate(
        method=method_kind(plan.recipe),
        rank=training.engine.rank,
        samples=len(training.samples),
        steps=planned,
        parameters=training.parameters,
        parameters_trained=training.trained_parameters,
        tokens_per_step=state.tokens / state.step,
        tokens=state.tokens / state.step * planned,
        seconds_per_step=seconds,
        seconds=seconds * planned,
        peak_memory_bytes=peak,
        processes=training.engine.world_size,
        state_bytes=sizes,
        device=str(device),
        last_probe={
            name: result.metrics[name]
            for name in ("reward", "loss", "completions/mean_length")
            if name in result.metrics
        },
        shared=shared_words(probed),
        assumptions=[
            f"{count} steps of the run itself were done on this device; the last one is taken for all",
            "completions keep the length they have now; validation, checkpoints, overlays and reports are not counted",
            "memory is the peak of the probe" + ("" if cuda else ", of the whole process"),
            "state is arithmetic: weights, gradients and the optimizer's numbers, per process",
            *_passes(plan, training),
        ],
    )


def _passes(plan: TrainingPlan, training: TrainingRun) -> list[str]:
    """Return how a group is computed, where less memory is to be had."""
    if method_kind(plan.recipe) != "grpo" or not hasattr(training.reasoner.policy, "prompt_once"):
        return []
    if training.engine.lockstep:
        return [
            "ranks compute a prompt in every micro-batch: a smaller grpo.micro_batch_size takes less memory and longer"
        ]
    config = plan.recipe.config.grpo
    size = config.micro_batch_size or config.num_generations
    return [
        f"a prompt is computed once, {size} of {config.num_generations} completions run backward together: "
        "a smaller grpo.micro_batch_size takes less memory for the same computation"
    ]


def state_of(training: TrainingRun) -> StateBytes:
    """Return what the parameters of a run take in each of its processes, by arithmetic."""
    engine = training.engine
    return state_bytes(
        training.parameters,
        training.trained_parameters,
        width=next(training.reasoner.policy.parameters()).element_size(),
        ranks=engine.world_size,
        zero_stage=engine.zero_stage,
        offload=engine.offload,
    )


def _resident() -> int | None:
    """Return the most memory this process ever held, bytes; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
