"""The corrected terms keep their promises, singly and as rubrics."""

import itertools
import math
import pickle
import random
import statistics
from dataclasses import replace

import medground_rewards
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from medground_rewards import boxes, form, masks, points
from medground_rewards.examples import rollout
from medground_rewards.released import modes

from medground.errors import RecipeError
from medground.recipe import resolve
from medground.rewards.rubric import rubric
from medground.testing import check_reward
from medground.types import Mask

BOXES = [boxes.BboxIou, boxes.BboxAlign, boxes.BboxScale]
POINTS = [points.PointsDice, points.PointsAlign, points.PointsAngle]
ON_MASKS = [masks.MaskDice, masks.MaskIou, masks.Boundary, masks.PointsInMask]
TRUTH = (20.0, 30.0, 60.0, 80.0)
PAIR = ((30.0, 45.0), (50.0, 65.0))


def registered():
    found = {}
    medground_rewards.register_rewards(found.__setitem__)
    return found


def test_a_negative_click_is_no_point_of_the_answer():
    """Foreground clicks on the key points and a background click beside them: a perfect answer, for every point term."""
    answer = rollout(truth=TRUTH, points_truth=PAIR, box=TRUTH, points=PAIR)
    (region,) = answer.grounding.regions
    clicked = replace(region, points=(PAIR[0], (0.0, 0.0), PAIR[1]), labels=(1, 0, 1))
    answer = replace(answer, grounding=replace(answer.grounding, regions=(clicked,)))
    assert [term()(answer).value for term in POINTS] == [1.0, 1.0, 1.0]


def moved(box, dx, dy):
    return (box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy)


def resized(box, sx, sy):
    (x, y), (w, h) = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), (box[2] - box[0], box[3] - box[1])
    return (x - w * sx / 2, y - h * sy / 2, x + w * sx / 2, y + h * sy / 2)


def shifted(pair, dx, dy):
    return tuple((x + dx, y + dy) for x, y in pair)


def turned(pair, angle):
    (cx, cy) = ((pair[0][0] + pair[1][0]) / 2, (pair[0][1] + pair[1][1]) / 2)
    c, s = math.cos(angle), math.sin(angle)
    return tuple((cx + c * (x - cx) - s * (y - cy), cy + s * (x - cx) + c * (y - cy)) for x, y in pair)


@pytest.mark.parametrize("name", registered())
@pytest.mark.lane
def test_every_term_passes_the_conformance_kit(name):
    factory = registered()[name]
    check_reward(factory)
    if name.startswith("format_"):
        check_reward(factory, released=True)
    for mode in modes(name):
        flag = name.endswith("_valid")
        check_reward(factory, mode=mode, **({} if flag else {"released": True}))


def test_terms_are_pickled_and_their_repr_shows_their_settings():
    term = boxes.BboxIou(threshold=0.5)
    assert pickle.loads(pickle.dumps(term)) == term
    assert repr(term) == "BboxIou(released=False, mode='hard', threshold=0.5)"


@pytest.mark.parametrize("arguments", [{"mode": "sfot"}, {"mode": "base"}, {"threshold": 1.0}, {"threshold": math.nan}])
def test_invalid_arguments_are_refused(arguments):
    with pytest.raises(RecipeError):
        points.PointsDice(**arguments)


@pytest.mark.parametrize("term", [masks.Boundary, masks.PointsInMask])
@pytest.mark.parametrize("tolerance", [0, -1, math.nan, math.inf])
def test_a_tolerance_is_a_positive_number(term, tolerance):
    with pytest.raises(RecipeError):
        term(tolerance=tolerance)


@pytest.mark.parametrize("term", [*BOXES, *POINTS])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 1e6])
def test_a_perfect_answer_earns_1_at_any_size(term, scale):
    box, pair = tuple(v * scale for v in TRUTH), tuple((x * scale, y * scale) for x, y in PAIR)
    assert term()(rollout(box=box, truth=box, points=pair, points_truth=pair)).value == 1.0
    swapped = rollout(box=box, truth=box, points=pair[::-1], points_truth=pair)
    assert term()(swapped).value == 1.0


@pytest.mark.parametrize("term", [*BOXES, *POINTS])
@pytest.mark.parametrize("scale", [0.01, 7.0, 1e5])
def test_values_depend_on_relative_error_only(term, scale):
    box, pair = resized(moved(TRUTH, 3, -2), 1.1, 0.8), turned(shifted(PAIR, 2, 1), 0.3)
    here = term()(rollout(box=box, truth=TRUTH, points=pair, points_truth=PAIR)).value
    there = rollout(
        box=[v * scale for v in box],
        truth=[v * scale for v in TRUTH],
        points=[(x * scale, y * scale) for x, y in pair],
        points_truth=[(x * scale, y * scale) for x, y in PAIR],
    )
    assert 0 < here < 1
    assert term()(there).value == pytest.approx(here, rel=1e-9)


