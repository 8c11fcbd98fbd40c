"""The released recipes, from text to score: every recorded case and every worked example of a malformed answer."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from medground.geometry import Box, Point
from medground.recipe import resolve
from medground.registry import build
from medground.rewards.rubric import rubric
from medground.types import Completion, Query, Region, Rollout, Sample, Target

ORACLE = Path(__file__).with_name("data") / "released_rewards.jsonl"
"""What the released functions give for 300 made-up answers: three reward modes and the evaluation."""
SIZE = (840, 840)


def scores(mode, lines):
    """One score per (prediction, ground truth), by the recipe's own prompt interface and rubric."""
    recipe = resolve(f"train/medreasoner_{mode}")
    arguments = dict(recipe.data["prompt_interface"])
    interface = build("prompt_interface", arguments.pop("name"), **arguments)
    return rubric(recipe)([rollout(interface, *line, str(i)) for i, line in enumerate(lines)])


def rollout(interface, text, truth, name):
    region = Region(box=Box(*truth["bbox_2d"]), points=tuple(Point(*point) for point in truth["point_2d"]))
    target = Target(regions=(region,), published=truth)
    completion = Completion(text=text, frame=None)
    return Rollout(
        sample=Sample(query=Query(image=np.zeros((*SIZE, 3), np.uint8), question="", id=name), target=target),
        completion=completion,
        grounding=interface.parse(completion, SIZE),
    )


def same(ours, released):
    return ours is None if math.isnan(released) else ours is not None and abs(ours - released) <= 1e-9


@pytest.mark.parametrize("mode", ["soft", "hard", "base"])
def test_every_recorded_case(mode):
    cases = [json.loads(line) for line in ORACLE.read_text().splitlines()]
    assert len(cases) == 300
    for case, score in zip(
        cases, scores(mode, [(case["prediction"], case["ground_truth"]) for case in cases]), strict=True
    ):
        released = case[mode]
        assert {*score.terms, "score"} == set(released)
        assert same(score.total, released["score"])
        for key, term in score.terms.items():
            assert same(term.value, released[key]), (key, term, case["prediction"])
            if term.value is None:
                assert term.details["released"] == "nan"


TRUTH = {"bbox_2d": [445, 136, 708, 729], "point_2d": [[534, 273], [595, 455]]}
OK = '{"bbox": [445, 136, 708, 729], "points_1": [534, 273], "points_2": [595, 455]}'
T = "<think>dense area</think>"


def said(answer, think=T):
    return f"{think}<answer>{answer}</answer>"


def with_box(box):
    return said(OK.replace("[445, 136, 708, 729]", box))


