"""The data that travels: from a question about an image to a scored mask.

Conventions, stated once: images are H x W x 3 uint8 RGB; masks H x W bool; sizes (H, W); points (x, y); boxes XYXY;
coordinates are float pixels of the original image, origin at the top-left corner of the top-left pixel. Only
`Completion` holds numbers of another kind, inside its text, and carries the `Frame` that says which.

Everything here is frozen: data travels, behaviour lives in components.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medground.frames import Frame
from medground.geometry import Box, Point, Size

Image = NDArray[np.uint8]
"""H x W x 3 uint8 RGB."""
Messages = list[dict[str, Any]]
"""Chat turns ``{"role", "content"}``; content is a list of ``{"type": "image", "image": Image}`` and
``{"type": "text", "text": str}`` parts."""
PromptKind = Literal["box", "points", "negative_points"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """One question about one image."""

    image: Image
    """H x W x 3 uint8 RGB."""
    question: str
    """Free text; it need not name what it is about."""
    id: str = ""
    """Names the query in results and logs; never a file path."""

    @property
    def size(self) -> Size:
        """(H, W) of the image."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """The truth about one query, in pixels of its image."""

    box: Box
    """Tight box of the mask."""
    points: tuple[Point, ...]
    """Key points inside the mask; two in the published format."""
    mask: NDArray[np.bool_] | None = None
    """H x W bool, or None where only the box and points are known."""
    published: Mapping[str, Any] | None = None
    """``{"bbox_2d", "point_2d"}`` exactly as a published file states them (inclusive indices). Only terms and metrics
    that reproduce released numbers read it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """A query with its truth."""

    query: Query
    target: Target
    labels: Mapping[str, str] = field(default_factory=dict)
    """Such as modality, category, supercategory, patient."""
    spacing: tuple[float, float] | None = None
    """Millimetres per pixel (along y, along x), where known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a reasoner draws completions."""

    num_generations: int = 1
    """G, completions per query."""
    temperature: float = 1.0
    """0 is greedy."""
    max_completion_length: int = 2048
    """Tokens."""
    seed: int = 0
    """Root of the per-completion seeds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """What a reasoner wrote."""

    text: str
    frame: Frame | None
    """What the numbers in `text` count; every reasoner declares it. None only where text of unknown origin is scored in
    the truth's own pixels: nothing is converted then, and nothing is out of frame."""
    token_ids: NDArray[np.int32] | None = None
    """[T] completion tokens only, the end token included."""
    logprobs: NDArray[np.float32] | None = None
    """[T] log-probabilities under the policy that sampled them."""
    finish_reason: Literal["stop", "length"] = "stop"
    """``length`` where the text ran into the limit on tokens, whoever wrote it."""
    usage: Mapping[str, float] = field(default_factory=dict)
    """What a server says it took: ``prompt_tokens``, ``completion_tokens``, and ``cost`` where the user gave prices.
    Completions of one request share it: the first holds all of it, so sums are right."""
    cause: str = ""
    """One sentence about `fault`, where there is one."""
    fault: "Fault | None" = None
    """Set when no text could be had at all (transport, timeout); never the model's doing."""


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


