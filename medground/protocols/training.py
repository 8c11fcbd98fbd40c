"""What a training run is made of: engine, rollout source, tracker."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from medground.protocols.reasoners import TrainableReasoner
from medground.types import Completion, Messages, Sampling

if TYPE_CHECKING:
    import torch


class Engine(Protocol):
    """Owns, differentiates and steps the parameters, in one process or on many ranks that make the same calls.

    >>> import medground
    >>> medground.build("engine", "local").world_size
    1

    ``medground train`` starts a factory with an argument ``processes`` so many times, as torchrun does.
    """

    rank: int
    """0 writes the run's folder."""
    world_size: int
    lockstep: bool
    """True if ranks must do equally many passes of the policy, forward and backward, and at least one per step."""
    zero_stage: int
    """What ranks shard, as ZeRO counts: 0 nothing, 1 the optimizer's state, 2 gradients too, 3 weights too."""
    offload: bool
    """True if the optimizer's state is in the memory of the host."""

    def prepare(
        self,
        policy: "torch.nn.Module",
        optimizer: "Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]",
        *,
        max_grad_norm: float,
    ) -> "torch.nn.Module":
        """Take the policy and the optimizer factory; return the module to call. A norm of 0 never clips.

        A policy whose passes use some parameters a varying number of times lists these as ``policy.unsharded``; an
        engine that shards parameters does not shard those.
        """

    def backward(self, loss: "torch.Tensor") -> None:
        """Accumulate gradients of this rank's share of a loss that is already divided by the global denominator."""

    def step(self, learning_rate: float) -> float:
        """Clip, step the optimizer and clear gradients; return their global norm before clipping.

        Where the norm is not finite, nothing but the gradients changes. Without any `backward` before it, the gradient
        is zero, and the optimizer steps with that (a `lockstep` engine is never called so).
        """

    def discard(self) -> None:
        """Clear gradients without stepping."""

    def all_reduce(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the sums over all ranks."""

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, by rank, on every rank; anything that can be pickled."""

    def full_parameters(self) -> "AbstractContextManager[None]":
        """Enter to gather all parameters on every rank; each may then call the model any number of times, without gradient."""

    def named_weights(self) -> "Iterator[tuple[str, torch.Tensor]]":
        """Return the full tensors by checkpoint name, in one order on every rank; each is valid until the next."""

    def save(self, folder: Path) -> None:
        """Write trained parameters and optimizer state, everything needed to continue exactly.

        Called on every rank with the folder that the first has made. Written as `medground.training.engine_state` does, it
        can be continued by another engine and on another number of ranks.
        """

    def load(self, folder: Path) -> None:
        """Continue from `save`.

        Raises:
            RunError: if what was saved is of another model.
        """

    def shutdown(self) -> None:
        """Shut down the process group. Called last, on every rank."""


class RolloutSource(Protocol):
    """Who samples completions during training: the trainer's own model, or a faster sampler fed with its weights.

    Called in this order: `begin` once; at the start of every step `sync`, so before the first rollout and after every
    update; then `generate`; `sleep` when a step's completions are drawn; `close` at the end, however it comes.

    >>> import medground
    >>> type(medground.build("rollout", "hf")).__name__
    'OwnSampler'
    """

    def begin(self, reasoner: TrainableReasoner, engine: Engine) -> None:
        """Take note of whose policy it samples for, and of who holds its weights.

        Raises:
            RecipeError: if it cannot stand in for such a reasoner.
        """

    def generate(self, batch: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]) -> list[list[Completion]]:
        """Generate with one seed per conversation; on several ranks called equally often, perhaps with no conversation."""

    def sync(self, weights: "Iterator[tuple[str, torch.Tensor]]", version: int) -> None:
        """Take the policy's current weights; later completions come from them.

        Args:
            weights: full tensors by checkpoint name; on several ranks each must take all of them, or none of them any.
            version: of these weights: the number of steps done.
        """

    def sleep(self) -> None:
        """Lend its device memory to the update, until the next `sync`."""

    def close(self) -> None:
        """Free what it holds."""


class Tracker(Protocol):
    """Where a run's numbers also go, beside its own events file.

    >>> class Printed:
    ...     def begin(self, folder, step): print(folder.name, step)
    ...     def log(self, step, metrics): print(step, metrics)
    ...     def close(self): print("done")
    """

    def begin(self, folder: Path, step: int) -> None:
        """Start, with the run's folder and the number of steps that are done for good; later ones may be logged again."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one step."""

    def close(self) -> None:
        """Flush and finish."""
