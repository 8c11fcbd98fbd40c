"""Tokens are decoded from buffers of fixed size, the same as from a growing cache; groups of full attention are one pass."""

from dataclasses import replace

import pytest
from qwen_inputs import RAGGED, conversation

from medground.types import Sampling

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from medground_qwen import attention, decoding  # noqa: E402


def sampled(reasoner, tokens=40):
    """Return two queries' completions of unequal length, prompts padded on the left; rows that end leave the batch."""
    reasoner.tokens = replace(reasoner.tokens, end=reasoner.tokens.end | set(range(20, 50)))  # of about 400
    batch = [conversation("Where?", 48, 64), conversation("Which of them is on the left?", 64, 40, seed=1)]
    sampling = Sampling(num_generations=4, temperature=1.0, max_completion_length=tokens)
    groups = reasoner.generate(batch, sampling, [1, 50])
    return [completion for group in groups for completion in group]


@pytest.mark.slow
def test_fixed_buffers_give_the_tokens_of_a_growing_cache(make, monkeypatch):
    """Buffers grow and rows leave on the way."""
    reasoner, other = make(), make()
    monkeypatch.setattr(decoding, "ROOM", 16)
    laid = []
    lay = decoding.FixedDecoding._lay
    monkeypatch.setattr(
        decoding.FixedDecoding, "_lay", lambda self, *given: (laid.append(len(given[1])), lay(self, *given))
    )
    fixed = sampled(reasoner)
    assert len(laid) > 2
    assert laid[-1] < laid[0] == 8
    monkeypatch.setattr(decoding, "takes_groups", lambda config: False)
    laid.clear()
    growing = sampled(other)
    assert not laid
    for own, same in zip(fixed, growing, strict=True):
        assert list(own.token_ids) == list(same.token_ids)
        torch.testing.assert_close(torch.tensor(own.logprobs), torch.tensor(same.logprobs), atol=5e-6, rtol=0)


def test_a_step_asks_the_device_for_nothing_and_can_be_computed_again(make, monkeypatch):
    """Both are what a graph needs that is captured once and played for every token."""
    forward, reads, apart = decoding.FixedDecoding.forward, [], []

    def watched(self):
        with decoding.HostReads() as host:
            first = forward(self)
        reads.extend(host.names)
        again = forward(self)
        apart.append(float((first - again).abs().max()))
        return again

    monkeypatch.setattr(decoding.FixedDecoding, "forward", watched)
    sampled(make(), tokens=4)
    assert len(apart) == 3
    assert max(apart) == 0
    assert not reads


def test_buffers_have_room_for_no_more_than_is_wanted(make, monkeypatch):
    """Rounded up to 16 tokens, as kernels want it: attention reads what is empty, too."""
    rooms, lay = [], decoding.FixedDecoding._lay

    def laid(self, *given):
        lay(self, *given)
        rooms.append((self.layers[0].get_max_length(), self.longest))

    monkeypatch.setattr(decoding.FixedDecoding, "_lay", laid)
    sampled(make(), tokens=5)
    assert rooms and all(wanted <= room < wanted + 16 and room % 16 == 0 for room, wanted in rooms)


@torch.library.custom_op("medground_tests::doubled", mutates_args=())
def doubled(values: torch.Tensor) -> torch.Tensor:
    """Stand for a kernel of another library, of which nobody knows what it asks the device for."""
    return 2 * values


@pytest.mark.parametrize(
    ("work", "waits"),
    [
        (doubled, True),
        (lambda values: values.sum().item(), True),
        (lambda values: values.nonzero(), True),
        (lambda values: values[values > 0], True),
        (lambda values: torch.equal(values, values), True),
        (lambda values: values[torch.tensor([2, 0])], False),
        (lambda values: values.softmax(0) * 2, False),
    ],
)
def test_what_the_host_waits_for_is_noted(work, waits):
    with decoding.HostReads() as reads:
        work(torch.tensor([1.0, -1.0, 3.0]))
    assert bool(reads.names) == waits


def test_fixed_states_know_no_length(make):
    """A length that the host knows would be the same for every token of a graph."""
    states = decoding.FixedStates(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2), torch.tensor([1]))
    with pytest.raises(NotImplementedError, match="given with each token"):
        states.get_seq_length()
    keys, _ = states.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    assert keys[0, 0, :, 0].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 1), (6, 2), (3, 3)])
def test_attention_of_a_token_is_that_over_repeated_keys(heads, key_heads):
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(2, heads, 1, 8, generator=draw)
    key, value = (torch.randn(2, key_heads, 5, 8, generator=draw) for _ in range(2))
    mask = torch.tensor([[True] * 5, [False, False, True, True, True]])[:, None, None]
    expected = torch.nn.functional.scaled_dot_product_attention(
        query,
        key.repeat_interleave(heads // key_heads, 1),
        value.repeat_interleave(heads // key_heads, 1),
        mask,
        scale=0.3,
    ).transpose(1, 2)
    own = attention.token_attention(query, key, value, mask, 0.3)
    torch.testing.assert_close(own, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 1), (6, 2), (3, 3)])
def test_attention_of_a_group_keeps_completions_apart(heads, key_heads):
    """Four tokens of a prompt, three completions of two: every token sees the prompt and its own completion before it."""
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(1, heads, 10, 8, generator=draw)
    key, value = (torch.randn(1, key_heads, 10, 8, generator=draw) for _ in range(2))
    owner = torch.tensor([-1, -1, -1, -1, 0, 0, 1, 1, 2, 2])
    seen = ((owner == -1) | (owner == owner[:, None])).tril()
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, seen, scale=0.3, enable_gqa=heads != key_heads
    ).transpose(1, 2)
    own = attention.grouped_attention(query, key, value, (3, 2), 0.3)
    torch.testing.assert_close(own, expected, atol=1e-6, rtol=0)


def test_the_mask_of_fixed_buffers_is_used_whatever_kernels_prompts_have():
    """Flash kernels take no mask with a column for each key; the token's own computation does."""
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, tokens, 8, generator=draw) for heads, tokens in ((4, 1), (2, 5), (2, 5)))
    mask = torch.tensor([[0.0] * 5, [-torch.inf, -torch.inf, 0.0, 0.0, 0.0]])[:, None, None]
    for base in ("sdpa", "flash_attention_2"):
        own, _ = attention._Attention(base)(torch.nn.Module(), query, key, value, mask, scaling=0.3)
        torch.testing.assert_close(own, attention.token_attention(query, key, value, mask, 0.3))


def test_a_whole_group_is_one_pass_and_parts_are_one_more_each(make):
    reasoner, passes = make(), []
    reasoner.model.model.language_model.register_forward_pre_hook(
        lambda module, given, named: passes.append(tuple(named["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    group = reasoner.group(conversation(), RAGGED)
    length, (count, longest) = len(group.prompt), group.ids.shape
    reasoner.policy(group)
    assert passes == [(1, length + count * longest)]
    passes.clear()
    with reasoner.policy.prompt_once(group) as once:
        reasoner.policy(once)
    assert passes == [(1, length), (count, longest)]


def test_a_window_or_another_attention_keeps_groups_apart(make):
    config = make().model.config
    text = config.get_text_config()
    assert attention.takes_groups(config)
    text.layer_types = ["sliding_attention"] * text.num_hidden_layers
    assert not attention.takes_groups(config)
    text.layer_types = None
    text._attn_implementation = "sdpa"
    assert not attention.takes_groups(config)
