"""What an audit asks of a rubric: single answers, curves of growing error, honest answers, a search for bad ones."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from medground.geometry import Box, Floats
from medground.rewards.audit.scenes import Scene, SceneAnswer, Scorer
from medground.rewards.rubric import Score

JITTER = 0.1
"""An honest answer is off by up to this share of the target's sides, in every number."""
HONEST = 100
"""Honest answers per scene."""
SEARCH = (240, 180)
"""Random wrong answers tried, and mutations of the best of them."""
FAR = (-2.0, -1.0, 0.0, 1.0, 2.0)
"""How many of its sides a search moves the truth along each axis: an edge that stays in place is exactly right."""
WRONG = 0.1
"""A wrong answer shares less than this with the truth: box IoU and disc Dice both."""
STEPS = 29
REACH = 2.0
"""Curves run from a perfect answer to an error of this many sides."""


def far_wrong(scene: Scene) -> SceneAnswer:
    """Return a small box and two points in the corner of the image farthest from the target."""
    height, width = scene.size
    centre = scene.truth.box.centre
    x = 0.0 if centre.x > width / 2 else width - 0.02 * width
    y = 0.0 if centre.y > height / 2 else height - 0.02 * height
    box = Box(x, y, x + 0.02 * width, y + 0.02 * height)
    return scene.truth.moved(box, [(box.x1, box.y1), (box.x2, box.y1)])


def _guess(scene: Scene, share: float) -> SceneAnswer:
    """Return the middle of the image, `share` of its sides wide and high, with points where points usually are."""
    height, width = scene.size
    margin = (1 - share) / 2
    box = Box(margin * width, margin * height, (1 - margin) * width, (1 - margin) * height)
    centre, step = box.centre, share * width / 8
    return scene.truth.moved(box, [(centre.x - step, centre.y), (centre.x + step, centre.y)])


def inverted(scene: Scene) -> SceneAnswer:
    """Return the true box inside out, the true points."""
    box = scene.truth.box
    return scene.truth.moved((box.x2, box.y2, box.x1, box.y1))


def probes(scorer: Scorer, scene: Scene) -> dict[str, str]:
    """Return every single answer worth asking about a scene, by name."""
    truth, far = scene.truth, far_wrong(scene)
    perfect, wide = scorer.write(truth), scene.sides[0]
    centre = truth.box.centre
    shifted = truth.moved(np.add(truth.box, (wide / 4, 0) * 2), np.add(truth.points, (wide / 4, 0)))
    numbers = json.dumps(scorer.values(truth))
    box, points = list(truth.box), [list(point) for point in truth.points]
    return {
        "perfect": perfect,
        "shifted by a quarter": scorer.write(shifted),
        "scaled by a half": scorer.write(truth.moved(_scaled(truth, 0.5).box, _scaled(truth, 0.5).points)),
        "inside-out box": scorer.write(inverted(scene)),
        "no box": scorer.write(truth, box=None),
        "no points": scorer.write(truth, points=[None, None]),
        "whole image": scorer.write(_guess(scene, 1.0)),
        "centre box": scorer.write(_guess(scene, 0.5)),
        "far wrong": scorer.write(far),
        "coincident points": scorer.write(truth.moved(points=[np.mean(truth.points, axis=0)] * 2)),
        "empty": "",
        "empty answer": scorer.wrap("{}"),
        "prose": scorer.wrap("It is on the left."),
        "single quotes": scorer.wrap(numbers.replace('"', "'")),
        "two answers, the first right": perfect + scorer.write(far),
        "two answers, the second right": scorer.write(far) + perfect,
        "doubled tags": perfect.replace(scorer.before, scorer.before * 2, 1),
        "no think block": scorer.before[max(scorer.before.rfind("<answer>"), 0) :] + numbers + scorer.after,
        "truncated": perfect[: perfect.rindex("}") - 2],
        "NaN in the box": scorer.write(truth, box=[*box[:3], float("nan")]),
        "NaN first": scorer.write(truth, box=[float("nan"), *box[1:]]),
        "NaN in a point": scorer.write(truth, points=[[float("nan"), 1.0], points[1]]),
        "infinite box": scorer.write(truth, box=[*box[:3], float("inf")]),
        "infinite and inside out": scorer.write(truth, box=[box[0], box[3], float("inf"), box[1]]),
        "huge numbers": scorer.write(truth, box=[-1e308, -1e308, 1e308, 1e308]),
        "true for numbers": scorer.write(truth, box=[True, False, True, True]),
        "text for numbers": scorer.write(truth, box=[str(value) for value in box]),
        "flat box": scorer.write(truth.moved((truth.box.x1, centre.y, truth.box.x2, centre.y))),
        "thin box": scorer.write(truth.moved((centre.x, truth.box.y1, centre.x, truth.box.y2))),
        "one axis inverted": scorer.write(truth.moved((truth.box.x2, truth.box.y1, truth.box.x1, truth.box.y2))),
    }


