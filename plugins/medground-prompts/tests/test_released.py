"""The released parsers give the outputs of the released code."""

import json
from pathlib import Path

import pytest
from medground_prompts import BboxPoints
from medground_prompts.reading import MAX_ANSWER, MAX_CHARS, MAX_DEPTH

from medground.types import Completion, Fault, Grounding

ORACLE = Path(__file__).resolve().parents[3] / "tests" / "data" / "released_rewards.jsonl"
SIZE = (840, 840)

OK = '{"bbox": [445, 136, 708, 729], "points_1": [534, 273], "points_2": [595, 455]}'
THINK = "<think>reasons</think>"


def read(parser: str, text: str) -> Grounding:
    return BboxPoints(parser=parser).parse(Completion(text=text, frame=None), SIZE)


def whole(answer: str) -> str:
    return f"{THINK}<answer>{answer}</answer>"


def swapped(old: str, new: str) -> str:
    return whole(OK.replace(old, new))


# name, text, (think, answer) of the training parser, (thinking, segment) of base, does evaluation fail, our own fault
TABLE = [
    ("canonical", whole(OK), (1, 1), (1, 1), False, None),
    ("single quotes", whole(OK.replace('"', "'")), (1, 1), (1, 0), False, None),
    ("padding", f"{THINK}\n<answer> {OK} \n</answer>", (1, 1), (1, 1), False, None),
    ("text around", f"So: {whole(OK)} Done.", (1, 1), (0, 1), False, None),
    ("answer first", f"<answer>{OK}</answer>{THINK}", (1, 1), (0, 1), False, None),
    ("two thinks", f"{THINK}{whole(OK)}", (1, 1), (1, 1), False, None),
    ("no think", f"<answer>{OK}</answer>", (0, 1), (0, 1), False, None),
    ("think unclosed", f"<think>reasons<answer>{OK}</answer>", (0, 1), (0, 1), False, None),
    ("think empty", f"<think> \n</think><answer>{OK}</answer>", (0.2, 1), (1, 1), False, None),
    ("no answer tag", f"{THINK}{OK}", (1, 0), (0, 1), True, Fault.NO_ANSWER),
    ("truncated", f"{THINK}<answer>{OK}", (1, 0), (0, 1), True, Fault.NO_ANSWER),
    ("upper case", f"<THINK>a</THINK><ANSWER>{OK}</ANSWER>", (0, 0), (0, 1), True, Fault.NO_ANSWER),
    ("answer empty", whole(""), (1, 0.2), (1, 0), True, Fault.BAD_JSON),
    ("answer prose", whole("the left lung"), (1, 0.2), (1, 0), True, Fault.BAD_JSON),
    ("trailing comma", whole(OK[:-1] + ",}"), (1, 0.2), (1, 0), True, Fault.BAD_JSON),
    ("code fence", whole(f"```json\n{OK}\n```"), (1, 0.2), (1, 1), True, None),
    ("words after", whole(OK + " there"), (1, 0.2), (1, 1), True, Fault.BAD_JSON),
    ("apostrophe", whole(OK[:-1] + ', "note": "it\'s"}'), (1, 0.2), (1, 1), True, None),
    ("two objects", whole(OK + OK), (1, 0.2), (1, 1), False, Fault.BAD_JSON),
    ("a number", whole("42"), (1, 0.2), (1, 0), True, Fault.BAD_JSON),
    ("key missing", swapped("points_2", "point_2"), (1, 0.4), (1, 0), True, Fault.MISSING_KEYS),
    ("box null", swapped("[445, 136, 708, 729]", "null"), (1, 0.6), (1, 0), True, Fault.BAD_BOX),
    ("box of three", swapped(", 729]", "]"), (1, 0.6), (1, 0), True, Fault.BAD_BOX),
    ("box nested", swapped("[445, 136, 708, 729]", "[[445, 136, 708, 729]]"), (1, 0.6), (1, 0), True, Fault.BAD_BOX),
    ("box of strings", swapped("[445, 136, 708, 729]", '["445", "136", "708", "729"]'), (1, 0.6), (1, 1), True,
     Fault.BAD_BOX),
    ("point short", swapped("[534, 273]", "[534]"), (1, 0.6), (1, 0), True, Fault.BAD_POINTS),
    ("points of three", swapped("273]", "273, 0]").replace("455]", "455, 0]"), (1, 0.6), (1, 0), True,
     Fault.BAD_POINTS),
    ("both bad", swapped("729]", "729, 1]").replace("273]", "273, 0]"), (1, 0.4), (1, 0), True, Fault.BAD_BOX),
    ("nothing", "", (0, 0), (0, 0), True, Fault.NO_ANSWER),
    ("refusal", "I cannot help with that.", (0, 0), (0, 0), True, Fault.NO_ANSWER),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "train", "base", "fails", "ours"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_every_malformed_case_is_read_as_released(text, train, base, fails, ours):
    trained, based = read("released_train", text), read("released_base", text)
    assert (trained.think_level, trained.answer_level) == train
    assert (based.think_level, based.answer_level) == base
    assert (read("released_eval", text).fault is not None) == fails
    assert read("lenient", text).fault == ours


def test_the_evaluation_parser_takes_the_first_of_two_objects():
    second = OK.replace("445", "1")
    assert read("released_eval", whole(OK + second)).raw["bbox"] == [445, 136, 708, 729]


def test_the_evaluation_parser_skips_an_answer_that_does_not_open_with_braces():
    found = read("released_eval", f"<answer>none</answer><answer>{OK}</answer>")
    assert found.fault is None and found.region.box == (445, 136, 708, 729)
    assert read("released_train", f"<answer>none</answer><answer>{OK}</answer>").fault is Fault.BAD_JSON


def test_the_base_parser_takes_the_first_braces_even_in_the_think_block():
    found = read("released_base", f"<think>{{}} {{1}} or</think><answer>{OK}</answer>")
    assert (found.think_level, found.answer_level, found.fault) == (1, 0, Fault.BAD_JSON)
    assert read("released_base", f"<think>{{}}</think><answer>{OK}</answer>").answer_level == 1


def test_the_base_parser_needs_braces_that_close():
    for text in ('{"bbox": [1', "}", "} {", "{}", "{"):
        assert read("released_base", text).fault is Fault.NO_ANSWER, text


def test_the_base_think_level_is_1_only_when_the_blocks_are_the_whole_text():
    assert read("released_base", f"<think>a</think>\n\t<answer>{OK}</answer>").think_level == 1
    for text in (f"<think>a</think>b<answer>{OK}</answer>", f"<think>a<answer>{OK}</answer>", f" {whole(OK)}"):
        assert read("released_base", text).think_level == 0
    assert read("released_base", "<think></think><answer></answer>").think_level == 1
    assert read("released_base", "<think></think><answer>").think_level == 0


def test_released_numbers_stay_as_they_were_read_while_the_prompt_stays_usable():
    text = '{"bbox": [708, 729, 445, true], "points_1": [1, 2], "points_2": [1, 2]}'
    found = read("released_train", whole(text))
    assert found.raw["bbox"] == [708, 729, 445, True] and found.raw["bbox"][3] is True
    assert found.region.box == (445, 1, 708, 729)
    assert found.region.points == ((1, 2), (1, 2))
    assert found.fault is None and found.answer_level == 1

    found = read("released_train", whole(text.replace("708", "NaN")))
    assert found.raw["bbox"][0] != found.raw["bbox"][0]
    assert found.fault is Fault.NONFINITE and found.answer_level == 1
    assert found.region.box is None and found.region.points


@pytest.mark.parametrize("parser", ["released_train", "released_base", "released_eval"])
def test_the_released_parsers_have_no_length_limit(parser):
    long = "a" * (MAX_CHARS + 1)
    for text in (whole(OK).replace("reasons", long), whole(OK.replace("{", "{" + " " * (MAX_ANSWER + 1)))):
        found = read(parser, text)
        assert (found.fault, found.think_level, found.answer_level) == (None, 1, 1)


@pytest.mark.parametrize("parser", ["released_train", "released_eval"])
def test_how_deep_an_object_may_nest_does_not_depend_on_the_caller(parser):
    def nested(depth, frames):
        if frames:
            return nested(depth, frames - 1)
        extra = ', "more": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"
        return read(parser, whole(OK[:-1] + extra)).fault

    for frames in (0, 60):
        assert nested(MAX_DEPTH, frames) is None
        assert nested(MAX_DEPTH + 1, frames) is Fault.BAD_JSON
    # Many brackets side by side, or written in a text, are not nesting.
    assert read(parser, whole(OK[:-1] + ', "more": [' + "[]," * MAX_DEPTH + '"' + "[" * 999 + '"]}')).fault is None


def test_levels_and_values_equal_the_released_ones_on_every_oracle_case():
    cases = [json.loads(line) for line in ORACLE.read_text(encoding="utf-8").splitlines()]
    assert len(cases) == 300
    for number, case in enumerate(cases):
        train, base, evaluated = (
            read(f"released_{mode}", case["prediction"]) for mode in ("train", "base", "eval")
        )  # fmt: skip
        for mode in ("soft", "hard"):
            assert train.think_level == case[mode]["format_think"], number
            assert train.answer_level == case[mode]["format_seg"], number
        assert base.think_level == case["base"]["thinking"], number
        assert base.answer_level == case["base"]["segment"], number
        if "raises" in case["eval"]:
            assert evaluated.fault is not None, number
        else:
            said = {"bbox": evaluated.raw["bbox"], "points": [evaluated.raw["points_1"], evaluated.raw["points_2"]]}
            assert repr(said) == repr({key: case["eval"][key] for key in said}), number
            assert evaluated.think == case["eval"]["think"], number
