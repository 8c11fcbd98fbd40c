"""Which slice of a volume is asked about: named by the user, taken by a rule, or chosen by the reasoner.

    volume -> montage -> completion (reasoner) -> slice

The reasoner is asked like any other question about an image: the montage is the image, and the answer's region is the tile of
the slice. Its completion is a stage of its own, with its own key in the `StageCache`.
"""

import hashlib
import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medground.errors import UsageError
from medground.frames import Frame
from medground.geometry import Size
from medground.images.montage import Montage, montage
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
_TEXT = """The image shows {shown} of the {count} {plane} slices of one volume, in {rows} rows of {columns} tiles. \
Above each tile stands the number of its slice; row by row they are: {numbers}. Slices between them exist, too.
Choose the slice that shows best what the question is about.
Question: {question}

Output format
Write one <answer></answer> block and nothing after it. It holds a JSON object with a single key:
- "{key}": the number of the slice, from 0 to {last}, or null if no slice shows it.

Example output
<answer>{{"{key}": N}}</answer>"""


class WhichSlice:
    """The prompt interface that asks which slice of a volume shows what a question is about.

    The region of an answer is the tile of the slice, with the slice's number as its label; a slice between two tiles has the
    nearer one.

    Args:
        shown: the slices that are shown; an instance asks about this volume alone.
    """

    def __init__(self, shown: Montage) -> None:
        self.shown = shown
        self.provides: frozenset[PromptKind] = frozenset({"box"})

    def render(self, query: Query) -> Messages:
        """Return one user turn: the montage, then the question."""
        shown = self.shown
        text = _TEXT.format(
            shown=len(shown.slices), count=shown.count, plane=shown.plane, rows=shown.rows, columns=shown.columns,
            numbers=", ".join(map(str, shown.slices)), question=query.question, key=KEY, last=shown.count - 1,
        )  # fmt: skip
        return [{"role": "user", "content": [{"type": "image", "image": query.image}, {"type": "text", "text": text}]}]

    def parse(self, completion: Completion, size: Size) -> Grounding:
        """Return the tile of the slice that an answer names, or none where it is null. Text that cannot be read is a fault."""
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
        if not 0 <= number < self.shown.count:
            return Grounding(fault=Fault.OUT_OF_FRAME, think=think)
        return Grounding(
            regions=(Region(box=self.shown.box(number), label=str(number)),), think=think, answer_level=1.0
        )

    def answer(
        self, target: Target, think: str | None = None, *, frame: Frame | None = None, size: Size | None = None
    ) -> str:
        """Return the ideal completion: the number that the one region of `target` has as its label, or null without one."""
        number = "null" if target.region is None else str(int(target.region.label))
        thoughts = "" if think is None else f"<think>{think}</think>"
        return f'{thoughts}<answer>{{"{KEY}": {number}}}</answer>'


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SliceChoice:
    """The slice that is asked about, and how it came about."""

    plane: str
    index: int | None
    """From 0, in voxels; None where the reasoner chose none."""
    rule: str
    """``given``, ``middle``, ``largest`` or ``ask``."""
    query: Query | None = None
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
        if truth is None or not truth.any():
            raise UsageError("slice=largest is of a data set, whose truth says where", hint="--slice N, middle or ask")
        return SliceChoice(plane=plane, index=largest_slice(truth, volume.placement(plane, 0).axis), rule=rule)
    return _ask(pipeline, volume, question, plane, window)


def largest_slice(truth: NDArray[np.bool_], axis: int) -> int:
    """Return the slice across a voxel axis that holds most of a mask ``[i, j, k]``; of several the first."""
    return int(truth.sum(axis=tuple(other for other in range(3) if other != axis)).argmax())


def _ask(pipeline: Pipeline, volume: Volume, question: str, plane: str, window: str | None) -> SliceChoice:
    shown = montage(volume, plane, window=window)
    asking = slice_pipeline(pipeline, shown)
    query = Query(image=shown.image, question=question, id=f"{volume.id}_{plane}_montage")
    [[completion]] = asking.completions([query], replace(pipeline.sampling, num_generations=1))
    pipeline.reuse(asking)  # a reasoner that was built for the first exchange answers the second
    grounding = asking.ground(query, completion)
    index = None if grounding.region is None else int(grounding.region.label)
    return SliceChoice(
        plane=plane, index=index, rule=SliceRule.ask, query=query, completion=completion,
        grounding=grounding, fault=completion.fault or grounding.fault, cause=completion.cause,
    )  # fmt: skip


def slice_pipeline(pipeline: Pipeline, shown: Montage) -> Pipeline:
    """Return the pipeline of the first exchange: the same reasoner, asked which of the slices shown."""
    interface: Deferred[PromptInterface] = Deferred("which_slice", _DIGEST, lambda: WhichSlice(shown))
    asking = Pipeline(
        pipeline.components.get("reasoner"), interface, sampling=pipeline.sampling, cache=pipeline.cache,
        recipe=pipeline.recipe,
    )  # fmt: skip
    asking.reuse(pipeline)
    return asking


_DIGEST = hashlib.sha256(_TEXT.encode()).hexdigest()
"""Stands for the wording in the key of the first exchange; the montage itself is the image of that key."""
