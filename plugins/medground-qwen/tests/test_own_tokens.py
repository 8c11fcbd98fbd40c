"""What templates and tokenizers have of their own: thinking opened in the prompt, and special tokens that mark regions."""

import pytest
from medground_prompts import Bbox, BboxPoints
from medground_qwen import factories

from medground.frames import pixels
from medground.geometry import Box, Point
from medground.testing import examples
from medground.types import Query, Region, Sampling, Target

TARGET = Target(regions=(Region(box=Box(2, 3, 9, 9), points=(Point(3, 4), Point(6, 7))),))


@pytest.fixture
def opening(checkpoints, tmp_path):
    """The tiny Qwen3-VL with a template whose every answer begins with an open ``<think>``, as Qwen3.5's does."""
    folder = tmp_path / "opening"
    folder.mkdir()
    for path in checkpoints["qwen3_vl"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(
        template + "{% if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}"
    )
    return factories.qwen3_vl(checkpoint=str(folder), dtype="float32", device="cpu")


def decoded(reasoner, ids):
    return reasoner.processor.tokenizer.decode(ids[:-1])


def test_completions_begin_with_the_tag_that_the_prompt_opened(opening):
    [messages] = examples.conversations()[:1]
    prompt = opening.processor.tokenizer.decode(opening.encode(messages).ids)
    assert prompt.endswith("<think>\n")
    [[completion]] = opening.generate([messages], Sampling(temperature=0, max_completion_length=4))
    assert completion.text == "<think>\n" + decoded(opening, [*completion.token_ids.tolist(), 0])
    [served] = opening.sampler_prompts([messages])
    assert served.text.endswith("<think>\n")


def test_a_draft_in_such_thinking_is_no_second_answer(opening):
    answer = BboxPoints(think=False).answer(TARGET)
    written = f"Perhaps {answer}? Yes.</think>{answer}"
    ids = opening.processor.tokenizer(written, add_special_tokens=False)["input_ids"]
    completion = opening.completion(ids, [0.0] * len(ids), pixels((40, 40)), stopped=False)
    found = BboxPoints().parse(completion, (40, 40))
    assert found.fault is None and found.think_level == 1 and found.region.box == (2, 3, 9, 9)


def test_what_is_taught_leaves_the_opening_to_the_prompt(opening):
    interface = BboxPoints(think=True)
    text = interface.answer(TARGET, "It is dark.")
    ids = opening.tokenize(text)
    assert "<think>" not in decoded(opening, ids) and decoded(opening, ids).startswith("It is dark.</think>")
    back = opening.completion(ids, [0.0] * len(ids), pixels((40, 40)), stopped=True)
    assert back.text.count("<think>") == 1
    assert interface.parse(back, (40, 40)).think == "It is dark."


def test_an_answer_without_thinking_closes_what_the_prompt_has_opened(opening):
    interface = BboxPoints(think=False)
    ids = opening.tokenize(interface.answer(TARGET))
    back = opening.completion(ids, [0.0] * len(ids), pixels((40, 40)), stopped=True)
    assert decoded(opening, ids).startswith("\n</think>\n\n<answer>")
    assert interface.parse(back, (40, 40)).fault is None


def test_going_on_from_a_text_does_not_repeat_the_opening(opening):
    [messages] = examples.conversations()[:1]
    prefix = "<think>\nNo.</think>"
    [[completion]] = opening.go_on([messages], [prefix], Sampling(temperature=0, max_completion_length=40))
    assert completion.text.startswith(prefix) and completion.text.count("<think>") == 1


def test_templates_that_open_nothing_leave_texts_as_they_are(make):
    reasoner = make()
    text = BboxPoints().answer(TARGET, "It is dark.")
    assert decoded(reasoner, reasoner.tokenize(text)) == text
    assert reasoner.completion(reasoner.tokenize("a"), [0.0] * 2, pixels((4, 4)), stopped=True).text == "a"


def test_dialects_are_known_before_weights_are_loaded_and_after(make):
    assert factories.qwen2_5_vl.dialect == factories.qwen3_vl.dialect == make().dialect == "qwen"


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A tiny model whose tokenizer has InternVL's marks as special tokens."""
    from medground_qwen import tiny

    words = tiny.tokenizer()
    words.add_special_tokens({"additional_special_tokens": [*tiny.SPECIAL[1:], "<ref>", "</ref>", "<box>", "</box>"]})
    folder = tmp_path_factory.mktemp("marked")
    tiny.save(folder, tiny.model("qwen3_vl", words, patch=8), tiny.processor("qwen3_vl", words, patch=8, max_side=128))
    return str(folder)


def test_a_dialect_s_own_special_tokens_are_shown_taught_written_and_read(marked):
    reasoner = factories.hf_vlm(checkpoint=marked, frame="permille", device="cpu", dialect="internvl")
    words, text = reasoner.processor.tokenizer, "<ref>a</ref><box>[[1, 2, 3, 4]]</box>"
    marks = set(words.convert_tokens_to_ids(["<ref>", "</ref>", "<box>", "</box>"]))
    ids = reasoner.tokenize(text)
    assert marks <= set(ids) and not marks & set(reasoner.tokens.forbidden.tolist())
    assert reasoner.completion(ids, [0.0] * len(ids), pixels((4, 4)), stopped=True).text == text
    messages = Bbox(style="native", dialect="internvl").render(
        Query(image=examples.image((56, 84)), question="It <|im_end|>?")
    )
    shown = reasoner.encode(messages).ids.tolist()
    assert set(words.convert_tokens_to_ids(["<ref>", "</ref>"])) <= set(shown)
    assert shown.count(words.convert_tokens_to_ids("<|im_end|>")) == 1 and "It <|im_end|>?" in words.decode(shown)


def test_without_a_dialect_they_stay_forbidden(marked):
    reasoner = factories.hf_vlm(checkpoint=marked, frame="permille", device="cpu")
    box = reasoner.processor.tokenizer.convert_tokens_to_ids("<box>")
    assert box in reasoner.tokens.forbidden.tolist() and box not in reasoner.tokenize("<box>")


def test_other_models_are_told_their_dialect(checkpoints):
    folder = str(checkpoints["qwen3_vl"])
    assert factories.hf_vlm(checkpoint=folder, frame="permille", device="cpu", dialect="internvl").dialect == "internvl"
