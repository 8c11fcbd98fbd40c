"""Reward cards: silent on sound rubrics, and the right name for every seeded defect."""

import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import pytest
from click.testing import CliRunner

from medground.cli.reward import reward
from medground.evaluation.scoring import reader
from medground.geometry import Box, box_iou, disc_dice
from medground.recipe import resolve
from medground.registry import build
from medground.rewards.audit import audit
from medground.rewards.audit.probes import CURVES
from medground.rewards.audit.scenes import LARGE, REFERENCE, Scorer
from medground.rewards.rubric import Rubric, rubric
from medground.rewards.term import Term

OURS = [
    "train/soft",
    "train/hard",
    "train/base",
    "train/regions",
    "train/soft_negatives",
    pytest.param("train/mask", marks=pytest.mark.slow),
]


@cache
def card_of(recipe):
    return fresh_card_of(recipe)


def fresh_card_of(recipe):
    resolved = resolve(recipe)
    return audit(rubric(resolved), reader(resolved), name=recipe)


def named(card, check):
    return {finding.subject: finding for finding in card.findings if finding.check == check}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OURS)
def test_our_defaults_have_no_findings(recipe):
    card = card_of(recipe)
    assert card.findings == []
    assert card.evidence.perfect.total == card.evidence.maximum


@pytest.mark.slow
def test_the_defects_of_released_hard_are_named():
    card = card_of("train/medreasoner_hard")
    saturation = named(card, "plateau")["points_dice"]
    assert saturation.figures["measure"] == "disc IoU"
    assert saturation.figures["overlap"] == pytest.approx(0.5, abs=0.01)
    inside_out = named(card, "inside-out box paid")["rubric"]
    assert inside_out.figures["paid"] == pytest.approx(6.5305)
    assert inside_out.figures["maximum"] == 8
    assert named(card, "small target capped")["rubric"].figures["small"] == pytest.approx(7.85)
    assert set(named(card, "not a finite number")) >= {"bbox_align", "bbox_scale"}
    assert "rubric" in named(card, "format share")
    assert set(named(card, "absolute pixels")) == {"points_dice", "points_align", "points_angle"}
    assert "two answers, the first right" in named(card, "wrong answer above the honest median")
    assert not named(card, "dead term")


@pytest.mark.slow
def test_released_soft_pays_half_for_format():
    share = named(card_of("train/medreasoner_soft"), "format share")["rubric"]
    assert share.figures["format"] == 2
    assert share.figures["maximum"] == 4


@pytest.mark.slow
def test_released_base_has_two_dead_terms():
    card = card_of("train/medreasoner_base")
    assert set(named(card, "dead term")) == {"iou", "bbox_l1"}
    assert named(card, "not full marks")["rubric"].figures == {
        "perfect": 3.0,
        "maximum": 5.0,
        "terms": ["iou", "bbox_l1"],
    }
    assert named(card, "quote style")["rubric"].figures == {"shown": 1.0, "json": 3.0}
    fixed = card_of("train/medreasoner_base_fixed")
    assert not named(fixed, "dead term")
    assert fixed.evidence.perfect.total == 5


@dataclass(frozen=True)
class Seeded:
    """A term on the box with one thing wrong with it: `how` turns (said, true) boxes and a sound value into pay."""

    how: object
    range = (0.0, 1.0)
    needs_mask = False
    in_process = True  # no child per batch: tests/test_isolation.py is about children

    def __call__(self, rollout):
        prompt = rollout.grounding.region
        answer_box = prompt.box if prompt is not None else None
        raw = rollout.grounding.raw or {}
        return float(self.how(answer_box, rollout.sample.target.region.box, raw.get("bbox")))


def sound(answer_box, true):
    return 0.0 if answer_box is None else float(box_iou(answer_box, true))


def bump(answer_box, true, _):
    value = sound(answer_box, true)
    return value if value > 0.5 or value < 0.2 else 0.7 - value


def inside_out(answer_box, true, raw):
    if isinstance(raw, list) and len(raw) == 4 and all(isinstance(n, float) for n in raw):
        x1, y1, x2, y2 = raw
        answer_box = Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    return sound(answer_box, true)


def whole_image(answer_box, true, _):
    covers = answer_box is not None and answer_box.x1 <= 0 and answer_box.y1 <= 0 and answer_box.area > 4 * true.area
    return 1.0 if covers else 0.9 * sound(answer_box, true)


def nan_when_empty(answer_box, true, _):
    return math.nan if answer_box is None else sound(answer_box, true)


