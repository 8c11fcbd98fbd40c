"""Lists of regions: none, one and many, what is wrong with them, and what no text does to them."""

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed_completions import ALPHABET, ATTACKS, list_completions
from medground_prompts import MultiPoint, Regions
from medground_prompts.schema import MOST_REGIONS, ListSchema

from medground.errors import RecipeError
from medground.frames import Frame, pixels
from medground.geometry import Box, Point
from medground.testing import check_prompt_interface
from medground.types import Completion, Fault, Grounding, Region, Target

SIZE = (840, 840)
FRAMES = [pixels(SIZE), None, Frame("permille", SIZE, "yx"), Frame("unit", SIZE)]
INTERFACES = [
    kind(parser=parser, **arguments)
    for parser in ("lenient", "strict")
    for kind, arguments in (
        (Regions, {}),
        (Regions, {"points": False, "label": True}),
        (Regions, {"box": False, "confidence": True}),
        (MultiPoint, {}),
        (MultiPoint, {"k": 3, "think": False}),
    )
]
ENTRY = {"bbox": [10, 20, 30, 40], "points": [[12, 22], [20, 30]]}


def read(entries, interface=None, frame=FRAMES[0]) -> Grounding:
    answer = entries if isinstance(entries, str) else json.dumps(entries)
    text = f"<think>a</think><answer>{answer}</answer>"
    return (interface or Regions()).parse(Completion(text=text, frame=frame), SIZE)


def regions(count: int) -> tuple[Region, ...]:
    return tuple(
        Region(box=Box(12 * i, 5, 12 * i + 9, 30), points=(Point(12 * i + 2, 8), Point(12 * i + 4, 20)), label=f"n{i}")
        for i in range(count)
    )


@pytest.mark.parametrize("style", ["json", "single_quoted"])
@pytest.mark.parametrize("parser", ["lenient", "strict"])
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Regions, {}),
        (Regions, {"points": False}),
        (Regions, {"box": False, "label": True, "confidence": True}),
        (Regions, {"think": False}),
        (MultiPoint, {}),
        (MultiPoint, {"k": 2}),
    ],
)
def test_list_interfaces_pass_the_conformance_kit(kind, arguments, parser, style):
    check_prompt_interface(kind, parser=parser, style=style, **arguments)


def test_an_empty_list_is_the_answer_that_nothing_fits():
    found = read("[]")
    assert found.abstains and found.fault is None and found.regions == ()
    assert (found.answer_level, found.think_level) == (1, 1)
    assert not read("").abstains and not read("{}").abstains and not read("null").abstains


def test_regions_keep_their_order_labels_and_confidences():
    found = read([{**ENTRY, "label": "node", "confidence": 0.25}, {**ENTRY, "bbox": [1, 2, 3, 4]}])
    assert [region.box for region in found.regions] == [(10, 20, 30, 40), (1, 2, 3, 4)]
    assert [(region.label, region.confidence) for region in found.regions] == [("node", 0.25), ("", None)]
    assert found.region is None and found.raw is None and found.fault is None


@pytest.mark.parametrize("count", [0, 1, 3, 64])
@pytest.mark.parametrize("style", ["json", "single_quoted"])
def test_the_ideal_list_is_read_back(count, style):
    interface = Regions(label=True, confidence=True, style=style, parser="strict")
    text = interface.answer(Target(regions=regions(count)), frame=FRAMES[0], size=SIZE)
    found = interface.parse(Completion(text=text, frame=FRAMES[0]), SIZE)
    assert (found.fault, found.answer_level, len(found.regions)) == (None, 1, count)
    assert [(region.box, region.points, region.label) for region in found.regions] == [
        (region.box, region.points, region.label) for region in regions(count)
    ]
    assert all(region.confidence == 1 for region in found.regions)


@pytest.mark.parametrize("label", ["it's", 'a "b"', "back\\slash\\", "</ans", ': "', "é \u2028"])
@pytest.mark.parametrize("style", ["json", "single_quoted"])
@pytest.mark.parametrize("parser", ["lenient", "strict"])
def test_any_label_survives_in_either_quotes(label, style, parser):
    interface = Regions(label=True, style=style, parser=parser)
    target = Target(regions=(Region(box=Box(1, 2, 3, 4), points=(Point(1, 2), Point(2, 3)), label=label),))
    found = interface.parse(Completion(text=interface.answer(target), frame=None), SIZE)
    assert found.fault is None and found.region.label == label


@pytest.mark.parametrize(
    ("entries", "fault", "level", "kept"),
    [
        ([ENTRY, {"bbox": [1, 2, 3, 4]}], Fault.MISSING_KEYS, 0.4, 2),
        ([ENTRY, 7], Fault.MISSING_KEYS, 0.4, 1),
        ([ENTRY, {**ENTRY, "bbox": [9, 9, 1, 1]}], Fault.INVERTED_BOX, 0.6, 2),
        ([{**ENTRY, "points": [[1, 2]]}], Fault.BAD_POINTS, 0.6, 1),
        ([{**ENTRY, "points": [[1, 2], [1, 2]]}], Fault.POINTS_EQUAL, 0.6, 1),
        ([{"bbox": 1, "points": 2}], Fault.BAD_BOX, 0.4, 0),
        ([{**ENTRY, "confidence": 1.5}], Fault.BAD_CONFIDENCE, 0.6, 1),
        ([{**ENTRY, "confidence": True}], Fault.BAD_CONFIDENCE, 0.6, 1),
        ([{**ENTRY, "bbox": [0, 0, 900, 40]}], Fault.OUT_OF_FRAME, 0.6, 1),
        ([ENTRY] * (MOST_REGIONS + 1), Fault.TOO_LONG, 0.4, 0),
        ({"regions": [ENTRY]}, Fault.BAD_JSON, 0.2, 0),
    ],
)
def test_faults_levels_and_what_stays_usable(entries, fault, level, kept):
    found = read(entries)
    assert (found.fault, found.answer_level, len(found.regions)) == (fault, level, kept)


