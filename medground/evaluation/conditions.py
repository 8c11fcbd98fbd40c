"""Arms: what is done on the way from a question to a mask, so that one recipe answers more than "how good is it".

An arm changes one thing and leaves the rest. `answer` changes nothing. Ceilings replace the answer by the truth, or the
segmenter by one that knows it; baselines replace the answer by one that never saw the image; probes change the image, the
question or the reasoning and leave the truth: an answer that does not move did not need what was changed.

Whatever the reasoner was shown, its prompt is brought back to the sample's own pixels, the segmenter sees the sample's own
image, and the metrics are those of the sample.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image as Pillow

from medground.errors import RecipeError, did_you_mean
from medground.geometry import Box, Point, Size, in_mask
from medground.types import Image, Mask, Query, Sample, SpatialPrompt

Kind = Literal["answer", "ceiling", "baseline", "probe"]
IRRELEVANT = "Which day of the week comes after Monday?"
WORDINGS = (
    "Please look at the whole picture before you answer. {question}",
    "A colleague asks about this picture: {question}",
    "{question} Answer from what can be seen in the picture.",
    "Here is a question about the picture in front of you. {question}",
)
"""Paraphrases that need no model: the same question in another sentence. A sample's label ``paraphrase`` goes before them."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What must be known of a sample while others are worked on."""

    id: str
    cluster: str
    category: str
    unit_box: tuple[float, float, float, float]
    """The true box in fractions of the image's sides."""


