"""Metrics: identities, conventions, failures, and the released evaluation's own numbers."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medground.evaluation import instances
from medground.evaluation.compat import compat_iou, compat_pdice
from medground.evaluation.metrics import measure, outline, prompted_by
from medground.evaluation.surface import boundary_f, hd95
from medground.geometry import Box, Point, box_iou, disc_dice, mask_boundary, mask_dice, surface_distances
from medground.types import Completion, Fault, Grounding, Mask, Query, Region, Rollout, Sample, SpatialPrompt, Target

SIZE = (40, 60)
TRUE_BOX = Box(10, 10, 30, 30)
TRUE_POINTS = (Point(15, 15), Point(25, 25))


def disc_mask(x=20, y=20, r=9, size=SIZE):
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= r**2


def rollout(box=TRUE_BOX, points=TRUE_POINTS, *, mask=None, truth=None, spacing=None, raw=None, fault=None, **others):
    query = Query(image=np.zeros((*SIZE, 3), np.uint8), question="where?", id="s1")
    true_region = Region(box=TRUE_BOX, points=TRUE_POINTS, mask=None if truth is None else Mask(data=truth))
    sample = Sample(query=query, target=Target(regions=(true_region,)), spacing=spacing)
    region = Region(box=box, points=points, mask=None if mask is None else Mask(data=mask))
    return Rollout(
        sample=sample,
        completion=Completion(text="", frame=None, fault=others.pop("lost", None)),
        grounding=Grounding(regions=() if fault else (region,), raw=raw, fault=fault),
        fault=others.pop("outage", None),
    )


def of_one_region(values):
    """The metrics that know one region; tests/test_instances.py is about the others."""
    return {name: value for name, value in values.items() if name not in instances.DEFINITIONS}


coordinates = st.floats(-100, 900, allow_nan=False)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates)
pairs = st.tuples(st.tuples(coordinates, coordinates), st.tuples(coordinates, coordinates))
masks = arrays(bool, (9, 11), elements=st.booleans())


@given(boxes, boxes)
def test_box_iou_is_symmetric_and_in_range(a, b):
    value = box_iou(a, b)
    assert 0 <= value <= 1
    assert value == box_iou(b, a)


@given(pairs, pairs)
def test_disc_dice_is_symmetric_and_in_range(a, b):
    value = disc_dice(a, b)
    assert 0 <= value <= 1 + 1e-12
    assert value == pytest.approx(disc_dice(b, a), abs=1e-9)


@given(masks, masks)
@settings(deadline=None)  # the first example imports scipy
def test_mask_metrics_are_symmetric_and_in_range(a, b):
    for metric in (mask_dice, boundary_f):
        assert 0 <= metric(a, b) <= 1
        assert metric(a, b) == pytest.approx(metric(b, a))
        assert metric(a, a) == 1
    assert hd95(a, b) == hd95(b, a)
    assert hd95(a, a) == 0


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 300), st.integers(0, 300))
def test_perfect_is_one_and_disjoint_is_zero(width, height, x, y):
    box = (x, y, x + width, y + height)
    away = (x + width + 1, y, x + 2 * width + 1, y + height)
    assert box_iou(box, box) == 1
    assert box_iou(box, away) == 0
    pair, far = ((x, y), (x + width, y + height)), ((x + 2000, y), (x + 2000 + width, y))
    assert disc_dice(pair, pair) == pytest.approx(1)
    assert disc_dice(pair, far) == 0


@pytest.mark.slow
@given(masks.filter(np.any), masks.filter(np.any), st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)))
def test_surface_distances_are_the_smallest_over_all_pairs_of_boundary_pixels(a, b, spacing):
    first, second = (np.argwhere(mask_boundary(mask)) * spacing for mask in (a, b))
    pairs = np.linalg.norm(first[:, None] - second[None], axis=-1)
    there, back = surface_distances(a, b, spacing)
    assert there == pytest.approx(pairs.min(axis=1))
    assert back == pytest.approx(pairs.min(axis=0))


@given(masks)
def test_a_boundary_pixel_has_a_side_on_the_background_or_the_edge(mask):
    padded = np.pad(mask, 1)
    shifts = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    assert (mask_boundary(mask) == mask & ~np.logical_and.reduce(shifts)).all()


def test_empty_mask_conventions():
    empty, disc = np.zeros(SIZE, bool), disc_mask()
    assert mask_dice(empty, empty) == boundary_f(empty, empty) == 1
    assert mask_dice(empty, disc) == boundary_f(empty, disc) == 0
    assert hd95(empty, empty) == 0
    assert hd95(empty, disc) is None
    with pytest.raises(ValueError, match="empty mask"):
        surface_distances(empty, disc)


def test_coincident_points_span_no_disc():
    same = ((5, 5), (5, 5))
    assert disc_dice(same, same) == disc_dice(same, TRUE_POINTS) == 0
    assert measure(rollout(points=(Point(20, 20), Point(20, 20)))).values["pdice"] == 0


def test_a_perfect_answer_is_perfect_everywhere():
    values = of_one_region(measure(rollout(mask=disc_mask(), truth=disc_mask())).values)
    floor = mask_dice(disc_mask(r=10), disc_mask())  # the ellipse in the box
    assert values == {
        "iou": 1,
        "pdice": pytest.approx(1),
        "dice_joint": 1,
        "mask_iou": 1,
        "dice_ellipse": floor,
        "dice_over_ellipse": 1 - floor,
        "boundary_f": 1,
        "hd95_px": 0,
    }


def test_distances_are_in_millimetres_where_the_spacing_is_known():
    a, b = disc_mask(), disc_mask(x=24)
    assert measure(rollout(mask=a, truth=b)).values["hd95_px"] == pytest.approx(4, abs=0.5)
    assert measure(rollout(mask=a, truth=b, spacing=(1.0, 0.5))).values["hd95_mm"] == pytest.approx(2, abs=0.5)


def test_masks_are_measured_by_what_prompted_them():
    truth = disc_mask()
    shifted = {"box": Mask(data=disc_mask(x=22), score=1.0), "points": Mask(data=disc_mask(x=50), score=1.0)}
    result = measure(
        rollout(truth=truth), masks={**shifted, "joint": Mask(data=truth, score=1)}, prompts=("box", "points", "joint")
    ).values
    assert result["dice_joint"] == 1 > result["dice_box"] > result["dice_points"] == 0


def test_a_model_failure_is_zero_and_the_diagonal():
    result = measure(rollout(fault=Fault.NO_ANSWER, truth=disc_mask()))
    assert of_one_region(result.values) == {
        "iou": 0,
        "pdice": 0,
        "dice_joint": 0,
        "mask_iou": 0,
        "dice_ellipse": 0,
        "dice_over_ellipse": 0,
        "boundary_f": 0,
        "hd95_px": pytest.approx(math.hypot(40, 60)),
    }
    assert result.undefined == {"hd95_px"}
    assert result.fault is Fault.NO_ANSWER


def test_an_interface_is_not_measured_on_what_it_does_not_ask():
    assert set(of_one_region(measure(rollout(fault=Fault.BAD_BOX), provides=("box",)).values)) == {"iou"}
    assert set(of_one_region(measure(rollout(points=()), provides=("box",)).values)) == {"iou"}


def test_an_empty_predicted_mask_stands_at_the_diagonal():
    result = measure(rollout(mask=np.zeros(SIZE, bool), truth=disc_mask(), spacing=(2.0, 2.0)))
    assert result.values["dice_joint"] == 0
    assert result.values["hd95_mm"] == pytest.approx(2 * math.hypot(40, 60))
    assert result.undefined == {"hd95_mm"}
    assert result.fault is None


def test_a_transport_failure_is_excluded_and_a_segmenter_failure_costs_only_masks():
    lost = measure(rollout(fault=Fault.NO_ANSWER, lost=Fault.TRANSPORT, truth=disc_mask()))
    assert lost.values == {}
    of_masks = {"dice_joint", "mask_iou", "dice_over_ellipse", "boundary_f", "hd95_px"}
    assert lost.excluded == {"iou", "pdice", "dice_ellipse", *of_masks}
    maskless = measure(rollout(outage=Fault.SEGMENTER, truth=disc_mask()))
    assert set(of_one_region(maskless.values)) == {"iou", "pdice", "dice_ellipse"}
    assert maskless.excluded == of_masks


def test_the_floor_is_the_ellipse_that_the_toy_segmenter_draws():
    from medground.registry import build

    ellipse, image = build("segmenter", "ellipse"), np.zeros((*SIZE, 3), np.uint8)
    for box, points in ((Box(4, 6, 31, 22), TRUE_POINTS), (None, TRUE_POINTS), (None, (Point(20.5, 20.5),) * 2)):
        prompt = SpatialPrompt(box=box, points=points)
        (drawn,) = ellipse.segment(image, [prompt])
        result = measure(rollout(box=box, points=points, truth=disc_mask())).values["dice_ellipse"]
        assert result == mask_dice(drawn.data, disc_mask()) > 0


def test_masks_of_different_shapes_raise_a_value_error():
    with pytest.raises(ValueError, match="sample 's1'"):
        measure(rollout(mask=np.ones((3, 3), bool), truth=disc_mask()))


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ([[50, -50], [50, 50]], 2.0),
        ([[25, 0], [125, 0]], 1.0419),
        ([[50, 0], [150, 0]], 0.4860),
        ([[25, 0], [75, 0]], 0.5),
        ([[30, 0], [30, 0]], 0.0),
        ([[300, 0], [400, 0]], 0.0),
    ],
)
def test_compat_pdice_table(pair, value):
    assert compat_pdice(pair, [[0, 0], [100, 0]]) == pytest.approx(value, abs=5e-5)


def test_compat_iou_of_an_inverted_box_is_zero():
    assert compat_iou([20, 20, 10, 10], [10, 10, 20, 20]) == 0


@pytest.mark.parametrize(
    "raw", [None, {}, {"bbox": ["1", "2", "3", "4"]}, {"bbox": [1, 2, 3]}, {"bbox": [1, 2, 3, 4], "points_1": [[1]]}]
)
def test_what_the_released_evaluation_cannot_compute_is_a_counted_failure(raw):
    result = measure(rollout(fault=Fault.BAD_JSON, raw=raw), compat=True)
    assert result.values["iou_compat"] == result.values["pdice_compat"] == 0
    assert result.details["iou_compat"]["failure"]


def test_a_released_nan_is_null_and_outside_the_mean():
    raw = {"bbox": [math.nan, 10, 30, 30], "points_1": [15, 15], "points_2": [25, 25]}
    result = measure(rollout(raw=raw), compat=True)
    assert result.values["iou_compat"] is None
    assert result.details == {"iou_compat": {"released": "nan"}}


def test_released_evaluation_values_on_every_oracle_case():
    path = Path(__file__).with_name("data") / "released_rewards.jsonl"
    from medground.registry import build

    interface = build("prompt_interface", "bbox_points", parser="released_eval")
    equal = 0
    for line in path.read_text().splitlines():
        case = json.loads(line)
        truth, expected = case["ground_truth"], case["eval"]
        points = tuple(Point(*point) for point in truth["point_2d"])
        target = Target(regions=(Region(box=Box(*truth["bbox_2d"]), points=points),), published=truth)
        completion = Completion(text=case["prediction"], frame=None)
        answer = Rollout(
            sample=Sample(query=Query(image=np.zeros((1, 1, 3), np.uint8), question=""), target=target),
            completion=completion,
            grounding=interface.parse(completion, (840, 840)),
        )
        result = measure(answer, compat=True)
        if "raises" in expected:
            equal += all("failure" in result.details[name] for name in ("iou_compat", "pdice_compat"))
            continue
        for name, key in (("iou_compat", "iou"), ("pdice_compat", "pdice")):
            if math.isnan(expected[key]):
                assert (result.values[name], result.details[name]) == (None, {"released": "nan"})
            else:
                assert result.values[name] == pytest.approx(expected[key], abs=1e-12)
        equal += 1
    assert equal == 300


def line(length, *, extra=(), size=(40, 40)):
    """A row of pixels at the top, and single ones elsewhere."""
    mask = np.zeros(size, bool)
    mask[0, :length] = True
    for row, column in extra:
        mask[row, column] = True
    return mask


def test_hd95_is_the_larger_of_two_directed_percentiles():
    """Two of 22 pixels lie 10 away: of 22 distances the 95th percentile is 9.5, of all 42 together it would be 0."""
    plain, more = line(20), line(20, extra=[(10, 3), (10, 9)])
    assert hd95(plain, more) == hd95(more, plain) == pytest.approx(9.5)
    assert hd95(plain, more, (0.5, 2.0)) == pytest.approx(4.75)
    assert hd95(line(20, extra=[(10, 3)]), plain) == 0.0, "one of 21 is beyond the percentile"


@pytest.mark.parametrize(("size", "near"), [((20, 20), 1), ((200, 200), 2), ((400, 300), 3)])
def test_boundaries_agree_within_a_share_of_the_diagonal_and_one_pixel_at_least(size, near):
    """0.75 % of 28, 283 and 500 px: 0.2 becomes 1, and 2.1 and 3.75 stay as they are."""
    first = np.zeros(size, bool)
    first[4, 5:15] = True
    assert boundary_f(first, np.roll(first, near, axis=0)) == 1.0
    assert boundary_f(first, np.roll(first, near + 1, axis=0)) == 0.0


def test_the_boundary_measure_is_a_harmonic_mean_by_hand():
    """All 10 pixels of one lie on the other, and half of the other's 20 lie within one pixel of them."""
    first, second = line(9, size=(20, 20)), line(20, size=(20, 20))
    precision, recall = 1.0, 10 / 20
    assert boundary_f(first, second) == pytest.approx(2 * precision * recall / (precision + recall))
    assert boundary_f(second, first) == pytest.approx(2 * precision * recall / (precision + recall))


