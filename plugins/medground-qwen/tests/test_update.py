"""The shared-prompt update gives the log-probabilities and gradients of repeated rows in every layout."""

import pytest
from qwen_inputs import RAGGED, SAMPLED, conversation, trained_parameters

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")


def outcome(reasoner, completions=RAGGED, messages=None, parts=None):
    """Return log-probabilities [G, C] and the gradients of a weighted sum of them."""
    group = reasoner.group(messages or conversation(), completions)
    weight = torch.linspace(-1, 1, group.ids.numel()).view(group.ids.shape)
    reasoner.model.zero_grad()
    rows, size = [], parts or len(completions)
    with reasoner.policy.prompt_once(group) as once:
        for start in range(0, len(completions), size):
            part = once.part(start, start + size)
            logp, entropy = reasoner.policy(part)
            assert (entropy >= 0).all()
            (logp * weight[start : start + len(logp), : logp.shape[1]]).sum().backward()
            rows.append(torch.nn.functional.pad(logp.detach(), (0, group.ids.shape[1] - logp.shape[1])))
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in reasoner.model.named_parameters()
        if parameter.grad is not None
    }
    return torch.cat(rows), gradients


def assert_same(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found[0], expected[0], atol=tolerance, rtol=0)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        scale = gradient.abs().max().clamp(min=1e-6)
        assert ((found[1][name] - gradient).abs().max() / scale) <= tolerance, name


@pytest.mark.slow
def test_a_shared_prompt_equals_repeated_rows_with_the_vision_tower_trained(make):
    shared, repeated = make(train_vision=True), make(train_vision=True, share=False)
    found = outcome(shared)
    assert_same(found, outcome(repeated))
    assert any("visual" in name for name in found[1])


@pytest.mark.slow
def test_a_shared_prompt_equals_repeated_rows_with_gradient_checkpointing(make):
    assert_same(
        outcome(make(train_vision=True, gradient_checkpointing=True)), outcome(make(train_vision=True, share=False))
    )


@pytest.mark.slow
@pytest.mark.lane
def test_a_shared_prompt_equals_repeated_rows_with_a_lora_adapter(make):
    def adapted(**arguments):
        torch.manual_seed(0)
        reasoner = make(lora_rank=4, **arguments)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in reasoner.model.named_parameters():
            if "lora_B" in name:  # starts at zero, where half of the gradients would be zero too
                parameter.data.normal_(0, 0.05, generator=generator)
        return reasoner

    found = outcome(adapted())
    assert_same(found, outcome(adapted(share=False)))
    assert all("lora" in name for name in found[1])


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_shared_prompt_equals_repeated_rows_in_micro_batches(make, parts):
    assert_same(outcome(make(), parts=parts), outcome(make(share=False), parts=parts))


def test_parts_that_compute_the_prompt_anew_give_the_same(make):
    """Engines in lockstep compute it in every pass."""
    reasoner = make()
    group, expected = reasoner.group(conversation(), RAGGED), outcome(make())
    weight = torch.linspace(-1, 1, group.ids.numel()).view(group.ids.shape)
    for start in (0, 2):
        part = group.part(start, start + 2)
        logp, _ = reasoner.policy(part)
        assert part.prompt_lengths == group.prompt_lengths
        (logp * weight[start : start + 2, : logp.shape[1]]).sum().backward()
    gradients = {name: p.grad for name, p in reasoner.model.named_parameters() if p.grad is not None}
    assert_same((expected[0], gradients), expected)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_prompt_is_counted_once_for_all_parts(make, size):
    reasoner = make()
    group = reasoner.group(conversation(), RAGGED)
    with torch.no_grad(), reasoner.policy.prompt_once(group) as once:
        counted = [once.part(start, start + size).prompt_lengths for start in range(0, 4, size)]
    assert sum(counted, ()) == (len(group.prompt),)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 5, 4096])
