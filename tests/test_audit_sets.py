"""Games with none, one and many regions: silent on sound rubrics, and the right name for every seeded game."""

import json
from functools import cache

import pytest

from medground.geometry import Box, Point, box_iou
from medground.registry import build
from medground.rewards.audit import audit
from medground.rewards.audit.games import play
from medground.rewards.rubric import Rubric
from medground.rewards.term import Term
from medground.types import Fault, Grounding, Region, boxes_of


class Listed:
    """A prompt interface of a JSON list of regions."""

    provides = frozenset({"box", "points"})

    def render(self, query):
        return []

    def answer(self, target, think=None, *, frame=None, size=None):
        regions = [
            {
                "box": list(region.box),
                "points": [list(point) for point in region.points],
                **({} if region.confidence is None else {"confidence": region.confidence}),
            }
            for region in target.regions
        ]
        return f"<think>a</think><answer>{json.dumps(regions)}</answer>"

    def parse(self, completion, size):
        _, opening, rest = completion.text.partition("<answer>")
        body, closing, after = rest.partition("</answer>")
        if not opening or not closing or "<answer>" in after:
            return Grounding(fault=Fault.NO_ANSWER, think_level=0.0)
        try:
            regions = tuple(map(self._region, json.loads(body)))
        except (ValueError, TypeError, KeyError):
            return Grounding(fault=Fault.BAD_JSON, think_level=1.0, answer_level=0.2)
        return Grounding(regions=regions, think="a", think_level=1.0, answer_level=1.0)

    def _region(self, entry):
        box, points = Box(*entry["box"]), tuple(Point(*point) for point in entry["points"])
        if not box.valid or any(type(number) not in (int, float) for pair in (box, *points) for number in pair):
            raise ValueError(entry)
        return Region(box=box, points=points, confidence=entry.get("confidence"))


def term(name, **arguments):
    return build("reward", name, **arguments)


OURS = {
    "boxes": [("regions_f1", {}, 1)],
    "boxes, points and confidence": [
        ("format_seg", {}, 0.5),
        ("regions_f1", {}, 2),
        ("regions_f1", {"by": "points_align"}, 0.5),
        ("confidence", {}, 0.25),
    ],
    "terms on one region and abstention": [
        ("format_seg", {}, 0.5),
        ("bbox_iou", {}, 1.5),
        ("points_dice", {}, 1),
        ("abstention", {}, 2),
    ],
    "masks": [("format_seg", {}, 0.5), ("regions_mask_f1", {}, 2)],
}


@cache
def card_of(name):
    terms = [
        Term(f"{label} {index}", term(label, **more), weight) for index, (label, more, weight) in enumerate(OURS[name])
    ]
    return audit(Rubric(terms), Listed())


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_our_terms_are_paid_for_no_game(name):
    card = card_of(name)
    assert [finding.says for finding in card.findings] == []
    assert card.evidence.games.total("three targets", "perfect") is not None


def overlaps(rollout):
    """[predicted][true] box IoU."""
    truths = [region.box for region in rollout.sample.target.regions]
    return [[float(box_iou(region.box, box)) for box in truths] for region in rollout.grounding.regions]


def recall(rollout):
    table = overlaps(rollout)
    if not rollout.sample.target.regions:
        return float(not table and rollout.grounding.fault is None)
    return (
        sum(max(column) for column in zip(*table, strict=True)) / len(rollout.sample.target.regions) if table else 0.0
    )


def paid_empty(rollout):
    nothing = not rollout.grounding.regions and rollout.grounding.fault is None
    return 1.0 if nothing else 0.5 * recall(rollout)


def counted(rollout):
    """Pay by the number of regions."""
    return min(1.0, len(rollout.grounding.regions) / 40)


def shared_hits(rollout):
    """An F1 in which several regions may hit one target."""
    table, count = overlaps(rollout), len(rollout.sample.target.regions)
    if not table or not count:
        return float(not table and not count and rollout.grounding.fault is None)
    return 2 * sum(max(row) for row in table) / (len(table) + count)


def covered(rollout):
    """The share of the targets' area that the boxes cover."""
    truths = [region.box for region in rollout.sample.target.regions]
    said = boxes_of(rollout.grounding.regions)
    if not truths:
        return float(not said and rollout.grounding.fault is None)

    def inside(box):
        return max(
            (
                max(0, min(b.x2, box.x2) - max(b.x1, box.x1)) * max(0, min(b.y2, box.y2) - max(b.y1, box.y1))
                for b in said
            ),
            default=0,
        )

    return sum(inside(box) for box in truths) / sum(box.area for box in truths)


def confident(how):
    def pays(rollout):
        regions = rollout.grounding.regions
        if not regions or len(rollout.sample.target.regions) != 1 or regions[0].confidence is None:
            return recall(rollout) / max(1, len(regions))
        return how(regions[0].confidence, overlaps(rollout)[0][0])

    return pays


class InProcess:
    """No child per batch: tests/test_isolation.py is about children."""

    in_process = True

    def __init__(self, pays):
        self.pays = pays

    def __call__(self, rollout):
        return self.pays(rollout)


GAMES = {
    "always empty": ("always empty", paid_empty),
    "recall alone": ("always many", recall),
    "a bonus by number": ("always many", counted),
    "one target hit twice": ("duplicates", shared_hits),
    "coverage alone": ("one huge box", covered),
    "confidence as such": ("fixed confidence", confident(lambda stated, overlap: stated)),
    "absolute error of the confidence": ("fixed confidence", confident(lambda stated, overlap: 1 - abs(stated - overlap))),
    "Brier score alone": ("fixed confidence", confident(lambda stated, overlap: 1 - (stated - overlap) ** 2)),
}  # fmt: skip


@pytest.mark.parametrize("seed", GAMES)
def test_a_seeded_game_is_named(seed):
    check, pays = GAMES[seed]
    card = audit(Rubric([Term("seeded", InProcess(pays))]), Listed())
    assert check in {finding.check for finding in card.findings}


@pytest.mark.slow
def test_the_card_shows_what_every_answer_earns():
    card = card_of("boxes")
    page, data = card.markdown(), card.to_dict()
    assert "| many boxes | three targets |" in page
    assert data["games"]["nothing (no target)"] == 1.0
    assert data["games"]["the first (three targets)"] == 0.5
    assert data["games"]["the truth twice (one target)"] == pytest.approx(2 / 3)


@pytest.mark.slow
def test_an_interface_of_one_region_is_asked_no_game():
    interface = build("prompt_interface", "bbox_points")
    rubric = Rubric([Term("boxes", term("regions_f1"))])
    assert play(rubric, interface, 0) is None
    assert "Not asked: the prompt interface names one region" in audit(rubric, interface).markdown()
