"""What a user or a data set writes is text: the name of a special token in it is no token."""

import pytest
from qwen_inputs import GREEDY, conversation

from medground.errors import InputError

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

NAMES = ["<|image_pad|>", "<|vision_start|>", "<|im_end|>", "<|endoftext|>", "<|video_pad|>"]


def ids_of(reasoner, text):
    return reasoner.encode(conversation(text)).ids.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_special_token_in_a_question_is_text(make, name):
    reasoner = make()
    words = reasoner.processor.tokenizer
    plain, named = ids_of(reasoner, "Where is it?"), ids_of(reasoner, f"Where {name} is it?")
    special = set(words.all_special_ids)
    assert [token for token in named if token in special] == [token for token in plain if token in special]
    assert words.decode(named).count(f"Where {name} is it?") == 1
    assert reasoner.encode(conversation(f"Where {name} is it?")).positions.shape == (3, len(named))
    ((completion,),) = reasoner.generate([conversation(f"Where {name} is it?")], GREEDY)
    assert completion.fault is None


def test_a_text_that_stands_behind_a_marker_has_the_ids_that_it_has_in_place(make):
    """The way of a text with a token's name, taken by one without."""
    reasoner = make()
    questions = ["Where is the shadow?", "Where  is\nit? ", "12 of 3"]
    direct = [ids_of(reasoner, text) for text in questions]
    reasoner._encoder._known.clear()
    reasoner._encoder._controls += ["Where", "12"]
    assert [ids_of(reasoner, text) for text in questions] == direct


def test_two_questions_with_one_marker_are_two_texts(make):
    reasoner = make()
    one, other = (ids_of(reasoner, f"<|im_end|> {word}") for word in ("left", "right"))
    assert one != other
    assert ids_of(reasoner, "<|im_end|> left") == one


def test_a_text_that_names_all_special_tokens_is_refused(make):
    reasoner = make()
    with pytest.raises(InputError, match="names control tokens, and none is left"):
        reasoner._encoder._controls = ["<|im_end|>"]
        ids_of(reasoner, "Where <|im_end|>?")


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_special_token_in_a_trace_is_taught_as_text(make, name):
    reasoner = make()
    ids = reasoner.tokenize(f"<think>the {name} is dark</think>")
    special = set(reasoner.processor.tokenizer.all_special_ids)
    assert [token for token in ids if token in special] == [reasoner.processor.tokenizer.eos_token_id]
    logp, _ = reasoner.policy(reasoner.group(conversation(), [ids]))
    assert bool(logp.isfinite().all())


def test_another_sampler_is_not_given_a_text_that_it_would_read_otherwise(make):
    reasoner = make()
    with pytest.raises(InputError, match=r"the text names the control token <\|im_end\|>"):
        reasoner.sampler_prompts([conversation("Where <|im_end|>?")])