@dataclass(frozen=True, slots=True)
class Around:
    """What lies around a sample: the others of the evaluation."""

    seed: int
    facts: Sequence[Fact] = ()
    places: Mapping[str, int] | None = None
    read: Callable[[int], Sample] | None = None

    def stranger(self, sample: Sample) -> int:
        """The place of the next sample, going round, that belongs to another cluster; its own where there is none."""
        assert self.places is not None
        own = self.places[sample.query.id]
        count = len(self.facts)
        others = (place % count for place in range(own + 1, own + count))
        return next((place for place in others if self.facts[place].cluster != self.facts[own].cluster), own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way through the graph. At most one of `show`, `place`, `think` and `perfect` departs from the default."""

    name: str
    kind: Kind
    about: str
    """What it does, for reports."""
    show: Callable[[Sample, Around], Query] | None = None
    """What the reasoner is shown in place of the sample's own query."""
    back: Callable[[SpatialPrompt, Size], SpatialPrompt] | None = None
    """From the pixels of what was shown to those of the sample, of size (H, W)."""
    place: Callable[[Sample, Around], SpatialPrompt | None] | None = None
    """The prompt itself, None where the sample allows none; the reasoner is not asked."""
    think: Literal["removed", "shuffled"] | None = None
    """What the reasoner goes on from, in place of its own reasoning."""
    perfect: bool = False
    """Whether the mask is the best that the answer's prompt allows."""
    needs_others: bool = False

    @property
    def asks(self) -> bool:
        """Whether a reasoner answers."""
        return self.place is None

    @property
    def after_answers(self) -> bool:
        """Whether it starts from the answers of the arm ``answer``."""
        return self.perfect or self.think is not None


def arms_of(names: Sequence[str] | None) -> list[Arm]:
    """The arms of a recipe's ``evaluate.arms``; none means the answers alone.

    Raises:
        RecipeError: if one is unknown, or one that starts from the answers comes without or before them.
    """
    if names is None:
        return [ARMS["answer"]]
    if isinstance(names, str) or not names or not all(isinstance(name, str) for name in names):
        raise RecipeError(
            "evaluate.arms is not a list of names", hint=f"known: {', '.join(sorted(ARMS))}, jitter_PERCENT"
        )
    found = [_arm(name) for name in names]
    if len(set(names)) < len(names):
        raise RecipeError("evaluate.arms names an arm twice", hint="keep one")
    for place, arm in enumerate(found):
        if arm.after_answers and "answer" not in names[:place]:
            raise RecipeError(f"the arm {arm.name!r} starts from the answers", hint="put answer before it")
    return found


def _arm(name: str) -> Arm:
    if jitter := re.fullmatch(r"jitter_(\d{1,2})", name):
        percent = int(jitter[1])
        if 0 < percent < 50:
            return Arm(
                name=name,
                kind="ceiling",
                about=f"the true box, every edge moved by up to {percent} % of its side, either way",
                place=_Jitter(percent / 100, name),
            )
        raise RecipeError(f"the arm {name!r} moves edges by {percent} %", hint="write jitter_1 to jitter_49")
    if name not in ARMS:
        raise RecipeError(f"evaluate.arms names {name!r}", hint=did_you_mean(name, [*ARMS, "jitter_10"]))
    return ARMS[name]


@dataclass(frozen=True, slots=True)
class _Jitter:
    share: float
    name: str

    def __call__(self, sample: Sample, around: Around) -> SpatialPrompt:
        box = sample.target.box
        rng = np.random.default_rng([around.seed, *f"{self.name}|{sample.query.id}".encode(errors="surrogatepass")])
        moves = rng.uniform(-self.share, self.share, 4) * (box.width, box.height, box.width, box.height)
        return SpatialPrompt(box=Box(*(np.array(box) + moves)).clip(sample.query.size))


def perfect_mask(prompt: SpatialPrompt, truth: Any) -> Mask:
    """The best mask a prompt allows: the truth inside its box; without a box, the truth if a positive point falls on it.

    Args:
        prompt: in pixels of the truth.
        truth: the true mask, H x W bool.
    """
    mask = np.asarray(truth, bool)
    if prompt.box is None:
        positive = [point for point, label in zip(prompt.points, prompt.labels, strict=True) if label]
        hit = bool(positive) and bool(np.any(in_mask(positive, mask)))
        return Mask(data=mask if hit else np.zeros_like(mask), score=1.0)
    height, width = mask.shape
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    box = prompt.box
    inside = ((y >= box.y1) & (y <= box.y2))[:, None] & ((x >= box.x1) & (x <= box.x2))
    return Mask(data=mask & inside, score=1.0)


def _true_box(sample: Sample, around: Around) -> SpatialPrompt:
    return SpatialPrompt(box=sample.target.box)


def _true_points(sample: Sample, around: Around) -> SpatialPrompt | None:
    return SpatialPrompt(points=sample.target.points) if sample.target.points else None


def _true_both(sample: Sample, around: Around) -> SpatialPrompt:
    return SpatialPrompt(box=sample.target.box, points=sample.target.points)


def _of_unit(box: Sequence[float], size: Size) -> SpatialPrompt:
    height, width = size
    return SpatialPrompt(box=Box(box[0] * width, box[1] * height, box[2] * width, box[3] * height))


def _whole_box(sample: Sample, around: Around) -> SpatialPrompt:
    return _of_unit((0, 0, 1, 1), sample.query.size)


def _centre_box(sample: Sample, around: Around) -> SpatialPrompt:
    return _of_unit((0.25, 0.25, 0.75, 0.75), sample.query.size)


def _constant_box(sample: Sample, around: Around) -> SpatialPrompt:
    return _mean_box(sample, around, [fact for fact in around.facts])


def _category_box(sample: Sample, around: Around) -> SpatialPrompt:
    category = sample.labels.get("category", "")
    return _mean_box(sample, around, [fact for fact in around.facts if fact.category == category])


def _mean_box(sample: Sample, around: Around, facts: Sequence[Fact]) -> SpatialPrompt:
    """The mean box of the facts from other clusters; of all other clusters where none of those is left."""
    assert around.places is not None
    own = around.facts[around.places[sample.query.id]].cluster
    others = [fact.unit_box for fact in facts if fact.cluster != own]
    others = others or [fact.unit_box for fact in around.facts if fact.cluster != own]
    mean = np.mean(others, axis=0) if others else (0.25, 0.25, 0.75, 0.75)
    return _of_unit([float(value) for value in mean], sample.query.size)


def _blank(sample: Sample, around: Around) -> Query:
    image = sample.query.image
    colour = image.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    return replace(sample.query, image=np.broadcast_to(colour, image.shape).copy())


def _mirrored(sample: Sample, around: Around) -> Query:
    return replace(sample.query, image=np.ascontiguousarray(sample.query.image[:, ::-1]))


def _mirror_back(prompt: SpatialPrompt, size: Size) -> SpatialPrompt:
    width = size[1]
    box = prompt.box and Box(width - prompt.box.x2, prompt.box.y1, width - prompt.box.x1, prompt.box.y2)
    return replace(prompt, box=box, points=tuple(Point(width - x, y) for x, y in prompt.points))


def _swapped(sample: Sample, around: Around) -> Query:
    assert around.read is not None
    other = around.read(around.stranger(sample)).query.image
    height, width = sample.query.size
    fitted: Image = np.asarray(Pillow.fromarray(other).resize((width, height), Pillow.Resampling.BILINEAR))
    return replace(sample.query, image=fitted)


def _paraphrased(sample: Sample, around: Around) -> Query:
    given = sample.labels.get("paraphrase")
    if given is None:
        wording = WORDINGS[sum(sample.query.id.encode(errors="surrogatepass")) % len(WORDINGS)]
        given = wording.format(question=sample.query.question)
    return replace(sample.query, question=given)


def _irrelevant(sample: Sample, around: Around) -> Query:
    return replace(sample.query, question=IRRELEVANT)


ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(name="answer", kind="answer", about="the reasoner's answer through the segmenter"),
        Arm(
            name="perfect_segmenter",
            kind="ceiling",
            about="the answer's prompt through a segmenter that knows the truth: the truth inside the box, or without a "
            "box the truth if a point falls on it; what is missing is the reasoner's loss",
            perfect=True,
        ),
        Arm(
            name="oracle_box",
            kind="ceiling",
            about="the true box through the segmenter; what is missing is the segmenter's loss",
            place=_true_box,
        ),
        Arm(
            name="oracle_points",
            kind="ceiling",
            about="the two true points through the segmenter; what is missing is the segmenter's loss",
            place=_true_points,
        ),
        Arm(
            name="oracle_both",
            kind="ceiling",
            about="the true box and points through the segmenter; what is missing is the segmenter's loss",
            place=_true_both,
        ),
        Arm(name="whole_box", kind="baseline", about="the whole image as the box", place=_whole_box),
        Arm(
            name="centre_box",
            kind="baseline",
            about="the middle half of each side as the box, whatever the image",
            place=_centre_box,
        ),
        Arm(
            name="constant_box",
            kind="baseline",
            about="the mean true box of the other clusters, in fractions of the sides: what is known without looking",
            place=_constant_box,
            needs_others=True,
        ),
        Arm(
            name="category_box",
            kind="baseline",
            about="the mean true box of the same category in other clusters: what the name of the target gives away",
            place=_category_box,
            needs_others=True,
        ),
        Arm(name="blank", kind="probe", about="the image replaced by its mean colour: does it look?", show=_blank),
        Arm(
            name="mirrored",
            kind="probe",
            about="the image mirrored left to right, the answer mirrored back: does it look? Questions that name a side "
            "become wrong",
            show=_mirrored,
            back=_mirror_back,
        ),
        Arm(
            name="swapped",
            kind="probe",
            about="the image of the next sample of another cluster, fitted to this one's size: does it look?",
            show=_swapped,
            needs_others=True,
        ),
        Arm(
            name="paraphrase",
            kind="probe",
            about="the sample's own paraphrase where it has one, else the question in another sentence: is it the "
            "wording?",
            show=_paraphrased,
        ),
        Arm(
            name="irrelevant",
            kind="probe",
            about=f'the question replaced by "{IRRELEVANT}": does it read?',
            show=_irrelevant,
        ),
        Arm(
            name="think_removed",
            kind="probe",
            about="the answer written again after an empty reasoning: does thinking matter?",
            think="removed",
        ),
        Arm(
            name="think_shuffled",
            kind="probe",
            about="the answer written again after the reasoning about the next sample of another cluster: does what it "
            "thinks matter?",
            think="shuffled",
            needs_others=True,
        ),
    )
}  # fmt: skip
