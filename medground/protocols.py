"""What every component promises. A plugin implements these shapes; it need not inherit from them.

Factories take flat keyword arguments with defaults, import heavy libraries inside the constructor, and are registered
through `medground.hookspecs`. `medground.testing` checks each promise.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from medground.frames import Frame
from medground.geometry import Size
from medground.types import (
    Completion,
    Grounding,
    Image,
    Mask,
    Messages,
    PromptKind,
    Query,
    RewardResult,
    Rollout,
    SamplerPrompt,
    Sampling,
    Serving,
    SpatialPrompt,
    Target,
)

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Reasoner(Protocol):
    """Sees an image and a question, answers in text."""

    def frame(self, size: Size) -> Frame:
        """The frame its numbers count for an original image of `size` (H, W); known without running the model."""
        ...

    def generate(self, batch: Sequence[Messages], sampling: Sampling) -> list[list[Completion]]:
        """One inner list per conversation, ``sampling.num_generations`` long, in order.

        Every completion carries the frame its numbers count. A completion depends on its conversation, the seed and
        its index, never on what else is in the batch.
        """
        ...


@runtime_checkable
class FingerprintedReasoner(Reasoner, Protocol):
    """A reasoner that can say by what it turns text and images into a model's inputs; runs record it."""

    def processor_digest(self) -> str:
        """SHA-256 over tokenizer, chat template and image settings: equal where they do the same."""
        ...


class CompletionGroup(Protocol):
    """Completions as a policy takes them: G of one query, or one of each of G queries."""

    @property
    def mask(self) -> "torch.Tensor":
        """[G, T] bool: generated tokens, the end token included."""
        ...

    @property
    def prompt_lengths(self) -> Sequence[int]:
        """Tokens of each prompt that is computed, those of its image included: one entry per time that image and prompt
        are computed, so one for a group that shares them and G for one that does not."""
        ...

    def part(self, start: int, stop: int) -> "CompletionGroup":
        """Completions start to stop as a group of their own, cut to their longest."""
        ...


@runtime_checkable
class TrainableReasoner(Reasoner, Protocol):
    """A reasoner whose policy can be updated."""

    policy: "torch.nn.Module"
    """``policy(group, temperature)`` gives log-probabilities [G, T] float32 with gradient, 0 past each end, and entropies
    [G, T] without. The only module an engine wraps; its parameters that require a gradient are trained."""

    def sample(self, batch: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]) -> list[list[Completion]]:
        """As `generate`, with one seed per conversation; completion i draws from the stream of seed + i."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """A target text as completion ids with the end token."""
        ...

    def group(self, messages: Messages, completions: Sequence[Completion | Sequence[int]]) -> CompletionGroup:
        """A conversation and completions of it for the policy: token ids as they were sampled, or as given."""
        ...

    def rows(
        self, batch: Sequence[Messages], completions: Sequence[Sequence[int]], *, packed: bool = False
    ) -> CompletionGroup:
        """Several conversations with the token ids of one completion each, for the policy.

        Args:
            batch: the conversations.
            completions: token ids of one completion for each.
            packed: compute them as one sequence without padding, in which none sees another.

        Raises:
            RecipeError: if its attention cannot keep packed conversations apart.
        """
        ...

    def parameters(self) -> "Iterable[torch.nn.Parameter]":
        """The parameters to train."""
        ...

    def logprobs(
        self, messages: Messages, completions: Sequence[Completion], *, temperature: float = 1.0
    ) -> "torch.Tensor":
        """[G, T] float32 with gradient, T the longest completion; positions past a completion's end are 0."""
        ...

    def keep_reference(self) -> None:
        """Freeze today's policy as the reference; to be called before the first update, if at all."""
        ...

    def reference(self) -> "AbstractContextManager[torch.nn.Module]":
        """Enter to get the reference policy, called as `policy`; inside, `logprobs` answers for it too."""
        ...

    def save(self, folder: Path) -> str:
        """Write the policy as safetensors with its processor, so that transformers (or peft) loads the folder as it is.

        Returns:
            the argument of its factory that takes the folder, such as ``"checkpoint"`` or ``"adapter"``.
        """
        ...


