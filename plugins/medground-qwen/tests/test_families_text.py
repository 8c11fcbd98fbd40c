"""In every family a text begins once, what people write is text, and no token is sampled that has no text."""

import json
import shutil

import pytest
from qwen_inputs import conversation

from medground.errors import InputError
from medground.types import Sampling

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

import other_families  # noqa: E402
from family_checks import BATCH  # noqa: E402
from tested_families import NAMES  # noqa: E402

pytestmark = [pytest.mark.filterwarnings(text) for text in other_families.WARNINGS]
BEGIN = "<|endoftext|>"
TWICE = ("paligemma",)
"""Families whose processor writes the beginning wherever the template does."""
TEMPLATE_ALONE = ("lfm2_vl",)
"""Families whose processor leaves the beginning to the template."""


@pytest.fixture
def opened(families):
    return lambda name: other_families.reasoner(name, families(name))


def specials(reasoner):
    """Return the names of the special tokens by their ids."""
    added = reasoner.processor.tokenizer.added_tokens_decoder
    return {index: token.content for index, token in added.items() if token.special}


def begun(folder, to, *, in_template):
    """Copy a checkpoint whose tokenizer puts its first token before every text, as the template may do, too."""
    shutil.copytree(folder, to)
    path = to / "tokenizer.json"
    words = json.loads(path.read_text(encoding="utf-8"))
    index = next(token["id"] for token in words["added_tokens"] if token["content"] == BEGIN)
    begin, text = {"SpecialToken": {"id": BEGIN, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    words["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": [begin, text, text],
        "special_tokens": {BEGIN: {"id": BEGIN, "ids": [index], "tokens": [BEGIN]}},
    }
    path.write_text(json.dumps(words), encoding="utf-8")
    settings = json.loads((to / "tokenizer_config.json").read_text(encoding="utf-8"))
    (to / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": BEGIN}), encoding="utf-8")
    template = to / "chat_template.jinja"
    template.write_text(("{{ bos_token }}" if in_template else "") + template.read_text(encoding="utf-8"))
    return index


@pytest.mark.parametrize("in_template", [False, True], ids=["by the tokenizer", "by both"])
@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_begins_once(families, name, in_template, tmp_path):
    index = begun(families(name), tmp_path / "folder", in_template=in_template)
    if in_template and name in TWICE:
        with pytest.raises(
            InputError, match=r"the chat template of folder writes .*, and so does its processor"
        ) as caught:
            other_families.reasoner(name, tmp_path / "folder")
        assert caught.value.hint == "take {{ bos_token }} out of chat_template.jinja"
        return
    reasoner = other_families.reasoner(name, tmp_path / "folder")
    ids = reasoner.encode(conversation()).ids.tolist()
    if name in TEMPLATE_ALONE and not in_template:
        assert index not in ids
        return
    assert ids.count(index) == 1
    assert name in TWICE or ids[0] == index  # that processor puts it between image and text
    if name not in TWICE:  # a server that reads the text puts it there, too
        (served,) = reasoner.sampler_prompts([conversation()])
        assert served.text.count(BEGIN) == 0 and served.ids.tolist() == ids


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_special_tokens_in_a_question_are_text(opened, name):
    """All of them at once, those that stand for images too."""
    reasoner = opened(name)
    names = specials(reasoner)
    written = " ".join(names.values())
    plain, named = (reasoner.encode(conversation(text, 48, 64)) for text in ("Where is it?", f"Where {written} is it?"))
    assert [token for token in named.ids.tolist() if token in names] == [
        token for token in plain.ids.tolist() if token in names
    ]
    assert written in reasoner.processor.tokenizer.decode(named.ids)
    assert all(value.shape == named.ids.shape for value in named.per_token.values())
    ((completion,),) = reasoner.generate(
        [conversation(f"Where {written} is it?", 48, 64)], Sampling(temperature=0, max_completion_length=2)
    )
    assert torch.isfinite(torch.from_numpy(completion.logprobs)).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_special_tokens_in_a_trace_are_taught_as_text(opened, name):
    reasoner = opened(name)
    names = specials(reasoner)
    ids = reasoner.tokenize(" ".join(names.values()))
    assert [token for token in ids if token in names] == [reasoner.processor.tokenizer.eos_token_id]


@pytest.mark.parametrize("name", NAMES)
def test_no_token_is_sampled_that_has_no_text(opened, name):
    """Neither special ones nor the rows of the head that fill it up, even where the model prefers them to all others."""
    reasoner = opened(name)
    tokenizer, head = reasoner.processor.tokenizer, reasoner.model.get_output_embeddings()
    rows = range(head.weight.shape[0])
    beyond = [row for row in rows if tokenizer.convert_ids_to_tokens(row) is None]
    assert len(beyond) == (0 if name == "molmo2" else other_families.SPARE)
    textless = {*beyond, *(index for index in specials(reasoner) if index in rows)} - reasoner.tokens.end
    with torch.no_grad():  # tied to the embedding or not: these logits become far larger than all others
        head.weight[sorted(textless)] *= 40
    sampling = Sampling(num_generations=8, temperature=1.0, max_completion_length=12)
    for group in reasoner.generate(BATCH, sampling, [1, 50]):
        for completion in group:
            assert not textless & set(completion.token_ids.tolist())
    assert textless == set(reasoner.tokens.forbidden.tolist())
