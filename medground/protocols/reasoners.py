"""Who answers: a reasoner, one whose policy trains, and one that another program can write for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from medground.frames import Frame
from medground.geometry import Size
from medground.types import Completion, Image, Messages, Sampling

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
        listen: Callable[[str], None] | None: where `generate` is to give each piece of text while it writes a single
            completion; whoever wants to hear sets it. What it raises ends the generation, and passes on.
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
    """Completions as a policy takes them: G of one query, or one of each of G queries.

    Optional, of a group whose prompt or image is computed with another's, for counts of what that saves:
        whole_prompt_lengths: Sequence[int]: tokens of each prompt, whoever computes them.
        images: int: images that are encoded for it, where that is not one for each of `prompt_lengths`.
    """

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
    [G, T] without. An engine wraps it alone; parameters that require a gradient train. Optional, both
    entered: ``policy.prompt_once(group)`` gives a group whose prompt is computed once for all its parts, each run backward
    alone; ``policy.image_once(groups)`` gives groups whose common image is computed once, each run backward alone."""

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
    """Token ids that are never sampled, and how the tokenizer writes them: "" for those that it does not know."""
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