def test_what_is_asked_for_is_missed():
    assert read([ENTRY], Regions(label=True)).fault is Fault.MISSING_KEYS
    assert read([{**ENTRY, "label": 3}], Regions(label=True)).fault is Fault.MISSING_KEYS
    assert read([ENTRY], Regions(confidence=True)).fault is Fault.MISSING_KEYS
    assert read([{**ENTRY, "label": "", "confidence": 0}], Regions(label=True, confidence=True)).fault is None


@pytest.mark.parametrize(
    ("k", "count", "fault"),
    [
        (3, 3, None),
        (3, 2, Fault.BAD_POINTS),
        (None, 1, None),
        (None, 16, None),
        (None, 17, Fault.BAD_POINTS),
        (None, 0, Fault.BAD_POINTS),
    ],
)
def test_key_points_are_counted(k, count, fault):
    found = read([{"points": [[i, 2] for i in range(count)]}], MultiPoint(k=k))
    assert found.fault is fault
    assert fault or found.region.points == tuple(Point(i, 2) for i in range(count))


def test_key_points_that_round_to_one_are_told_apart():
    target = Target(regions=(Region(points=tuple(Point(4.1, 4.1) for _ in range(5))),))
    found = read(MultiPoint(k=5, think=False).answer(target, frame=FRAMES[0], size=SIZE)[8:-9], MultiPoint(k=5))
    assert found.fault is None and len(set(found.region.points)) == 5
    assert all(abs(x - 4.1) <= 1.2 and abs(y - 4.1) <= 1.2 for x, y in found.region.points)


def test_brackets_are_counted_against_the_list_s_own_limit():
    assert ListSchema.brackets == 512 and MOST_REGIONS == 64
    deep = '[{"bbox": [1, 2, 3, 4], "points": [[1, 2], [2, 3]], "more": '
    for extra, fault in ((512 - 6, None), (512 - 5, Fault.BAD_JSON)):
        assert read(deep + "[" * extra + "]" * extra + "}]").fault is fault


def test_targets_that_cannot_be_said_are_errors():
    with pytest.raises(ValueError, match="at most 64"):
        Regions().answer(Target(regions=regions(65)))
    with pytest.raises(ValueError, match="3 key points"):
        MultiPoint(k=3).answer(Target(regions=regions(1)))
    with pytest.raises(ValueError, match="a box of every region"):
        Regions().answer(Target(regions=(Region(points=(Point(1, 2), Point(3, 4))),)))
    with pytest.raises(ValueError, match="a label cannot hold the tags"):
        Regions(label=True).answer(Target(regions=(Region(box=Box(1, 2, 3, 4), label="</answer>"),)))
    with pytest.raises(RecipeError, match="neither"):
        Regions(box=False, points=False)
    with pytest.raises(RecipeError, match="k of multi_point"):
        MultiPoint(k=17)
    with pytest.raises(RecipeError, match="bbox_points"):
        Regions(parser="released_train")


def check(interface, text: str, frame: Frame | None) -> Grounding:
    found = interface.parse(Completion(text=text, frame=frame), SIZE)
    assert len(found.regions) <= MOST_REGIONS
    assert found.fault is None or found.fault.of_model
    assert 0 <= found.answer_level <= 1 and (found.think_level is None) == (not interface.think)
    assert found.abstains == (found.fault is None and not found.regions)
    for region in found.regions:
        kinds, placed = region.prompt().kinds, interface.provides - {"text"}
        assert kinds <= placed and (found.fault is not None or kinds == placed)
        numbers = [*(region.box or ()), *itertools.chain(*region.points)]
        assert all(type(number) is float and math.isfinite(number) for number in numbers)
        assert region.confidence is None or 0 <= region.confidence <= 1
        assert frame is None or region.box is None or region.box == region.box.clip(SIZE)
    if found.fault is None:
        assert found.answer_level == 1
    return found


@pytest.mark.slow
def test_five_thousand_fuzzed_lists_give_consistent_groundings():
    faults, counts = set(), set()
    for number, text in enumerate(itertools.islice(list_completions(seed=0), 5_000)):
        for interface in INTERFACES:
            found = check(interface, text, FRAMES[number % 4])
        found = check(INTERFACES[0], text, FRAMES[0])
        faults.add(found.fault)
        counts.add(len(found.regions) if found.fault is None else -1)
    assert faults >= {None, Fault.NO_ANSWER, Fault.TWO_ANSWERS, Fault.BAD_JSON, Fault.MISSING_KEYS, Fault.BAD_BOX}
    assert faults >= {Fault.BAD_POINTS, Fault.BAD_CONFIDENCE, Fault.TOO_LONG, Fault.INVERTED_BOX, Fault.NONFINITE}
    assert counts >= {0, 1, 2, 3, 4}


@pytest.mark.soak
def test_a_hundred_thousand_fuzzed_lists_give_consistent_groundings():
    for number, text in enumerate(itertools.islice(list_completions(seed=1), 100_000)):
        for interface in INTERFACES:
            check(interface, text, FRAMES[number % 4])


@pytest.mark.slow
@given(st.text() | st.lists(st.sampled_from(ALPHABET)).map("".join), st.sampled_from(FRAMES))
def test_any_text_gives_a_consistent_grounding(text, frame):
    for interface in INTERFACES:
        check(interface, text, frame)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("length", [100, 60_000, 80_000])
def test_attacks_end_in_a_fault(attack, length):
    for interface in INTERFACES:
        assert check(interface, ATTACKS[attack](length), FRAMES[0]).fault is not None
