"""Every family's prompt is computed once per group, with the log-probabilities and gradients of repeated rows."""

import gc
import weakref
from contextlib import contextmanager

import pytest
from qwen_inputs import conversation

from medground.types import Sampling

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

import other_families  # noqa: E402

pytestmark = [pytest.mark.filterwarnings(text) for text in other_families.WARNINGS]
COMPLETIONS = [[5, 9, 30, 41, 7, 200, 61, 33, 12, 40, 41], [8, 8], [90, 91, 92, 93, 94, 95, 96, 97, 98], [17]]
ROUTED = {"qwen3_vl_moe", "qwen3_5_moe", "qwen4_exp"}
"""Their router computes in float32 whatever the model does."""
FLOAT32_BUFFERS = {"kimi_k25"}
"""It multiplies by a float32 table, which float64 states cannot be."""


@pytest.fixture
def build(families):
    """``build(name, **arguments)`` opens a family, every parameter trained."""
    from medground_qwen.factories import hf_vlm

    def opened(name, **arguments):
        torch.manual_seed(0)
        given = {"train_vision": True, **arguments}
        return hf_vlm(checkpoint=str(families(name)), frame="permille", dtype="float32", device="cpu", **given)

    return opened


def weights_of(group):
    return torch.randn(group.mask.shape, generator=torch.Generator().manual_seed(1)).to(torch.get_default_dtype())


def group_of(reasoner):
    return reasoner.group(conversation("Which of them is on the left?", 64, 64), COMPLETIONS)


def gradients(reasoner, work):
    """Return what `work` returns, and the gradients that it leaves."""
    reasoner.model.zero_grad(set_to_none=True)
    value = work()
    found = {name: p.grad.clone() for name, p in reasoner.model.named_parameters() if p.grad is not None}
    return value, found


def whole(reasoner, group):
    """Run a group backward at once; return its log-probabilities."""
    logp, _ = reasoner.policy(group)
    (logp * weights_of(group)).sum().backward()
    return logp.detach()


def in_parts(reasoner, group, size):
    """Run a group backward `size` completions at a time; return its log-probabilities."""
    rows, weight = [], weights_of(group)
    with reasoner.policy.prompt_once(group) as once:
        for start in range(0, len(group.ids), size):
            part = once.part(start, start + size)
            logp, _ = reasoner.policy(part)
            (logp * weight[start : start + size, : logp.shape[1]]).sum().backward()
            rows.append(torch.nn.functional.pad(logp.detach(), (0, group.ids.shape[1] - logp.shape[1])))
    return torch.cat(rows)


def apart(found, expected):
    """Return the norm of the difference of all gradients, as a share of the norm of all."""
    assert found.keys() == expected.keys()
    norm = sum(float(gradient.norm()) ** 2 for gradient in expected.values()) ** 0.5
    gap = sum(float((found[name] - gradient).norm()) ** 2 for name, gradient in expected.items()) ** 0.5
    return gap / norm


def worst_parameter(found, expected):
    """Return the largest difference of one parameter's gradient, as a share of its norm.

    A gradient that is 0 in truth, such as that of a key's bias, holds nothing but rounding and is left out.
    """
    norm = sum(float(gradient.norm()) ** 2 for gradient in expected.values()) ** 0.5
    shares = {
        name: float((found[name] - gradient).norm() / gradient.norm())
        for name, gradient in expected.items()
        if float(gradient.norm()) > 1e-6 * norm
    }
    return max(shares.values())


QUICK = ("qwen2_5_vl", "qwen3_vl", "qwen3_5", "gemma3")
"""Multimodal positions, layers that add image features, a gated delta net, sliding windows."""
NAMES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(other_families.BUILDERS)
]


def assert_exact(reasoner, sizes=(1, 3)):
    """A group at once and in parts gives the log-probabilities and the gradient of repeated rows, in float32."""
    group = group_of(reasoner)
    found = [gradients(reasoner, lambda: whole(reasoner, group))]
    found += [gradients(reasoner, lambda size=size: in_parts(reasoner, group, size)) for size in sizes]
    reasoner.share = False
    logp, expected = gradients(reasoner, lambda: whole(reasoner, group_of(reasoner)))
    for own_logp, own in found:
        torch.testing.assert_close(own_logp, logp, atol=1e-5, rtol=0)
        assert apart(own, expected) <= 1e-5
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_computed_once_equals_repeated_rows(build, name):
    expected = assert_exact(build(name))
    assert any("vis" in parameter for parameter in expected)


