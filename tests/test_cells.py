"""The measure of `benchmarks/cells.py`: unions of masks, cells on seams, regions assigned to cells."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from medground_toy.segmenters import BoxFill

from medground.geometry import Box
from medground.types import Mask, Region

CELLS = runpy.run_path(str(Path(__file__).resolve().parents[1] / "benchmarks" / "cells.py"))
Field, compared, summarised = CELLS["Field"], CELLS["compared"], CELLS["summarised"]
TILES = [Box(0, 0, 40, 60), Box(30, 0, 60, 60)]


def cell(x1, y1, x2, y2):
    mask = np.zeros((60, 60), bool)
    mask[y1:y2, x1:x2] = True
    return Region(box=Box(x1, y1, x2, y2), mask=Mask(data=mask))


def field(*cells, group="a"):
    return Field(group, np.zeros((60, 60, 3), np.uint8), list(cells))


THREE = field(cell(2, 2, 10, 10), cell(26, 20, 36, 30), cell(50, 50, 56, 58))


def test_the_cells_themselves_are_perfect_and_one_box_is_not():
    result = compared(THREE, THREE.cells, THREE.cells, TILES, BoxFill())
    assert (result.tiled, result.whole, result.surplus) == (1.0, 1.0, 0)
    area, box = 64 + 100 + 48, 54 * 56
    assert result.one_box == pytest.approx(2 * area / (area + box))


def test_a_cell_is_on_a_seam_where_a_tile_shows_a_part_of_it():
    boxes = [Box(2, 2, 10, 10), Box(26, 20, 36, 30), Box(31, 0, 39, 9), Box(40, 0, 50, 9), Box(39, 0, 45, 9)]
    assert CELLS["on_seam"](boxes, TILES).tolist() == [False, True, False, False, True]
    result = compared(THREE, THREE.cells, THREE.cells, TILES, BoxFill())
    assert (result.seam.tolist(), result.inner.tolist()) == ([1.0], [1.0, 1.0])


def test_a_cell_that_came_back_in_two_pieces_is_found_once_and_the_other_piece_is_surplus():
    pieces = [THREE.cells[0], Region(box=Box(26, 20, 33, 30)), Region(box=Box(33, 20, 36, 30)), THREE.cells[2]]
    result = compared(THREE, THREE.cells, pieces, TILES, BoxFill())
    assert result.seam.tolist() == [0.7] and result.surplus == 1 and result.tiled == 1.0


def test_a_cell_that_is_lost_counts_as_nothing():
    result = compared(THREE, THREE.cells, THREE.cells[1:], TILES, BoxFill())
    assert sorted(result.inner) == [0.0, 1.0] and result.tiled < 1 == result.whole


def test_cells_that_a_list_has_no_room_for_are_the_smallest_and_are_counted():
    grid = [cell(x, y, x + 3 + (x == 0), y + 3) for x in range(0, 60, 4) for y in range(0, 60, 4)]
    many = field(*grid)
    told = CELLS["listed"](many.cells, [Box(0, 0, 60, 60)])
    assert len(grid) == 225 and len(told) == 64 and set(map(id, grid[:15])) <= set(map(id, told))
    assert CELLS["listed"](many.cells, [Box(0, 0, 20, 20), Box(40, 40, 60, 60)]) == many.cells
    summary = summarised([compared(many, told, told, TILES, BoxFill())], seed=0)
    assert summary["cells left out"] == 161
    assert summary["seam cells"]["found"] + summary["other cells"]["found"] == 64


def test_a_summary_has_means_of_differences_and_counts_of_cells():
    results = [
        compared(one, one.cells, regions, TILES, BoxFill()) for one, regions in ((THREE, THREE.cells), (THREE, []))
    ]
    summary = summarised(results, seed=0)
    dice = {name: one["mean"] for name, one in summary["dice"].items()}
    assert dice["tiled"] == 0.5 and dice["tiled - whole"] == -0.5
    assert dice["tiled - one box"] == pytest.approx(0.5 - dice["one box"])
    assert summary["seam cells"] == {"n": 2, "found": 1, "iou": 0.5} and summary["other cells"]["n"] == 4
    text = CELLS["line"]({"source": "x", "segmenter": "box_fill", "tile": 40, **summary})
    assert "2 pictures in 1 groups" in text and "1 of 2 found" in text


def test_components_that_touch_at_a_corner_are_one_cell_and_debris_is_none():
    mask = np.zeros((20, 20), bool)
    mask[1:5, 1:5] = mask[5:9, 5:9] = mask[12:18, 12:18] = mask[19, 0] = True
    assert [region.box for region in CELLS["components"](mask)] == [Box(1, 1, 9, 9), Box(12, 12, 18, 18)]


def test_phantom_cells_are_many_and_follow_from_the_seed():
    first, again = (CELLS["drawn"](2, 5, (96, 96)) for _ in range(2))
    assert [len(one.cells) for one in first] == [len(one.cells) for one in again]
    assert all(len(one.cells) > 10 for one in first) and first[0].group != first[1].group


@pytest.mark.slow
def test_real_cells_are_microscopy_with_several(shared):
    sets = CELLS["real"](shared / "data" / "real")
    assert sum(map(len, sets.values())) > 100
    assert all(len(one.cells) >= 4 and one.union.any() for fields in sets.values() for one in fields[:3])


def test_phantom_cells_come_back_through_tiles():
    (one,) = CELLS["drawn"](1, 5, (192, 192))
    (result,) = CELLS["measured"]([one], BoxFill(), 64)
    assert len(result.seam) > 5 and min(result.seam) > 0.5 and abs(result.tiled - result.whole) < 0.03
    assert result.tiled - result.one_box > 0.15 and result.surplus == result.left_out == 0