def test_the_small_numbers_in_released_denominators_show_on_small_figures():
    assert compat_iou([0, 0, 0.01, 0.01], [0, 0, 0.01, 0.01]) == pytest.approx(1e-4 / (1e-4 + 1e-6), rel=1e-9)
    area = math.pi * 0.005**2
    pair = [[0, 0], [0.01, 0]]
    assert compat_pdice(pair, pair) == pytest.approx(2 * area / (area + 1e-5), rel=1e-9)


def test_released_discs_touch_and_contain_with_a_small_slack():
    """Radii 5 and 5, then 5 and 2: disjoint from d = 10 - 1e-5 on, contained up to d = 3 + 1e-5."""

    def shifted(d, radius=5.0):
        return [[d - radius, 0], [d + radius, 0]]

    assert compat_pdice(shifted(10.0), shifted(0.0)) == compat_pdice(shifted(10 - 9e-6), shifted(0.0)) == 0.0
    assert compat_pdice(shifted(9.9), shifted(0.0)) > 0
    inside, large = math.pi * 4, math.pi * 25
    for d in (0.0, 3.0, 3 + 9e-6):
        assert compat_pdice(shifted(d, 2.0), shifted(0.0)) == pytest.approx(2 * inside / (large + 1e-5), rel=1e-12)
    # Radii 5 at d = 6: half angles acos(3/5), so the lens is 2 * 25 * acos(0.6) - 24.
    lens = 50 * math.acos(0.6) - 24
    assert compat_pdice(shifted(6.0), shifted(0.0)) == pytest.approx(2 * lens / (2 * large - lens + 1e-5), rel=1e-12)