# response: think, answer, IoU and pDice of soft, then the totals of soft, hard and base.
MALFORMED = {
    "canonical": (said(OK), 1, 1, 1, 1, 4, 8, 3),
    "single quotes": (said(OK.replace('"', "'")), 1, 1, 1, 1, 4, 8, 1),
    "newline and padding": (f"{T}\n<answer>  {OK}\n </answer>", 1, 1, 1, 1, 4, 8, 3),
    "text around": (f"Well. {said(OK)} Done.", 1, 1, 1, 1, 4, 8, 2),
    "answer first": (f"<answer>{OK}</answer>{T}", 1, 1, 1, 1, 4, 8, 2),
    "two think blocks": (T + said(OK), 1, 1, 1, 1, 4, 8, 3),
    "no think": (f"<answer>{OK}</answer>", 0, 1, 1, 1, 3, 7, 2),
    "think not closed": (f"<think>dense<answer>{OK}</answer>", 0, 1, 1, 1, 3, 7, 2),
    "think empty": (said(OK, "<think> \n</think>"), 0.2, 1, 1, 1, 3.2, 7.2, 3),
    "no answer tag": (T + OK, 1, 0, 0, 0, 1, 1, 2),
    "truncated": (f"{T}<answer>{OK}", 1, 0, 0, 0, 1, 1, 2),
    "upper-case tags": (f"<THINK>a</THINK><ANSWER>{OK}</ANSWER>", 0, 0, 0, 0, 0, 0, 2),
    "answer empty": (said(""), 1, 0.2, 0, 0, 1.2, 1.2, 1),
    "prose": (said("the left lobe"), 1, 0.2, 0, 0, 1.2, 1.2, 1),
    "trailing comma": (said(OK[:-1] + ",}"), 1, 0.2, 0, 0, 1.2, 1.2, 1),
    "code fence": (said(f"```json\n{OK}\n```"), 1, 0.2, 0, 0, 1.2, 1.2, 3),
    "words after": (said(OK + " as seen"), 1, 0.2, 0, 0, 1.2, 1.2, 3),
    "apostrophe": (said(OK[:-1] + ', "note": "patient\'s"}'), 1, 0.2, 0, 0, 1.2, 1.2, 3),
    "two objects": (said(OK + " " + OK), 1, 0.2, 0, 0, 1.2, 1.2, 3),
    "a list": (said("[1, 2]"), 1, 0.2, 0, 0, 1.2, 1.2, 1),
    "misspelt key": (said(OK.replace("points_2", "point_2")), 1, 0.4, 1, 0, 2.4, 4.4, 1),
    "box null": (with_box("null"), 1, 0.6, 0, 1, 2.6, 4.6, 1),
    "box of 3": (with_box("[445, 136, 708]"), 1, 0.6, 0, 1, 2.6, 4.6, 1),
    "box of 5": (with_box("[445, 136, 708, 729, 1]"), 1, 0.6, 0, 1, 2.6, 4.6, 1),
    "box nested": (with_box("[[445, 136, 708, 729]]"), 1, 0.6, 0, 1, 2.6, 4.6, 1),
    "box of strings": (with_box('["445", "136", "708", "729"]'), 1, 0.6, 0, 1, 2.6, 4.6, 2),
    "one point malformed": (said(OK.replace("[595, 455]", "[595]")), 1, 0.6, 1, 0, 2.6, 4.6, 1),
    "points of 3": (said(OK.replace("273]", "273, 0]").replace("455]", "455, 0]")), 1, 0.6, 1, 0, 2.6, 4.6, 2),
    "both malformed": (with_box("null").replace("[595, 455]", "[]"), 1, 0.4, 0, 0, 1.4, 1.4, 1),
    "nothing": ("", 0, 0, 0, 0, 0, 0, 0),
    "a refusal": ("I cannot help with that.", 0, 0, 0, 0, 0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_what_malformed_answers_score(what):
    text, think, answer, iou, dice, soft, hard, base = MALFORMED[what]
    (score,) = scores("soft", [(text, TRUTH)])
    found = [score.terms[key].value for key in ("format_think", "format_seg", "bbox_iou", "points_dice")]
    assert found == [think, answer, iou, dice]
    totals = [scores(mode, [(text, TRUTH)])[0].total for mode in ("soft", "hard", "base")]
    assert totals == pytest.approx([soft, hard, base], abs=1e-9)


def test_base_repaired_pays_what_base_was_meant_to():
    (score,) = scores("base_fixed", [(MALFORMED["canonical"][0], TRUTH)])
    assert {key: term.value for key, term in score.terms.items()} == dict.fromkeys(
        ("thinking", "segment", "iou", "bbox_l1", "points_l1"), 1.0
    )
    (far,) = scores("base_fixed", [(with_box("[0, 136, 708, 729]"), TRUTH)])
    assert (far.terms["iou"].value, far.terms["bbox_l1"].value) == (0.0, 0.0)


def test_what_the_release_cannot_score_has_no_total_but_keeps_the_rest():
    (score,) = scores("hard", [(with_box("[445, 136, 708, NaN]"), TRUTH)])
    assert score.total is None
    assert score.terms["bbox_align"].details["released"] == "nan"
    assert score.terms["bbox_iou"].value == 0.0812
    (score,) = scores("soft", [(with_box("[445, 136, 708, NaN]"), TRUTH)])
    assert score.total == pytest.approx(3.0812)
