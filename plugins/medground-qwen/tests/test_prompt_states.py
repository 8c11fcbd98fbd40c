"""Every family's prompt is computed once per group, with the log-probabilities and gradients of repeated rows."""

from contextlib import contextmanager

import pytest
from qwen_inputs import conversation

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

import other_families  # noqa: E402

COMPLETIONS = [[5, 9, 30, 41, 7, 200, 61, 33, 12, 40, 41], [8, 8], [90, 91, 92, 93, 94, 95, 96, 97, 98], [17]]
ROUTED = {"qwen3_vl_moe", "qwen3_5_moe", "qwen4_exp"}
"""Their router computes in float32 whatever the model does."""
FLOAT32_BUFFERS = {"kimi_k25"}
"""It multiplies by a float32 table, which float64 states cannot be."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """``written(name)`` writes a family's checkpoint once."""
    folders = {}

    def folder(name):
        if reason := other_families.why_not(name):
            pytest.skip(reason)
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            other_families.write(name, folders[name])
        return folders[name]

    return folder


@pytest.fixture
def build(written):
    """``build(name, **arguments)`` opens a family, every parameter trained."""
    from medground_qwen.factories import hf_vlm

    def opened(name, **arguments):
        torch.manual_seed(0)
        given = {"train_vision": True, **arguments}
        return hf_vlm(checkpoint=str(written(name)), dtype="float32", device="cpu", **given)

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


@pytest.mark.parametrize("name", other_families.BUILDERS)
def test_a_prompt_computed_once_equals_repeated_rows(build, name):
    reasoner = build(name)
    group = group_of(reasoner)
    found = {"whole": gradients(reasoner, lambda: whole(reasoner, group))}
    for size in (1, 3):
        found[size] = gradients(reasoner, lambda size=size: in_parts(reasoner, group, size))
    reasoner.share = False
    expected = gradients(reasoner, lambda: whole(reasoner, group_of(reasoner)))
    for logp, own in found.values():
        torch.testing.assert_close(logp, expected[0], atol=1e-5, rtol=0)
        assert apart(own, expected[1]) <= 1e-5