SEEDS = {
    "sign flipped": ("sign flipped", "box", lambda answer_box, true, _: 1 - sound(answer_box, true)),
    "constant": ("dead term", "box", lambda answer_box, true, _: 0.5),
    "early plateau": ("plateau", "box", lambda answer_box, true, _: min(1.0, 2 * sound(answer_box, true))),
    "pixel threshold": (
        "absolute pixels",
        "box",
        lambda answer_box, true, _: (
            sound(answer_box, true)
            if answer_box is not None and sum(abs(a - b) for a, b in zip(answer_box, true, strict=True)) < 40
            else 0.0
        ),
    ),
    "NaN": ("not a finite number", "box", nan_when_empty),
    "whole-image bonus": ("wrong answer preferred", "box: whole image", whole_image),
    "not monotone": ("not monotone", "box", bump),
    "inverted box paid": ("inside-out box paid", "rubric", inside_out),
    "small target capped": (
        "small target capped",
        "rubric",
        lambda answer_box, true, _: sound(answer_box, true) * (0.8 if true.area < 400 else 1.0),
    ),
    "never full marks": ("not full marks", "rubric", lambda answer_box, true, _: 0.9 * sound(answer_box, true)),
}


def seeded(how, form=0.5):
    interface = build("prompt_interface", "bbox_points")
    terms = [
        Term("form", build("reward", "format_seg"), form),
        Term("box", Seeded(how), 1.5),
        Term("discs", build("reward", "points_dice"), 1.5),
    ]
    return audit(Rubric(terms), interface)


def test_the_rubric_the_defects_are_seeded_into_is_sound():
    assert seeded(lambda answer_box, true, _: sound(answer_box, true)).findings == []


@pytest.mark.parametrize("defect", SEEDS)
def test_a_seeded_defect_is_named(defect):
    check, subject, how = SEEDS[defect]
    assert subject in named(seeded(how), check)


def covered(answer_box, true, _):
    """The share of the true box that is covered."""
    if answer_box is None or not answer_box.valid:
        return 0.0
    width = min(answer_box.x2, true.x2) - max(answer_box.x1, true.x1)
    height = min(answer_box.y2, true.y2) - max(answer_box.y1, true.y1)
    return max(0.0, width) * max(0.0, height) / true.area


def test_a_term_that_pays_the_whole_image_as_a_perfect_box_is_named():
    card = seeded(covered)
    assert "box: whole image" in named(card, "wrong answer preferred")
    assert set(named(card, "blind")) == {"box grown"}


@pytest.mark.slow
def test_a_rubric_that_never_sees_the_size_of_the_box_is_named():
    def centred(answer_box, true, _):
        return 0.0 if answer_box is None else max(0.0, 1 - math.dist(answer_box.centre, true.centre) / true.diagonal)

    assert set(named(seeded(centred), "blind")) == {"box grown", "box shrunk"}
    alone = audit(Rubric([Term("box", Seeded(centred))]), build("prompt_interface", "bbox_points"))
    assert "search" in named(alone, "wrong answer above the honest median")


def soft_edges(tolerance):
    """Each of the four edges pays a quarter, less by how far it is off: nothing beyond `tolerance` of its side."""

    def pays(answer_box, true, _):
        if answer_box is None:
            return 0.0
        sides = (true.width, true.height) * 2
        off = [abs(a - b) / side for a, b, side in zip(answer_box, true, sides, strict=True)]
        return sum(max(0.0, 1 - error / tolerance) for error in off) / 4

    return pays


def test_a_soft_boundary_that_pays_half_to_a_disjoint_box_is_named():
    """Moved sideways by a whole side, two of four edges are right: 0.5. An honest edge, up to 10 % off, is within 5 % half
    of the time and earns 0.5 then: 0.25 is the median."""
    card = audit(Rubric([Term("edges", Seeded(soft_edges(0.05)))]), build("prompt_interface", "bbox_points"))
    assert card.evidence.along(LARGE, "box shifted sideways", "edges")[-1] == pytest.approx(0.5)
    assert card.evidence.median(LARGE) == pytest.approx(0.25, abs=0.05)
    findings = named(card, "wrong answer above the honest median")["search"]
    assert findings.figures["paid"] >= 0.5 - 1e-9
    scorer = card.evidence.scorer
    assert scorer.score(LARGE, [findings.figures["text"]])[0].total == findings.figures["paid"]


def test_a_soft_boundary_as_wide_as_honest_answers_pays_them_more():
    """With a tolerance of 20 % an honest edge earns 0.75 on average, and two edges in place still 0.5."""
    card = audit(Rubric([Term("edges", Seeded(soft_edges(0.2)))]), build("prompt_interface", "bbox_points"))
    assert card.evidence.median(LARGE) == pytest.approx(0.75, abs=0.05)
    assert "search" not in named(card, "wrong answer above the honest median")


@pytest.mark.slow
def test_a_term_that_pays_an_empty_completion_as_a_perfect_one_is_named():
    findings = named(
        seeded(lambda answer_box, true, raw: 1.0 if raw is None else sound(answer_box, true)), "wrong answer preferred"
    )
    assert "box: empty" in findings


def test_a_floor_under_a_single_term_is_named():
    card = audit(
        Rubric([Term("box", Seeded(lambda answer_box, true, _: 0.6 + 0.4 * sound(answer_box, true)))]),
        build("prompt_interface", "bbox_points"),
    )
    assert named(card, "format share")["rubric"].figures["floors"] == pytest.approx(0.6)


