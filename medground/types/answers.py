"""What a reasoner wrote, what was read of it, and what that is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medground.frames import Frame
from medground.types.regions import Mask, Region, union
from medground.types.samples import Sample, shortened


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
        return f"Completion({shortened(self.text)!r}, {frame}, {self.fault or self.finish_reason})"


class Fault(StrEnum):
    """Why an answer could not be used. The list is closed; counts over it sum to the number of failures.

    ``cut_off`` takes the place of what a parser says about a text that ended at the length limit before it was whole.
    ``no_prompt``: a region lacks what the recipe prompts the segmenter with, such as a label.

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
    BAD_CHOICE = "bad_choice"
    OUT_OF_FRAME = "out_of_frame"
    NONFINITE = "nonfinite"
    TOO_LONG = "too_long"
    NO_PROMPT = "no_prompt"
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

    >>> from medground.geometry import Box
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

    >>> from medground.geometry import Box
    >>> from medground.types import Query, Target
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
    """Why there is no text or no mask. One whose fault is not the model's, as of a server or a segmenter, is not scored."""
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