ERRORS = {
    "box moved right": lambda e: {"box": moved(TRUTH, 120 * e, 0)},
    "box moved diagonally": lambda e: {"box": moved(TRUTH, -90 * e, 70 * e)},
    "box grown": lambda e: {"box": resized(TRUTH, 1 + 4 * e, 1 + 4 * e)},
    "box shrunk": lambda e: {"box": resized(TRUTH, 1 - 0.99 * e, 1 - 0.99 * e)},
    "box stretched": lambda e: {"box": resized(TRUTH, 1 + 4 * e, 1)},
    "points moved": lambda e: {"points": shifted(PAIR, 60 * e, -30 * e)},
    "points turned": lambda e: {"points": turned(PAIR, e * math.pi / 2)},
}


@pytest.mark.parametrize("what", ERRORS)
@pytest.mark.parametrize("term", [*BOXES, *POINTS])
def test_values_fall_with_error_without_a_plateau_before_perfect(term, what):
    steps = [k / 100 for k in range(101)]
    base = {"truth": TRUTH, "box": TRUTH, "points": PAIR, "points_truth": PAIR}
    values = [term()(rollout(**base | ERRORS[what](step))).value for step in steps]
    assert values[0] == pytest.approx(1.0, abs=1e-12)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(values))
    sees = what.startswith("box") == (term in BOXES) and (term, what) != (points.PointsDice, "points turned")
    if sees:
        living = [value for value in values if value > 0]
        assert all(a > b for a, b in itertools.pairwise(living))
        assert len(living) > 10
    else:
        assert values == pytest.approx([1.0] * len(values))


@pytest.mark.parametrize("term", BOXES)
def test_size_errors_cost_the_same_either_way(term):
    grown = term()(rollout(box=resized(TRUTH, 2, 2), truth=TRUTH)).value
    shrunk = term()(rollout(box=resized(TRUTH, 0.5, 0.5), truth=TRUTH)).value
    if term is not boxes.BboxAlign:
        assert grown == pytest.approx(shrunk)


@pytest.mark.parametrize("term", BOXES)
@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ((60, 80, 20, 30), "inverted_box"),
        ((60, 30, 20, 80), "inverted_box"),
        ((20, 30, 20, 80), "degenerate_box"),
        ((20, 30, math.inf, 80), "nonfinite"),
        ((math.nan, 30, 60, 80), "nonfinite"),
        ((-1e308, 30, 1e308, 80), "nonfinite"),
        (None, "missing_keys"),
    ],
)
def test_a_box_that_encloses_nothing_earns_nothing(term, box, fault):
    result = term()(rollout(box=box, truth=TRUTH))
    assert (result.value, result.details) == (0.0, {"fault": fault})


@pytest.mark.parametrize("term", POINTS)
@pytest.mark.parametrize(
    "pair", [None, [(1, 1)], [(1, 1), (2, 2), (3, 3)], [(math.nan, 1), (2, 2)], [(1e200, 1), (2, 2)]]
)
def test_points_that_are_not_two_finite_ones_earn_nothing(term, pair):
    result = term()(rollout(points=pair, points_truth=PAIR))
    assert result.value == 0.0
    assert result.details["fault"]


def test_coincident_points_have_no_disc_and_no_direction():
    said = rollout(points=[(40, 55)] * 2, points_truth=PAIR, truth=TRUTH)
    assert points.PointsDice()(said).value == 0.0
    assert points.PointsAngle()(said).value == 0.0
    assert 0 < points.PointsAlign()(said).value < 1
    truth = rollout(points=PAIR, points_truth=[(40, 55)] * 2, truth=TRUTH)
    assert points.PointsDice()(truth).value is None
    assert points.PointsAngle()(truth).value is None
    assert 0 < points.PointsAlign()(truth).value < 1


@pytest.mark.parametrize("term", BOXES)
def test_a_target_without_area_makes_the_term_abstain(term):
    result = term()(rollout(truth=(10, 10, 10, 50)))
    assert result.value is None
    assert "area" in result.details["undefined"]


def test_values_below_a_threshold_are_zero_and_the_rest_is_unchanged():
    near, far = rollout(box=moved(TRUTH, 4, 0), truth=TRUTH), rollout(box=moved(TRUTH, 20, 0), truth=TRUTH)
    plain, strict = boxes.BboxIou(), boxes.BboxIou(threshold=0.5)
    assert strict(near).value == plain(near).value > 0.5
    assert strict(far).value == 0.0 < plain(far).value


