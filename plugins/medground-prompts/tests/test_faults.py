"""Our parsers name the fault of an answer and return the parts without one."""

import json

import pytest
from medground_prompts import Bbox, BboxPoints, Points
from medground_prompts.reading import MAX_ANSWER, MAX_CHARS, MAX_DEPTH, unfenced
from medground_prompts.schema import Schema

from medground.frames import Frame, pixels
from medground.types import Completion, Fault, Grounding

SIZE = (600, 800)
OWN = pixels(SIZE)
BOX, FIRST, SECOND = "[100, 50, 300, 250]", "[150, 100]", "[200, 200]"


def whole(box: str = BOX, first: str = FIRST, second: str = SECOND, think: str = "a") -> str:
    answer = f'{{"bbox": {box}, "points_1": {first}, "points_2": {second}}}'
    return f"<think>{think}</think><answer>{answer}</answer>"


def read(text: str, interface=None, frame: Frame | None = OWN) -> Grounding:
    return (interface or BboxPoints()).parse(Completion(text=text, frame=frame), SIZE)


BOXES = [
    ("null", Fault.BAD_BOX),
    ("{}", Fault.BAD_BOX),
    ('"1, 2, 3, 4"', Fault.BAD_BOX),
    ("[100, 50, 300]", Fault.BAD_BOX),
    ("[100, 50, 300, 250, 1]", Fault.BAD_BOX),
    ('["100", "50", "300", "250"]', Fault.BAD_BOX),
    ("[true, false, true, true]", Fault.BAD_BOX),
    ("[100, 50, 300, NaN]", Fault.NONFINITE),
    ("[100, 50, Infinity, 250]", Fault.NONFINITE),
    ("[-Infinity, 50, 300, 250]", Fault.NONFINITE),
    ("[100, 50, 1e999, 250]", Fault.NONFINITE),
    (f"[100, 50, {'9' * 5000}, 250]", Fault.NONFINITE),
    ("[300, 50, 100, 250]", Fault.INVERTED_BOX),
    ("[100, 250, 300, 50]", Fault.INVERTED_BOX),
    ("[100, 50, 100, 250]", Fault.DEGENERATE_BOX),
    ("[100, 50, 300, 50]", Fault.DEGENERATE_BOX),
    ("[800, 50, 801, 250]", Fault.DEGENERATE_BOX),
    ("[-2, 50, 300, 250]", Fault.OUT_OF_FRAME),
    ("[100, 50, 802, 250]", Fault.OUT_OF_FRAME),
    ("[100, 50, 300, 602]", Fault.OUT_OF_FRAME),
    (f"[100, 50, {10**30}, 250]", Fault.OUT_OF_FRAME),
]
POINTS = [
    ("null", SECOND, Fault.BAD_POINTS),
    ("[150]", SECOND, Fault.BAD_POINTS),
    ("[150, 100, 1]", SECOND, Fault.BAD_POINTS),
    ("[[150, 100]]", SECOND, Fault.BAD_POINTS),
    ("[true, 100]", SECOND, Fault.BAD_POINTS),
    (FIRST, '"200, 200"', Fault.BAD_POINTS),
    ("[150, NaN]", SECOND, Fault.NONFINITE),
    ("[150, 100]", "[150.0, 1e2]", Fault.POINTS_EQUAL),
    ("[801, 100]", "[800, 100]", Fault.POINTS_EQUAL),
    (FIRST, "[200, 602]", Fault.OUT_OF_FRAME),
]


@pytest.mark.parametrize(("box", "fault"), BOXES)
def test_a_bad_box_is_named_and_the_points_are_kept(box, fault):
    found = read(whole(box=box))
    assert (found.fault, found.answer_level) == (fault, 0.6)
    assert found.region.prompt().kinds == {"points"} and found.region.points == ((150, 100), (200, 200))
    alone = read(whole(box=box), Bbox())
    assert (alone.fault, alone.answer_level, alone.region) == (fault, 0.4, None)


