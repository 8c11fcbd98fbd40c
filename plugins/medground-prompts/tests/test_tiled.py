"""Large images tile by tile: where tiles lie, what travels in one completion, what becomes of regions on seams."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed_completions import ATTACKS, list_completions
from medground_prompts import Regions, Tiled
from medground_prompts.seams import merge
from medground_prompts.tiles import Tile, TileAnswer, layout, read_answers, region_in, region_of, write_answers

import medground
from medground.errors import RecipeError
from medground.frames import Frame, pixels
from medground.geometry import Box, Point, mask_box
from medground.testing import check_prompt_interface
from medground.types import Completion, Fault, Mask, Query, Region, Target, text_of

SIZE = (300, 500)
BOXES = Tiled(arguments={"points": False}, tile=128, overlap=32)


def query(size=SIZE) -> Query:
    return Query(
        image=np.arange(size[0] * size[1] * 3, dtype=np.uint32).astype(np.uint8).reshape(*size, 3), question="?"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"interface": "multi_point"},
        {"interface": "bbox"},
        {"interface": Regions(label=True)},
        {"arguments": {"points": False, "parser": "strict", "style": "single_quoted"}, "tile": 64, "overlap": 8},
    ],
)
def test_tiled_interfaces_pass_the_conformance_kit(arguments):
    check_prompt_interface(Tiled, **arguments)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(64, 700), st.data())
def test_tiles_cover_the_image_and_share_what_they_promise(height, width, tile, data):
    overlap = data.draw(st.integers(1, tile // 2))
    tiles = layout((height, width), tile, overlap)
    columns = sorted({(one.x1, one.x2) for one in tiles})
    rows = sorted({(one.y1, one.y2) for one in tiles})
    assert len(tiles) == len(columns) * len(rows)
    for spans, side in ((columns, width), (rows, height)):
        assert spans[0][0] == 0 and spans[-1][1] == side
        assert all(stop - start == min(tile, side) for start, stop in spans)
        assert all(before[1] - after[0] >= overlap for before, after in itertools.pairwise(spans))
        assert len(spans) == 1 or (len(spans) - 1) * (tile - overlap) + overlap < side  # none too many


def test_a_query_is_split_into_the_pixels_of_its_tiles():
    image = query().image
    parts = BOXES.split(query())
    assert len(parts) == len(BOXES.tiles(SIZE)) == 15
    for part, tile in zip(parts, BOXES.tiles(SIZE), strict=True):
        assert np.array_equal(part.image, image[tile.y1 : tile.y2, tile.x1 : tile.x2])
    assert text_of(BOXES.render(parts[0])) == text_of(Regions(points=False).render(parts[0]))


frames = st.none() | st.builds(
    Frame, st.sampled_from(["pixel", "permille", "unit"]), st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    st.sampled_from(["xy", "yx"]),
)  # fmt: skip


@given(st.lists(st.tuples(st.text(), frames, st.sampled_from(["stop", "length"])), min_size=1, max_size=5))
def test_answers_about_tiles_are_read_back_whatever_was_written(parts):
    answers = [TileAnswer(Tile(i, 2, i + 5, 9), frame, reason, text) for i, (text, frame, reason) in enumerate(parts)]
    assert read_answers(write_answers(answers), [answer.tile for answer in answers]) == answers


def test_a_text_about_other_tiles_is_not_read_as_one_about_these():
    tiles = layout(SIZE, 128, 32)
    text = write_answers([TileAnswer(tile, None, "stop", "a") for tile in tiles])
    assert read_answers(text, layout(SIZE, 200, 32)) is None
    assert read_answers(text.replace("[0, 0, ", "[0, 1, ", 1), tiles) is None
    assert read_answers(text + "\n", tiles) is None and read_answers(text[:-1], tiles) is None


def test_each_tile_s_numbers_count_its_own_frame():
    tiles = BOXES.tiles(SIZE)
    empty = "<think>a</think><answer>[]</answer>"
    texts = [empty] * len(tiles)
    texts[7] = '<think>b</think><answer>[{"bbox": [250, 250, 500, 750]}]</answer>'
    completions = [
        Completion(text=text, frame=Frame("permille", (336, 336), "yx"), usage={"completion_tokens": 3})
        for text in texts
    ]
    joined = BOXES.join(query(), completions)
    assert joined.frame == pixels(SIZE) and joined.usage == {"completion_tokens": 45}
    found = BOXES.parse(joined, SIZE)
    tile = tiles[7]
    assert found.fault is None and found.answer_level == found.think_level == 1
    assert found.region.box == (tile.x1 + 32, tile.y1 + 32, tile.x1 + 96, tile.y1 + 64)
    assert found.think.split("\n\n") == ["a"] * 7 + ["b"] + ["a"] * 7


def test_nothing_in_any_tile_is_nothing():
    silent = [Completion(text="<think>a</think><answer>[]</answer>", frame=None)] * 15
    assert BOXES.parse(BOXES.join(query(), silent), SIZE).abstains


def test_a_fault_in_one_tile_is_the_answer_s_and_the_other_regions_stay():
    good = '<think>a</think><answer>[{"bbox": [40, 40, 60, 60]}]</answer>'
    completions = [Completion(text=good if index in (0, 14) else "", frame=None) for index in range(15)]
    found = BOXES.parse(BOXES.join(query(), completions), SIZE)
    assert (found.fault, len(found.regions)) == (Fault.NO_ANSWER, 2)
    assert found.answer_level == pytest.approx(2 / 15)
    completions[1] = Completion(text="<answer>[", frame=None, finish_reason="length")
    joined = BOXES.join(query(), completions)
    assert joined.finish_reason == "length" and BOXES.parse(joined, SIZE).fault is Fault.CUT_OFF
    completions[3] = Completion(text="", frame=None, fault=Fault.TIMEOUT, cause="late")
    lost = BOXES.join(query(), completions)
    assert (lost.fault, lost.cause, BOXES.parse(lost, SIZE).fault) == (
        Fault.TIMEOUT,
        "tile 4 of 15: late",
        Fault.TIMEOUT,
    )


def blobs(seed: int, count: int) -> list[Region]:
    """Draw ellipses that do not touch each other."""
    rng = random.Random(seed)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    taken, regions = np.zeros(SIZE, bool), []
    while len(regions) < count:
        x, y, a, b = rng.uniform(15, 485), rng.uniform(15, 285), rng.uniform(4, 14), rng.uniform(4, 14)
        grown = ((columns - x) / (a + 3)) ** 2 + ((rows - y) / (b + 3)) ** 2 <= 1
        if not (grown & taken).any():
            mask = ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 <= 1
            taken |= mask
            regions.append(Region(box=mask_box(mask), mask=Mask(data=mask)))
    return regions


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("tile", "overlap"), [(128, 32), (64, 32), (256, 16), (512, 64)])
def test_true_regions_through_tiles_are_the_regions(seed, tile, overlap):
    interface = Tiled(arguments={"points": False}, tile=tile, overlap=overlap)
    truth = blobs(seed, 40)
    text = interface.answer(Target(regions=tuple(truth)), frame=pixels(SIZE), size=SIZE)
    found = interface.parse(Completion(text=text, frame=pixels(SIZE)), SIZE)
    assert found.fault is None
    assert sorted(region.box for region in found.regions) == sorted(region.box for region in truth)


def test_the_confidence_and_the_label_of_a_joined_region_are_the_surest():
    left, right = Tile(0, 0, 100, 100), Tile(80, 0, 180, 100)
    one = Region(box=Box(70, 20, 100, 40), points=(Point(75, 30), Point(95, 30)), label="a", confidence=0.4)
    two = Region(box=Box(80, 20, 110, 40), points=(Point(85, 30), Point(105, 30)), label="b", confidence=0.9)
    (found,) = merge([left, right], [[one], [two]])
    assert (found.box, found.label, found.confidence) == (Box(70, 20, 110, 40), "b", 0.9)
    assert found.points == (Point(75, 30), Point(95, 30), Point(105, 30))  # (85, 30) lies where the first tile looked


def test_neighbours_on_a_seam_and_regions_of_one_tile_stay_apart():
    left, right = Tile(0, 0, 100, 100), Tile(80, 0, 180, 100)
    upper, lower = Region(box=Box(82, 10, 98, 30)), Region(box=Box(82, 32, 98, 52))
    assert merge([left, right], [[upper], [lower]]) == (upper, lower)
    assert merge([left, right], [[upper, upper], []]) == (upper, upper)
    assert len(merge([left, right], [[upper, upper], [upper]])) == 2
    assert merge([left, right], [[upper, lower], [lower, upper]]) == (upper, lower)


def test_points_without_boxes_join_where_they_are_near():
    left, right = Tile(0, 0, 100, 100), Tile(60, 0, 160, 100)
    near, far = Region(points=(Point(72, 50),)), Region(points=(Point(72, 80),))
    assert len(merge([left, right], [[Region(points=(Point(70, 50),))], [near]])) == 1
    assert len(merge([left, right], [[Region(points=(Point(70, 50),))], [far]])) == 2
    assert len(merge([left, right], [[Region(box=Box(65, 45, 75, 55))], [near]])) == 2


def test_a_part_of_a_region_in_a_tile_and_back():
    mask = np.zeros(SIZE, bool)
    mask[40:60, 100:160] = True
    region = Region(box=Box(100, 40, 160, 60), points=(Point(110, 50), Point(150, 50)), mask=Mask(data=mask))
    tile = Tile(120, 0, 248, 128)
    part = region_in(region, tile)
    assert part.box == Box(0, 40, 40, 60) and part.points[0] == Point(30, 50) and len(part.points) == 2
    assert all(part.mask.data[int(y), int(x)] for x, y in part.points)
    assert region_of(part, tile).box == Box(120, 40, 160, 60)
    assert region_in(region, Tile(0, 0, 90, 90)) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tile": 32}, "tiles of 32 px"),
        ({"tile": 128, "overlap": 65}, "share 65 px"),
        ({"interface": "tiled"}, "tiled again"),
        ({"interface": Regions(), "arguments": {"think": False}}, "leave arguments out"),
    ],
)
def test_tiles_that_cannot_work_are_refused(arguments, words):
    with pytest.raises(RecipeError) as refused:
        Tiled(**arguments)
    assert words in f"{refused.value.message} {refused.value.hint}"


@pytest.mark.slow
def test_any_text_in_any_tile_gives_a_consistent_grounding():
    texts = list_completions(seed=3)
    for _ in range(200):
        completions = [Completion(text=next(texts), frame=pixels((128, 128))) for _ in range(15)]
        found = BOXES.parse(BOXES.join(query(), completions), SIZE)
        assert found.fault is None or found.fault.of_model
        assert all(region.box == region.box.clip(SIZE) and region.box.valid for region in found.regions)
    for attack in ATTACKS.values():
        assert BOXES.parse(Completion(text=attack(60_000), frame=None), SIZE).fault is not None


RECIPE = {
    "reasoner": "toy",
    "prompt_interface": {"name": "tiled", "arguments": {"points": False}, "tile": 128, "overlap": 32},
    "segmenter": "box_fill",
    "prompt": "box",
}


def test_a_pipeline_asks_about_every_tile_and_a_cache_keeps_the_joined_answer(tmp_path):
    from medground.pipeline.cache import StageCache

    image = np.full((*SIZE, 3), 30, np.uint8)
    image[100:150, 100:160] = 220
    cache = StageCache(tmp_path)
    first = medground.load(RECIPE, cache=cache)(image, "Which region is bright?")
    assert first.fault is None and len(first.text.splitlines()) == 15 and first.regions
    assert any(abs(np.array(region.box) - (100, 100, 160, 150)).max() <= 3 for region in first.regions)
    again = medground.load(RECIPE, cache=StageCache(tmp_path))(image, "Which region is bright?")
    assert again.regions[0].box == first.regions[0].box and again.text == first.text


def test_an_evaluation_measures_tiled_answers_and_skips_reasoning_that_is_put_in():
    from medground.types import Sample

    truth = blobs(0, 3)
    sample = Sample(query=query(), target=Target(regions=tuple(truth)))
    run = medground.evaluate(
        medground.load(RECIPE), "evaluate.n_boot=10", data=[sample], conditions=["answer", "think_removed"]
    )
    assert run.summary.conditions["answer"].metrics["dice_joint"].n == 1
    assert "several times per question" in run.summary.skipped["think_removed"]