def test_format_levels_are_the_interfaces_and_think_abstains_without_one():
    assert form.FormatThink()(rollout(think_level=None)).value is None
    assert form.FormatThink()(rollout(think_level=0.25)).value == 0.25
    assert form.FormatSeg()(rollout(answer_level=0.5)).value == 0.5


# Any finite answer at any finite target: in range, finite, no exception, no numpy warning.
number = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-1000, 1000).map(float),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-300, 1e100, 1e154, 1e308, -1e308]),
)
pair_of = st.tuples(st.tuples(number, number), st.tuples(number, number))


@given(st.tuples(number, number, number, number), st.tuples(number, number, number, number), pair_of, pair_of)
def test_values_are_finite_and_in_range_for_any_answer(box, truth, said, true):
    case = rollout(box=box, truth=truth, points=said, points_truth=true)
    for term in (*BOXES, *POINTS):
        value = term()(case).value
        assert value is None or 0.0 <= value <= 1.0


def disc_mask(cx, cy, r, size=(96, 96)):
    y, x = np.ogrid[: size[0], : size[1]]
    return (x - cx) ** 2 + (y - cy) ** 2 <= r * r


@pytest.mark.parametrize("term", ON_MASKS)
@pytest.mark.parametrize("radius", [0, 1, 3, 20])
def test_a_perfect_mask_earns_1_at_any_size(term, radius):
    truth = disc_mask(48, 48, radius)
    box, pair = (48 - radius, 48 - radius, 49 + radius, 49 + radius), ((48.5, 48.5), (48.2, 48.7))
    case = rollout(mask=truth, mask_truth=truth, box=box, truth=box, points=pair, points_truth=pair)
    assert term()(case).value == 1.0


@pytest.mark.parametrize("term", ON_MASKS[:3])
@pytest.mark.parametrize("change", [lambda k: disc_mask(40 + k, 48, 20), lambda k: disc_mask(40, 48, 20 + k)])
def test_mask_terms_fall_with_error_without_a_plateau(term, change):
    truth = disc_mask(40, 48, 20)
    values = [term()(rollout(mask=change(k), mask_truth=truth)).value for k in range(20)]
    assert values[0] == 1.0
    living = [value for value in values if value > 0]
    assert all(a > b for a, b in itertools.pairwise(living))
    assert all(value == 0.0 for value in values[len(living) :])


def test_mask_terms_for_empty_missing_and_swapped_masks():
    truth, none = disc_mask(40, 48, 9), np.zeros((96, 96), bool)
    for term in (masks.MaskDice(), masks.MaskIou(), masks.Boundary()):
        assert term(rollout(mask=none, mask_truth=truth)).value == 0.0
        assert term(rollout(mask=truth, mask_truth=none)).value == 0.0
        assert term(rollout(mask=none, mask_truth=none)).value == 1.0
        assert term(rollout(mask=truth, mask_truth=None)).value is None
        assert term(rollout(mask=None, mask_truth=truth)).value is None
        assert term(rollout(box=None, points=None, mask=None, mask_truth=truth)).value == 0.0
    a, b = disc_mask(40, 48, 9), disc_mask(42, 47, 9)
    assert (
        masks.Boundary()(rollout(mask=a, mask_truth=b)).value == masks.Boundary()(rollout(mask=b, mask_truth=a)).value
    )


def test_boundary_agrees_with_a_distance_transform():
    from scipy import ndimage

    rng = np.random.default_rng(0)
    for _ in range(8):
        truth, said = (ndimage.gaussian_filter(rng.normal(size=(60, 70)), 4) > 0.03 for _ in range(2))
        rims = [mask & ~ndimage.binary_erosion(mask) for mask in (truth, said)]
        far = [ndimage.distance_transform_edt(~rim) for rim in rims]
        distances = np.concatenate([far[0][rims[1]], far[1][rims[0]]])
        dice = 2 * (truth & said).sum() / (truth.sum() + said.sum())
        expected = dice * np.maximum(0, 1 - distances / (0.2 * math.sqrt(truth.sum()))).mean()
        assert masks.Boundary()(rollout(mask=said, mask_truth=truth)).value == pytest.approx(expected, abs=1e-12)


def test_clicks_must_land_on_the_target_and_near_its_key_points():
    truth = disc_mask(48, 48, 20)
    case = {"truth": (28, 28, 69, 69), "points_truth": ((40, 48), (56, 48)), "mask_truth": truth, "mask": truth}
    term = masks.PointsInMask()
    assert term(rollout(**case, points=((40, 48), (56, 48)))).value == 1.0
    assert 0.5 < term(rollout(**case, points=((41, 49), (56, 48)))).value < 1.0
    assert 0 < term(rollout(**case, points=((40, 48), (18, 48)))).value < 0.5
    beside = [term(rollout(**case, points=((x, 48), (x, 50)))).value for x in (68, 70, 72, 90)]
    assert beside == sorted(beside, reverse=True)
    assert beside[0] > beside[2] > beside[3] == 0.0


