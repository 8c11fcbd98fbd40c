"""Geometry against hand-worked numbers and against properties any overlap must have."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medground import geometry as g

coordinate = st.floats(-500, 500).map(lambda value: round(value, 3))
boxes = st.tuples(coordinate, coordinate, st.floats(0.1, 300), st.floats(0.1, 300)).map(
    lambda v: g.Box(v[0], v[1], v[0] + v[2], v[1] + v[3])
)
pairs = st.tuples(coordinate, coordinate, coordinate, coordinate).map(lambda v: [[v[0], v[1]], [v[2], v[3]]])


def test_a_box_knows_its_measures():
    box = g.Box(10, 20, 40, 60)
    assert (box.width, box.height, box.area, box.diagonal) == (30, 40, 1200, 50)
    assert box.centre == g.Point(25, 40)
    assert box.valid
    assert box.clip((50, 30)) == g.Box(10, 20, 30, 50)
    assert g.Box(-9, -8, -7, -6).clip((50, 30)) == g.Box(0, 0, 0, 0)


@pytest.mark.parametrize(
    "box", [g.Box(5, 0, 5, 9), g.Box(9, 0, 1, 4), g.Box(0, 0, math.nan, 1), g.Box(0, 0, math.inf, 1)]
)
def test_boxes_that_enclose_nothing_are_not_valid(box):
    assert not box.valid


def test_an_inverted_box_shares_nothing_even_with_itself():
    inverted = g.Box(10, 10, 0, 0)
    assert inverted.area == g.box_area(inverted) == 0
    assert g.box_iou(inverted, inverted) == g.box_iou(inverted, g.Box(0, 0, 10, 10)) == 0


@pytest.mark.parametrize(
    ("other", "iou"),
    [
        (g.Box(0, 0, 10, 10), 1.0),
        (g.Box(5, 0, 15, 10), 1 / 3),
        (g.Box(10, 0, 20, 10), 0.0),  # touching edges share no area
        (g.Box(2, 2, 4, 4), 0.04),
    ],
)
def test_box_overlaps_by_hand(other, iou):
    assert g.box_iou(g.Box(0, 0, 10, 10), other) == pytest.approx(iou, abs=1e-12)


@given(boxes, boxes)
def test_box_overlaps_are_symmetric_and_bounded(a, b):
    iou = g.box_iou(a, b)
    assert 0 <= iou <= 1 + 1e-12
    assert g.box_iou(b, a) == pytest.approx(iou)
    assert g.box_iou(a, a) == pytest.approx(1)


def test_a_stack_of_boxes_gives_what_each_gives():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 100, (2, 50, 4))
    assert g.box_iou(a, b).tolist() == [g.box_iou(x, y) for x, y in zip(a, b, strict=True)]
    assert g.box_iou(a[:, None], b[None]).shape == (50, 50)
    assert g.disc_dice(a.reshape(50, 2, 2), b.reshape(50, 2, 2)).tolist() == [
        g.disc_dice(x.reshape(2, 2), y.reshape(2, 2)) for x, y in zip(a, b, strict=True)
    ]


def test_distances_by_hand():
    assert g.distance([0, 0], [3, 4]) == 5
    assert g.pair_distance([[0, 0], [10, 0]], [[10, 3], [0, 3]]) == 3


@pytest.mark.parametrize(
    ("other", "iou"),
    [
        ([[0, 0], [100, 0]], 1.0),
        ([[50, -50], [50, 50]], 1.0),  # any diameter of the same disc
        ([[25, 0], [75, 0]], 0.25),  # concentric, half the radius
        ([[-50, 0], [150, 0]], 0.25),
        ([[200, 0], [300, 0]], 0.0),
        ([[100, 0], [200, 0]], 0.0),  # touching
        ([[50, 0], [50, 0]], 0.0),  # coincident points have no disc
    ],
)
def test_disc_overlap_by_hand(other, iou):
    assert g.disc_iou([[0, 0], [100, 0]], other) == pytest.approx(iou, abs=1e-12)


def test_disc_overlap_at_half_a_radius_is_the_published_figure():
    # The published score 2·I/U of this pair is 1.0419: twice the disc IoU.
    shifted = g.disc_iou([[0, 0], [100, 0]], [[25, 0], [125, 0]])
    assert 2 * shifted == pytest.approx(1.0419, abs=5e-5)
    assert 2 * g.disc_iou([[0, 0], [100, 0]], [[50, 0], [150, 0]]) == pytest.approx(0.4860, abs=5e-5)


def test_disc_overlap_equals_counting_pixels():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:400, 0:400] + 0.5
    for _ in range(20):
        a, b = rng.uniform(100, 300, (2, 2, 2))
        inside = [np.hypot(x - c[0], y - c[1]) <= r for c, r in (g.disc(a), g.disc(b))]
        counted = 2 * (inside[0] & inside[1]).sum() / max(inside[0].sum() + inside[1].sum(), 1)
        assert g.disc_dice(a, b) == pytest.approx(counted, abs=0.02)


@given(pairs, pairs)
def test_disc_overlaps_are_finite_symmetric_bounded(a, b):
    dice = g.disc_dice(a, b)
    assert 0 <= dice <= 1 + 1e-9
    assert g.disc_dice(b, a) == pytest.approx(dice, abs=1e-9)
    assert g.disc_dice(a[::-1], b) == pytest.approx(dice, abs=1e-9)


def test_mask_overlaps_by_hand():
    a = np.zeros((4, 6), bool)
    a[1:3, 1:3] = True
    b = np.zeros((4, 6), bool)
    b[1:3, 2:4] = True
    empty = np.zeros((4, 6), bool)
    assert g.mask_dice(a, b) == 0.5
    assert g.mask_iou(a, b) == pytest.approx(1 / 3)
    assert g.mask_dice(a, a) == g.mask_iou(a, a) == 1
    assert g.mask_dice(a, empty) == g.mask_iou(empty, a) == 0
    assert g.mask_dice(empty, empty) == g.mask_iou(empty, empty) == 1
    assert g.mask_dice(np.stack([a, a]), np.stack([a, b])).tolist() == [1.0, 0.5]


def test_the_box_of_a_mask_is_tight_and_half_open():
    mask = np.zeros((10, 20), bool)
    mask[3:5, 7:12] = True
    assert g.mask_box(mask) == g.Box(7, 3, 12, 5)
    assert g.mask_box(mask).area == mask.sum()
    with pytest.raises(ValueError, match="empty"):
        g.mask_box(np.zeros((3, 3), bool))


def test_points_fall_on_pixels():
    mask = np.zeros((2, 3), bool)
    mask[1, 2] = True
    assert g.in_mask([[2.5, 1.5], [2.0, 1.0], [2.999, 1.999]], mask).all()
    assert not g.in_mask([[1.999, 1.5], [3.0, 1.5], [-0.1, 0.5], [2.5, 2.0]], mask).any()
    assert g.in_box([[0, 0], [3, 2], [3.1, 0]], [0, 0, 3, 2]).tolist() == [True, True, False]
