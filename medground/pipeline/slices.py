"""Which slice of a volume is asked about: named by the user, taken by a rule, or chosen by the reasoner.

    volume -> montage -> completion (reasoner) -> slice

The reasoner is asked like any other question about an image: the montage is the image, the slices are the candidates, and the
answer's region is the tile of the slice. Its completion is a stage of its own, with its own key in the `StageCache`.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medground.errors import UsageError
from medground.frames import Frame
from medground.geometry import Size
from medground.images.montage import TILES, montage
from medground.images.volume import Volume
from medground.pipeline.components import Deferred
from medground.pipeline.pipeline import Pipeline
from medground.protocols import PromptInterface
from medground.recipe.schema import SliceRule
from medground.types import Completion, Fault, Grounding, Messages, PromptKind, Query, Region, Target

KEY = "slice"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)
_OBJECT = re.compile(rf"""\s*\{{\s*(["']){KEY}\1\s*:\s*(null|-?\d{{1,9}})\s*\}}\s*""")
_TEXT = """{layout}
Choose the slice that shows best what the question is about.
Question: {question}

Output format
Write one <answer></answer> block and nothing after it. It holds a JSON object with a single key:
- "{key}": the number of the slice, from 0 to {last}, or null if no slice shows it.

Example output
<answer>{{"{key}": N}}</answer>"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SliceQuery(Query):
    """Which slice of a volume shows what a question is about.

    The image is the montage. A candidate is a slice of the plane, shown or not: the tile nearest to it, labelled with its
    number, from 0.
    """

    layout: str
    """What the image shows, in words."""


def slice_query(
    volume: Volume, question: str, plane: str, *, window: str | None = None, tiles: int = TILES, id: str = ""
) -> SliceQuery:
    """Return the first exchange about a volume; arguments and errors are those of `montage`."""
    shown = montage(volume, plane, window=window, tiles=tiles)
    return SliceQuery(image=shown.image, question=question, id=id, candidates=shown.regions, layout=shown.layout)


class WhichSlice:
    """The prompt interface that asks a `SliceQuery`; a `medground.pipeline.proposals.ChoosingInterface`.

    Args:
        slices: the candidates that it reads answers about, see `among`.
    """

    provides: frozenset[PromptKind] = frozenset({"box"})

    def __init__(self, slices: Sequence[Region] = ()) -> None:
        self.slices = tuple(slices)

    def among(self, candidates: Sequence[Region]) -> "WhichSlice":
        """Return the interface that reads and writes answers about these slices, numbered from 0."""
        return WhichSlice(candidates)

    def render(self, query: Query) -> Messages:
        """Return one user turn: the montage, then the question."""
        assert isinstance(query, SliceQuery), "no other query shows slices"
        last = len(query.candidates or ()) - 1
        text = _TEXT.format(layout=query.layout, question=query.question, key=KEY, last=last)
        return [{"role": "user", "content": [{"type": "image", "image": query.image}, {"type": "text", "text": text}]}]

    def parse(self, completion: Completion, size: Size) -> Grounding:
        """Return the slice that an answer names, or none where it is null. Text that cannot be read is a fault."""
        thoughts = _THINK.search(completion.text)
        think = thoughts[1].strip() if thoughts else None
        blocks = _ANSWER.findall(_THINK.sub("", completion.text))
        if len(blocks) != 1:
            return Grounding(fault=Fault.TWO_ANSWERS if blocks else Fault.NO_ANSWER, think=think)
        if (match := _OBJECT.fullmatch(blocks[0])) is None:
            return Grounding(fault=Fault.BAD_JSON, think=think)
        if match[2] == "null":
            return Grounding(think=think, answer_level=1.0)
        number = int(match[2])
        if not 0 <= number < len(self.slices):
            return Grounding(fault=Fault.BAD_CHOICE, think=think)
        return Grounding(regions=(self.slices[number],), think=think, answer_level=1.0)

    def answer(
        self, target: Target, think: str | None = None, *, frame: Frame | None = None, size: Size | None = None
    ) -> str:
        """Return the ideal completion: the number that the one region of `target` has as its label, or null without one."""
        number = "null" if target.region is None else str(int(target.region.label))
        thoughts = "" if think is None else f"<think>{think}</think>"
        return f'{thoughts}<answer>{{"{KEY}": {number}}}</answer>'


@dataclass(frozen=True, slots=True, eq=False)
class SliceTruth:
    """How much of a target the slices of a plane hold."""

    areas: NDArray[np.int64]
    """Voxels of the target by slice."""
    step: float
    """Millimetres from one slice to the next."""

    @classmethod
    def of(cls, volume: Volume, plane: str, truth: NDArray[np.bool_]) -> "SliceTruth":
        """Return it of a mask of a volume, bool ``[i, j, k]``."""
        axis = volume.placement(plane, 0).axis
        across = tuple(other for other in range(3) if other != axis)
        return cls(truth.sum(axis=across), volume.spacing[axis])

    @property
    def largest(self) -> int | None:
        """The slice that holds most of the target, of several the first; None where there is no target."""
        return int(self.areas.argmax()) if self.areas.any() else None

    def shows(self, index: int) -> bool:
        """Return True if a slice holds some of the target."""
        return bool(self.areas[index])

    def distances(self, index: int | None) -> dict[str, float] | None:
        """Return how far a slice lies from the target, mm; None without a slice or without a target.

        ``slice_error_mm`` is the distance to the slice that holds most of the target, ``slice_off_mm`` to the nearest one
        that holds some: 0 where the slice shows it.
        """
        if index is None or self.largest is None:
            return None
        nearest = np.abs(np.flatnonzero(self.areas) - index).min()
        return {
            "slice_error_mm": abs(self.largest - index) * self.step,
            "slice_off_mm": float(nearest) * self.step,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SliceChoice:
    """The slice that is asked about, and how it came about."""

    plane: str
    index: int | None
    """From 0, in voxels; None where the reasoner chose none."""
    rule: str
    """``given``, ``middle``, ``largest`` or ``ask``."""
    query: SliceQuery | None = None
    """The first exchange, where the reasoner was asked: the montage and the question."""
    completion: Completion | None = None
    """What it wrote then."""
    grounding: Grounding | None = None
    """The tile it chose."""
    fault: Fault | None = None
    """Why there is no slice, unless the answer is that none shows it."""
    cause: str = ""


def choose_slice(
    pipeline: Pipeline,
    volume: Volume,
    question: str,
    rule: SliceRule | int,
    *,
    plane: str | None = None,
    window: str | None = None,
    tiles: int = TILES,
    truth: NDArray[np.bool_] | None = None,
) -> SliceChoice:
    """Return the slice of a volume that a question is to be asked about.

    Args:
        pipeline: whose reasoner is asked, with its sampling and its cache.
        volume: whose slice.
        question: what is asked.
        rule: the slice's number, or what chooses it.
        plane: None takes the plane that is stored slice by slice.
        window: as `Volume.slice`.
        tiles: for ``ask``, how many slices are shown at most.
        truth: bool ``[i, j, k]``, for ``largest``.

    Raises:
        UsageError: for ``largest`` without truth.
        ViewError: for a plane, a slice or a window that is not there.
        InputError: if the file is damaged or was changed.
    """
    plane = plane or volume.plane
    count = volume.count(plane)
    if isinstance(rule, int):
        volume.placement(plane, rule)  # refuses a slice that is not there
        return SliceChoice(plane=plane, index=rule, rule="given")
    if rule == SliceRule.middle:
        return SliceChoice(plane=plane, index=count // 2, rule=rule)
    if rule == SliceRule.largest:
        index = None if truth is None else SliceTruth.of(volume, plane, truth).largest
        if index is None:
            raise UsageError("slice=largest is of a data set, whose truth says where", hint="--slice N, middle or ask")
        return SliceChoice(plane=plane, index=index, rule=rule)
    query = slice_query(volume, question, plane, window=window, tiles=tiles, id=f"{volume.id}_{plane}_montage")
    return _ask(pipeline, query, plane)


def _ask(pipeline: Pipeline, query: SliceQuery, plane: str) -> SliceChoice:
    asking = slice_pipeline(pipeline)
    [[completion]] = asking.completions([query], replace(pipeline.sampling, num_generations=1))
    pipeline.reuse(asking)  # a reasoner that was built for the first exchange answers the second
    grounding = asking.ground(query, completion)
    return SliceChoice(
        plane=plane, index=slice_of(grounding), rule=SliceRule.ask, query=query, completion=completion,
        grounding=grounding, fault=completion.fault or grounding.fault, cause=completion.cause,
    )  # fmt: skip


def slice_of(grounding: Grounding) -> int | None:
    """Return the slice that an answer to a `SliceQuery` names, from 0; None where it names none."""
    return None if grounding.region is None else int(grounding.region.label)


def slice_pipeline(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline of the first exchange: the same reasoner, asked which slice it is."""
    interface: Deferred[PromptInterface] = Deferred("which_slice", _DIGEST, WhichSlice)
    asking = Pipeline(
        pipeline.components.get("reasoner"), interface, sampling=pipeline.sampling, cache=pipeline.cache,
        recipe=pipeline.recipe,
    )  # fmt: skip
    asking.reuse(pipeline)
    return asking


_DIGEST = hashlib.sha256(_TEXT.encode()).hexdigest()
"""Stands for the wording in the key of the first exchange; the montage itself is the image of that key."""
