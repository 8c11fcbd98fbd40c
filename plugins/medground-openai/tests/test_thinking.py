"""Thinking that a server keeps apart, or whose opening tag the chat template wrote, stands in the text once."""

import json

import pytest
from medground_openai import wire
from medground_openai.client import NotAnswered
from medground_openai.reasoner import OpenAIReasoner
from medground_prompts import Bbox, BboxPoints
from openai_servers import choice, conversation, reply

import medground
from medground.frames import Frame
from medground.types import Completion, Sampling

ANSWER = '<answer>{"bbox": [1, 2, 9, 8]}</answer>'
DRAFT = '<answer>{"bbox": [5, 5, 6, 6]}</answer>'


def text_of(content, reason="stop", **fields):
    body = json.dumps({"choices": [choice(content, reason=reason, **fields)]}).encode()
    return wire.read(200, body, 1).choices[0].text


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("content", [ANSWER, f"</think>\n\n{ANSWER}"])
def test_thinking_in_a_field_of_its_own_comes_before_the_content(field, content):
    text = text_of(content, **{field: f"Perhaps {DRAFT}? No."})
    assert text == f"<think>Perhaps {DRAFT}? No.</think>{ANSWER}"
    found = Bbox().parse(Completion(text=text, frame=Frame("pixel", (10, 10))), (10, 10))
    assert found.fault is None and found.region.box == (1, 2, 9, 8) and found.think_level == 1


def test_tags_in_such_a_field_are_not_doubled():
    assert text_of(ANSWER, reasoning="<think>It is dark.</think>") == f"<think>It is dark.</think>{ANSWER}"
    whole = f"<think>It is dark.</think>{ANSWER}"
    assert text_of(whole, reasoning="It is dark.") == whole


def test_thinking_whose_opening_lies_in_the_prompt_is_opened():
    text = text_of(f"It may be {DRAFT}.</think>{ANSWER}")
    assert text == f"<think>It may be {DRAFT}.</think>{ANSWER}"
    assert Bbox().parse(Completion(text=text, frame=None), (10, 10)).region.box == (1, 2, 9, 8)


@pytest.mark.parametrize("text", [ANSWER, f"<think>a</think>{ANSWER}", "", "prose", "<think>cut"])
def test_other_texts_stay_as_they_are(text):
    assert text_of(text) == text
    assert text_of(text, reasoning=None, reasoning_content="") == text


def test_thinking_that_was_cut_off_stays_open():
    assert text_of("", reason="length", reasoning="It is") == "<think>It is"
    assert text_of(None, reason="length", reasoning="It is") == "<think>It is"
    with pytest.raises(NotAnswered):
        text_of(None, reasoning="It is")


def test_the_reasoner_s_dialect_reaches_the_prompt_interface(serve):
    def answer(handler, request):
        content = '```json\n[{"box_2d": [100, 200, 300, 400], "label": "a"}]\n```'
        reply(handler, {"choices": [choice(content, reasoning_content="Let me look.")]})

    reasoner = OpenAIReasoner(base_url=serve(answer).url, model="m", frame="permille", order="yx", dialect="gemma")
    pipeline = medground.Pipeline(
        reasoner, Bbox(style="native"), medground.build("segmenter", "box_fill"), prompt="box"
    )
    [result] = pipeline.batch([medground.Query(image=conversation()[0]["content"][0]["image"], question="Where?")])
    assert result.fault is None and result.reasoning == "Let me look."
    assert result.regions[0].box == pytest.approx((0.2 * 64, 0.1 * 48, 0.4 * 64, 0.3 * 48))
    assert [len(group) for group in reasoner.generate([conversation()], Sampling())] == [1]
    assert BboxPoints().needs_dialect is False
