"""Key points: on shapes that punish naive centres, and on any mask at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medground.data.key_points import RULES, halves, released
from medground.geometry import in_mask, mask_box

Y, X = np.mgrid[:120, :160]


def disc(x, y, r):
    return np.hypot(X - x, Y - y) <= r


def blob(seed):
    noise = np.random.default_rng(seed).normal(size=(90, 110))
    smooth = ndimage.gaussian_filter(noise, 6)
    return smooth > np.quantile(smooth, 0.8)


SHAPES = {
    "disc": disc(80, 60, 30),
    "ring": disc(80, 60, 40) & ~disc(80, 60, 30),
    "thin ring": disc(80, 60, 40) & ~disc(80, 60, 38.5),
    "crescent": disc(80, 60, 40) & ~disc(95, 60, 36),
    "line": (abs(Y - X // 2 - 10) == 0) & (X > 10) & (X < 150),
    "column": (X == 40) & (Y > 10) & (Y < 100),
    "two parts": disc(30, 60, 18) | disc(130, 60, 18),
    "large and small": disc(50, 60, 35) | disc(140, 60, 9),
    "corner": disc(0, 0, 40),
    "whole": np.ones((40, 50), bool),
    "comb": (Y % 10 == 0) | (X == 5),
    "pixel": disc(80, 60, 0.1),
    "two pixels": (Y == 5) & ((X == 7) | (X == 8)),
}
masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(lambda mask: mask.any())


@pytest.mark.slow
@given(masks)
@settings(max_examples=100, deadline=None)
def test_halves_lie_inside_distinct_and_apart(mask):
    pair = halves(mask)
    assert in_mask(pair, mask).all()
    assert pair[0] < pair[1]
    assert halves(mask.copy()) == pair
    if mask.sum() > 1:
        sides = np.hypot(*np.subtract(*pair))
        assert sides >= 1
        assert all(value % 1 == 0.5 for point in pair for value in point)


@given(masks)
@settings(max_examples=100, deadline=None)
def test_released_points_lie_inside(mask):
    assert in_mask(released(mask), mask).all()


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "pixel"])
def test_the_disc_of_halves_speaks_of_the_target(name):
    """Its centre lies in the box, it reaches over a fair share of the target's length, and it stays within the box's."""
    mask = SHAPES[name]
    first, second = (np.array(point) for point in halves(mask))
    apart, box = np.linalg.norm(second - first), mask_box(mask)
    assert box.x1 < (first + second)[0] / 2 < box.x2
    assert box.y1 < (first + second)[1] / 2 < box.y2
    assert 0.3 * max(box.width, box.height) <= apart <= box.diagonal


def test_halves_of_known_shapes():
    ring, parted, crescent = (halves(SHAPES[name]) for name in ("ring", "two parts", "crescent"))
    assert abs(np.mean(ring, axis=0) - (80.5, 60.5)).max() <= 3
    assert 66 <= np.hypot(*np.subtract(*ring)) <= 74
    assert np.abs(np.array(parted) - [[30.5, 60.5], [130.5, 60.5]]).max() <= 2
    assert (crescent[0].y - 60.5) * (crescent[1].y - 60.5) < 0
    apart = np.hypot(*np.subtract(*halves(SHAPES["disc"])))
    # Centroids of half-discs of radius 30 lie 25.5 apart, the centres of the circles inscribed in them 30.
    assert 25 <= apart <= 31


def test_the_released_rule_crowds_a_two_part_mask_into_one_part():
    first, second = released(SHAPES["large and small"])
    assert max(first.x, second.x) < 90
    assert halves(SHAPES["large and small"])[1].x > 130


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("rule", RULES)
def test_key_points_follow_a_mirrored_mask(rule, seed):
    """Exactly where nothing ties; the released rule takes plateaus in reading order, so its depth follows."""
    mask, point = blob(seed), RULES[rule]
    height, width = mask.shape
    flips = ((mask[:, ::-1], (width, 0), (-1, 1)), (mask[::-1], (0, height), (1, -1)))
    for flipped, shift, sign in flips:
        back = np.array(point(np.ascontiguousarray(flipped))) * sign + shift
        here, there = sorted(map(tuple, back)), sorted(point(mask))
        if rule == "halves":
            assert np.allclose(here, there)
        else:
            depths = ndimage.distance_transform_edt(mask)
            assert depths[int(back[0][1]), int(back[0][0])] == depths.max()


def test_the_released_rule_on_a_disc():
    first, second = released(disc(80, 60, 30))
    assert first == (80.5, 60.5)
    assert np.isclose(np.hypot(*np.subtract(first, second)), 0.4 * np.sqrt(disc(80, 60, 30).sum()), atol=1)


def test_an_empty_mask_is_refused():
    for rule in RULES.values():
        with pytest.raises(ValueError, match="empty mask"):
            rule(np.zeros((3, 3), bool))
