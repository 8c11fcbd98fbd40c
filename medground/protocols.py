"""The promises of components. A plugin implements these shapes; it need not inherit from them.

Factories take flat keyword arguments with defaults, import heavy libraries inside the constructor, and are registered
through `medground.hookspecs`. `medground.testing` checks each promise.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

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
    Sampling,
    SpatialPrompt,
    Target,
)

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Reasoner(Protocol):
    """Sees an image and a question, answers in text.

    >>> import medground
    >>> reasoner = medground.build("reasoner", "toy")
    >>> isinstance(reasoner, medground.Reasoner), reasoner.frame((480, 640)).kind
    (True, 'pixel')

    Optional:
        dialect: str: its native way of marking regions, for prompt interfaces that ask in it; see docs/prompts.md.
        processor_digest() -> str: SHA-256 over tokenizer, chat template and image settings; runs record it.
        go_on(batch, prefixes, sampling) -> list[list[Completion]]: as `generate`, with the beginning of the completions
            of every conversation given; texts include it. Evaluation puts another reasoning in.
    """

    def frame(self, size: Size) -> Frame:
        """Return the frame its numbers count for an original image of `size` (H, W); known without running the model."""

    def generate(self, batch: Sequence[Messages], sampling: Sampling) -> list[list[Completion]]:
        """Return one inner list per conversation, ``sampling.num_generations`` long, in order.

        Every completion carries the frame its numbers count. A completion depends on its conversation, the seed and
        its index, never on what else is in the batch.
        """


class CompletionGroup(Protocol):
    """Completions as a policy takes them: G of one query, or one of each of G queries."""

    @property
    def mask(self) -> "torch.Tensor":
        """[G, T] bool: generated tokens, the end token included."""

    @property
    def prompt_lengths(self) -> Sequence[int]:
        """Tokens of each prompt that is computed, its image's included: one entry where a group shares it, else G."""

    def part(self, start: int, stop: int) -> "CompletionGroup":
        """Return the completions start to stop as a group of their own, cut to their longest."""


