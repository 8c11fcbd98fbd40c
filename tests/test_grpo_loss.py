"""The loss of GRPO on numbers that were worked by hand."""

import math

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from medground.recipe.schema import GrpoConfig, GrpoLoss, SamplerCorrection  # noqa: E402
from medground.training.grpo.loss import (  # noqa: E402
    PUBLISHED,
    Objective,
    importance,
    kl,
    normalizer,
    objective_of,
    policy_loss,
)

LOG2, LOG3 = math.log(2), math.log(3)


def table(*rows, grad=False):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=grad)


def loss_of(objective, logps, advantages, *, mask=None, **others):
    """The summed loss, the sums to log, and the gradient with respect to the log-probabilities."""
    logps = logps.clone().requires_grad_()
    mask = torch.ones_like(logps, dtype=torch.bool) if mask is None else mask
    loss, sums = policy_loss(objective, logps, torch.tensor(advantages, dtype=torch.float64), mask, **others)
    loss.backward()
    return loss.item(), {name: value.item() for name, value in sums.items()}, logps.grad


def test_the_unit_of_the_mean_by_hand():
    """Sequences of 3, 1 and 0 tokens."""
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    units = {"sequence": 2.0, "sequence_sum": 2.0, "token": 4.0}
    assert {unit: normalizer(Objective(aggregation=unit), mask) for unit in units} == units
    assert normalizer(Objective(aggregation="constant", max_length=10), mask) == 20.0
    for length in (None, 0):
        with pytest.raises(ValueError, match="needs max_length"):
            normalizer(Objective(aggregation="constant", max_length=length), mask)
    logps, old = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    sums = {"sequence": -(1 + 5), "token": -(3 * 1 + 5), "sequence_sum": -(3 * 1 + 5), "constant": -(3 * 1 + 5)}
    for unit, expected in sums.items():
        objective = Objective(aggregation=unit, max_length=10)
        assert loss_of(objective, logps, [1.0, 5.0, 7.0], mask=mask, old_logps=old)[0] == pytest.approx(expected)


def test_what_is_clipped_and_counted_by_hand():
    """Ratios 1/2 and 2, each with a positive and a negative advantage: only two of the four are held back."""
    logps = table([-LOG2, LOG2], [-LOG2, LOG2])
    loss, sums, gradient = loss_of(Objective(), logps, [1.0, -1.0], old_logps=torch.zeros_like(logps))
    # Advantage 1: min(1/2, 0.8) = 1/2 and min(2, 1.2) = 1.2. Advantage -1: min(-1/2, -0.8) = -0.8 and min(-2, -1.2) = -2.
    assert loss == pytest.approx(-(0.5 + 1.2) / 2 + (0.8 + 2) / 2)
    assert sums == {"tokens": 4, "clipped_low": 1, "clipped_high": 1, "kl": 0.0}
    assert gradient.tolist() == [[pytest.approx(-0.25), 0.0], [0.0, pytest.approx(1.0)]]
    wide = Objective(epsilon=0.6, epsilon_high=0.5)
    loss, sums, _ = loss_of(wide, logps, [1.0, -1.0], old_logps=torch.zeros_like(logps))
    assert loss == pytest.approx(-(0.5 + 1.5) / 2 + (0.5 + 2) / 2)
    assert (sums["clipped_low"], sums["clipped_high"]) == (0, 1)


def test_tokens_beyond_the_end_are_neither_clipped_nor_counted():
    logps, mask = table([-LOG2, -LOG2, LOG2]), torch.tensor([[True, False, False]])
    _, sums, gradient = loss_of(Objective(), logps, [-1.0], mask=mask, old_logps=torch.zeros_like(logps))
    assert (sums["tokens"], sums["clipped_low"], sums["clipped_high"]) == (1, 1, 0)
    assert gradient.tolist() == [[0.0, 0.0, 0.0]]


def test_padding_that_is_infinite_reaches_neither_loss_nor_gradient():
    """Replaced, not multiplied by 0: infinity times 0 is no number."""
    mask = torch.tensor([[True, False, False]])
    for objective in (Objective(beta=0.1), Objective(ratio="sequence"), Objective(cispo=True)):
        clean = loss_of(objective, table([-1.0]), [2.0], old_logps=table([-1.5]), ref_logps=table([-0.5]))
        logps, ref = table([-1.0, -math.inf, math.inf]), table([-0.5, math.nan, 0.0])
        loss, sums, gradient = loss_of(
            objective, logps, [2.0], mask=mask, old_logps=table([-1.5, 0.0, math.nan]), ref_logps=ref
        )
        assert (loss, sums["kl"]) == (clean[0], clean[1]["kl"]) and math.isfinite(loss)
        assert gradient[0, 0] == clean[2][0, 0]


