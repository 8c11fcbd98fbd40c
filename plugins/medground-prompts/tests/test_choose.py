"""The interface that names a candidate: what it shows, how it reads a number, and what it would answer itself."""

from dataclasses import replace

import numpy as np
import pytest
from medground_prompts import Choose
from medground_prompts.marks import COLOURS, DIGITS, RIM, mark, places, scale

from medground.errors import RecipeError
from medground.geometry import Box, Point
from medground.testing import check_prompt_interface
from medground.types import Completion, Fault, Mask, Query, Region, Target, image_of, text_of

SIZE = (60, 80)


def candidate(x: int, y: int = 10, side: int = 12, size: tuple[int, int] = SIZE) -> Region:
    data = np.zeros(size, bool)
    data[y : y + side, x : x + side] = True
    box, point = Box(x, y, x + side, y + side), Point(x + 2.5, y + 2.5)
    return Region(box=box, points=(point, Point(x + 5.5, y + 5.5)), mask=Mask(data=data, score=0.7))


CANDIDATES = (candidate(5), candidate(30), candidate(55))


def read(answer: str, interface: Choose | None = None, candidates: tuple[Region, ...] = CANDIDATES):
    text = f"<think>a</think><answer>{answer}</answer>"
    return (interface or Choose()).among(candidates).parse(Completion(text=text, frame=None), SIZE)


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize("style", ["json", "single_quoted"])
@pytest.mark.parametrize("parser", ["lenient", "strict"])
def test_it_passes_the_conformance_kit(think, style, parser):
    check_prompt_interface(Choose, think=think, style=style, parser=parser)


def test_a_number_is_the_candidate_with_all_that_it_has():
    grounding = read('{"choice": 2}')
    assert grounding.region is CANDIDATES[1] and grounding.fault is None
    assert (grounding.think, grounding.answer_level, grounding.raw) == ("a", 1.0, {"choice": 2})
    assert read("{'choice': 3}").region is CANDIDATES[2]


def test_null_is_the_answer_that_nothing_fits():
    grounding = read('{"choice": null}')
    assert grounding.abstains and grounding.answer_level == 1.0
    assert read('{"choice": null}', candidates=()).abstains


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ('{"choice": 0}', Fault.BAD_CHOICE),
        ('{"choice": 4}', Fault.BAD_CHOICE),
        ('{"choice": -1}', Fault.BAD_CHOICE),
        ('{"choice": true}', Fault.BAD_CHOICE),
        ('{"choice": 1.0}', Fault.BAD_CHOICE),
        ('{"choice": "1"}', Fault.BAD_CHOICE),
        ('{"choice": [1]}', Fault.BAD_CHOICE),
        ('{"choice": NaN}', Fault.BAD_CHOICE),
        ('{"choice": %s}' % ("9" * 5000), Fault.BAD_CHOICE),
        ('{"number": 1}', Fault.MISSING_KEYS),
        ("{}", Fault.MISSING_KEYS),
        ("1", Fault.BAD_JSON),
        ("null", Fault.BAD_JSON),
        ('{"choice": 1, "choice": 2}', Fault.BAD_JSON),
    ],
)
def test_what_is_no_number_of_a_candidate_is_a_fault_without_a_region(answer, fault):
    grounding = read(answer)
    assert grounding.fault is fault and not grounding.regions and not grounding.abstains
    assert grounding.answer_level == (0.2 if fault is Fault.BAD_JSON else 0.4)


def test_the_ideal_answer_is_the_candidate_with_the_highest_overlap():
    near = Target(regions=(candidate(31),))
    assert '{"choice": 2}' in Choose().among(CANDIDATES).answer(near)
    assert "'choice': 2" in Choose(style="single_quoted").among(CANDIDATES).answer(near)
    between = candidate(30, side=13)
    assert '{"choice": 2}' in Choose().among((candidate(29), between)).answer(Target(regions=(between,)))


def test_the_ideal_answer_is_null_where_no_candidate_reaches_the_least_overlap():
    far = Target(regions=(candidate(36),))  # half of its side off: IoU 1/3
    for target, interface in ((far, Choose()), (Target(regions=()), Choose()), (far, Choose().among(()))):
        text = interface.among(CANDIDATES if target is far and not interface.candidates else ()).answer(target)
        assert '{"choice": null}' in text and "Nothing that can be seen fits" in text
    assert '{"choice": 2}' in Choose(overlap=1 / 3).among(CANDIDATES).answer(far)
    exactly = Target(regions=(replace(candidate(30), mask=None, box=Box(30, 10, 42, 34)),))
    assert '{"choice": 2}' in Choose(overlap=0.5).among(CANDIDATES).answer(exactly)
    assert '{"choice": null}' in Choose(overlap=0.51).among(CANDIDATES).answer(exactly)


def test_several_targets_have_no_ideal_answer():
    with pytest.raises(ValueError, match="2 regions"):
        Choose().among(CANDIDATES).answer(Target(regions=CANDIDATES[:2]))


