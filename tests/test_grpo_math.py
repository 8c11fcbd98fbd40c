"""The arithmetic of GRPO against slow references, exact enumeration and its own invariants."""

import itertools
import math

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from medground.training.grpo.advantage import advantages, estimate, moments, spread_from, spread_of  # noqa: E402
from medground.training.grpo.loss import Objective, importance, kl, normalizer, policy_loss  # noqa: E402

NAN = math.nan
OBJECTIVES = {
    "grpo": Objective(),
    "dr_grpo": Objective(aggregation="constant", max_length=7),
    "dapo": Objective(aggregation="token", epsilon_high=0.28),
    "gspo": Objective(ratio="sequence", epsilon=3e-4, epsilon_high=4e-4),
    "cispo": Objective(cispo=True, aggregation="token", epsilon_high=0.5),
    "dual": Objective(dual_clip=3.0),
    "sum": Objective(aggregation="sequence_sum"),
    "sapo": Objective(sapo=True),
    "kl": Objective(beta=0.1),
}


def batch(seed: int = 0, sequences: int = 6, tokens: int = 5):
    generator = torch.Generator().manual_seed(seed)
    logp = -torch.rand(sequences, tokens, generator=generator, dtype=torch.float64) * 3
    old = logp + torch.randn(sequences, tokens, generator=generator, dtype=torch.float64) * 0.3
    ref = logp + torch.randn(sequences, tokens, generator=generator, dtype=torch.float64) * 0.3
    lengths = torch.randint(1, tokens + 1, (sequences,), generator=generator)
    mask = torch.arange(tokens) < lengths[:, None]
    advantage = torch.randn(sequences, generator=generator, dtype=torch.float64)
    return logp.requires_grad_(), old, ref, mask, advantage


def constant_groups(rewards):
    return estimate("grpo", rewards, {}).constant


def whole(objective, logp, advantage, mask, **others):
    return policy_loss(objective, logp, advantage, mask, **others)[0] / normalizer(objective, mask)