WRONG_PROBES = (
    "whole image",
    "centre box",
    "far wrong",
    "empty",
    "empty answer",
    "prose",
    "two answers, the first right",
    "two answers, the second right",
    "truncated",
)
"""Probes that no rubric should prefer to an honest answer, whatever part of the answer it looks at."""

MISPLACED = ("whole image", "centre box", "far wrong", "empty", "empty answer", "prose")
"""Those of them that say nothing right about the place."""


def _scaled(truth: SceneAnswer, factor: float) -> SceneAnswer:
    centre = np.asarray(truth.box.centre)
    box = (np.reshape(truth.box, (2, 2)) - centre) * factor + centre
    return truth.moved(box, (np.asarray(truth.points) - centre) * factor + centre)


def _turned(truth: SceneAnswer, quarter: float) -> SceneAnswer:
    """Return the points turned about their midpoint by a share of a right angle."""
    points = np.asarray(truth.points)
    middle, angle = points.mean(axis=0), quarter * np.pi / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return truth.moved(points=(points - middle) @ turn.T + middle)


def _spread(truth: SceneAnswer, factor: float) -> SceneAnswer:
    points = np.asarray(truth.points)
    middle = points.mean(axis=0)
    return truth.moved(points=(points - middle) * factor + middle)


def _shift(scene: Scene, error: float) -> Floats:
    return np.asarray(scene.sides) * error


@dataclass(frozen=True, slots=True)
class Curve:
    """A way of being ever more wrong."""

    part: str
    """box or points: which of the overlaps says how wrong."""
    at: Callable[[Scene, float], SceneAnswer]
    """The answer with a given relative error; 0 is perfect."""
    reach: float = REACH


CURVES: Mapping[str, Curve] = {
    "box shifted": Curve("box", lambda s, e: s.truth.moved(np.add(s.truth.box, np.tile(_shift(s, e), 2)))),
    "box shifted sideways": Curve("box", lambda s, e: s.truth.moved(np.add(s.truth.box, (-e * s.sides[0], 0) * 2))),
    "box grown": Curve("box", lambda s, e: s.truth.moved(_scaled(s.truth, 1 + e).box)),
    "box shrunk": Curve("box", lambda s, e: s.truth.moved(_scaled(s.truth, 1 / (1 + e)).box)),
    "points shifted": Curve("points", lambda s, e: s.truth.moved(points=np.add(s.truth.points, _shift(s, e)))),
    "points spread": Curve("points", lambda s, e: _spread(s.truth, 1 + e)),
    "points drawn together": Curve("points", lambda s, e: _spread(s.truth, 1 / (1 + e))),
    "points turned": Curve("points", lambda s, e: _turned(s.truth, e), reach=1.0),
}


def errors(curve: Curve) -> Floats:
    """Return the relative errors a curve is followed at: denser near perfect."""
    return np.asarray(curve.reach * np.linspace(0, 1, STEPS) ** 2, np.float64)


def follow(scorer: Scorer, scene: Scene, curve: Curve) -> list[Score]:
    """Return the scores along a curve, perfect first."""
    return scorer.score(scene, [scorer.write(curve.at(scene, float(error))) for error in errors(curve)])