def test_it_knows_candidates_without_changing():
    interface = Choose(overlap=0.3)
    knowing = interface.among(CANDIDATES)
    assert interface.candidates == () and knowing.candidates == CANDIDATES and knowing.overlap == 0.3
    assert knowing.among(()).candidates == ()


@pytest.mark.parametrize("arguments", [{"overlap": 0.0}, {"overlap": 1.5}, {"least": -1}, {"style": "native"}])
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(RecipeError):
        Choose(**arguments)


def test_the_conversation_shows_the_candidates_and_asks_for_one_key():
    query = Query(image=np.full((*SIZE, 3), 90, np.uint8), question="Which is bright?", candidates=CANDIDATES)
    messages = Choose().render(query)
    assert image_of(messages).shape == (336, 448, 3)
    assert np.array_equal(image_of(Choose(least=0).render(query)), mark(query.image, CANDIDATES))
    assert '"choice": n, the number of the candidate' in text_of(messages) and "Which is bright?" in text_of(messages)
    assert text_of(Choose(instructions=False).render(query)).strip() == "Which is bright?"
    assert image_of(Choose().render(replace(query, candidates=()))) is query.image


@pytest.mark.parametrize("shade", [0, 128, 255])
@pytest.mark.parametrize("size", [(64, 64), (60, 80), (512, 400), (1500, 900)])
def test_every_number_can_be_read_on_black_grey_and_white(shade, size):
    side = min(size) // 6
    candidates = [candidate(size[1] // 5 * (1 + index), size[0] // 3, side, size) for index in range(3)]
    picture = mark(np.full((*size, 3), shade, np.uint8), candidates)
    factor = scale(picture)
    for number in range(1, 4):
        assert _shows(picture, number, factor), number
        assert (picture == COLOURS[number - 1]).all(axis=2).sum() > 4 * side * 0.8  # its outline, too
    assert (picture == RIM).all(axis=2).any()


def _shows(picture: np.ndarray, number: int, factor: int) -> bool:
    """Whether a digit stands somewhere, black on its colour, whole."""
    ink = np.array([[pixel == "1" for pixel in row] for row in DIGITS[number].split()])
    ink = np.pad(ink, 1).repeat(factor, axis=0).repeat(factor, axis=1)
    wanted = np.where(ink[..., None], 0, np.array(COLOURS[number - 1])).astype(np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(picture, wanted.shape)[:, :, 0]
    rows, columns = np.nonzero((windows[:, :, 0, 0] == wanted[0, 0]).all(axis=2))
    return any(np.array_equal(windows[row, column], wanted) for row, column in zip(rows, columns, strict=True))


@pytest.mark.parametrize(("size", "count"), [((64, 64), 8), ((90, 40), 12), ((448, 448), 32), ((300, 500), 32)])
def test_plates_never_lie_on_one_another_and_stay_inside(size, count):
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(count):
        mask = np.zeros(size, bool)
        top, left = int(rng.integers(size[0] - 9)), int(rng.integers(size[1] - 9))
        mask[top : top + 9, left : left + 9] = True
        masks.append(mask)
    factor = scale(np.zeros((*size, 3), np.uint8))
    plates = [(11 * factor, (9 if index < 9 else 15) * factor) for index in range(count)]
    taken = np.zeros(size, int)
    for (top, left), (high, wide) in zip(places(masks, plates), plates, strict=True):
        assert 0 <= top <= size[0] - high and 0 <= left <= size[1] - wide
        taken[top : top + high, left : left + wide] += 1
    assert taken.max() == 1


def test_a_plate_is_beside_its_candidate_and_not_on_it_where_there_is_room():
    mask = candidate(30, 30, size=(100, 100)).mask.data
    [(top, left)] = places([mask], [(11, 9)])
    plate = np.zeros_like(mask)
    plate[top : top + 11, left : left + 9] = True
    assert not (plate & mask).any()
    rows, columns = np.nonzero(plate)
    own_rows, own_columns = np.nonzero(mask)
    gaps = np.hypot(rows[:, None] - own_rows, columns[:, None] - own_columns)
    assert gaps.min() <= 1.5


def test_small_images_are_enlarged_and_large_ones_stay():
    image = np.zeros((*SIZE, 3), np.uint8)
    assert mark(image, CANDIDATES, least=160).shape == (120, 160, 3)
    assert mark(image, CANDIDATES, least=80).shape == (60, 80, 3)
    assert not image.any(), "the image of the query stays as it is"


def test_a_candidate_without_a_mask_is_drawn_by_its_box_and_without_either_refused():
    image = np.zeros((*SIZE, 3), np.uint8)
    boxed = replace(CANDIDATES[0], mask=None)
    assert np.array_equal(mark(image, [boxed]), mark(image, CANDIDATES[:1]))
    with pytest.raises(ValueError, match="mask or a box"):
        mark(image, [Region(points=(Point(3, 3),))])