class Fault(StrEnum):
    """Why an answer could not be used. The list is closed; counts over it sum to the number of failures.

    ``cut_off`` takes the place of what a parser says about a text that ended at the length limit before it was whole.
    """

    CUT_OFF = "cut_off"
    NO_ANSWER = "no_answer"
    TWO_ANSWERS = "two_answers"
    BAD_JSON = "bad_json"
    MISSING_KEYS = "missing_keys"
    BAD_BOX = "bad_box"
    INVERTED_BOX = "inverted_box"
    DEGENERATE_BOX = "degenerate_box"
    BAD_POINTS = "bad_points"
    POINTS_EQUAL = "points_equal"
    OUT_OF_FRAME = "out_of_frame"
    NONFINITE = "nonfinite"
    TOO_LONG = "too_long"
    TRANSPORT = "transport"
    TIMEOUT = "timeout"
    SEGMENTER = "segmenter"
    OUT_OF_MEMORY = "out_of_memory"

    @property
    def of_model(self) -> bool:
        """True when the model's own text is to blame; only then may it count against the model."""
        return self not in (Fault.TRANSPORT, Fault.TIMEOUT, Fault.SEGMENTER, Fault.OUT_OF_MEMORY)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialPrompt:
    """Where to segment, in pixels of the original image: a box, clicks, or both."""

    box: Box | None = None
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    """One per point: 1 foreground, 0 background. Empty means all foreground."""

    def __post_init__(self) -> None:
        if not self.labels:
            object.__setattr__(self, "labels", (1,) * len(self.points))
        if len(self.labels) != len(self.points) or not set(self.labels) <= {0, 1}:
            raise ValueError(f"{len(self.points)} points need as many labels of 0 or 1, not {self.labels}")
        if self.box is None and not self.points:
            raise ValueError("a spatial prompt needs a box, points, or both")

    @property
    def kinds(self) -> frozenset[PromptKind]:
        """What it holds: a subset of box, points, negative_points."""
        held: set[PromptKind] = set()
        if self.box is not None:
            held.add("box")
        if 1 in self.labels:
            held.add("points")
        if 0 in self.labels:
            held.add("negative_points")
        return frozenset(held)

    def only(self, part: Literal["box", "points", "both"]) -> "SpatialPrompt | None":
        """The same prompt with one part only, or None where it lacks that part."""
        if part == "both":
            return self
        if part == "box":
            return None if self.box is None else SpatialPrompt(box=self.box)
        return replace(self, box=None) if self.points else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounding:
    """A completion as its prompt interface understood it."""

    prompt: SpatialPrompt | None
    """What was said, in original pixels; what is usable of it where something is wrong; None when nothing is."""
    fault: Fault | None = None
    """The first thing wrong, or None."""
    think: str | None = None
    """The reasoning text; None where there is no such block, "" where it is empty."""
    think_level: float | None = None
    """How well-formed the reasoning block is, in [0, 1]; None where the interface asked for none."""
    answer_level: float = 0.0
    """How well-formed the answer is, in [0, 1], by the interface's own scale."""
    raw: Mapping[str, Any] | None = None
    """The answer's JSON object as the parser read it, unconverted and unchecked; only terms and metrics that reproduce
    released numbers read it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mask:
    """A segmenter's answer for one prompt."""

    data: NDArray[np.bool_]
    """H x W bool at the original size."""
    score: float
    """The segmenter's own estimate of its IoU; in [0, 1] for a perfect estimator, not clamped."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rollout:
    """All of these for one completion of one sample: what a reward term sees."""

    sample: Sample
    completion: Completion
    grounding: Grounding
    mask: Mask | None = None
    """None where no term needs masks, nothing could be prompted, or the segmenter failed (see `fault`)."""
    fault: Fault | None = None
    """A failure that is not the model's: transport, timeout, segmenter, out of memory. Such a rollout is not scored."""
    cause: str = ""
    """One sentence about `fault`."""


@dataclass(frozen=True, slots=True)
class RewardResult:
    """What one reward term says about one rollout."""

    value: float | None
    """The raw value, within the term's range; None abstains."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Logged, never summed."""


def image_of(messages: Messages) -> Image:
    """The one image of a conversation.

    Raises:
        ValueError: if there is none or more than one.
    """
    found: list[Image] = [part["image"] for turn in messages for part in _parts(turn) if part["type"] == "image"]
    if len(found) != 1:
        raise ValueError(f"a grounding conversation holds exactly one image, not {len(found)}")
    return found[0]


def text_of(messages: Messages) -> str:
    """All text parts of a conversation, in order, joined by newlines."""
    return "\n".join(part["text"] for turn in messages for part in _parts(turn) if part["type"] == "text")


def _parts(turn: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = turn["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
