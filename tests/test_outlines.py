"""Outlines of masks: filled by the even-odd rule they are the mask again, whatever its holes and islands."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medground.images.polygons import polygon_mask
from medground.images.writing.outlines import outlines

RING = np.ones((7, 7), bool)
RING[2:5, 2:5] = False
ISLAND = RING.copy()
ISLAND[3, 3] = True
CORNERS = np.eye(4, dtype=bool)


def filled(polygons, size):
    """The pixels whose centre is in an odd number of polygons."""
    out = np.zeros(size, bool)
    for polygon in polygons:
        out ^= polygon_mask([polygon[:, ::-1] + 0.5], size)
    return out


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_filled_outlines_are_the_mask(mask):
    polygons = outlines(mask)
    assert np.array_equal(filled(polygons, mask.shape), mask)


@pytest.mark.parametrize("seed", range(5))
def test_filled_outlines_of_a_large_ragged_mask_are_the_mask(seed):
    mask = np.random.default_rng(seed).random((90, 70)) > 0.45
    assert np.array_equal(filled(outlines(mask), mask.shape), mask)


@pytest.mark.parametrize(("mask", "count"), [(RING, 1), (ISLAND, 2), (CORNERS, 4), (np.zeros((3, 3), bool), 0)])
def test_a_component_is_one_polygon_with_its_holes(mask, count):
    assert len(outlines(mask)) == count


def test_every_corner_lies_on_the_faces_of_pixels_and_straight_sides_have_no_more():
    polygons = outlines(RING)
    assert {value % 1 for value in np.concatenate(polygons).ravel()} == {0.5}
    assert len(polygons[0]) == 4 + 4 + 2, "the way to the hole and back adds two"


def test_an_island_in_a_hole_belongs_to_no_hole():
    one, other = sorted(outlines(ISLAND), key=len)
    assert np.array_equal(filled([one], ISLAND.shape), ISLAND & ~RING)
    assert np.array_equal(filled([other], ISLAND.shape), RING)


def test_a_hole_is_joined_to_the_smallest_outline_around_it():
    mask = np.ones((15, 15), bool)
    mask[2:13, 2:13] = False
    mask[4:11, 4:11] = True
    mask[6:9, 6:9] = False
    inner = min(outlines(mask), key=lambda polygon: np.ptp(polygon[:, 0]))
    expected = np.zeros((15, 15), bool)
    expected[4:11, 4:11] = True
    expected[6:9, 6:9] = False
    assert np.array_equal(filled([inner], mask.shape), expected)