OURS = ["soft", "hard", "base", "mask"]


@pytest.mark.parametrize("name", OURS)
def test_format_is_at_most_a_quarter_of_the_maximum(name):
    weights = {label: weight for label, (_, weight, _) in resolve(f"train/{name}").terms.items()}
    format_share = sum(weight for label, weight in weights.items() if label.startswith("format_"))
    assert 0 < format_share <= sum(weights.values()) / 4


def jittered(rng, share):
    """Return the truth with every number moved by up to `share` of the target's sides."""
    w, h = TRUTH[2] - TRUTH[0], TRUTH[3] - TRUTH[1]

    def off(side):
        return rng.uniform(-share, share) * side

    box = tuple(v + off(side) for v, side in zip(TRUTH, (w, h, w, h), strict=True))
    return {"box": box, "points": tuple((x + off(w), y + off(h)) for x, y in PAIR)}


def total(scorer, **said):
    return scorer([rollout(truth=TRUTH, points_truth=PAIR, **said)])[0].total


@pytest.mark.parametrize("name", ["soft", "hard", "base"])
def test_wrong_answers_earn_less_than_nearly_right_ones(name):
    scorer, rng = rubric(f"train/{name}"), random.Random(0)
    honest = statistics.median(total(scorer, **jittered(rng, 0.1)) for _ in range(100))
    size = 200
    wrong = {
        "whole image": {"box": (0, 0, size, size), "points": ((50, 100), (150, 100))},
        "centre box": {"box": (50, 50, 150, 150), "points": ((80, 100), (120, 100))},
        "right points, whole image": {"box": (0, 0, size, size), "points": PAIR},
        "right box, coincident points": {"box": TRUTH, "points": ((40, 55), (40, 55))},
        "right size far away": {"box": moved(TRUTH, 100, 90), "points": shifted(PAIR, 100, 90)},
        "inside out": {"box": (60, 80, 20, 30), "points": PAIR},
        "nothing": {"box": None, "points": None},
    }
    for _ in range(400):
        x1, x2, y1, y2 = (*sorted(rng.uniform(0, size) for _ in "xx"), *sorted(rng.uniform(0, size) for _ in "yy"))
        box = (x1, y1, x2, y2)
        if boxes.BboxIou()(rollout(box=box, truth=TRUTH)).value < 0.5:
            pair = tuple((rng.uniform(x1, x2), rng.uniform(y1, y2)) for _ in "12")
            wrong[f"random {box}"] = {"box": box, "points": pair}
    best = max(wrong, key=lambda what: total(scorer, **wrong[what]))
    assert total(scorer, **wrong[best]) < honest, best


def doubled(regions):
    return regions * 2


@pytest.mark.parametrize("term", [*BOXES, *POINTS])
def test_a_term_that_knows_one_region_abstains_where_there_are_several(term):
    one = rollout()
    several_answers = replace(one, grounding=replace(one.grounding, regions=doubled(one.grounding.regions)))
    target = replace(one.sample.target, regions=doubled(one.sample.target.regions))
    several_truths = replace(one, sample=replace(one.sample, target=target))
    assert term()(one).value == 1.0
    assert term()(several_answers).value is None
    assert term()(several_truths).value is None
    assert term(released=True)(several_truths).value is None


def test_a_released_number_is_that_of_the_published_statement_however_many_regions_there_are():
    one = rollout(published={"bbox_2d": [10, 10, 39, 49], "point_2d": [[15, 20], [30, 40]]})
    target = replace(one.sample.target, regions=doubled(one.sample.target.regions))
    several = replace(one, sample=replace(one.sample, target=target))
    assert boxes.BboxIou(released=True)(several).value == boxes.BboxIou(released=True)(one).value


def test_masks_of_several_regions_are_compared_as_their_unions():
    left, right = np.zeros((2, 64, 64), bool)
    left[:, :8] = right[:, 32:40] = True
    both = rollout(mask=left, mask_truth=left)
    regions = (*both.grounding.regions, replace(both.grounding.regions[0], mask=Mask(data=right)))
    answer = replace(both, grounding=replace(both.grounding, regions=regions))
    assert masks.MaskDice()(answer).value == pytest.approx(2 / 3)
    target = replace(both.sample.target, regions=regions)
    assert masks.MaskDice()(replace(answer, sample=replace(both.sample, target=target))).value == 1.0
