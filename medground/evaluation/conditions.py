"""Conditions: what an evaluation changes on the way from a question to a mask.

A condition changes one thing and leaves the rest. `answer` changes nothing. Ceilings replace the answer by the truth, or the
segmenter by one that knows it; baselines replace the answer by one that never saw the image; probes change the image, the
question or the reasoning and leave the truth: an answer that does not move did not need what was changed.

Whatever the reasoner was shown, its prompt is brought back to the sample's own pixels, the segmenter sees the sample's own
image, and the metrics are those of the sample.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from PIL import Image as Pillow

from medground.errors import RecipeError, did_you_mean
from medground.geometry import Box, Point, Size, in_mask
from medground.types import ChosenKind, Image, Mask, Query, Region, Sample, SpatialPrompt, boxes_of

Kind = Literal["answer", "ceiling", "baseline", "probe"]
Regions = tuple[Region, ...]
MIDDLE = (0.25, 0.25, 0.75, 0.75)
"""The middle half of each side, in fractions."""
IRRELEVANT = "Which day of the week comes after Monday?"
WORDINGS = (
    "Please look at the whole picture before you answer. {question}",
    "A colleague asks about this picture: {question}",
    "{question} Answer from what can be seen in the picture.",
    "Here is a question about the picture in front of you. {question}",
)
"""Paraphrases that need no model: the same question in another sentence. A sample's label ``paraphrase`` goes before them."""


@dataclass(frozen=True, slots=True)
class SampleInfo:
    """What conditions need to know of the other samples."""

    id: str
    cluster: str
    category: str
    unit_box: tuple[float, float, float, float] | None
    """The true box, or that around all true boxes, in fractions of the image's sides; None of an absent target."""