def honest(scorer: Scorer, scene: Scene, seed: int) -> list[Score]:
    """Return the scores of honest answers: the truth with every number off by up to `JITTER` of the target's side."""
    rng = np.random.default_rng(seed)
    steps = rng.uniform(-JITTER, JITTER, (HONEST, 4, 2)) * scene.sides
    numbers = np.concatenate([np.reshape(scene.truth.box, (2, 2)), np.asarray(scene.truth.points)]) + steps
    return scorer.score(scene, [scorer.write(scene.truth.moved(answer[:2], answer[2:])) for answer in numbers])


def best_wrong(scorer: Scorer, scene: Scene, seed: int) -> tuple[str, float] | None:
    """Return the highest-paid wrong answer a search finds: (text, total), or None where none has a total.

    It tries the truth moved far along the axes, every point of the curves, and random numbers, and climbs from the best.
    """
    rng = np.random.default_rng(seed)
    extent = np.tile((scene.size[1], scene.size[0]), (4, 1))
    rounds, climbs = SEARCH
    best = _along_curves(scorer, scene, _best(scorer, scene, _far(scene), None))
    best = _best(scorer, scene, rng.uniform(-0.1, 1.1, (rounds // 2, 4, 2)) * extent, best)
    best = _best(scorer, scene, _distorted(scene, rng, rounds // 2), best)
    for spread in (0.2, 0.05, 0.01):
        if best is not None:
            steps = rng.normal(0, spread, (climbs // 3, 4, 2)) * extent
            best = _best(scorer, scene, best[0] + steps, best)
    return None if best is None else (scorer.write(_answer(scene, best[0])), best[1])


def _numbers(answer: SceneAnswer) -> Floats:
    """Return [4, 2] both corners of the box, and both points."""
    return np.concatenate([np.reshape(answer.box, (2, 2)), np.asarray(answer.points)])


def _far(scene: Scene) -> Floats:
    """Return [N, 4, 2] the truth as a whole, moved by whole sides, and the far corner."""
    moves = np.array([(x, y) for x in FAR for y in FAR]) * scene.sides
    return np.concatenate([_numbers(scene.truth) + moves[:, None], _numbers(far_wrong(scene))[None]])


def _along_curves(scorer: Scorer, scene: Scene, best: tuple[Floats, float] | None) -> tuple[Floats, float] | None:
    """Return the best answer so far, with the best-paid wrong box of the curves in it, then with the best-paid wrong points."""
    for part, own in (("box", slice(0, 2)), ("points", slice(2, 4))):
        start = _numbers(far_wrong(scene)) if best is None else best[0]
        tried = []
        for curve in (curve for curve in CURVES.values() if curve.part == part):
            for error in errors(curve):
                tried.append(start.copy())
                tried[-1][own] = _numbers(curve.at(scene, float(error)))[own]
        best = _best(scorer, scene, np.array(tried), best)
    return best


def _distorted(scene: Scene, rng: np.random.Generator, count: int) -> Floats:
    """Return [count, 4, 2] the truth, box and points each scaled about their middle and moved: wrong, but in one way only."""
    parts = np.stack([np.reshape(scene.truth.box, (2, 2)), np.asarray(scene.truth.points)])
    middle = parts.mean(axis=1, keepdims=True)
    scale = np.exp(rng.normal(0, 1.5, (count, 2, 1, 2)))
    moved = rng.normal(0, 1, (count, 2, 1, 2)) * np.asarray(scene.sides) * rng.integers(0, 2, (count, 2, 1, 1))
    return np.asarray(((parts - middle) * scale + middle + moved).reshape(count, 4, 2), np.float64)


def _best(
    scorer: Scorer, scene: Scene, tried: Floats, best: tuple[Floats, float] | None
) -> tuple[Floats, float] | None:
    wrong = [answer for answer in tried if max(scene.overlap(_answer(scene, answer))) < WRONG]
    scores = scorer.score(scene, [scorer.write(_answer(scene, answer)) for answer in wrong])
    for answer, score in zip(wrong, scores, strict=True):
        if score.total is not None and (best is None or score.total > best[1]):
            best = answer, score.total
    return best


def _answer(scene: Scene, numbers: Floats) -> SceneAnswer:
    return scene.truth.moved(numbers[:2], numbers[2:])