def slowly(o: Objective, logp, old, ref, mask, advantage) -> float:
    """The same loss as two plain loops over Python numbers."""
    total = 0.0
    lengths = [int(row.sum()) for row in mask]
    for i, length in enumerate(lengths):
        steps = [float(logp[i, t] - old[i, t]) for t in range(length)]
        for t in range(length):
            a = float(advantage[i])
            rho = math.exp(sum(steps) / length) if o.ratio == "sequence" else math.exp(steps[t])
            if o.sapo:
                warmth = 1.0 if a > 0 else 1.05
                term = -a * 4 / warmth / (1 + math.exp(-warmth * (rho - 1)))
            elif o.cispo:
                term = -min(rho, 1 + o.high) * a * float(logp[i, t])
            else:
                term = -min(rho * a, min(max(rho, 1 - o.epsilon), 1 + o.high) * a)
                if o.dual_clip and a < 0:
                    term = min(term, -o.dual_clip * a)
            x = float(ref[i, t] - logp[i, t])
            term += o.beta * rho * (math.exp(x) - x - 1)
            total += term / length if o.aggregation == "sequence" else term
    bottom = {"sequence": len(lengths), "sequence_sum": len(lengths), "token": sum(lengths)}
    return total / (len(lengths) * o.max_length if o.aggregation == "constant" else bottom[o.aggregation])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_loss_equals_a_double_loop(name):
    logp, old, ref, mask, advantage = batch()
    objective = OBJECTIVES[name]
    others = {"ref_logps": ref} if objective.beta else {}
    got = whole(objective, logp, advantage, mask, old_logps=old, **others)
    assert got.item() == pytest.approx(slowly(objective, logp.detach(), old, ref, mask, advantage), rel=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_cutting_a_step_into_micro_batches_changes_nothing(name):
    logp, old, ref, mask, advantage = batch()
    objective = OBJECTIVES[name]

    def gradient(cuts):
        logp.grad = None
        z = sum(normalizer(objective, mask[cut]) for cut in cuts)
        assert z == normalizer(objective, mask)
        for cut in cuts:
            loss, _ = policy_loss(
                objective, logp[cut], advantage[cut], mask[cut], old_logps=old[cut], ref_logps=ref[cut]
            )
            (loss / z).backward()
        return logp.grad.clone()

    at_once = gradient([slice(0, 6)])
    torch.testing.assert_close(gradient([slice(0, 1), slice(1, 4), slice(4, 6)]), at_once, rtol=1e-12, atol=1e-15)
    assert at_once.abs().sum() > 0


def test_at_ratio_one_the_gradient_is_reinforces():
    logp, _, _, mask, advantage = batch()
    whole(Objective(), logp, advantage, mask).backward()
    grpo, logp.grad = logp.grad.clone(), None
    lengths = mask.sum(dim=1, keepdim=True)
    (-(advantage[:, None] * logp / lengths)[mask].sum() / 6).backward()
    assert torch.equal(grpo, torch.where(mask, logp.grad, 0.0))


def test_padding_may_hold_anything():
    logp, old, ref, mask, advantage = batch()
    clean = whole(OBJECTIVES["kl"], logp, advantage, mask, old_logps=old, ref_logps=ref)
    clean.backward()
    gradient = logp.grad.clone()
    dirty = logp.detach().clone()
    dirty[~mask] = -math.inf
    dirty.requires_grad_()
    loss = whole(OBJECTIVES["kl"], dirty, advantage, mask, old_logps=torch.where(mask, old, NAN), ref_logps=ref)
    loss.backward()
    assert torch.equal(loss, clean)
    assert torch.equal(torch.where(mask, dirty.grad, 0.0), gradient)


@pytest.mark.parametrize(
    ("advantage", "ratio", "moves"), [(1, 1.3, False), (1, 0.7, True), (-1, 0.7, False), (-1, 1.3, True)]
)
def test_the_clip_stops_the_gradient_exactly_where_it_should(advantage, ratio, moves):
    logp = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    old = torch.full((1, 1), -math.log(ratio), dtype=torch.float64)
    ones = torch.ones(1, 1, dtype=torch.bool)
    whole(Objective(), logp, torch.tensor([float(advantage)]), ones, old_logps=old).backward()
    assert (logp.grad.item() != 0) is moves
    logp.grad = None
    open_wide = Objective(epsilon=math.inf, epsilon_high=math.inf)
    whole(open_wide, logp, torch.tensor([float(advantage)]), ones, old_logps=old).backward()
    assert logp.grad.item() == pytest.approx(-advantage * ratio)


def test_zero_advantages_give_an_exactly_zero_gradient():
    logp, old, _, mask, advantage = batch()
    for objective in OBJECTIVES.values():
        if not objective.beta:
            logp.grad = None
            whole(objective, logp, advantage * 0, mask, old_logps=old).backward()
            assert torch.equal(logp.grad, torch.zeros_like(logp))


def test_sequences_without_tokens_do_not_count_and_all_masked_is_zero():
    logp, old, _, mask, advantage = batch()
    fewer = mask.clone()
    fewer[0] = False
    assert normalizer(Objective(), fewer) == 5
    loss = whole(Objective(), logp, advantage, fewer, old_logps=old)
    assert loss.item() == pytest.approx(
        float(whole(Objective(), logp[1:], advantage[1:], mask[1:], old_logps=old[1:]).detach())
    )
    nothing, _ = policy_loss(Objective(), logp, advantage, torch.zeros_like(mask), old_logps=old)
    nothing.backward()
    assert nothing.item() == 0
    assert logp.grad.isfinite().all()


def enumerate_kl(estimator):
    """Expectation over a small vocabulary of the gradient of an estimator in the loss, and the two KLs' gradients."""
    logits = torch.tensor([0.3, -0.7, 1.1, 0.2], dtype=torch.float64, requires_grad=True)
    ref = torch.log_softmax(torch.tensor([0.9, 0.1, -0.4, 0.5], dtype=torch.float64), 0)
    policy = torch.log_softmax(logits, 0)
    ratio = torch.exp(policy - policy.detach())
    loss = (policy.detach().exp() * kl(estimator, policy, ref, ratio)).sum()
    got = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    reverse = torch.autograd.grad((policy.exp() * (policy - ref)).sum(), logits, retain_graph=True)[0]
    forward = torch.autograd.grad((ref.exp() * (ref - policy)).sum(), logits)[0]
    return got, reverse, forward


def test_what_each_kl_estimator_really_differentiates():
    zero = torch.zeros(4, dtype=torch.float64)
    for estimator, which in [("k1", None), ("k2", 1), ("k3", 2), ("k3_ratio", 1)]:
        found = enumerate_kl(estimator)
        torch.testing.assert_close(found[0], zero if which is None else found[which], atol=1e-15, rtol=1e-12)


def test_the_kl_of_a_policy_to_itself_is_zero_with_zero_gradient():
    logp, _, _, mask, advantage = batch()
    for estimator in ("k2", "k3", "k3_ratio"):
        logp.grad = None
        objective = Objective(beta=1.0, estimator=estimator)
        loss, sums = policy_loss(objective, logp, advantage * 0, mask, ref_logps=logp.detach())
        loss.backward()
        assert loss.item() == sums["kl"].item() == 0
        assert torch.equal(logp.grad, torch.zeros_like(logp))


def test_importance_weights_of_a_foreign_sampler():
    before = torch.tensor([[-1.0, -1.0, -1.0, -1.0]])
    sampler = torch.tensor([[-1.0, -3.0, 2.0, NAN]])
    truncate = Objective(correction="truncate", correction_high=2.0)
    masked = Objective(correction="mask", correction_low=0.5, correction_high=2.0)
    assert importance(truncate, before, sampler).tolist()[0] == pytest.approx([1, 2, math.exp(-3), 1])
    assert importance(masked, before, sampler).tolist()[0] == pytest.approx([1, 0, 0, 1])
    assert torch.equal(importance(truncate, before, before), torch.ones_like(before))


def test_advantages_sum_to_zero_and_ignore_shift_and_scale():
    rewards = torch.rand(20, 8, dtype=torch.float64)
    found = advantages(rewards, eps=0.0)
    torch.testing.assert_close(found.sum(dim=1), torch.zeros(20, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.std(dim=1), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(advantages(rewards * 7 + 3, eps=0.0), found)


def test_one_success_in_eight_by_hand():
    rewards = torch.zeros(1, 8)
    rewards[0, 3] = 1.0
    assert advantages(rewards, eps=0.0)[0, 3] == pytest.approx(7 / math.sqrt(8))
    assert advantages(rewards, scale="none")[0].tolist() == pytest.approx([-0.125] * 3 + [0.875] + [-0.125] * 4)


@pytest.mark.parametrize("noise", [0.0, 1e-7])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_teach_exactly_nothing(noise, scale):
    rewards = torch.full((2, 6), 0.7, dtype=torch.float64)
    rewards[0] += noise * torch.randn(6, dtype=torch.float64).clamp(-1, 1)
    rewards[1, 2] = 0.9
    found = advantages(rewards, scale=scale, eps=1e-8)
    assert torch.equal(found[0], torch.zeros(6, dtype=torch.float64))
    assert found[1].abs().sum() > 0
    assert constant_groups(rewards).tolist() == [True, False]


def test_failed_rewards_are_left_out_of_mean_and_spread():
    rewards = torch.tensor([[1.0, NAN, 0.0, 0.5], [NAN, NAN, NAN, 1.0]], dtype=torch.float64)
    found = advantages(rewards, eps=0.0)
    assert found[0].tolist() == pytest.approx([1.0, 0.0, -1.0, 0.0])
    assert torch.equal(found[1], torch.zeros(4, dtype=torch.float64))


def test_the_batch_spread_is_that_of_all_ranks():
    rewards = torch.rand(6, 4, dtype=torch.float64)
    sums = [sum(values) for values in zip(moments(rewards[:2]), moments(rewards[2:]), strict=True)]
    assert spread_from(*sums) == pytest.approx(spread_of(rewards)) == pytest.approx(float(rewards.std()))
    parts = [advantages(part, scale="batch", batch_std=spread_from(*sums)) for part in (rewards[:2], rewards[2:])]
    torch.testing.assert_close(torch.cat(parts), advantages(rewards, scale="batch"))


def test_two_valid_rewards_are_enough_and_one_is_not():
    """Of 1 and 0 the standard deviation is sqrt(1/2): half of it on either side."""
    rewards = torch.tensor([[1.0, NAN, 0.0], [NAN, 3.0, NAN], [NAN, NAN, NAN]], dtype=torch.float64)
    found = advantages(rewards, eps=0.0)
    assert found.tolist() == [pytest.approx([math.sqrt(0.5), 0.0, -math.sqrt(0.5)]), [0.0] * 3, [0.0] * 3]
    assert advantages(rewards)[0, 0].item() == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-4), rel=1e-9)
    assert advantages(rewards, eps=0.25)[0, 0] == pytest.approx(0.5 / (math.sqrt(0.5) + 0.25))
    assert constant_groups(rewards).tolist() == [False, True, True]


def test_groups_with_gaps_can_be_constant():
    rewards = torch.tensor([[0.5, NAN, 0.5], [0.5, NAN, 0.6], [-4.0, -4.0, NAN]], dtype=torch.float64)
    assert constant_groups(rewards).tolist() == [True, False, True]
    assert advantages(rewards, eps=1e-3)[0].tolist() == [0.0, 0.0, 0.0]


def test_what_counts_as_equal_grows_with_the_rewards():
    """A millionth of the largest reward, and of 1 where all are smaller."""
    rewards = torch.tensor([[1e3, 1e3 + 9e-4], [1e3, 1e3 + 2e-3], [1e-9, 9e-7], [0.0, 2e-6], [-1e3, -1e3 - 9e-4]])
    assert constant_groups(rewards.double()).tolist() == [True, False, True, False, True]


def test_the_spread_of_the_batch_by_hand():
    """The four rewards 0, 1, 1, 2 have the mean 1 and the variance 2/3."""
    rewards = torch.tensor([[0.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    spread = math.sqrt(2 / 3)
    assert spread_of(rewards) == pytest.approx(spread)
    assert moments(rewards) == (4.0, 6.0, 4)
    for given, divisor in ((None, spread + 0.5), (2.0, 2.5), (0.0, 0.5)):
        found = advantages(rewards, scale="batch", eps=0.5, batch_std=given)
        assert found.tolist() == [pytest.approx([-0.5 / divisor, 0.5 / divisor])] * 2
    assert [spread_from(5.0, 25.0, count) for count in (0, 1)] == [0.0, 0.0]
    assert spread_from(3.0, 3.0 - 1e-12, 3) == 0.0, "rounding below 0 is 0"
    assert spread_from(1.0, 1.0, 2) == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(3, 1), torch.zeros(4), torch.zeros(2, 3, 4), torch.tensor([[1.0, math.inf]]), torch.zeros(2, 0)],
)
def test_groups_that_cannot_be_compared_are_refused(wrong):
    with pytest.raises(ValueError, match=r"group|infinite"):
        advantages(wrong)


def test_every_ordering_of_a_group_gives_the_same_advantages():
    rewards = [0.1, 0.4, 0.9]
    base = dict(zip(rewards, advantages(torch.tensor([rewards]))[0].tolist(), strict=True))
    for order in itertools.permutations(rewards):
        assert advantages(torch.tensor([order]))[0].tolist() == pytest.approx([base[reward] for reward in order])