def test_the_outline_of_points_is_the_square_around_their_disc():
    points = (Point(10, 20), Point(16, 28))  # 10 px apart, so radius 5 about (13, 24)
    assert outline(Region(points=points)) == Box(8, 19, 18, 29)
    assert outline(Region(box=TRUE_BOX, points=points)) == TRUE_BOX
    assert outline(Region(points=(Point(3, 4), Point(3, 4)))) == Box(2.5, 3.5, 3.5, 4.5), "one pixel at least"
    assert outline(Region(points=(Point(3, 4),))) is None


def test_an_answer_without_an_outline_has_no_floor():
    values = measure(rollout(box=None, points=(Point(20, 20),), mask=disc_mask(), truth=disc_mask())).values
    assert "dice_ellipse" not in values and values["dice_over_ellipse"] == values["dice_joint"] == 1


def test_which_metric_needs_which_mask():
    assert [prompted_by(name) for name in ("iou", "pdice", "iou_compat", "dice_ellipse")] == [None] * 4
    assert (prompted_by("dice_box"), prompted_by("dice_points")) == ("box", "points")
    joint = ("dice_joint", "mask_iou", "dice_over_ellipse", "boundary_f", "hd95_px", "hd95_mm")
    assert {prompted_by(name) for name in joint} == {"joint"}
