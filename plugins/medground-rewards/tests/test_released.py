"""Released terms give the worked numbers, and agree with a second transcription on thousands of cases."""

import math
import random
from dataclasses import replace

import pytest
from medground_rewards import boxes, flags, points
from medground_rewards.examples import rollout

TERMS = {
    "bbox_iou": boxes.BboxIou,
    "bbox_align": boxes.BboxAlign,
    "bbox_scale": boxes.BboxScale,
    "points_dice": points.PointsDice,
    "points_align": points.PointsAlign,
    "points_angle": points.PointsAngle,
}
FLAGS = {
    "bbox_position_valid": flags.BboxPositionValid,
    "bbox_area_valid": flags.BboxAreaValid,
    "points_position_valid": flags.PointsPositionValid,
    "points_spread_valid": flags.PointsSpreadValid,
}
NAN, INF = math.nan, math.inf
BOX, PAIR = [445, 136, 708, 729], [[534, 273], [595, 455]]


def case(raw, truth):
    made = rollout(published=truth)
    return replace(made, grounding=replace(made.grounding, raw=raw))


def answer(box, pair):
    return {"bbox": box, "points_1": pair[0], "points_2": pair[1]}


def truth_of(box=BOX, pair=PAIR):
    return {"bbox_2d": box, "point_2d": pair}


def scored(raw, truth, mode):
    here = case(raw, truth)
    made = {name: term(released=True, mode=mode) for name, term in TERMS.items()}
    made |= {name: flag(mode=mode) for name, flag in FLAGS.items()}
    results = {name: term(here) for name, term in made.items()}
    return {name: float(r.details["released"]) if r.value is None else r.value for name, r in results.items()}