@runtime_checkable
class TrainableReasoner(Reasoner, Protocol):
    """A reasoner whose policy can be updated.

    >>> import medground
    >>> isinstance(medground.build("reasoner", "toy"), medground.TrainableReasoner)
    False

    Optional: ``save_merged(folder)``, as `save`, but one model without an adapter; the reasoner trains no further.
    """

    policy: "torch.nn.Module"
    """``policy(group, temperature)`` gives log-probabilities [G, T] float32 with gradient, 0 past each end, and entropies
    [G, T] without. An engine wraps it alone; parameters that require a gradient train. Optional: ``policy.prompt_once(group)``
    is entered for a group whose prompt is computed once for all its parts, each run backward alone."""

    def generate(
        self, batch: Sequence[Messages], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        """Generate as `Reasoner.generate`; with `seeds`, one per conversation, completion i draws from seed + i."""

    def tokenize(self, text: str) -> list[int]:
        """Return a target text as completion ids with the end token."""

    def group(self, messages: Messages, completions: Sequence[Completion | Sequence[int]]) -> CompletionGroup:
        """Return a conversation and completions of it for the policy: token ids as they were sampled, or as given."""

    def rows(
        self, batch: Sequence[Messages], completions: Sequence[Sequence[int]], *, packed: bool = False
    ) -> CompletionGroup:
        """Return several conversations, with the token ids of one completion each, for the policy.

        Packed ones are computed as one sequence without padding, in which none sees another.

        Raises:
            RecipeError: if its attention cannot keep packed conversations apart.
        """

    def keep_reference(self) -> None:
        """Freeze the current policy as the reference; called before the first update, if at all."""

    def reference(self) -> "AbstractContextManager[torch.nn.Module]":
        """Enter to get the reference policy, called as `policy`."""

    def save(self, folder: Path) -> str:
        """Write the policy as safetensors with its processor, so that transformers (or peft) loads the folder as it is.

        Return the argument of its factory that takes the folder, for example ``"checkpoint"`` or ``"adapter"``.
        """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplerPrompt:
    """A conversation as another sampler than the policy itself is given it."""

    text: str
    """With the chat template applied, and one placeholder where the image goes."""
    image: Image
    """As the model sees it: resized already."""
    ids: NDArray[np.int32]
    """[P] the prompt's tokens as the policy computes them, those of the image included."""
    frame: Frame
    """What the numbers of an answer will count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What another sampler must know of a policy to write in its place."""

    checkpoint: str
    """The folder the policy was loaded from; its weights are replaced by the policy's."""
    dtype: str
    """Such as ``"bfloat16"``."""
    end: frozenset[int]
    """Token ids that end a completion."""
    forbidden: Mapping[int, str]
    """Token ids that are never sampled, and how the tokenizer writes them."""
    vision_trains: bool
    """Whether the vision tower or its projector changes in training."""


@runtime_checkable
class ServedReasoner(TrainableReasoner, Protocol):
    """A trainable reasoner whose completions another program can write in its place: see `RolloutSource`."""

    def serving(self) -> Serving:
        """Return what that program must know once."""

    def sampler_prompts(self, batch: Sequence[Messages]) -> list[SamplerPrompt]:
        """Return what it must know of each conversation."""

    def completion(self, ids: Sequence[int], logprobs: Sequence[float], frame: Frame, *, stopped: bool) -> Completion:
        """Return what it wrote as a completion of this reasoner.

        Args:
            ids: the tokens it sampled, the end token included; their text is read from them.
            logprobs: of each token, under the distribution it was sampled from.
            frame: of the prompt.
            stopped: False if it ran into the length limit.
        """

    def checkpoint_weights(self, weights: "Iterable[tuple[str, torch.Tensor]]") -> "Iterator[tuple[str, torch.Tensor]]":
        """Return what `Engine.named_weights` streams, under the names a checkpoint has, with adapters merged."""


@runtime_checkable
class PromptInterface(Protocol):
    """The language that reasoner and segmenter share: how we ask, and how we read the answer.

    Optional: ``split`` and ``join``, to ask several times per query; see `medground.pipeline.completions.SplittingInterface`.

    >>> import medground
    >>> interface = medground.build("prompt_interface", "bbox")
    >>> answer = medground.Completion(text='<think>a</think><answer>{"bbox": [1, 2, 9, 8]}</answer>', frame=None)
    >>> interface.parse(answer, (10, 10)).region.box
    Box(x1=1.0, y1=2.0, x2=9.0, y2=8.0)
    """

    provides: frozenset[PromptKind]
    """The prompt kinds a well-formed answer holds."""

    def render(self, query: Query) -> Messages:
        """Return the conversation to send: one user turn, image first."""

    def parse(self, completion: Completion, size: Size) -> Grounding:
        """Read the answer and convert it from ``completion.frame`` to pixels of an original of `size` (H, W).

        Whatever the text, it returns a `Grounding`, with a `Fault` where something is wrong, and no region and no fault where
        the answer is that nothing fits. Without a frame the numbers are pixels of the original, and nothing is out of frame.
        """

    def answer(
        self, target: Target, think: str | None = None, *, frame: Frame | None = None, size: Size | None = None
    ) -> str:
        """Return the ideal completion for `target`, as a model whose numbers count `frame` would write it, rounded.

        Without `frame` the numbers are the target's own pixels; with it, `size` is the (H, W) of the original.
        """


@runtime_checkable
class Segmenter(Protocol):
    """A frozen expert: spatial prompts in, masks out.

    >>> import numpy as np
    >>> import medground
    >>> segmenter = medground.build("segmenter", "box_fill")
    >>> segmenter.segment(np.zeros((9, 9, 3), np.uint8), [medground.SpatialPrompt(box=medground.Box(0, 0, 3, 2))])
    [Mask(6 of 9 x 9 px, score 0.5)]
    """

    accepts: frozenset[PromptKind]
    """The prompt kinds it was trained for; a class attribute, so that it is known without loading weights."""

    def segment(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[Mask]:
        """Return one mask per prompt, in order, at the image's size; the image is encoded once for all of them.

        No prompts give an empty list without encoding. Prompts and image are in original pixels.

        Raises:
            SegmenterError: if it cannot answer; the caller counts it against the segmenter, not the model.
        """


@runtime_checkable
class BatchSegmenter(Segmenter, Protocol):
    """A segmenter that does several images together faster than one by one."""

    def segment_batch(self, images: Sequence[Image], prompts: Sequence[Sequence[SpatialPrompt]]) -> list[list[Mask]]:
        """Return what `segment` gives for each image and its prompts, in order."""


@runtime_checkable
class Reward(Protocol):
    """One term: a pure function of a rollout.

    >>> import medground
    >>> term = medground.build("reward", "mask_dice")
    >>> isinstance(term, medground.Reward), term.needs_mask, term.range
    (True, True, (0.0, 1.0))

    Optional: ``batch(rollouts) -> list[RewardResult]``, one each, in order; ``time_limit`` of a batch, s; ``in_process = True``
    for a term that needs a device or keeps state: others that medground does not ship run in a child forked per batch.
    """

    needs_mask: bool
    """True makes training run the segmenter."""
    range: tuple[float, float]  # the smallest and largest value it can give

    def __call__(self, rollout: Rollout) -> RewardResult:
        """Return the raw value for one rollout; a value of None abstains."""


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