@dataclass(frozen=True, kw_only=True)
class EvalContext:
    """The samples of an evaluation, for conditions that look at others."""

    seed: int
    samples: Sequence[SampleInfo] = ()
    read: Callable[[int], Sample] | None = None
    """Gives the sample at an index."""

    @cached_property
    def positions(self) -> dict[str, int]:
        """Sample id -> its index."""
        return {info.id: index for index, info in enumerate(self.samples)}

    def other_sample(self, sample: Sample) -> int:
        """Return the index of the next sample of another cluster, going round; its own where there is none."""
        own = self.positions[sample.query.id]
        count = len(self.samples)
        others = (index % count for index in range(own + 1, own + count))
        return next((index for index in others if self.samples[index].cluster != self.samples[own].cluster), own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One way from a question to a mask.

    At most one of `query`, `regions`, `think` and `perfect_segmenter` departs from the default.
    """

    name: str
    kind: Kind
    description: str
    """What it changes, for reports."""
    query: Callable[[Sample, EvalContext], Query] | None = None
    """What the reasoner is shown in place of the sample's own query."""
    restore: Callable[[Region, Size], Region] | None = None
    """From the pixels of what was shown to those of the sample, of size (H, W)."""
    regions: Callable[[Sample, EvalContext], Regions] | None = None
    """The regions themselves; the reasoner is not asked. None means that nothing fits where the target is absent, and no
    answer where the sample lacks what the condition gives."""
    prompt: tuple[ChosenKind, ...] = (ChosenKind.box,)
    """What of `regions` prompts the segmenter."""
    think: Literal["removed", "shuffled"] | None = None
    """What the reasoner goes on from, in place of its own reasoning."""
    perfect_segmenter: bool = False
    """Whether the mask is the best that the answer's prompt allows."""
    needs_others: bool = False

    @property
    def starts_from_answers(self) -> bool:
        """Whether it starts from the answers of the condition ``answer``."""
        return self.perfect_segmenter or self.think is not None


def conditions_of(names: Sequence[str] | None) -> list[Condition]:
    """Return the conditions of a recipe's ``evaluate.conditions``; None means the answers alone.

    Raises:
        RecipeError: if one is unknown, or one that starts from the answers comes without or before them.
    """
    if names is None:
        return [CONDITIONS["answer"]]
    if not names:
        raise RecipeError("evaluate.conditions is empty", hint=f"write evaluate.conditions=[{', '.join(CONDITIONS)}]")
    conditions = [_condition(name) for name in names]
    if len(set(names)) < len(names):
        raise RecipeError("evaluate.conditions names a condition twice", hint="remove one of them")
    for index, condition in enumerate(conditions):
        if condition.starts_from_answers and "answer" not in names[:index]:
            raise RecipeError(f"the condition {condition.name!r} starts from the answers", hint="put answer before it")
    return conditions


def _condition(name: str) -> Condition:
    if jitter := re.fullmatch(r"jitter_(\d{1,2})", name):
        percent = int(jitter[1])
        if 0 < percent < 50:
            return Condition(
                name=name,
                kind="ceiling",
                description=f"the true box, every edge moved by up to {percent} % of its side, either way",
                regions=_Jitter(percent / 100, name),
            )
        raise RecipeError(f"the condition {name!r} moves edges by {percent} %", hint="write jitter_1 to jitter_49")
    if name in WORDED:
        return _worded(WORDED.index(name))
    if name not in CONDITIONS:
        raise RecipeError(f"evaluate.conditions names {name!r}", hint=did_you_mean(name, [*CONDITIONS, "jitter_10"]))
    return CONDITIONS[name]


def wordings_of(count: int | None, conditions: Sequence[Condition]) -> list[Condition]:
    """Return the conditions that ask in other wordings, for ``evaluate.paraphrases``; the question's own wording is the first.

    Raises:
        RecipeError: if the answers to the question's own wording are not among the conditions.
    """
    if count is None:
        return []
    names = [condition.name for condition in conditions]
    if "answer" not in names:
        raise RecipeError("evaluate.paraphrases compares with the answers", hint="add answer to evaluate.conditions")
    return [_worded(index) for index, name in enumerate(WORDED[: count - 1]) if name not in names]


WORDED = tuple(f"wording_{number}" for number in range(2, len(WORDINGS) + 2))
"""The conditions that ask in other wordings."""


def _worded(index: int) -> Condition:
    def asked(sample: Sample, context: EvalContext) -> Query:
        question = sample.query.question
        wordings = [wording.format(question=question) for wording in WORDINGS]
        own = [sample.labels["paraphrase"]] if "paraphrase" in sample.labels else []
        return replace(sample.query, question=[*own, *wordings][index])

    return Condition(
        name=WORDED[index],
        kind="probe",
        description=f"the question in its wording {index + 2}: the sample's own paraphrase, where it has one, is the second",
        query=asked,
    )


@dataclass(frozen=True, slots=True)
class _Jitter:
    share: float
    name: str

    def __call__(self, sample: Sample, context: EvalContext) -> Regions:
        rng = np.random.default_rng([context.seed, *f"{self.name}|{sample.query.id}".encode(errors="surrogatepass")])
        moved = []
        for box in boxes_of(sample.target.regions):
            moves = rng.uniform(-self.share, self.share, 4) * (box.width, box.height, box.width, box.height)
            moved.append(Region(box=Box(*(np.array(box) + moves)).clip(sample.query.size)))
        return tuple(moved)


def perfect_mask(prompt: SpatialPrompt, truth: Any) -> Mask:
    """Return the best mask of one target that a prompt allows.

    It is the target inside the box; without a box the target if a point falls on it; without either, where the prompt says
    what to look for, the target.

    Args:
        prompt: in pixels of the truth.
        truth: the true mask, H x W bool.
    """
    mask = np.asarray(truth, bool)
    if prompt.box is None and not prompt.points:
        return Mask(data=mask, score=1.0)
    if prompt.box is None:
        positive = [point for point, label in zip(prompt.points, prompt.labels, strict=True) if label]
        hit = bool(positive) and bool(np.any(in_mask(positive, mask)))
        return Mask(data=mask if hit else np.zeros_like(mask), score=1.0)
    height, width = mask.shape
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    box = prompt.box
    inside = ((y >= box.y1) & (y <= box.y2))[:, None] & ((x >= box.x1) & (x <= box.x2))
    return Mask(data=mask & inside, score=1.0)


def _truth(sample: Sample, context: EvalContext, *, box: bool = False, points: bool = False) -> Regions:
    """Return the true regions with their labels, and boxes or points where wanted; without those that have neither then."""
    regions = [
        Region(box=one.box if box else None, points=one.points if points else (), label=one.label)
        for one in sample.target.regions
    ]
    return tuple(region for region in regions if region.box or region.points or not (box or points))


def _unit_box(sample: Sample, context: EvalContext, *, box: Sequence[float]) -> Regions:
    """Return a box that is given in fractions of the image's sides."""
    height, width = sample.query.size
    return (Region(box=Box(box[0] * width, box[1] * height, box[2] * width, box[3] * height)),)


def _mean_box(sample: Sample, context: EvalContext, *, same_category: bool) -> Regions:
    """Return the mean box of the samples from other clusters, of the same category if wanted and there are any."""
    own = context.samples[context.positions[sample.query.id]]
    others = [info for info in context.samples if info.cluster != own.cluster]
    alike = [info for info in others if same_category and info.category == own.category and info.unit_box]
    boxes = [info.unit_box for info in alike or others if info.unit_box is not None]
    mean = np.mean(boxes, axis=0).tolist() if boxes else MIDDLE
    return _unit_box(sample, context, box=mean)


def _blank(sample: Sample, context: EvalContext) -> Query:
    image = sample.query.image
    colour = image.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    return replace(sample.query, image=np.broadcast_to(colour, image.shape).copy())


def _mirrored(sample: Sample, context: EvalContext) -> Query:
    return replace(sample.query, image=np.ascontiguousarray(sample.query.image[:, ::-1]))


def _mirror_back(region: Region, size: Size) -> Region:
    width = size[1]
    box = region.box and Box(width - region.box.x2, region.box.y1, width - region.box.x1, region.box.y2)
    return replace(region, box=box, points=tuple(Point(width - x, y) for x, y in region.points))


def _swapped(sample: Sample, context: EvalContext) -> Query:
    assert context.read is not None
    other = context.read(context.other_sample(sample)).query.image
    height, width = sample.query.size
    fitted: Image = np.asarray(Pillow.fromarray(other).resize((width, height), Pillow.Resampling.BILINEAR))
    return replace(sample.query, image=fitted)


def _paraphrased(sample: Sample, context: EvalContext) -> Query:
    question = sample.labels.get("paraphrase")
    if question is None:
        wording = WORDINGS[sum(sample.query.id.encode(errors="surrogatepass")) % len(WORDINGS)]
        question = wording.format(question=sample.query.question)
    return replace(sample.query, question=question)


def _irrelevant(sample: Sample, context: EvalContext) -> Query:
    return replace(sample.query, question=IRRELEVANT)


CONDITIONS: Mapping[str, Condition] = {
    condition.name: condition
    for condition in (
        Condition(name="answer", kind="answer", description="the reasoner's answer through the segmenter"),
        Condition(
            name="perfect_segmenter",
            kind="ceiling",
            description="the answer's prompt through a segmenter that knows the truth: the truth inside the box, or without a "
            "box the truth that a point falls on; what is missing is the reasoner's loss",
            perfect_segmenter=True,
        ),
        Condition(
            name="oracle_box",
            kind="ceiling",
            description="the true box through the segmenter; what is missing is the segmenter's loss",
            regions=partial(_truth, box=True),
        ),
        Condition(
            name="oracle_points",
            kind="ceiling",
            description="the two true points through the segmenter; what is missing is the segmenter's loss",
            regions=partial(_truth, points=True),
            prompt=(ChosenKind.points,),
        ),
        Condition(
            name="oracle_both",
            kind="ceiling",
            description="the true box and points through the segmenter; what is missing is the segmenter's loss",
            regions=partial(_truth, box=True, points=True),
            prompt=(ChosenKind.box, ChosenKind.points),
        ),
        Condition(
            name="oracle_text",
            kind="ceiling",
            description="what the truth is called, or the question where the recipe says text_from: question, through the "
            "segmenter; what is missing is what the segmenter does not know by name",
            regions=_truth,
            prompt=(ChosenKind.text,),
        ),
        Condition(
            name="oracle_exemplars",
            kind="ceiling",
            description="the true box as an example of what to look for through the segmenter",
            regions=partial(_truth, box=True),
            prompt=(ChosenKind.exemplars,),
        ),
        Condition(
            name="whole_box",
            kind="baseline",
            description="the whole image as the box",
            regions=partial(_unit_box, box=(0, 0, 1, 1)),
        ),
        Condition(
            name="centre_box",
            kind="baseline",
            description="the middle half of each side as the box, whatever the image",
            regions=partial(_unit_box, box=MIDDLE),
        ),
        Condition(
            name="constant_box",
            kind="baseline",
            description="the mean true box of the other clusters, in fractions of the sides: what is known without looking",
            regions=partial(_mean_box, same_category=False),
            needs_others=True,
        ),
        Condition(
            name="category_box",
            kind="baseline",
            description="the mean true box of the same category in other clusters: what the name of the target gives away",
            regions=partial(_mean_box, same_category=True),
            needs_others=True,
        ),
        Condition(name="blank", kind="probe", description="the image replaced by its mean colour: does it look?", query=_blank),
        Condition(
            name="mirrored",
            kind="probe",
            description="the image mirrored left to right, the answer mirrored back: does it look? Questions that name a side "
            "become wrong",
            query=_mirrored,
            restore=_mirror_back,
        ),
        Condition(
            name="swapped",
            kind="probe",
            description="the image of the next sample of another cluster, fitted to this one's size: does it look?",
            query=_swapped,
            needs_others=True,
        ),
        Condition(
            name="paraphrase",
            kind="probe",
            description="the sample's own paraphrase where it has one, else the question in another sentence: is it the "
            "wording?",
            query=_paraphrased,
        ),
        Condition(
            name="irrelevant",
            kind="probe",
            description=f'the question replaced by "{IRRELEVANT}": does it read?',
            query=_irrelevant,
        ),
        Condition(
            name="think_removed",
            kind="probe",
            description="the answer written again after an empty reasoning: does thinking matter?",
            think="removed",
        ),
        Condition(
            name="think_shuffled",
            kind="probe",
            description="the answer written again after the reasoning about the next sample of another cluster: does what it "
            "thinks matter?",
            think="shuffled",
            needs_others=True,
        ),
    )
}  # fmt: skip