@contextmanager
def in_float64(model):
    """Compute everything in float64, also where a model asks for float32: what is left of a difference is no rounding."""
    kept, to = torch.Tensor.float, torch.Tensor.to

    def wider(value):
        return torch.float64 if value is torch.float32 else value

    torch.Tensor.float = torch.Tensor.double
    torch.Tensor.to = lambda self, *given, **named: to(
        self, *map(wider, given), **{key: wider(value) for key, value in named.items()}
    )
    torch.set_default_dtype(torch.float64)
    model.double()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # torch's grouped product has no float64
    try:
        yield
    finally:
        torch.Tensor.float, torch.Tensor.to = kept, to
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name in QUICK or name.values[0] not in ROUTED | FLOAT32_BUFFERS]
)
def test_every_gradient_is_that_of_repeated_rows_in_float64(build, name):
    reasoner = build(name)
    with in_float64(reasoner.model):
        found = []
        for share in (True, False):
            reasoner.share = share
            group = group_of(reasoner)
            for prompt in [group.prompt] if share else group.prompts:
                prompt.image.update({key: x.double() for key, x in prompt.image.items() if x.is_floating_point()})
            work = (
                (lambda group=group: in_parts(reasoner, group, 2))
                if share
                else lambda group=group: whole(reasoner, group)
            )
            found.append(gradients(reasoner, work))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-10, rtol=0)
    assert worst_parameter(found[0][1], found[1][1]) <= 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("adapted", [False, True], ids=["weights", "lora"])
def test_checkpointed_layers_give_the_same(build, name, adapted):
    reasoner = build(name, gradient_checkpointing=True, **({"lora_rank": 4} if adapted else {}))
    generator = torch.Generator().manual_seed(0)
    for parameter_name, parameter in reasoner.model.named_parameters():
        if "lora_B" in parameter_name:  # starts at 0, where half of the gradients would be 0 too
            parameter.data.normal_(0, 0.05, generator=generator)
    expected = assert_exact(reasoner, sizes=(2,))
    assert all("lora" in parameter for parameter in expected) == adapted


@pytest.mark.parametrize("name", QUICK)
def test_the_comparison_sees_a_prompt_without_gradient(build, name):
    reasoner = build(name)
    group = group_of(reasoner)
    _, expected = gradients(reasoner, lambda: whole(reasoner, group))

    def without():
        with reasoner.policy.prompt_once(group) as once:
            (reasoner.policy(once)[0] * weights_of(group)).sum().backward()
            raise KeyboardInterrupt  # leave before the gradient goes through the prompt

    def interrupted():
        with pytest.raises(KeyboardInterrupt):
            without()

    _, found = gradients(reasoner, interrupted)
    gap = sum(float((found.get(key, 0 * value) - value).norm()) ** 2 for key, value in expected.items())
    assert gap**0.5 > 0.1 * sum(float(value.norm()) ** 2 for value in expected.values()) ** 0.5


@pytest.mark.parametrize("name", QUICK)
def test_a_dropped_cache_is_noticed(build, name, monkeypatch):
    """transformers takes the cache away from checkpointed layers with one warning; nothing is computed without it here."""
    from contextlib import nullcontext

    from medground_qwen import tree

    reasoner = build(name, gradient_checkpointing=True)
    monkeypatch.setattr(tree, "cached_checkpoints", lambda model: nullcontext())
    with (
        pytest.raises(RuntimeError, match="was computed without the cache"),
        reasoner.policy.prompt_once(group_of(reasoner)) as once,
    ):
        reasoner.policy(once)


