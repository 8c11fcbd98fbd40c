"""From answer to masks and score: prompt interface, segmenter, reward term."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

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
    SpatialPrompt,
    Target,
)


@runtime_checkable
class PromptInterface(Protocol):
    """The language that reasoner and segmenter share: how we ask, and how we read the answer.

    Optional:
        split, join: to ask several times per query; see `medground.pipeline.completions.SplittingInterface`.
        among: to choose among the candidates of a query; see `medground.pipeline.proposals.ChoosingInterface`.

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
    """A frozen expert: prompts in, masks out.

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

        No prompts give an empty list without encoding. Prompts and image are in original pixels. A mask holds its
        `instances` where the expert tells them apart, and its `presence` where it judges that. What is not in the image
        has an empty mask with its presence: an answer, never an error, and so is a text that the expert does not know.

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
