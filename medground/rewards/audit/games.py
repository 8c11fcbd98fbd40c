"""Games with the number of regions and with confidence: what an answer of none, one or many could be paid for.

They are played where the prompt interface can say that nothing fits and can name several regions; an interface of one
region cannot play them. Answers are the interface's own ideal texts for other truths, read back by its own parser.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from medground.errors import MedgroundError
from medground.geometry import Box, Point, ellipse
from medground.protocols import PromptInterface
from medground.rewards.rubric import Rubric, Score
from medground.types import Completion, Mask, Query, Region, Rollout, Sample, Target, boxes_of

Regions = tuple[Region, ...]

SIZE = (96, 96)
"""(H, W) of the picture that is asked about."""
JITTER, HONEST = 0.1, 30
"""An honest answer is off by up to this share of a target's sides; so many are asked."""
GRID = 7
"""A shower is a box for each cell of so many rows and columns."""
SHARES = (0.3, 0.7)
"""How often a forecaster is right whose confidences are compared."""


def _region(x1: float, y1: float, x2: float, y2: float, confidence: float | None = None) -> Region:
    """Return a region with two key points, a quarter of its sides from its corners."""
    box, step = Box(x1, y1, x2, y2), ((x2 - x1) / 4, (y2 - y1) / 4)
    points = Point(x1 + step[0], y1 + step[1]), Point(x2 - step[0], y2 - step[1])
    return Region(box=box, points=points, confidence=confidence)


ONE = (_region(12, 12, 44, 40),)
THREE = (*ONE, _region(56, 8, 84, 32), _region(20, 56, 60, 88))
TARGETS: Mapping[str, Regions] = {"no target": (), "one target": ONE, "three targets": THREE}
WHOLE = (_region(0, 0, SIZE[1], SIZE[0]),)
FAR = (_region(84, 84, 92, 92),)
SHOWER = tuple(
    _region(*(side * cell for cell in (column, row, column + 1, row + 1)))
    for side in (SIZE[0] // GRID,)
    for row in range(GRID)
    for column in range(GRID)
)


@dataclass(frozen=True, slots=True)
class Games:
    """The scores of the answers of every game."""

    scores: Mapping[str, Mapping[str, Score]]
    """Target -> answer -> score."""
    honest: Mapping[str, Sequence[Score]]
    """Target -> scores of honest answers."""
    confident: Mapping[tuple[float, bool], Score]
    """(stated confidence, whether the answer is right) -> score, about one target."""

    def everything(self) -> Iterator[tuple[str, Score]]:
        """Yield every score with the name of its answer."""
        for target, by_answer in self.scores.items():
            yield from ((f"{answer} ({target})", score) for answer, score in by_answer.items())
        for target, scores in self.honest.items():
            yield from ((f"an honest answer ({target})", score) for score in scores)
        for (stated, right), score in self.confident.items():
            yield f"{'right' if right else 'wrong'} with confidence {stated:g}", score

    def total(self, target: str, answer: str) -> float | None:
        """Return the total of one answer."""
        return self.scores[target][answer].total

    def median(self, target: str) -> float | None:
        """Return the honest median."""
        known = [score.total for score in self.honest[target] if score.total is not None]
        return median(known) if known else None

    def forecast(self, stated: float, share: float) -> float | None:
        """Return what stating one confidence earns on average where this share of the answers is right."""
        right, wrong = (self.confident[stated, is_right].total for is_right in (True, False))
        return None if right is None or wrong is None else share * right + (1 - share) * wrong


def play(rubric: Rubric, interface: PromptInterface, seed: int) -> Games | None:
    """Score the answers of every game; None where the interface cannot say none and several."""
    if not all(_said(interface, regions) for regions in TARGETS.values()):
        return None
    rng = np.random.default_rng(seed)
    answers: dict[str, dict[str, Regions]] = {
        "no target": {"nothing": (), "one box": FAR, "one huge box": WHOLE, "many boxes": SHOWER},
    }
    for name in ("one target", "three targets"):
        truths = TARGETS[name]
        answers[name] = {
            "perfect": truths,
            "far wrong": FAR,
            "nothing": (),
            "one huge box": WHOLE,
            "many boxes": SHOWER,
            "the truth and many boxes": (*truths, *SHOWER),
            "the truth twice": truths * 2,
            "the first": truths[:1],
            "the first four times": truths[:1] * 4,
        }
    honest = {name: [_jittered(truths, rng) for _ in range(HONEST)] for name, truths in TARGETS.items() if truths}
    stated = sorted({0.0, 1.0, *SHARES})
    confident = {
        (confidence, right): tuple(replace(region, confidence=confidence) for region in (ONE if right else FAR))
        for confidence in stated
        for right in (True, False)
    }

    def ask(target: str, row: Sequence[Regions]) -> list[Score]:
        return rubric([_rollout(rubric, interface, TARGETS[target], regions) for regions in row])

    return Games(
        scores={name: dict(zip(row, ask(name, list(row.values())), strict=True)) for name, row in answers.items()},
        honest={name: ask(name, row) for name, row in honest.items()},
        confident=dict(zip(confident, ask("one target", list(confident.values())), strict=True)),
    )


def _said(interface: PromptInterface, regions: Regions) -> bool:
    """Return True if an interface can say that these are the regions, and reads it so."""
    try:
        text = interface.answer(Target(regions=regions))
    except (ValueError, MedgroundError):
        return False
    grounding = interface.parse(Completion(text=text, frame=None), SIZE)
    return grounding.fault is None and len(grounding.regions) == len(regions)


def _jittered(truths: Regions, rng: np.random.Generator) -> Regions:
    moved = []
    for box in boxes_of(truths):
        steps = rng.uniform(-JITTER, JITTER, 4) * (box.width, box.height, box.width, box.height)
        moved.append(_region(*(np.asarray(box) + steps).round().tolist()))
    return tuple(moved)


def _rollout(rubric: Rubric, interface: PromptInterface, truths: Regions, answered: Regions) -> Rollout:
    completion = Completion(text=interface.answer(Target(regions=answered)), frame=None)
    grounding = interface.parse(completion, SIZE)
    if rubric.needs_mask:
        truths = tuple(replace(region, mask=_filled(region)) for region in truths)
        grounding = grounding.with_masks([_filled(region) for region in grounding.regions])
    image = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (*SIZE, 3))
    sample = Sample(query=Query(image=image, question="", id="a game"), target=Target(regions=truths))
    return Rollout(sample=sample, completion=completion, grounding=grounding)


def _filled(region: Region) -> Mask:
    return Mask(data=ellipse(region.box or Box(0, 0, 0, 0), SIZE), score=1.0)