# Worked examples: box, points, then IoU soft / hard, align, scale, pDice, p-align, p-angle, flags, and the four totals.
ROWS = {
    1: (BOX, PAIR, 1, 1, 1, 1, 1, 1, 1, (1, 1), (1, 1), 4.0, 8.0),
    2: (BOX, PAIR[::-1], 1, 1, 1, 1, 1, 1, 1, (1, 1), (1, 1), 4.0, 8.0),
    3: ([485, 176, 748, 769], [[554, 293], [615, 475]],
        0.8049, 0.8049, 0.9910, 1, 1, 0.9957, 1, (1, 1), (1, 1), 3.8049, 7.7916),
    4: ([510, 200, 640, 660], PAIR, 0.5523, 0.5523, 0.9103, 0.2694, 1, 1, 1, (1, 0.5), (1, 1), 3.5523, 6.7320),
    5: ([10, 10, 200, 300], [[50, 60], [120, 200]],
        0.0812, 0.0812, 0.6734, 0.2367, 0.0887, 0.7477, 0.8832, (0.25, 0.5), (0.25, 1), 2.1699, 4.7109),
    6: ([0, 0, 840, 840], [[420, 300], [420, 540]],
        0.3980, 0.3980, 0.8635, 0.2694, 0.3423, 0.8646, 0.8647, (1, 0.5), (0.25, 1), 2.7403, 5.6025),
    7: (BOX, [[560, 360], [560, 360]], 1, 1, 1, 1, 0.0925, 0.9117, 0.0925, (1, 1), (1, 0.5), 3.0925, 6.0967),
    8: ([445, 300, 708, 300], PAIR, 0.0812, 0, 0, 0, 1, 1, 1, (0, 0), (1, 1), 3.0812, 5.0),
    9: ([500, 136, 500, 729], PAIR, 0.0812, 0.0812, 0.7997, 0.2367, 1, 1, 1, (0.25, 0.5), (1, 1), 3.0812, 6.1176),
    10: ([708, 729, 445, 136], PAIR, 0.0812, 0.0812, 0.6368, 0.8125, 1, 1, 1, (0.25, 0.5), (1, 1), 3.0812, 6.5305),
    11: (BOX, [[655, 333], [473, 395]], 1, 1, 1, 1, 1, 0.9771, 0.1095, (1, 1), (1, 1), 4.0, 7.0866),
    12: ([0, 0, 1, 1], [[839, 0], [839, 0]],
         0.0812, 0.0812, 0.5772, 0.2367, 0.0812, 0.7063, 0.0812, (0.25, 0.5), (0.25, 0.5), 2.1624, 3.7638),
    13: ([0, 0, 0, 0], [[0, 0], [0, 0]],
         0.0812, 0, 0, 0, 0.0812, 0.6094, 0.0812, (0, 0), (0.25, 0.5), 2.1624, 2.7718),
    14: ([445, 136, 708, NAN], PAIR, 0.0812, 0.0812, NAN, NAN, 1, 1, 1, (0.25, 0.5), (1, 1), 3.0812, NAN),
    15: ([445, 136, 708, INF], PAIR, 0.0925, 0.0925, 0.0925, 0.2694, 1, 1, 1, (1, 0.5), (1, 1), 3.0925, 5.4544),
    16: ([True, False, True, True], PAIR,
         0.0812, 0.0812, 0.5774, 0.2367, 1, 1, 1, (0.25, 0.5), (1, 1), 3.0812, 5.8953),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_released_terms_give_the_worked_numbers(row):
    box, pair, soft_iou, iou, align, scale, dice, p_align, angle, box_flags, point_flags, soft_total, hard_total = ROWS[
        row
    ]
    hard = scored(answer(box, pair), truth_of(), "hard")
    expected = {"bbox_iou": iou, "bbox_align": align, "bbox_scale": scale}
    expected |= {"points_dice": dice, "points_align": p_align, "points_angle": angle}
    expected |= dict(zip(FLAGS, (*box_flags, *point_flags), strict=True))
    assert hard == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert 2 + sum(hard[name] for name in TERMS) == pytest.approx(hard_total, abs=1e-9, nan_ok=True)
    soft = scored(answer(box, pair), truth_of(), "soft")
    assert soft["bbox_iou"] == soft_iou
    assert [soft[name] for name in ("bbox_align", "bbox_scale", "points_align", "points_angle")] == [0.0] * 4
    assert 2 + sum(soft[name] for name in TERMS) == pytest.approx(soft_total, abs=1e-9)


def test_released_terms_give_the_worked_numbers_on_other_truths():
    small = truth_of([100, 100, 112, 112], [[104, 106], [109, 106]])
    perfect = scored(answer([100, 100, 112, 112], [[104, 106], [109, 106]]), small, "hard")
    assert [perfect[name] for name in TERMS] == [1, 1, 1, 1, 0.925, 0.925]
    line = truth_of([10, 10, 10, 50], [[10, 10], [10, 50]])
    copy = scored(answer([10, 10, 10, 50], [[10, 10], [10, 50]]), line, "hard")
    assert [copy[name] for name in TERMS] == [0.0925, 0.925, 0.925, 1, 1, 1]
    flat = truth_of([100, 100, 200, 200], [[140, 140], [160, 160]])
    poor = scored(answer([100, 100, 200, 100.5], [[150, 100], [155, 100]]), flat, "hard")
    assert [poor[name] for name in TERMS] == [0.0891, 0.7879, 0.2367, 0.0925, 0.8914, 0.7760]


def test_a_nan_abstains_by_name_and_an_exception_is_zero_by_name():
    result = boxes.BboxAlign(released=True)(case(answer([NAN, 1, 2, 3], PAIR), truth_of()))
    assert (result.value, dict(result.details)) == (None, {"released": "nan"})
    result = boxes.BboxAlign(released=True)(case(answer([1, 5, 2, 5], PAIR), truth_of()))
    assert (result.value, dict(result.details)) == (0.0, {"raised": "ZeroDivisionError"})


def test_without_a_published_statement_the_target_itself_is_the_truth():
    assert boxes.BboxIou(released=True)(rollout()).value == 1.0
    assert points.PointsAngle(released=True)(rollout()).value == 1.0


# The formulas a second time, written from their description alone.


def length(x, y):
    return math.sqrt(x * x + y * y)


def smooth_log(v):
    return 0.1 + 0.9 * math.log(3 * v + 1) / math.log(4)


def smooth_exp(v, c):
    def s(x):
        return 1 / (1 + math.e ** (3 * (x - c)))

    return 0.1 + 0.9 * ((s(v) - s(2)) / (s(0) - s(2) + 1e-8))


def clip(v, low, high):
    return v if v != v else low if v < low else high if v > high else v


def near_tie(v):
    """Return True if the last bit of the product decides how the fifth decimal is rounded."""
    return v == v and abs(v * 1e4 - math.floor(v * 1e4) - 0.5) < 1e-12


def penalise(r, a, b):
    value = clip(r * (0.7 + 0.3 * (a + b) / 2), 0, 1)
    return math.floor(value * 1e4) / 1e4 if near_tie(value) else round(value, 4)


def inside(p, box):
    return 1 if box[0] <= p[0] and p[0] <= box[2] and box[1] <= p[1] and p[1] <= box[3] else 0.5


def pos(v):
    return v if v > 0 else 0


def numeric(value, n):
    if type(value) is not list or len(value) != n or any(type(v) not in (int, float, bool) for v in value):
        raise TypeError


def reference_box(raw, truth, mode):
    p, g, gt_points = raw["bbox"], truth["bbox_2d"], truth["point_2d"]
    numeric(p, 4)
    where = inside(gt_points[0], p) * inside(gt_points[1], p)
    pw, ph, gw, gh = p[2] - p[0], p[3] - p[1], g[2] - g[0], g[3] - g[1]
    pa, ga = pos(pw) * pos(ph), pos(gw) * pos(gh)
    sides = []
    for i in (0, 1):
        low = g[i] if g[i] > p[i] else p[i]
        high = g[i + 2] if g[i + 2] < p[i + 2] else p[i + 2]
        sides.append(pos(high - low))
    shared = sides[0] * sides[1]
    size = 1 if pa > 0.5 * ga and pa < 2 * ga else 0.5
    found = {"bbox_iou": penalise(smooth_log(shared / (pa + ga - shared + 1e-5)), where, size)}
    found |= {"bbox_align": 0.0, "bbox_scale": 0.0, "bbox_position_valid": where, "bbox_area_valid": size}
    if mode == "hard":
        m = sum(abs(a - b) for a, b in zip(p, g, strict=True)) / 4
        found["bbox_align"] = penalise(smooth_exp(clip(m / (length(gw, gh) + 1e-5), 0, 2), 1), where, size)
        s = length(math.log((pw * ph + 1e-6) / (gw * gh + 1e-6)), math.log((pw / ph + 1e-6) / (gw / gh + 1e-6)))
        found["bbox_scale"] = penalise(smooth_exp(1 if s > 1 else s, 0.5), where, size)
    return found


def reference_points(raw, truth, mode):
    p, q = raw["points_1"], raw["points_2"]
    numeric(p, 2)
    numeric(q, 2)
    (a, b), box = truth["point_2d"][:2], truth["bbox_2d"]
    where = inside(p, box) * inside(q, box)
    far = length(p[0] - q[0], p[1] - q[1])
    spread = 1 if far > 10 else 0.5
    r, s = far / 2 + 1e-5, length(a[0] - b[0], a[1] - b[1]) / 2 + 1e-5
    d = length((p[0] + q[0] - a[0] - b[0]) / 2, (p[1] + q[1] - a[1] - b[1]) / 2)
    if d >= r + s - 1e-5:
        shared = 0
    elif d <= abs(r - s) + 1e-5:
        shared = math.pi * min(r, s) ** 2
    else:  # two circular segments, each cut off by the common chord at a distance x from its centre
        shared = 0
        for here, there in ((r, s), (s, r)):
            x = (d * d + here * here - there * there) / (2 * d)
            shared += here**2 * math.acos(clip(x / here, -1, 1)) - x * math.sqrt(pos(here**2 - x * x))
    v = 2 * shared / (math.pi * r**2 + math.pi * s**2 - shared + 1e-5)
    found = {"points_dice": penalise(smooth_log(v), where, spread), "points_align": 0.0, "points_angle": 0.0}
    found |= {"points_position_valid": where, "points_spread_valid": spread}
    if mode == "hard":
        sums = [
            (abs(p[0] - u[0]) + abs(p[1] - u[1]) + abs(q[0] - w[0]) + abs(q[1] - w[1])) / 2 for u, w in ((a, b), (b, a))
        ]
        m = sums[0] / 2 if sums[0] != sums[0] else min(sums) / 2
        diagonal = length(box[2] - box[0], box[3] - box[1])
        found["points_align"] = penalise(smooth_exp(clip(m / (diagonal + 1e-5), 0, 2), 1), where, spread)
        dot = (q[0] - p[0]) * (b[0] - a[0]) + (q[1] - p[1]) * (b[1] - a[1])
        cosine = abs(dot / ((far + 1e-8) * (length(a[0] - b[0], a[1] - b[1]) + 1e-8)))
        found["points_angle"] = penalise(smooth_log(cosine), where, spread)
    return found


def reference(raw, truth, mode):
    found = {}
    for part, prefix in ((reference_box, "bbox"), (reference_points, "points")):
        try:
            found |= part(raw or {}, truth, mode)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            found |= {name: 0.0 for name in (*TERMS, *FLAGS) if name.startswith(prefix)}
    return found


ODD = [NAN, INF, -INF, True, False, None, "12", [1], 10**400, -(10**400), 1e200, -1e308, 0, -0.0, 10**20, 1e-320]


def fuzzed(rng):
    """Return a random answer and truth: jitter, coincident or inverted parts, integers, floats and unusual values."""
    size = rng.choice([20, 840, 4000])
    draw = (lambda: rng.randrange(size)) if rng.random() < 0.7 else (lambda: rng.uniform(0, size))
    x, y = sorted([draw(), draw()]), sorted([draw(), draw()])
    box, pair = [x[0], y[0], x[1], y[1]], [[draw(), draw()], [draw(), draw()]]
    if rng.random() < 0.7:
        pair = [[x[0] + (x[1] - x[0]) * rng.randint(1, 9) // 10, (y[0] + y[1]) // 2] for _ in "12"]
    kind = rng.random()
    if kind < 0.2:
        said, clicks = [draw() for _ in range(4)], [[draw(), draw()], [draw(), draw()]]
    else:
        step = rng.choice([0, 1, 5, 40])
        said = [v + rng.randint(-step, step) for v in box]
        clicks = [[v + rng.randint(-step, step) for v in point] for point in pair]
    raw = {"bbox": said, "points_1": clicks[0], "points_2": clicks[1]}
    if kind > 0.6:
        for _ in range(rng.choice([1, 1, 2])):
            place = rng.choice([said, *clicks])
            place[rng.randrange(len(place))] = rng.choice(ODD)
    if kind > 0.9:
        key = rng.choice(list(raw))
        change = rng.randrange(4)
        if change == 0:
            del raw[key]
        else:
            raw[key] = [None, raw[key][:-1], "abcd"][change - 1]
    truth = {"bbox_2d": box, "point_2d": pair}
    if rng.random() < 0.1:
        damage = rng.choice(["one point", "no points", "no box", "null", "flat", "coincident", "odd"])
        truth = {
            "one point": {"bbox_2d": box, "point_2d": pair[:1]},
            "no points": {"bbox_2d": box},
            "no box": {"point_2d": pair},
            "null": {"bbox_2d": None, "point_2d": None},
            "flat": {"bbox_2d": [box[0], box[1], box[2], box[1]], "point_2d": pair},
            "coincident": {"bbox_2d": box, "point_2d": [pair[0], pair[0]]},
            "odd": {"bbox_2d": box, "point_2d": [pair[0], ["1", "2"]]},
        }[damage]
    return raw, truth


def same(a, b):
    return abs(a - b) <= 1e-9 or (a != a and b != b)


def floats(raw):
    return [v for key in ("points_1", "points_2") for v in raw.get(key) or () if isinstance(v, float)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_both_transcriptions_agree(mode):
    rng = random.Random(20260 + len(mode))
    seen = {"nan": 0, "zeros": 0}
    for _ in range(4000):
        raw, truth = fuzzed(rng)
        expected, found = reference(raw, truth, mode), scored(raw, truth, mode)
        if any(1e150 < abs(v) < INF for v in floats(raw)) and found["points_spread_valid"] == 0.0:
            # A power raises where a product is infinite; the release has powers, the transcription products.
            expected |= {name: 0.0 for name in found if name.startswith("points")}
        assert all(same(found[name], expected[name]) for name in (*TERMS, *FLAGS)), (raw, truth, found, expected)
        seen["nan"] += any(v != v for v in found.values())
        seen["zeros"] += not any(found.values())
    assert min(seen.values()) > 20


def reference_base(raw, truth, fixed):
    def attempt(function):
        try:
            return 1.0 if function() else 0.0
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return 0.0

    def iou():
        (a, b, c, d), (e, f, g, h) = raw["bbox"], truth["bbox_2d"]
        shared = pos(min(c, g) - max(a, e) + 1) * pos(min(d, h) - max(b, f) + 1)
        return shared / (pos(c - a + 1) * pos(d - b + 1) + pos(g - e + 1) * pos(h - f + 1) - shared) > 0.5

    def l1():
        (a, b, c, d), (e, f, g, h) = raw["bbox"], truth["bbox_2d"]
        return (abs(a - e) + abs(b - f) + abs(c - g) + abs(d - h)) / 4 < 10

    def near():
        a, b, c, d = raw["bbox"]
        said = [[int(raw[key][0]), int(raw[key][1])] for key in ("points_1", "points_2")]
        if any(not (a <= x <= c and b <= y <= d) for x, y in said):
            return False
        g = truth["point_2d"]
        sums = [math.dist(said[0], g[i][:2]) + math.dist(said[1], g[1 - i][:2]) for i in (0, 1)]
        return min(sums) / 2 < 100

    return [attempt(iou) if fixed else 0.0, attempt(l1) if fixed else 0.0, attempt(near)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["base", "base_fixed"])
def test_base_agrees_with_a_second_transcription(mode):
    rng = random.Random(7)
    terms = [term(released=True, mode=mode) for term in (boxes.BboxIou, boxes.BboxAlign, points.PointsAlign)]
    paid = [0, 0, 0]
    for _ in range(3000):
        raw, truth = fuzzed(rng)
        values = [term(case(raw, truth)).value for term in terms]
        assert values == reference_base(raw, truth, mode == "base_fixed"), (raw, truth)
        paid = [count + (value > 0) for count, value in zip(paid, values, strict=True)]
    assert paid[2] > 100
    assert (min(paid[:2]) > 100) if mode == "base_fixed" else (paid[:2] == [0, 0])