@pytest.mark.parametrize("by", [50.0, -50.0])
def test_a_ratio_is_bounded(by):
    """exp(50) would overflow in half precision and drown every other token: the exponent stops at 20."""
    loss, _, _ = loss_of(Objective(epsilon_high=1e12, epsilon=1.0), table([by]), [-1.0], old_logps=table([0.0]))
    assert loss == pytest.approx(math.exp(math.copysign(20, by)))


def test_cispo_weights_the_log_probability_by_a_constant():
    """The gradient is -A times the capped ratio, whatever the log-probability is."""
    objective = Objective(cispo=True, epsilon_high=0.5)
    logps, old = table([-1.0, -2.0, -3.0]), table([-1.0 - LOG3, -2.0 - 0.1, -3.0 + LOG2])
    loss, _, gradient = loss_of(objective, logps, [2.0], old_logps=old)
    weights = [1.5, math.exp(0.1), 0.5]
    assert gradient.tolist() == [[pytest.approx(-2.0 * weight / 3) for weight in weights]]
    assert loss == pytest.approx(2.0 * (1 * weights[0] + 2 * weights[1] + 3 * weights[2]) / 3)


def test_dual_clip_bounds_the_loss_of_bad_answers_alone():
    objective = Objective(dual_clip=3.0)
    logps = table([math.log(5)], [math.log(5)], [math.log(2)])
    loss, _, gradient = loss_of(objective, logps, [-1.0, 1.0, -1.0], old_logps=torch.zeros_like(logps))
    assert loss == pytest.approx(3.0 - 1.2 + 2.0)
    assert gradient.flatten().tolist() == [0.0, 0.0, pytest.approx(2.0)]


def test_a_sequence_has_one_ratio_the_geometric_mean_of_its_tokens():
    """Ratios 1 and 4 have the mean 2; a token beyond the end does not count in it."""
    objective = Objective(ratio="sequence", epsilon=0.1, epsilon_high=5.0)
    logps, mask = table([0.0, 2 * LOG2, 9.0]), torch.tensor([[True, True, False]])
    loss, _, gradient = loss_of(objective, logps, [1.0], mask=mask, old_logps=torch.zeros_like(logps))
    assert loss == pytest.approx(-2.0)
    assert gradient.tolist() == [[pytest.approx(-1.0), pytest.approx(-1.0), 0.0]]


def test_the_correction_compares_the_sampler_with_the_policy_that_sampled():
    """The sampler gave half the probability of the old policy: weight 2, although the current policy has moved on."""
    objective = Objective(epsilon=0.9, epsilon_high=9.0, correction=SamplerCorrection.truncate, correction_high=10.0)
    logps, old, sampler = table([LOG3, 0.0]), table([0.0, 0.0]), table([-LOG2, math.nan])
    loss, _, gradient = loss_of(objective, logps, [1.0], old_logps=old, sampler_logps=sampler)
    assert loss == pytest.approx(-(3 * 2 + 1 * 1) / 2)
    assert gradient.tolist() == [[pytest.approx(-3.0), pytest.approx(-0.5)]]
    plain = Objective(epsilon=0.9, epsilon_high=9.0)
    assert loss_of(plain, logps, [1.0], old_logps=old, sampler_logps=sampler)[0] == pytest.approx(-2.0)


def test_weights_of_another_sampler_are_capped_dropped_and_bounded():
    old, sampler = table([0.0, 0.0, 0.0, 0.0, 0.0]), table([0.0, -LOG2, LOG2, -50.0, 50.0])
    capped = Objective(correction=SamplerCorrection.truncate, correction_high=1.5)
    assert importance(capped, old, sampler).tolist() == [pytest.approx([1.0, 1.5, 0.5, 1.5, math.exp(-20)])]
    dropped = Objective(correction=SamplerCorrection.mask, correction_low=0.5, correction_high=2.0)
    exact = table([0.0, -LOG2 + 1e-9, LOG2 - 1e-9, -LOG2 - 1e-6, LOG2 + 1e-6])
    assert importance(dropped, old, exact).tolist() == [pytest.approx([1.0, 2.0, 0.5, 0.0, 0.0])]
    open_end = Objective(correction=SamplerCorrection.truncate, correction_high=math.inf)
    assert importance(open_end, old, sampler)[0, 3].item() == pytest.approx(math.exp(20))


