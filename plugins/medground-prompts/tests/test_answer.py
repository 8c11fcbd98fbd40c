"""The strict parser reads back the ideal completion for any target and frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from medground_prompts import Bbox, BboxPoints, Points
from medground_prompts.coordinates import STEP

from medground.frames import Frame, pixels
from medground.geometry import Box, Point
from medground.types import Completion, Region, Target

sides = st.integers(1, 3000)
sizes = st.tuples(sides, sides)
fractions = st.floats(0, 1)


@st.composite
def cases(draw):
    """A target with any box of positive area and any two distinct points, the frame to answer in, and the size."""
    size = height, width = draw(sizes)
    kind = draw(st.sampled_from(["pixel", "permille", "unit"]))
    frame = draw(st.none() | st.builds(Frame, st.just(kind), sizes, st.sampled_from(["xy", "yx"])))

    def span(side):
        low, high = sorted((draw(fractions) * side, draw(fractions) * side))
        low = min(low, side - 1e-3)
        return low, max(high, low + 1e-3)

    (x1, x2), (y1, y2) = span(width), span(height)
    pair = [Point(draw(fractions) * width, draw(fractions) * height) for _ in range(2)]
    return Target(regions=(Region(box=Box(x1, y1, x2, y2), points=tuple(pair)),)), frame, size


@given(cases(), st.sampled_from(["json", "single_quoted"]), st.booleans())
def test_the_ideal_answer_is_read_back_within_half_a_unit(case, style, think):
    target, frame, size = case
    interface = BboxPoints(parser="strict", style=style, think=think)
    found = interface.parse(Completion(text=interface.answer(target, frame=frame, size=size), frame=frame), size)
    assert found.fault is None and found.answer_level == 1 and found.think_level in (1, None)
    step = STEP[frame.kind] if frame else 1.0
    unit = [side * step for side in (frame or pixels(size)).unit(size)]
    box, points = found.region.box, found.region.points
    for axis in range(2):
        folded = box[axis + 2] - box[axis] < 1.5 * unit[axis]  # a side of one unit may have been widened to it
        limit = (1.0 if folded else 0.5) * unit[axis] * (1 + 1e-6) + 1e-9
        assert abs(box[axis] - target.region.box[axis]) <= limit
        assert abs(box[axis + 2] - target.region.box[axis + 2]) <= limit
    near = all(abs(points[0][axis] - points[1][axis]) < 1.5 * unit[axis] for axis in range(2))
    for said, meant in zip(points, target.region.points, strict=True):
        for axis in range(2):
            assert abs(said[axis] - meant[axis]) <= (1.5 if near else 0.5) * unit[axis] * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize(
    ("box", "written"),
    [
        ((3.2, 3.2, 3.4, 9.0), [3, 3, 4, 9]),
        ((3.6, 3.6, 3.8, 9.0), [3, 4, 4, 9]),
        ((0.0, 0.0, 0.1, 0.1), [0, 0, 1, 1]),
        ((19.9, 9.9, 20.0, 10.0), [19, 9, 20, 10]),
        ((4.5, 5.5, 6.5, 7.5), [4, 5, 6, 7]),
    ],
)
def test_a_side_that_rounds_to_nothing_becomes_one_unit_around_its_middle(box, written):
    target = Target(regions=(Region(box=Box(*box), points=()),))
    for frame in (pixels((10, 20)), None):
        assert Bbox(think=False).answer(target, frame=frame, size=(10, 20)) == f'<answer>{{"bbox": {written}}}</answer>'


@pytest.mark.parametrize(
    ("first", "second", "written"),
    [
        ((4.5, 4.5), (9.5, 4.5), ([4, 4], [9, 4])),
        ((4.1, 4.0), (4.2, 4.4), ([4, 4], [4, 5])),
        ((4.2, 4.0), (3.9, 4.1), ([4, 4], [3, 4])),
        ((19.8, 4.0), (20.0, 4.0), ([20, 4], [19, 4])),
        ((4.0, 4.0), (4.0, 4.0), ([4, 4], [5, 4])),
    ],
)
def test_points_that_round_to_one_are_a_unit_apart(first, second, written):
    target = Target(regions=(Region(box=Box(0, 0, 1, 1), points=(Point(*first), Point(*second))),))
    text = Points(think=False).answer(target, frame=pixels((10, 20)), size=(10, 20))
    assert text == f'<answer>{{"points_1": {written[0]}, "points_2": {written[1]}}}</answer>'


def test_answers_use_the_numbers_of_their_frame():
    target = Target(regions=(Region(box=Box(20, 30, 60, 90), points=()),))
    said = {kind: Frame(kind, (50, 100), "yx") for kind in ("pixel", "permille", "unit")}
    texts = {kind: Bbox(think=False).answer(target, frame=frame, size=(100, 200)) for kind, frame in said.items()}
    assert texts["pixel"] == '<answer>{"bbox": [15, 10, 45, 30]}</answer>'
    assert texts["permille"] == '<answer>{"bbox": [300, 100, 900, 300]}</answer>'
    assert texts["unit"] == '<answer>{"bbox": [0.3, 0.1, 0.9, 0.3]}</answer>'


def test_a_target_that_cannot_be_answered_is_an_error():
    target = Target(regions=(Region(box=Box(0, 0, 1, 1), points=(Point(0, 0),)),))
    with pytest.raises(ValueError, match="two"):
        BboxPoints().answer(target)
    with pytest.raises(ValueError, match="tags"):
        Bbox().answer(target, "so </think>")
    with pytest.raises(ValueError, match="size"):
        Bbox().answer(target, frame=pixels((5, 5)))
    assert Bbox().answer(target, "so") == '<think>so</think><answer>{"bbox": [0, 0, 1, 1]}</answer>'
    assert Bbox(think=False).answer(target, "so") == '<answer>{"bbox": [0, 0, 1, 1]}</answer>'