@pytest.mark.slow
def test_too_much_for_format_is_named():
    card = seeded(lambda answer_box, true, _: sound(answer_box, true), form=2.0)
    assert {finding.check for finding in card.findings} == {"format share"}
    assert named(card, "format share")["rubric"].figures["format"] == 2


def test_a_term_that_raises_is_named():
    card = seeded(lambda answer_box, true, _: sound(answer_box, true) / answer_box.width)
    assert "box" in named(card, "fails")
    assert "AttributeError" in named(card, "fails")["box"].says


@pytest.mark.slow
def test_coincident_points_that_pay_are_named():
    def near(rollout):
        prompt, target = rollout.grounding.region, rollout.sample.target
        if prompt is None or not prompt.points:
            return 0.0
        middle = [sum(axis) / 2 for axis in zip(*prompt.points, strict=True)]
        goal = [sum(axis) / 2 for axis in zip(*target.region.points, strict=True)]
        return max(0.0, 1 - math.dist(middle, goal) / target.region.box.diagonal)

    interface = build("prompt_interface", "bbox_points", parser="released_train")
    near.range = (0.0, 1.0)
    card = audit(Rubric([Term("near", near)]), interface)
    assert "near" in named(card, "coincident points paid")


@pytest.mark.slow
def test_the_best_paid_wrong_answer_is_wrong():
    interface = build("prompt_interface", "bbox_points")
    terms = [Term("dice", lambda rollout: _dice(rollout)), Term("disc", lambda rollout: _disc(rollout))]
    text, total = audit(Rubric(terms), interface).evidence.best
    scorer = Scorer(Rubric(terms), interface)
    assert scorer.score(LARGE, [text])[0].total == total
    assert 0 < total < 0.4


def _dice(rollout):
    prompt = rollout.grounding.region
    if not prompt or not prompt.box:
        return 0.0
    iou = float(box_iou(prompt.box, rollout.sample.target.region.box))
    return 2 * iou / (1 + iou)


def _disc(rollout):
    prompt = rollout.grounding.region
    return float(disc_dice(prompt.points, rollout.sample.target.region.points)) if prompt and prompt.points else 0.0


@pytest.mark.parametrize("curve", CURVES)
def test_a_curve_starts_perfect_and_only_gets_worse(curve):
    kind = CURVES[curve]
    part = 0 if kind.part == "box" else 1
    overlaps = [LARGE.overlap(kind.at(LARGE, error / 20 * kind.reach))[part] for error in range(21)]
    assert overlaps[0] == pytest.approx(1)
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(overlaps))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_card():
    first, second = fresh_card_of("train/medreasoner_soft"), card_of("train/medreasoner_soft")
    assert first.to_dict() == second.to_dict()
    assert first.curves() == second.curves()


@pytest.mark.parametrize("interface", ["bbox", "points"])
def test_interfaces_that_ask_for_less_are_audited_on_that(interface):
    term = {"bbox": "bbox_iou", "points": "points_dice"}[interface]
    resolved = resolve({"prompt_interface": interface, "rewards": {term: 1, "format_seg": 0.25}})
    assert audit(rubric(resolved), reader(resolved)).findings == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "term",
    [
        "format_think",
        "format_seg",
        "bbox_iou",
        "bbox_align",
        "bbox_scale",
        "points_dice",
        "points_align",
        "points_angle",
    ],
)
def test_every_term_alone_is_sound(term):
    card = json.loads(CliRunner().invoke(reward, ["audit", term, "--json"]).stdout)
    assert [finding["says"] for finding in card["findings"]] == []


@pytest.mark.slow
def test_a_card_is_written_and_its_curves_are_drawn(tmp_path):
    result = CliRunner().invoke(reward, ["audit", "train/medreasoner_hard", "--out", str(tmp_path), "--json"])
    card = json.loads(result.stdout, parse_constant=pytest.fail)
    assert card == json.loads((tmp_path / "card.json").read_text())
    assert card["probes"][REFERENCE.name]["inside-out box"]["total"] == pytest.approx(6.5305)
    page = (tmp_path / "card.md").read_text()
    assert all(finding["says"] in page for finding in card["findings"])
    drawing = ElementTree.fromstring((tmp_path / "curves.svg").read_text())
    lines = drawing.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(CURVES) * 2 <= len(lines) <= len(CURVES) * (1 + len(card["terms"]))


@pytest.mark.slow
def test_the_users_own_function_is_audited(tmp_path):
    (tmp_path / "my.py").write_text("def fn(rollout):\n    return 0.5\n")
    result = CliRunner().invoke(reward, ["audit", f"half={tmp_path / 'my.py'}:fn", "--json"])
    assert [finding["check"] for finding in json.loads(result.stdout)["findings"]] == ["dead term"]


def test_overrides_reach_a_single_term():
    options = ["rewards.points_dice.released=true", "prompt_interface.parser=released_train", "--json"]
    card = json.loads(CliRunner().invoke(reward, ["audit", "points_dice", *options]).stdout)
    assert "plateau" in {finding["check"] for finding in card["findings"]}