@pytest.mark.parametrize(("first", "second", "fault"), POINTS)
def test_bad_points_are_named_and_the_box_is_kept(first, second, fault):
    found = read(whole(first=first, second=second))
    assert (found.fault, found.answer_level) == (fault, 0.6)
    assert found.region.prompt().kinds == {"box"} and found.region.box == (100, 50, 300, 250)
    alone = read(whole(first=first, second=second), Points())
    assert (alone.fault, alone.answer_level, alone.region) == (fault, 0.4, None)


def test_the_first_of_two_faults_is_reported_and_nothing_is_kept():
    found = read(whole(box="[3, 2, 1, 4]", first=SECOND))
    assert (found.fault, found.region, found.answer_level) == (Fault.INVERTED_BOX, None, 0.4)


def test_a_missing_key_is_the_fault_and_the_other_part_is_kept():
    found = read(whole().replace("points_2", "points_3"))
    assert (found.fault, found.answer_level) == (Fault.MISSING_KEYS, 0.4)
    assert found.region.prompt().kinds == {"box"} and found.raw["points_3"] == [200, 200]
    assert read(whole().replace("points_2", "points_3"), Bbox()).fault is None


@pytest.mark.parametrize(
    ("text", "fault", "level"),
    [
        ("<think>a</think>", Fault.NO_ANSWER, 0),
        (whole() + "<answer>{}</answer>", Fault.TWO_ANSWERS, 0.2),
        (whole() + whole(), Fault.TWO_ANSWERS, 0.2),
        ("<answer>[1, 2]</answer>", Fault.BAD_JSON, 0.2),
        ('<answer>{"bbox": 1, "bbox": 2}</answer>', Fault.BAD_JSON, 0.2),
        ("<answer>" + '{"a":' * 2000 + "1" + "}" * 2000 + "</answer>", Fault.BAD_JSON, 0.2),
        ("<answer>" + "[" * 16_000 + "</answer>", Fault.BAD_JSON, 0.2),
        ("<answer>" + "[" * (MAX_ANSWER + 1) + "</answer>", Fault.TOO_LONG, 0.2),
        (whole() + " " * MAX_CHARS, Fault.TOO_LONG, 0),
    ],
)
def test_without_one_object_nothing_is_kept(text, fault, level):
    found = read(text)
    assert (found.fault, found.answer_level, found.region, found.raw) == (fault, level, None, None)


def test_brackets_are_counted_and_the_limit_is_far_from_honest_answers():
    extra = ', "more": ' + "[" * (Schema.brackets - 4) + "]" * (Schema.brackets - 4) + "}</answer>"
    assert read(whole().replace("}</answer>", extra)).fault is None
    assert (
        read(whole().replace("}</answer>", extra.replace("[", "[[", 1).replace("]", "]]", 1))).fault is Fault.BAD_JSON
    )


def test_an_answer_quoted_while_thinking_is_not_the_answer():
    found = read(f"<think>maybe {whole()[len('<think>a</think>') :]} ?</think>" + whole(BOX.replace("300", "400"))[16:])
    assert found.fault is None and found.region.box == (100, 50, 400, 250)


def test_lone_surrogates_and_control_characters_survive():
    found = read(whole(think="\ud800 \x00 \u202e"))
    assert found.fault is None and found.think == "\ud800 \x00 \u202e"