def test_chunked_logprobs_equal_the_full_softmax(make, chunk):
    reasoner = make(logprob_chunk=chunk)
    group = reasoner.group(conversation(), RAGGED)
    hidden = reasoner.policy._completions(group, reasoner.policy._prompt(group))
    logits = reasoner.model.lm_head(hidden).float() / 0.7
    logits[..., reasoner.tokens.forbidden] = -torch.inf
    full = torch.log_softmax(logits, -1).gather(-1, group.ids.unsqueeze(-1)).squeeze(-1)
    logp, _ = reasoner.policy(group, temperature=0.7)
    torch.testing.assert_close(logp, torch.where(group.mask, full, 0.0), atol=1e-6, rtol=0)
    assert_same(outcome(reasoner), outcome(make()))


@pytest.mark.parametrize("chunk", [1, 3, 7, 64])
def test_chunks_give_the_gradients_of_the_full_softmax(chunk):
    from medground_qwen.logprobs import token_logprobs

    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(16, 50)
    hidden = torch.randn(20, 16, generator=generator, requires_grad=True)
    tokens = torch.randint(0, 40, (20,), generator=generator)
    forbidden = torch.arange(45, 50)
    logp, entropy = token_logprobs(head, hidden, tokens, temperature=0.7, forbidden=forbidden, chunk=chunk)
    logits = head(hidden) / 0.7
    full = torch.log_softmax(logits[:, :45], -1)
    torch.testing.assert_close(logp, full.gather(-1, tokens[:, None])[:, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(entropy, -(full.exp() * full).sum(-1).detach(), atol=1e-6, rtol=0)
    ours = torch.autograd.grad(logp.sum(), [hidden, head.weight, head.bias])
    theirs = torch.autograd.grad(full.gather(-1, tokens[:, None]).sum(), [hidden, head.weight, head.bias])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_a_completion_does_not_see_its_siblings(make):
    reasoner = make()
    before, _ = reasoner.policy(reasoner.group(conversation(), RAGGED))
    other = [RAGGED[0], RAGGED[1], [200] * 9, RAGGED[3]]
    after, _ = reasoner.policy(reasoner.group(conversation(), other))
    for row in (0, 1, 3):
        assert torch.equal(before[row], after[row])
    assert not torch.equal(before[2], after[2])


def test_reordering_completions_reorders_the_answers(make):
    reasoner = make()
    order = [2, 0, 3, 1]
    straight, _ = reasoner.policy(reasoner.group(conversation(), RAGGED))
    shuffled, _ = reasoner.policy(reasoner.group(conversation(), [RAGGED[row] for row in order]))
    torch.testing.assert_close(shuffled, straight[order], atol=1e-6, rtol=0)


def test_tokens_after_the_end_change_nothing(make):
    reasoner = make()
    group = reasoner.group(conversation(), RAGGED)
    clean, _ = reasoner.policy(group)
    group.ids[~group.mask] = 123
    dirty, _ = reasoner.policy(group)
    assert torch.equal(clean, dirty)


def test_wrong_positions_are_caught(make):
    # Without token types, transformers falls back to one-dimensional positions without a word; equality must notice.
    reasoner = make()
    right, _ = reasoner.policy(reasoner.group(conversation(), RAGGED))
    group = reasoner.group(conversation(), RAGGED)
    group.prompt.positions.copy_(torch.arange(len(group.prompt)).expand(3, -1))
    wrong, _ = reasoner.policy(group)
    assert (right - wrong).abs().max() > 1e-4


@pytest.mark.slow
def test_image_and_prompt_are_computed_once_per_group(make):
    """Patches in the vision tower and tokens in the first layer equal the closed form."""
    counts = {}
    for share in (True, False):
        reasoner = make(share=share, train_vision=True)
        seen = {"patches": 0, "tokens": 0}
        tower, layer = reasoner.model.model.visual, reasoner.model.model.language_model.layers[0]
        tower.register_forward_pre_hook(
            lambda m, a, k, seen=seen: seen.update(patches=seen["patches"] + len((a or [k["hidden_states"]])[0])),
            with_kwargs=True,
        )
        layer.register_forward_pre_hook(
            lambda m, a, k, seen=seen: seen.update(
                tokens=seen["tokens"] + (a or [k["hidden_states"]])[0].shape[:2].numel()
            ),
            with_kwargs=True,
        )
        group = reasoner.group(conversation(), RAGGED)
        reasoner.policy(group)
        length = group.prompt_lengths[0]
        counts[share] = (seen, length, group.ids.shape)
        assert group.prompt_lengths == (length,) * (1 if share else len(RAGGED))
        assert group.part(1, 3).prompt_lengths == (length,) * (1 if share else 2)
    (shared, prompt, (count, longest)), (repeated, _, _) = counts[True], counts[False]
    patches = 12 * 16  # 96 x 128 px in patches of 8
    assert shared == {"patches": patches, "tokens": prompt + count * longest}
    assert repeated == {"patches": count * patches, "tokens": count * (prompt + longest)}


@pytest.mark.slow
def test_the_flop_counter_of_torch_shows_the_saving(make):
    from torch.utils.flop_counter import FlopCounterMode

    counted = {}
    for share in (True, False):
        reasoner = make(share=share)
        with FlopCounterMode(display=False) as counter:
            outcome(reasoner)
        counted[share] = counter.get_total_flops()
    assert 2 * counted[True] < counted[False]


def test_a_frozen_vision_tower_gets_no_gradient_and_does_not_change(make):
    reasoner = make()
    before = {name: p.detach().clone() for name, p in reasoner.model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW(trained_parameters(reasoner), lr=1e-2)
    _, gradients = outcome(reasoner)
    optimizer.step()
    assert before
    assert not before.keys() & gradients.keys()
    after = dict(reasoner.model.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(("train_vision", "passes"), [(False, 1), (True, 2)])
def test_activations_of_a_frozen_vision_tower_are_not_computed_again(make, train_vision, passes):
    reasoner, calls = make(gradient_checkpointing=True, train_vision=train_vision), []
    reasoner.model.model.visual.blocks[0].attn.register_forward_hook(lambda *_: calls.append(1))
    outcome(reasoner)
    assert len(calls) == passes


@pytest.mark.slow
def test_the_reference_stays_the_initial_policy(make):
    for arguments in ({}, {"lora_rank": 4}):
        reasoner = make(**arguments)
        reasoner.keep_reference()
        completions = reasoner.generate([conversation()], SAMPLED)[0]
        group = reasoner.group(conversation(), completions)
        start = reasoner.policy(group)[0].detach()
        optimizer = torch.optim.AdamW(trained_parameters(reasoner), lr=1e-2)
        outcome(reasoner)
        optimizer.step()
        outcome(reasoner)
        optimizer.step()
        assert (reasoner.policy(group)[0] - start).abs().max() > 1e-3
        with reasoner.reference() as reference:
            assert torch.equal(reference(group)[0], start)
        assert trained_parameters(reasoner), "the adapter trains again afterwards"


@pytest.mark.slow
def test_rows_of_different_queries_equal_each_alone(make):
    """Batches of unequal questions and images give the log-probabilities and gradients of single samples."""
    reasoner = make(train_vision=True)
    queries = [
        conversation(),
        conversation("What is it, and where, and why does it cough so much?", 128, 60, seed=1),
        conversation("Why?", 64, 64, seed=2),
    ]
    together = reasoner.rows(queries, RAGGED[:3])
    logp, entropy = reasoner.policy(together)
    logp.sum().backward()
    batched = {name: each.grad.clone() for name, each in reasoner.model.named_parameters() if each.grad is not None}
    reasoner.model.zero_grad()
    for row, (messages, ids) in enumerate(zip(queries, RAGGED, strict=False)):
        group = reasoner.group(messages, [ids])
        assert together.prompt_lengths[row] == group.prompt_lengths[0]
        alone, spread = reasoner.policy(group)
        torch.testing.assert_close(logp[row, : len(ids)], alone[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(entropy[row, : len(ids)], spread[0], atol=1e-5, rtol=0)
        assert not logp[row, len(ids) :].any()
        alone.sum().backward()
    one_by_one = {name: each.grad for name, each in reasoner.model.named_parameters() if each.grad is not None}
    assert_same((logp.detach(), batched), (logp.detach(), one_by_one))
    part = together.part(1, 2)
    torch.testing.assert_close(reasoner.policy(part)[0], logp[1:2, : part.ids.shape[1]], atol=1e-5, rtol=0)