def test_the_kl_by_hand():
    """The reference gives twice the probability: x = log 2."""
    logps, ref, ratio = table([0.0]), table([LOG2]), table([3.0])
    k3 = 2 - LOG2 - 1
    estimates = {name: kl(name, logps, ref, ratio).item() for name in ("k1", "k2", "k3", "k3_ratio")}
    assert estimates == pytest.approx({"k1": -LOG2, "k2": LOG2**2 / 2, "k3": k3, "k3_ratio": 3 * k3})
    assert kl("k1", logps, table([99.0]), ratio).item() == -20.0
    assert kl("k1", logps, table([-99.0]), ratio).item() == 20.0
    loss, sums, _ = loss_of(Objective(beta=0.5), logps, [0.0], old_logps=logps - LOG3, ref_logps=ref)
    assert (loss, sums["kl"]) == (pytest.approx(0.5 * 3 * k3), pytest.approx(k3))
    observed = loss_of(Objective(), logps, [0.0], old_logps=logps, ref_logps=ref)
    assert (observed[0], observed[1]["kl"]) == (0.0, pytest.approx(k3)), "logged, and no part of the loss"
    with pytest.raises(ValueError, match="ref_logps is missing"):
        loss_of(Objective(beta=0.5), logps, [0.0])


def test_the_published_numbers():
    numbers = {
        name.value: (loss.ratio, loss.cispo, loss.aggregation, loss.epsilon, loss.high)
        for name, loss in PUBLISHED.items()
    }
    assert numbers == {
        "grpo": ("token", False, "sequence", 0.2, 0.2),
        "dr_grpo": ("token", False, "constant", 0.2, 0.2),
        "dapo": ("token", False, "token", 0.2, 0.28),
        "gspo": ("sequence", False, "sequence", 3e-4, 4e-4),
        "cispo": ("token", True, "token", 0.2, 4.0),
        "sapo": ("token", False, "sequence", 0.2, 0.2),
    }
    assert [name for name, loss in PUBLISHED.items() if loss.sapo] == [GrpoLoss.sapo]
    config = GrpoConfig(
        epsilon=0.0, epsilon_high=0.0, dual_clip=4.0, beta=0.3, correction=SamplerCorrection.mask, correction_floor=0.1,
        correction_cap=7.0, max_completion_length=33,
    )  # fmt: skip
    own = objective_of(config)
    assert (own.epsilon, own.high, own.dual_clip, own.beta, own.correction) == (0.0, 0.0, 4.0, 0.3, "mask")
    assert (own.correction_low, own.correction_high, own.max_length) == (0.1, 7.0, 33)


def test_sapo_weakens_ratios_smoothly_and_clips_none():
    """f(r) = 4/t * sigmoid(t (r - 1)), with t = 1 for positive advantages and 1.05 for the others; its slope at 1 is 1."""
    objective = Objective(sapo=True)
    logps = table([0.0, LOG2], [0.0, LOG2], [0.0, 0.0])
    loss, sums, gradient = loss_of(objective, logps, [2.0, -2.0, 0.0], old_logps=torch.zeros_like(logps))
    gate = {t: 4 / t / (1 + math.exp(-t)) for t in (1.0, 1.05)}
    assert loss == pytest.approx(-(2 * 2 + 2 * gate[1.0]) / 2 + (2 * 2 / 1.05 + 2 * gate[1.05]) / 2)
    slope = {t: 4 * math.exp(-t) / (1 + math.exp(-t)) ** 2 for t in (1.0, 1.05)}
    expected = [[-2 / 2, -2 * 2 * slope[1.0] / 2], [2 / 2, 2 * 2 * slope[1.05] / 2], [0.0, 0.0]]
    assert gradient.tolist() == [pytest.approx(row) for row in expected]
    assert (sums["clipped_low"], sums["clipped_high"]) == (0, 0)


def test_the_entropy_bonus_is_subtracted_per_token_and_averaged_as_the_loss_is():
    mask = torch.tensor([[True, True], [True, False]])
    entropies = table([1.0, 3.0], [5.0, math.nan], grad=True)
    logps = torch.zeros(2, 2, dtype=torch.float64)
    for unit, expected in (("token", 0.1 * 9), ("sequence", 0.1 * (2 + 5))):
        entropies.grad = None
        objective = Objective(aggregation=unit, entropy_bonus=0.1)
        loss, _ = policy_loss(objective, logps, torch.zeros(2), mask, entropies=entropies)
        assert loss.item() == pytest.approx(-expected)
        loss.backward()
        weight = 0.1 if unit == "token" else 0.05
        assert entropies.grad.tolist() == [pytest.approx([-weight, -weight]), pytest.approx([-0.1, 0.0])]
    with pytest.raises(ValueError, match="entropies is missing"):
        policy_loss(Objective(entropy_bonus=0.1), logps, torch.zeros(2), mask)


def test_a_recipe_sets_the_entropy_bonus():
    assert objective_of(GrpoConfig(entropy_bonus=0.02)).entropy_bonus == 0.02
    assert objective_of(GrpoConfig()).entropy_bonus == 0