@pytest.mark.parametrize(
    ("frame", "box", "fault"),
    [
        (Frame("permille", SIZE), [0, 0, 1001, 1000], None),
        (Frame("permille", SIZE), [0, 0, 1002, 1000], Fault.OUT_OF_FRAME),
        (Frame("pixel", SIZE, "yx"), [0, 0, 600, 800], None),
        (Frame("pixel", SIZE, "yx"), [0, 0, 800, 600], Fault.OUT_OF_FRAME),
        (Frame("unit", SIZE), [-0.0001, 0, 1.0001, 1], None),
        (Frame("unit", SIZE), [0, 0, 1.01, 1], Fault.OUT_OF_FRAME),
        (None, [0, 0, 5000, 9000], None),
        (None, [0, 0, 1e12, 9000], Fault.NONFINITE),
    ],
)
def test_one_unit_past_the_edge_is_the_edge(frame, box, fault):
    found = Bbox().parse(Completion(text=f"<answer>{json.dumps({'bbox': box})}</answer>", frame=frame), SIZE)
    assert found.fault is fault
    if fault is None:
        assert found.region.box == ((0, 0, 5000, 9000) if frame is None else (0, 0, 800, 600))


def test_numbers_are_converted_from_the_frame_of_the_completion():
    found = read(whole("[500, 250, 750, 1000]", "[600, 300]", "[700, 900]"), frame=Frame("permille", (28, 28), "yx"))
    assert found.region.box == pytest.approx((200, 300, 800, 450))
    assert found.region.points[0] == pytest.approx((240, 360))
    assert found.raw["bbox"] == [500, 250, 750, 1000]


STRICT = [
    (whole(), None),
    (whole() + "\n", Fault.NO_ANSWER),
    ("So: " + whole(), Fault.NO_ANSWER),
    (whole().replace("</think>", "</think>\n"), Fault.NO_ANSWER),
    (whole().replace("<think>a</think>", ""), Fault.NO_ANSWER),
    ("<think>a</think>" + whole(), Fault.NO_ANSWER),
    (whole(think="<think>"), Fault.NO_ANSWER),
    (whole(think="<answer>"), Fault.TWO_ANSWERS),
    (whole() + "<answer>{}</answer>", Fault.TWO_ANSWERS),
    (whole().replace('"', "'"), Fault.BAD_JSON),
    (whole().replace("<answer>", "<answer>```").replace("</answer>", "```</answer>"), Fault.BAD_JSON),
]


@pytest.mark.parametrize(("text", "fault"), STRICT)
def test_strict_accepts_only_the_requested_form(text, fault):
    assert read(text, BboxPoints(parser="strict")).fault is fault


def test_strict_without_thinking_accepts_the_answer_alone_in_its_quotes():
    answer = whole()[len("<think>a</think>") :]
    direct = BboxPoints(parser="strict", think=False)
    assert read(answer, direct).fault is None
    assert read(whole(), direct).fault is Fault.NO_ANSWER
    single = BboxPoints(parser="strict", think=False, style="single_quoted")
    assert read(answer, single).fault is Fault.BAD_JSON
    assert read(answer.replace('"', "'"), single).fault is None


def test_think_levels_and_none_without_thinking():
    assert read(whole()).think_level == 1
    assert (read(whole(think=" ")).think_level, read(whole(think=" ")).think) == (0.2, "")
    assert (read("").think_level, read("").think) == (0, None)
    found = read(whole(), BboxPoints(think=False))
    assert (found.think_level, found.fault) == (None, None)


def test_a_completion_that_never_arrived_keeps_its_own_fault():
    found = BboxPoints().parse(Completion(text="", frame=None, fault=Fault.TIMEOUT), SIZE)
    assert (found.fault, found.think_level) == (Fault.TIMEOUT, None)


def test_the_limits_are_those_of_the_documents():
    assert (MAX_CHARS, MAX_ANSWER, Schema.brackets, MAX_DEPTH) == (65_536, 16_384, 64, 800)
    longest = whole() + " " * (MAX_CHARS - len(whole()))
    assert read(longest).fault is None and read(longest + " ").fault is Fault.TOO_LONG


@pytest.mark.parametrize(
    ("text", "content"),
    [("```json```", ""), ("``````", ""), ("```", "```"), ("````", "````"), ("```a", "```a"), ("a```", "a```")],
)
def test_a_fence_opens_and_closes(text, content):
    assert unfenced(text) == content