@pytest.mark.parametrize("name", QUICK)
def test_states_of_completions_are_freed(build, name, monkeypatch):
    """Keys after each checkpointed layer, everything else after the backward pass: nothing waits in a cycle of autograd."""
    from medground_qwen.states import AttentionStates, LinearStates, PromptStates
    from torch.multiprocessing.reductions import StorageWeakRef

    branches, keys, states = [], [], []
    branch, update, update_state = PromptStates.branch, AttentionStates.update, LinearStates.update_recurrent_state

    def branched(self, count):
        branches.append(weakref.ref(after := branch(self, count)))
        return after

    def updated(self, *given, **named):
        key, value = update(self, *given, **named)
        if self.past is not None:
            keys.extend((StorageWeakRef(key.untyped_storage()), StorageWeakRef(value.untyped_storage())))
        return key, value

    def updated_state(self, state, *given, **named):
        states.append(StorageWeakRef(state.untyped_storage()))
        return update_state(self, state, *given, **named)

    monkeypatch.setattr(PromptStates, "branch", branched)
    monkeypatch.setattr(AttentionStates, "update", updated)
    monkeypatch.setattr(LinearStates, "update_recurrent_state", updated_state)
    reasoner = build(name, gradient_checkpointing=True)
    group = group_of(reasoner)
    with reasoner.policy.prompt_once(group) as once:
        logp, _ = reasoner.policy(once)
        assert keys and all(reference.expired() for reference in keys)
        (logp * weights_of(group)).sum().backward()
    del once, logp
    gc.collect()
    assert [reference() for reference in branches] == [None]
    assert all(reference.expired() for reference in [*keys, *states])
    assert bool(states) == (name == "qwen3_5")


@pytest.mark.parametrize("name", QUICK)
def test_all_groups_are_decoded_in_one_pass_per_token(build, name):
    """Two queries with prompts of unequal length: one pass for both prompts, then one per token for all completions."""
    reasoner = build(name)
    passes = []

    def seen(module, given, named):
        passes.append((tuple(named["input_ids"].shape), torch.backends.cuda.cudnn_sdp_enabled()))

    reasoner.model.register_forward_pre_hook(seen, with_kwargs=True)
    batch = [conversation("Where?", 48, 64), conversation("Which of them is on the left?", 64, 40, seed=1)]
    assert len({len(reasoner.encode(messages)) for messages in batch}) == 2
    sampling = Sampling(num_generations=8, temperature=1.0, max_completion_length=8)
    groups = reasoner.generate(batch, sampling, [1, 50])
    assert len(passes) == max(len(one.token_ids) for group in groups for one in group)
    assert [shape[0] for shape, _ in passes[:2]] == [2, 16]
    assert all(shape[1] == 1 for shape, _ in passes[1:])
    assert not any(planned for _, planned in passes)  # cuDNN plans anew for every number of keys
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("name", NAMES)
def test_sampled_log_probabilities_equal_those_of_the_update(build, name):
    """Two questions about images of unequal size are sampled together; each alone gives the same tokens."""
    reasoner = build(name)
    batch = [conversation("Where?", 48, 64), conversation("Which of them is on the left?", 64, 40, seed=1)]
    sampling = Sampling(num_generations=3, temperature=1.0, max_completion_length=8)
    together = reasoner.generate(batch, sampling, [1, 50])
    for messages, seed, group in zip(batch, (1, 50), together, strict=True):
        (alone,) = reasoner.generate([messages], sampling, [seed])
        assert [list(one.token_ids) for one in alone] == [list(one.token_ids) for one in group]
        for one, same in zip(alone, group, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(one.logprobs), torch.from_numpy(same.logprobs), atol=1e-5, rtol=0
            )
        logp, _ = reasoner.policy(reasoner.group(messages, group))
        for row, completion in zip(logp.detach(), group, strict=True):
            said = torch.from_numpy(completion.logprobs)
            torch.testing.assert_close(row[: len(said)], said, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("queries", "keys", "heads", "key_heads"), [(3, 8, 4, 1), (2, 3, 6, 2), (5, 9, 3, 3)])
def test_attention_of_the_last_tokens_is_that_of_all_tokens(queries, keys, heads, key_heads):
    """What CUDA is asked for and what other devices compute both equal the end of causal attention over everything."""
    from medground_qwen import attention

    draw = torch.Generator().manual_seed(0)
    whole = torch.randn(2, heads, keys, 8, generator=draw)
    key, value = (torch.randn(2, key_heads, keys, 8, generator=draw) for _ in range(2))
    expected = torch.nn.functional.scaled_dot_product_attention(
        whole, key, value, is_causal=True, scale=0.3, enable_gqa=heads != key_heads
    )[:, :, -queries:]
    last = whole[:, :, -queries:]
    torch.testing.assert_close(attention._shared_heads(last, key, value, 0.3), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(attention._lower_right(last, key, value, 0.3), expected, atol=1e-6, rtol=0)
    assert attention.suffix_attention(last, key, value, 0.3).shape == (2, queries, heads, 8)
