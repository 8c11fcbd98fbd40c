"""Different queries in one forward pass give the values that each gives alone."""

import pytest
from medground_qwen.prompts import _Text
from qwen_inputs import RAGGED, conversation

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

BATCH = [
    conversation("Where is the shadow?", seed=0),
    conversation("Which of the two dark regions is on the left of the picture?", seed=1),
    conversation("Where is the shadow?", height=64, width=64, seed=2),
    conversation("Where is the shadow?", seed=3),
]
"""Two sizes, two questions, four images."""


def gradients(reasoner, loss):
    reasoner.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in reasoner.model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_rows_have_the_logprobs_and_gradients_of_groups_of_one(make):
    reasoner = make(train_vision=True)
    weight = torch.linspace(-1, 1, 4 * 9).view(4, 9)
    rows = reasoner.rows(BATCH, RAGGED)
    together, entropy = reasoner.policy(rows)
    found = gradients(reasoner, (together * weight).sum())
    loss = torch.zeros(())
    for row, (messages, ids) in enumerate(zip(BATCH, RAGGED, strict=True)):
        alone, spread = reasoner.policy(reasoner.group(messages, [ids]))
        torch.testing.assert_close(together[row, : len(ids)], alone[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(entropy[row, : len(ids)], spread[0], atol=1e-5, rtol=0)
        assert not together[row, len(ids) :].any()
        loss = loss + (alone[0] * weight[row, : len(ids)]).sum()
    expected = gradients(reasoner, loss)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max().clamp(min=1e-6), name


def test_packed_rows_have_the_logprobs_and_gradients_of_padded_ones(make):
    """Positions start anew in each sample of a sequence, and no sample attends to another."""
    reasoner = make(train_vision=True)
    weight = torch.linspace(-1, 1, 4 * 9).view(4, 9)
    outcomes = []
    for packed in (False, True):
        logp, entropy = reasoner.policy(reasoner.rows(BATCH, RAGGED, packed=packed))
        outcomes.append((logp.detach(), entropy, gradients(reasoner, (logp * weight).sum())))
    torch.testing.assert_close(outcomes[1][0], outcomes[0][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(outcomes[1][1], outcomes[0][1], atol=1e-5, rtol=0)
    assert any("visual" in name for name in outcomes[0][2])
    for name, gradient in outcomes[0][2].items():
        scale = gradient.abs().max().clamp(min=1e-6)
        assert (outcomes[1][2][name] - gradient).abs().max() <= 1e-5 * scale, name


def test_a_packed_sample_does_not_see_its_neighbours(make):
    reasoner = make()
    one = reasoner.policy(reasoner.rows(BATCH, RAGGED, packed=True))[0]
    changed = [list(range(10, 10 + len(RAGGED[0]))), *RAGGED[1:]]
    other = reasoner.policy(reasoner.rows(BATCH, changed, packed=True))[0]
    assert not torch.equal(one[0], other[0])
    assert torch.equal(one[1:], other[1:])


def test_tokens_after_the_end_of_a_row_change_nothing(make):
    reasoner = make()
    rows = reasoner.rows(BATCH, RAGGED)
    clean, _ = reasoner.policy(rows)
    rows.ids[~rows.mask] = 123
    assert torch.equal(reasoner.policy(rows)[0], clean)


def test_encoding_in_a_batch_or_again_equals_the_processor(make):
    kept, fresh = make(), make()
    kept.encode_all(BATCH)
    for messages, found in zip(BATCH, kept.encode_all(BATCH), strict=True):
        text = fresh.processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, messages[0]["content"][1]]}],
            tokenize=False,
            add_generation_prompt=True,
        )
        alone, _ = fresh._encoder._both(_Text(text, "", ()), messages[0]["content"][0]["image"])
        assert torch.equal(found.ids, alone.ids)
        assert torch.equal(found.positions, alone.positions)
        assert all(torch.equal(value, alone.per_token[key]) for key, value in found.per_token.items())


@pytest.mark.slow
def test_each_sample_of_a_batch_keeps_its_pixels_and_frame(make):
    reasoner = make()
    for messages, found in zip(BATCH, reasoner.encode_all(BATCH), strict=True):
        alone = make().encode(messages)
        assert found.frame == alone.frame
        assert found.image.keys() == alone.image.keys()
        assert all(torch.equal(value, alone.image[key]) for key, value in found.image.items())


def test_the_cache_of_tokenized_texts_is_bounded(make, monkeypatch):
    from medground_qwen import prompts

    monkeypatch.setattr(prompts, "KEPT", 2)
    reasoner = make()
    texts = [reasoner.encode(conversation(f"Question {index}?")).ids for index in range(3)]
    assert len(reasoner._encoder._known) == 2
    assert torch.equal(reasoner.encode(conversation("Question 0?")).ids, texts[0])


def test_a_number_or_a_tag_is_one_token_and_reads_back():
    from medground_qwen import tiny

    words = tiny.tokenizer(numbers=[7, 266], tags=("<think>",))
    ids = words("<think> at [7, 266, 2661]")["input_ids"]
    tokens = words.convert_ids_to_tokens(ids)
    assert tokens[0] == "<think>"
    assert {"7", "266"} <= set(tokens)
    assert "2661" not in tokens
    assert words.decode(ids) == "<think> at [7,266, 2661]"
