"""The data that travels: from a question about an image to a scored mask.

Conventions, stated once: images are H x W x 3 uint8 RGB; masks H x W bool; sizes (H, W); points (x, y); boxes XYXY;
coordinates are float pixels of the original image, origin at the top-left corner of the top-left pixel. Only
`Completion` holds numbers of another kind, inside its text, and carries the `Frame` that says which.
"""

import io
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
PromptChoice = StrEnum("PromptChoice", ["both", "box", "points"])
"""Which parts of a region prompt the segmenter."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Query:
    """One question about one image. In a notebook it shows the image.

    >>> Query(image=np.zeros((40, 60, 3), np.uint8), question="Which region is dark?", id="scan-1")
    Query('scan-1', 40 x 60 px, 'Which region is dark?')
    """

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

    def __repr__(self) -> str:
        height, width = self.size
        return f"Query({self.id!r}, {height} x {width} px, {_short(self.question)!r})"

    def _repr_png_(self) -> bytes:
        return _png(self.image)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialPrompt:
    """What a segmenter is given for one region, in pixels of the original image: a box, clicks, or both.

    >>> sorted(SpatialPrompt(box=Box(0, 0, 9, 9), points=(Point(3, 3), Point(8, 8)), labels=(1, 0)).kinds)
    ['box', 'negative_points', 'points']
    """

    box: Box | None = None
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    """One per point: 1 foreground, 0 background. Empty means all foreground."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _point_labels(self.points, self.labels))
        if self.box is None and not self.points:
            raise ValueError("a spatial prompt needs a box, points, or both")

    @property
    def kinds(self) -> frozenset[PromptKind]:
        """The kinds of prompt it consists of: a subset of box, points, negative_points."""
        kinds: set[PromptKind] = set()
        if self.box is not None:
            kinds.add("box")
        if 1 in self.labels:
            kinds.add("points")
        if 0 in self.labels:
            kinds.add("negative_points")
        return frozenset(kinds)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Mask:
    """A mask of one region, or of several together. In a notebook it shows itself, white on black.

    >>> Mask(data=np.eye(3, dtype=bool), score=0.9)
    Mask(3 of 3 x 3 px, score 0.9)
    """

    data: NDArray[np.bool_]
    """H x W bool at the original size."""
    score: float = 1.0
    """The segmenter's own estimate of its IoU; in [0, 1] for a perfect estimator, not clamped. 1 for a truth."""

    def __repr__(self) -> str:
        return f"Mask({int(self.data.sum())} of {' x '.join(map(str, self.data.shape))} px, score {self.score:g})"

    def _repr_png_(self) -> bytes:
        return _png(self.data.astype(np.uint8) * 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One thing pointed at, by an answer or by the truth, in pixels of the original image.

    >>> Region(box=Box(10, 20, 30, 60), points=(Point(15, 30),)).prompt("points")
    SpatialPrompt(box=None, points=(Point(x=15, y=30),), labels=(1,))
    """

    box: Box | None = None
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    """One per point: 1 foreground, 0 background. Empty means all foreground."""
    label: str = ""  # what it is, in words; "" where nobody says
    confidence: float | None = None
    """How sure the answer is of it, in [0, 1]; None where it does not say."""
    mask: Mask | None = None
    """Its own mask; None where there is none, or not yet."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _point_labels(self.points, self.labels))

    def prompt(self, choice: PromptChoice = PromptChoice.both) -> SpatialPrompt | None:
        """Return the prompt for a segmenter, made of the chosen parts; None where the region lacks them."""
        box = None if choice == PromptChoice.points else self.box
        points, labels = ((), ()) if choice == PromptChoice.box else (self.points, self.labels)
        return SpatialPrompt(box=box, points=points, labels=labels) if box is not None or points else None


def union(masks: Sequence[Mask | None]) -> Mask | None:
    """Return the union of masks, scored as its least certain part; None unless there is a mask, and none is missing."""
    known = [mask for mask in masks if mask is not None]
    if not known or len(known) < len(masks):
        return None
    if len(known) == 1:
        return known[0]
    return Mask(data=np.any([mask.data for mask in known], axis=0), score=min(mask.score for mask in known))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """The truth about one query, in pixels of its image.

    >>> Target(regions=(Region(box=Box(0, 0, 2, 2), mask=Mask(data=np.ones((2, 2), bool))),)).mask.sum()
    np.int64(4)
    """

    regions: tuple[Region, ...]
    """What an answer should point at: each with its tight box and key points (two in the published format)."""
    published: Mapping[str, Any] | None = None
    """``{"bbox_2d", "point_2d"}`` as a published file states them (inclusive indices), for released numbers alone."""

    @property
    def region(self) -> Region | None:
        """The region where there is exactly one, else None."""
        return self.regions[0] if len(self.regions) == 1 else None

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """H x W bool, the union of the regions' masks; None unless every region has one."""
        mask = union([region.mask for region in self.regions])
        return None if mask is None else mask.data


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """A query with its truth.

    >>> query = Query(image=np.zeros((40, 60, 3), np.uint8), question="Which region is dark?", id="scan-1")
    >>> sample = Sample(query=query, target=Target(regions=(Region(box=Box(0, 0, 9, 9)),)), labels={"modality": "CT"})
    >>> sample.target.region.box.area
    81
    """

    query: Query
    target: Target
    labels: Mapping[str, str] = field(default_factory=dict)
    """Such as modality, category, supercategory, patient."""
    spacing: tuple[float, float] | None = None
    """Millimetres per pixel (along y, along x), where known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a reasoner draws completions.

    >>> Sampling(num_generations=8).temperature
    1.0
    """

    num_generations: int = 1
    """G, completions per query."""
    temperature: float = 1.0
    """0 is greedy."""
    max_completion_length: int = 2048
    """Tokens."""
    seed: int = 0
    """Root of the per-completion seeds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Completion:
    """What a reasoner wrote.

    >>> Completion(text="<answer>{}</answer>", frame=Frame("permille", (480, 640)))
    Completion('<answer>{}</answer>', permille frame, stop)
    """

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
    """What a server says it took: ``prompt_tokens``, ``completion_tokens``, ``cost``; of one request the first holds all."""
    cause: str = ""
    """One sentence about `fault`, where there is one."""
    fault: "Fault | None" = None
    """Set when no text could be had at all (transport, timeout, unusable input); never the model's doing."""

    def __repr__(self) -> str:
        frame = "no frame" if self.frame is None else f"{self.frame.kind} frame"
        return f"Completion({_short(self.text)!r}, {frame}, {self.fault or self.finish_reason})"


class Fault(StrEnum):
    """Why an answer could not be used. The list is closed; counts over it sum to the number of failures.

    ``cut_off`` takes the place of what a parser says about a text that ended at the length limit before it was whole.

    >>> Fault.BAD_JSON.of_model, Fault.TIMEOUT.of_model
    (True, False)
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
    BAD_CONFIDENCE = "bad_confidence"
    OUT_OF_FRAME = "out_of_frame"
    NONFINITE = "nonfinite"
    TOO_LONG = "too_long"
    TRANSPORT = "transport"
    TIMEOUT = "timeout"
    SEGMENTER = "segmenter"
    OUT_OF_MEMORY = "out_of_memory"
    UNUSABLE_INPUT = "unusable_input"

    @property
    def of_model(self) -> bool:
        """True when the model's own text is to blame; only then may it count against the model."""
        ours = (Fault.TRANSPORT, Fault.TIMEOUT, Fault.SEGMENTER, Fault.OUT_OF_MEMORY, Fault.UNUSABLE_INPUT)
        return self not in ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounding:
    """A completion as its prompt interface understood it.

    >>> Grounding(regions=(Region(box=Box(0, 0, 9, 9)),), think="It is dark.").region.box.area
    81
    >>> print(Grounding(fault=Fault.NO_ANSWER).region)
    None
    """

    regions: tuple[Region, ...] = ()
    """What it points at, in original pixels; what is usable of it where something is wrong."""
    fault: Fault | None = None
    """The first thing wrong, or None."""
    think: str | None = None
    """The reasoning text; None where there is no such block, "" where it is empty."""
    think_level: float | None = None
    """How well-formed the reasoning block is, in [0, 1]; None where none was asked for."""
    answer_level: float = 0.0
    """How well-formed the answer is, in [0, 1], by the interface's own scale."""
    raw: Mapping[str, Any] | None = None
    """The answer's JSON object as the parser read it, unconverted and unchecked, for released numbers alone."""

    @property
    def abstains(self) -> bool:
        """True if it is the answer that nothing fits: no region, and no fault."""
        return not self.regions and self.fault is None

    @property
    def region(self) -> Region | None:
        """The region where there is exactly one, else None; terms that know one region abstain on None."""
        return self.regions[0] if len(self.regions) == 1 else None

    @property
    def mask(self) -> Mask | None:
        """The union of the regions' masks; None without a region, and unless every region has one."""
        return union([region.mask for region in self.regions])

    def with_masks(self, masks: Sequence[Mask | None]) -> "Grounding":
        """Return the same grounding with one mask per region, in order; none at all where `masks` is empty."""
        pairs = zip(self.regions, masks or [None] * len(self.regions), strict=True)
        return replace(self, regions=tuple(replace(region, mask=mask) for region, mask in pairs))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Rollout:
    """All of these for one completion of one sample: what a reward term sees.

    >>> query = Query(image=np.zeros((40, 60, 3), np.uint8), question="Which region is dark?", id="scan-1")
    >>> sample = Sample(query=query, target=Target(regions=(Region(box=Box(0, 0, 9, 9)),)))
    >>> Rollout(sample=sample, completion=Completion(text="", frame=None), grounding=Grounding(fault=Fault.NO_ANSWER))
    Rollout('scan-1', 0 regions, no mask, no_answer)
    """

    sample: Sample
    completion: Completion
    grounding: Grounding
    """What was read of it; its regions hold their masks where a term needs them."""
    fault: Fault | None = None
    """A failure that is not the model's, as of a server or a segmenter. Such a rollout is not scored."""
    cause: str = ""  # one sentence about `fault`

    @property
    def mask(self) -> Mask | None:
        """The union of the regions' masks, empty where the answer is that nothing fits; None where no term needs masks,
        nothing could be prompted, or the segmenter failed (see `fault`)."""
        nothing = self.grounding.abstains
        return Mask(data=np.zeros(self.sample.query.size, bool)) if nothing else self.grounding.mask

    def __repr__(self) -> str:
        fault = self.fault or self.grounding.fault or "no fault"
        return f"Rollout({self.sample.query.id!r}, {len(self.grounding.regions)} regions, {self.mask or 'no mask'}, {fault})"


@dataclass(frozen=True, slots=True)
class RewardResult:
    """What one reward term says about one rollout.

    >>> RewardResult(0.5, {"overlap": 12}).value
    0.5
    """

    value: float | None
    """The raw value, within the term's range; None abstains."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Logged, never summed."""


def image_of(messages: Messages) -> Image:
    """Return the one image of a conversation.

    Raises:
        ValueError: if there is none or more than one.
    """
    images: list[Image] = [part["image"] for turn in messages for part in _parts(turn) if part["type"] == "image"]
    if len(images) != 1:
        raise ValueError(f"a grounding conversation holds exactly one image, not {len(images)}")
    return images[0]


def text_of(messages: Messages) -> str:
    """Return all text parts of a conversation, in order, joined by newlines."""
    return "\n".join(part["text"] for turn in messages for part in _parts(turn) if part["type"] == "text")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _png(array: NDArray[np.uint8]) -> bytes:
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _point_labels(points: tuple[Point, ...], labels: tuple[int, ...]) -> tuple[int, ...]:
    labels = labels or (1,) * len(points)
    if len(labels) != len(points) or not set(labels) <= {0, 1}:
        raise ValueError(f"{len(points)} points need as many labels of 0 or 1, not {labels}")
    return labels


def _parts(turn: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = turn["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