@runtime_checkable
class MergeableReasoner(TrainableReasoner, Protocol):
    """A reasoner that can fold what it trained beside its weights, such as an adapter, into them."""

    def save_merged(self, folder: Path) -> None:
        """As `save`, but one model without an adapter. The reasoner itself is merged too and trains no further."""
        ...


@runtime_checkable
class ServedReasoner(TrainableReasoner, Protocol):
    """A trainable reasoner whose completions another program can write in its place: see `RolloutSource`."""

    def serving(self) -> Serving:
        """What that program must know once."""
        ...

    def sampler_prompts(self, batch: Sequence[Messages]) -> list[SamplerPrompt]:
        """What it must know of each conversation."""
        ...

    def completion(self, ids: Sequence[int], logprobs: Sequence[float], frame: Frame, *, stopped: bool) -> Completion:
        """What it wrote as a completion of this reasoner.

        Args:
            ids: the tokens it sampled, the end token included; authoritative, their text is read from them.
            logprobs: of each, under the distribution it was sampled from.
            frame: of the prompt.
            stopped: False when it ran into the length limit.
        """
        ...

    def checkpoint_weights(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> "Iterator[tuple[str, torch.Tensor]]":
        """What `Engine.named_weights` streams, under the names a checkpoint has, with adapters merged."""
        ...


@runtime_checkable
class ContinuingReasoner(Reasoner, Protocol):
    """A reasoner that can be made to go on from a text, such as a reasoning that is not its own."""

    def go_on(self, batch: Sequence[Messages], prefixes: Sequence[str], sampling: Sampling) -> list[list[Completion]]:
        """As `generate`, with the beginning of every completion given, one per conversation; texts include it."""
        ...


@runtime_checkable
class PromptInterface(Protocol):
    """The language reasoner and segmenter share: how we ask, and how we read the answer."""

    provides: frozenset[PromptKind]
    """The prompt kinds a well-formed answer holds."""

    def render(self, query: Query) -> Messages:
        """The conversation to send: one user turn, image first."""
        ...

    def parse(self, completion: Completion, size: Size) -> Grounding:
        """Read the answer and convert it from ``completion.frame`` to pixels of an original of `size` (H, W).

        Without a frame the numbers are taken as pixels of the original, and nothing is out of frame.

        Total: whatever the text, it returns a `Grounding`, with a `Fault` where something is wrong.
        """
        ...

    def answer(
        self, target: Target, think: str | None = None, *, frame: Frame | None = None, size: Size | None = None
    ) -> str:
        """The ideal completion for `target`, as a model whose numbers count `frame` would write it, rounded.

        Without `frame` the numbers are the target's own pixels; with it, `size` is the (H, W) of the original.
        """
        ...


@runtime_checkable
class Segmenter(Protocol):
    """A frozen expert: spatial prompts in, masks out."""

    accepts: frozenset[PromptKind]
    """The prompt kinds it was trained for; a class attribute, so that it is known without loading weights."""

    def segment(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[Mask]:
        """One mask per prompt, in order, at the image's size; the image is encoded once for all of them.

        No prompts give an empty list without encoding. Prompts and image are in original pixels.

        Raises:
            SegmenterError: if it cannot answer; the caller counts it against the segmenter, not the model.
        """
        ...


@runtime_checkable
class BatchSegmenter(Segmenter, Protocol):
    """A segmenter that does several images together faster than one by one."""

    def segment_batch(self, images: Sequence[Image], prompts: Sequence[Sequence[SpatialPrompt]]) -> list[list[Mask]]:
        """What `segment` gives for each image and its prompts, in order."""
        ...


@runtime_checkable
class Reward(Protocol):
    """One term: a pure function of a rollout."""

    needs_mask: bool
    """True makes the training graph run the segmenter."""
    range: tuple[float, float]
    """The smallest and largest value it can give."""

    def __call__(self, rollout: Rollout) -> RewardResult:
        """The raw value for one rollout; a value of None abstains."""
        ...


@runtime_checkable
class BatchReward(Reward, Protocol):
    """A term that needs all rollouts at once, such as one that runs a model."""

    def batch(self, rollouts: Sequence[Rollout]) -> list[RewardResult]:
        """One result per rollout, in order."""
        ...


class Engine(Protocol):
    """How parameters are held, differentiated and stepped: one process, or many ranks that call the same methods in the
    same order.

    A factory with an argument ``processes`` is started so many times by ``medground train``, with the environment
    variables that torchrun sets.
    """

    rank: int
    """0 writes the run's folder."""
    world_size: int
    even: bool
    """True where ranks must do equally many passes of the policy, forward and backward, and one per step at least."""
    stage: int
    """What ranks share out among them, as ZeRO counts: 0 nothing, 1 the optimiser's state, 2 gradients too, 3 weights too."""
    offload: bool
    """Whether the optimiser's state lies in the memory of the host."""

    def prepare(
        self,
        policy: "torch.nn.Module",
        optimizer: "Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]",
        *,
        max_grad_norm: float,
    ) -> "torch.nn.Module":
        """Take the policy and the optimiser factory; return the module to call. A norm of 0 never clips.

        A policy whose passes use some parameters a varying number of times lists these as ``policy.held``; an engine that
        shards parameters keeps those whole.
        """
        ...

    def backward(self, loss: "torch.Tensor") -> None:
        """Accumulate gradients of this rank's share of a loss that is already divided by the global denominator."""
        ...

    def step(self, learning_rate: float) -> float:
        """Clip, step the optimiser and clear gradients; return their global norm before clipping.

        Where the norm is not finite, nothing but the gradients changes. Without any `backward` before it, the gradient
        is zero, and the optimiser steps with that (an `even` engine is never called so).
        """
        ...

    def discard(self) -> None:
        """Clear gradients without stepping."""
        ...

    def all_reduce(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The sums over all ranks."""
        ...

    def gather(self, mine: Any) -> list[Any]:
        """What each rank gave, by rank, on every rank; anything that can be pickled."""
        ...

    def whole(self) -> "AbstractContextManager[None]":
        """Within, every rank holds all parameters in full and may call the model as often as it likes, without gradient."""
        ...

    def named_weights(self) -> "Iterator[tuple[str, torch.Tensor]]":
        """Full tensors by checkpoint name, in the same order on every rank; each may be gone once the next is asked for."""
        ...

    def save(self, folder: Path) -> None:
        """Write trained parameters and optimiser state, everything needed to continue exactly.

        Called on every rank with the folder that the first has made. Written as `medground.training.engine_state` does, it can be
        continued by another engine and on another number of ranks.
        """
        ...

    def load(self, folder: Path) -> None:
        """Continue from `save`.

        Raises:
            RunError: if what was saved is of another model.
        """
        ...

    def close(self) -> None:
        """Part in peace: every rank has done its work and calls this last."""
        ...


class RolloutSource(Protocol):
    """Who samples completions during training: the trainer's own model, or a faster sampler fed with its weights.

    Called in this order: `begin` once; at the start of every step `sync`, so before the first rollout and after every
    update; then `generate`; `sleep` when a step's completions are drawn; `close` at the end, however it comes.
    """

    def begin(self, reasoner: TrainableReasoner, engine: Engine) -> None:
        """Take note of whose policy it samples for, and of who holds its weights.

        Raises:
            RecipeError: if it cannot stand in for such a reasoner.
        """
        ...

    def generate(self, batch: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]) -> list[list[Completion]]:
        """As `Reasoner.generate`, with one seed per conversation; on several ranks called equally often, perhaps with none."""
        ...

    def sync(self, weights: "Iterator[tuple[str, torch.Tensor]]", version: int) -> None:
        """Take the policy's current weights; later completions come from them.

        Args:
            weights: full tensors by checkpoint name; on several ranks each must take all of them, or none of them any.
            version: of these weights: the number of steps done.
        """
        ...

    def sleep(self) -> None:
        """Lend its device memory to the update, until the next `sync`."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class Tracker(Protocol):
    """Where a run's numbers also go, beside its own events file."""

    def begin(self, folder: Path, step: int) -> None:
        """Called once before the first `log`: the run's folder, and how many steps are done and stay done.

        After an interruption `step` can be less than what was logged: later steps are about to be logged again.
        """
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of one step."""
        ...

    def close(self) -> None:
        """Flush and finish."""
        ...
