"""Terms score a batch by one formula over arrays; the definitions in plain numbers, rollout by rollout, agree to 1e-15."""

import math
import random
from dataclasses import replace

import pytest
from medground_rewards import boxes, points
from medground_rewards.examples import rollout
from medground_rewards.released import released_result

from medground.registry import build
from medground.types import Completion, Fault, Grounding, Rollout, Target

FORMULAS = {}


def formula(term):
    def keep(function):
        FORMULAS[term] = function
        return function

    return keep


def decayed(error):
    return max(0.0, 1.0 - error) ** 2


@formula(boxes.BboxIou)
def iou(box, truth, pair, key_points):
    width = max(0.0, min(box[2], truth[2]) - max(box[0], truth[0]))
    shared = width * max(0.0, min(box[3], truth[3]) - max(box[1], truth[1]))
    return shared / ((box[2] - box[0]) * (box[3] - box[1]) + (truth[2] - truth[0]) * (truth[3] - truth[1]) - shared)


@formula(boxes.BboxAlign)
def corners(box, truth, pair, key_points):
    mean = (math.dist(box[:2], truth[:2]) + math.dist(box[2:], truth[2:])) / 2
    return decayed(mean / math.dist(truth[:2], truth[2:]))


@formula(boxes.BboxScale)
def sides(box, truth, pair, key_points):
    lengths = [(b[i + 2] - b[i]) for b in (box, truth) for i in (0, 1)]
    alike = math.prod(min(a, b) / max(a, b) for a, b in zip(lengths[:2], lengths[2:], strict=True))
    middles = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in (box, truth)]
    return alike * decayed(math.dist(*middles) / math.dist(truth[:2], truth[2:]))


@formula(points.PointsAlign)
def near(box, truth, pair, key_points):
    (p, q), (a, b) = pair, key_points
    total = min(math.dist(p, a) + math.dist(q, b), math.dist(p, b) + math.dist(q, a))
    return decayed(total / math.dist(truth[:2], truth[2:]))


@formula(points.PointsAngle)
def parallel(box, truth, pair, key_points):
    u, v = (tuple((j - i) / math.dist(*ends) for i, j in zip(*ends, strict=True)) for ends in (pair, key_points))
    angle = math.atan2(abs(u[0] * v[1] - u[1] * v[0]), abs(u[0] * v[0] + u[1] * v[1]))
    return (1 - 2 * angle / math.pi) * near(box, truth, pair, key_points)


@formula(points.PointsDice)
def discs(box, truth, pair, key_points):
    centres = [tuple((i + j) / 2 for i, j in zip(*ends, strict=True)) for ends in (pair, key_points)]
    d, (r, s) = math.dist(*centres), (math.dist(*pair) / 2, math.dist(*key_points) / 2)
    if d >= r + s:
        return 0.0
    if d <= abs(r - s):
        shared = math.pi * min(r, s) ** 2
    else:
        alpha, beta = (math.acos((d**2 + i**2 - j**2) / (2 * d * i)) for i, j in ((r, s), (s, r)))
        shared = r**2 * (alpha - math.sin(2 * alpha) / 2) + s**2 * (beta - math.sin(2 * beta) / 2)
    return 2 * shared / (math.pi * r**2 + math.pi * s**2)


def case(rng):
    def corners():
        x, y = rng.uniform(0, 300), rng.uniform(0, 300)
        return x, y, x + rng.uniform(5, 300), y + rng.uniform(5, 300)

    def ends(box):
        return tuple((rng.uniform(box[0], box[2]), rng.uniform(box[1], box[3])) for _ in "12")

    truth = corners()
    box = tuple(value + rng.uniform(-40, 40) for value in truth) if rng.random() < 0.8 else corners()
    box = (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))
    return box, truth, ends(box if rng.random() < 0.5 else truth), ends(truth)


@pytest.mark.slow
@pytest.mark.parametrize("term", FORMULAS, ids=lambda term: term.name)
def test_a_batch_gives_what_the_formula_gives_for_each(term):
    rng = random.Random(7)
    cases = [case(rng) for _ in range(3000)]
    batch = [rollout(box=b, truth=t, points=p, points_truth=k) for b, t, p, k in cases]
    values = [result.value for result in term().batch(batch)]
    expected = [FORMULAS[term](*numbers) for numbers in cases]
    assert len({round(value, 6) for value in values}) > 500
    assert values == pytest.approx(expected, abs=1e-15, rel=0)
    assert [term()(one).value for one in batch[:200]] == pytest.approx(values[:200], abs=1e-15, rel=0)


def test_what_a_batch_cannot_score_stays_at_its_index():
    good = rollout(box=(0, 0, 10, 10), truth=(5, 0, 15, 10))
    absent = replace(good, sample=replace(good.sample, target=Target(regions=())))
    broken = replace(good, grounding=Grounding(fault=Fault.BAD_BOX))
    results = boxes.BboxIou(threshold=0.3).batch([absent, good, broken, good, absent])
    assert [result.value for result in results] == [None, 1 / 3, 0.0, 1 / 3, None]
    assert results[2].details == {"fault": "bad_box"}
    assert results[4].details == {"undefined": "the target is not one region"}


def test_rollouts_of_one_sample_are_scored_against_its_own_target():
    first, second = rollout(box=(0, 0, 10, 10), truth=(5, 0, 15, 10)), rollout(box=(0, 0, 10, 10), truth=(0, 0, 10, 10))
    crossed = replace(second, sample=first.sample)
    assert [r.value for r in boxes.BboxIou().batch([second, first, crossed, second])] == [1.0, 1 / 3, 1 / 3, 1.0]


@pytest.mark.parametrize("term", [points.PointsAlign, points.PointsAngle])
def test_a_target_without_an_area_is_no_ones_fault(term):
    flat = rollout(truth=(0, 0, 10, 0), points=None, points_truth=((1, 0), (9, 0)))
    assert term()(flat).value is None


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("term", FORMULAS, ids=lambda term: term.name)
def test_released_values_of_a_batch_are_those_of_each_to_the_bit(term, mode):
    interface = build("prompt_interface", "bbox_points", parser="released_train")
    rng = random.Random(3)
    batch = []
    for box, truth, pair, key_points in (case(rng) for _ in range(300)):
        numbers = [[round(value) for value in numbers] for numbers in (box, *pair)]
        answer = dict(zip(("bbox", "points_1", "points_2"), numbers, strict=True))
        text = f"<think>a</think><answer>{answer}</answer>"[: rng.choice([200, 200, 200, 30])]
        sample = rollout(truth=truth, points_truth=key_points).sample
        completion = Completion(text=text, frame=None)
        grounding = interface.parse(completion, sample.query.size)
        batch.append(Rollout(sample=sample, completion=completion, grounding=grounding))
    results = term(released=True, mode=mode).batch(batch)
    assert results == [released_result(term.name, one, mode) for one in batch]
