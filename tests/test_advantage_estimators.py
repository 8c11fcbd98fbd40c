"""Every estimator of the advantage against a case worked by hand and the code of TRL, and what each term contributes."""

import importlib.util
import inspect
import math
import textwrap
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from medground.recipe.schema import AdvantageEstimator, RewardScale  # noqa: E402
from medground.training.grpo.advantage import advantages, estimate, shares  # noqa: E402

NAN = math.nan
NEEDS_TRL = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs trl, the oracle")
ALL = list(AdvantageEstimator)


def table(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def drawn(seed=0, groups=6, size=8, terms=3, abstaining=0.0):
    """Terms with weights, and rewards as a rubric sums them: a term that abstains adds nothing."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(terms, groups, size, generator=generator, dtype=torch.float64)
    values[torch.rand(values.shape, generator=generator) < abstaining] = NAN
    weights = [0.5, 2.0, 1.3][:terms]
    rewards = sum(weight * column.nan_to_num() for weight, column in zip(weights, values, strict=True))
    rewards[values.isnan().all(dim=0)] = NAN
    return rewards, {f"t{index}": (weights[index], values[index]) for index in range(terms)}


def values_of(estimator, rewards, terms, **settings):
    return estimate(AdvantageEstimator(estimator), rewards, terms, **settings).values


def test_rloo_by_hand():
    """1, 0, 0.5: the others' means are 0.25, 0.75 and 0.5; nothing is divided."""
    rewards = table([1.0, 0.0, 0.5], [3.0, 3.0, 0.0])
    found = values_of("rloo", rewards, {})
    assert found.tolist() == [pytest.approx([0.75, -0.75, 0.0]), pytest.approx([1.5, 1.5, -3.0])]
    gap = values_of("rloo", table([1.0, NAN, 0.0]), {})
    assert gap.tolist() == [pytest.approx([1.0, 0.0, -1.0])]


def test_reinforce_plus_plus_by_hand():
    """Centred rewards are -1, 1 and -3, 3: of these four the deviation is sqrt(20 / 3)."""
    found = values_of("reinforce_plus_plus", table([0.0, 2.0], [10.0, 16.0]), {}, eps=0.5)
    spread = math.sqrt(20 / 3) + 0.5
    assert found.tolist() == [pytest.approx([-1 / spread, 1 / spread]), pytest.approx([-3 / spread, 3 / spread])]


def test_gdpo_by_hand():
    """Two terms of one group, (1, 0) and (0, 100): each is +-sqrt(1/2) once normalised, whatever its size."""
    terms = {"small": (1.0, table([1.0, 0.0])), "large": (0.5, table([0.0, 100.0]))}
    found = estimate(AdvantageEstimator.gdpo, table([1.0, 50.0]), terms, eps=0.0)
    summed = math.sqrt(0.5) - 0.5 * math.sqrt(0.5)
    spread = math.sqrt(2 * summed**2)  # of summed and -summed, with n - 1 = 1
    assert found.values.tolist() == [pytest.approx([summed / spread, -summed / spread])]
    large = 0.5 * math.sqrt(0.5) / spread
    assert found.contributions["large"].tolist() == [pytest.approx([-large, large])]


def test_gdpo_tells_apart_what_the_sum_does_not():
    """Answers (1, 0) and (0, 1) earn the same; with other weights of equal-spread terms they do not."""
    terms = {"one": (1.0, table([1.0, 0.0, 0.0])), "two": (1.0, table([0.0, 1.0, 1.0]))}
    same = table([1.0, 1.0, 1.0])
    assert estimate(AdvantageEstimator.grpo, same, terms).constant.tolist() == [True]
    skewed = {"one": (1.0, table([1.0, 0.0, 0.0])), "two": (2.0, table([0.0, 0.5, 0.5]))}
    assert estimate(AdvantageEstimator.grpo, same, skewed).constant.tolist() == [True]
    found = estimate(AdvantageEstimator.gdpo, same, skewed)
    assert found.constant.tolist() == [False]
    assert found.values[0, 0] < 0 < found.values[0, 1]


def test_a_group_whose_terms_are_all_constant_teaches_nothing_by_gdpo():
    rewards, terms = drawn()
    for _, values in terms.values():
        values[2] = 0.25
    found = estimate(AdvantageEstimator.gdpo, rewards, terms)
    assert torch.equal(found.values[2], torch.zeros(8, dtype=torch.float64))
    assert found.constant.tolist() == [False, False, True, False, False, False]


def test_gdpo_uses_nothing_of_a_group_without_a_reward():
    rewards, terms = drawn()
    rewards[1] = NAN
    found = estimate(AdvantageEstimator.gdpo, rewards, terms)
    rest = [0, 2, 3, 4, 5]
    alone = estimate(
        AdvantageEstimator.gdpo,
        rewards[rest],
        {label: (weight, values[rest]) for label, (weight, values) in terms.items()},
    )
    assert torch.equal(found.values[1], torch.zeros(8, dtype=torch.float64)) and bool(found.constant[1])
    torch.testing.assert_close(found.values[rest], alone.values)


@pytest.mark.parametrize("estimator", ALL)
def test_advantages_sum_to_zero_and_ignore_a_constant_that_is_added(estimator):
    rewards, terms = drawn()
    found = values_of(estimator, rewards, terms)
    torch.testing.assert_close(found.sum(dim=1), torch.zeros(6, dtype=torch.float64), atol=1e-12, rtol=0)
    moved = {label: (weight, values + 3) for label, (weight, values) in terms.items()}
    torch.testing.assert_close(values_of(estimator, rewards + 3 * (0.5 + 2.0 + 1.3), moved), found)


@pytest.mark.parametrize("estimator", ALL)
def test_equal_rewards_give_exactly_zero(estimator):
    rewards, terms = drawn()
    equal = {label: (weight, torch.full_like(values, 0.7)) for label, (weight, values) in terms.items()}
    found = estimate(estimator, torch.full_like(rewards, 0.7 * 3.8), equal)
    assert torch.equal(found.values, torch.zeros_like(rewards))
    assert bool(found.constant.all())
    assert all(torch.equal(values, torch.zeros_like(rewards)) for values in found.contributions.values())


@pytest.mark.parametrize("abstaining", [0.0, 0.3])
@pytest.mark.parametrize("estimator", ALL)
def test_contributions_add_up_to_the_advantages_and_shares_to_one(estimator, abstaining):
    rewards, terms = drawn(abstaining=abstaining)
    found = estimate(estimator, rewards, terms)
    torch.testing.assert_close(sum(found.contributions.values()), found.values, atol=1e-12, rtol=1e-9)
    decided = shares(found.values, found.contributions)
    assert sum(decided.values()) == pytest.approx(1)
    assert list(decided) == ["t0", "t1", "t2"]


def test_shares_by_hand():
    """Of r = a + b with a = +-1 and b = +-3 in step, and of r = a - b, where a works against the sum."""
    a, b = table([1.0, -1.0]), table([3.0, -3.0])
    together = estimate(AdvantageEstimator.rloo, a + b, {"a": (1.0, a), "b": (1.0, b)})
    assert shares(together.values, together.contributions) == {"a": pytest.approx(0.25), "b": pytest.approx(0.75)}
    against = estimate(AdvantageEstimator.rloo, a - b, {"a": (1.0, a), "b": (-1.0, b)})
    assert shares(against.values, against.contributions) == {"a": pytest.approx(-0.5), "b": pytest.approx(1.5)}
    nothing = estimate(AdvantageEstimator.grpo, a * 0, {"a": (1.0, a * 0)})
    assert math.isnan(shares(nothing.values, nothing.contributions)["a"])


def test_grpo_is_as_before_and_scales_as_asked():
    rewards, terms = drawn()
    assert torch.equal(values_of("grpo", rewards, terms), advantages(rewards))
    for scale in (RewardScale.group, RewardScale.batch, RewardScale.none):
        assert torch.equal(values_of("grpo", rewards, terms, scale=scale), advantages(rewards, scale=scale))


def lines_of(trainer, begin, end):
    """The lines of TRL's own method that turn rewards into advantages."""
    source = inspect.getsource(trainer._generate_and_score_completions)
    return textwrap.dedent(source[source.rindex("\n", 0, source.index(begin)) + 1 : source.index(end)])


def as_trl(trainer, begin, rewards_per_func, weights, **settings):
    from trl.trainer.utils import nanstd

    groups, size = rewards_per_func.shape[:2]
    flat = rewards_per_func.flatten(0, 1)
    scope = {
        "torch": torch, "nanstd": nanstd, "rewards_per_func": flat, "device": "cpu", "num_generations": size,
        "unscorable_mask": torch.isnan(flat).all(dim=1),
        "self": SimpleNamespace(
            reward_weights=torch.tensor(weights, dtype=torch.float64), reward_funcs=weights, scale_rewards="group",
            reward_clip_range=None, beta=0.0, **settings,
        ),
    }  # fmt: skip
    exec(lines_of(trainer, begin, "# Slice to keep only"), scope)
    return scope["advantages"].view(groups, size)


@pytest.mark.slow
@NEEDS_TRL
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("abstaining", [0.0, 0.3])
@pytest.mark.parametrize("estimator", ["grpo", "gdpo"])
def test_advantages_equal_those_of_trls_lines(estimator, abstaining):
    from trl import GRPOTrainer

    rewards, terms = drawn(abstaining=abstaining)
    stacked = torch.stack([values for _, values in terms.values()], dim=-1)
    how = {"grpo": "sum_then_normalize", "gdpo": "normalize_then_sum"}[estimator]
    begin = 'if self.multi_objective_aggregation == "sum_then_normalize":'
    theirs = as_trl(GRPOTrainer, begin, stacked, [0.5, 2.0, 1.3], multi_objective_aggregation=how)
    assert theirs.abs().max() > 0.5
    torch.testing.assert_close(values_of(estimator, rewards, terms), theirs, atol=1e-6, rtol=0)


@pytest.mark.slow
@NEEDS_TRL
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("abstaining", [0.0, 0.3])
def test_rloo_equals_trls_lines(abstaining):
    from trl import RLOOTrainer

    rewards, terms = drawn(abstaining=abstaining)
    stacked = torch.stack([values for _, values in terms.values()], dim=-1)
    begin = "# Apply weights to each reward function's output and sum"
    theirs = as_trl(RLOOTrainer, begin, stacked, [0.5, 2.0, 1.3], normalize_advantages=False)
    torch.testing.assert_close(values_of("rloo", rewards, terms), theirs, atol=1e-6, rtol=0)


@pytest.mark.slow
@NEEDS_TRL
@pytest.mark.filterwarnings("ignore")
def test_on_policy_sums_of_sequences_have_the_gradient_of_trls_rloo():
    from trl import RLOOTrainer

    from medground.training.grpo.loss import Objective, normalizer, policy_loss

    generator = torch.Generator().manual_seed(1)
    logps = (-torch.rand(6, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    mask = torch.arange(5) < torch.tensor([1, 5, 3, 2, 4, 5]).unsqueeze(1)
    advantage = values_of("rloo", torch.rand(2, 3, generator=generator, dtype=torch.float64), {}).flatten()
    source = inspect.getsource(RLOOTrainer._compute_loss)
    lines = source[source.index("        log_ratio = ") : source.index("        # Log the metrics")]
    sums = (logps * mask).sum(dim=1)
    scope = {
        "torch": torch, "logps": sums, "old_logps": sums.detach(), "inputs": {"advantages": advantage},
        "self": SimpleNamespace(epsilon_low=0.2, epsilon_high=0.2),
    }  # fmt: skip
    exec(textwrap.dedent(lines), scope)
    theirs = torch.autograd.grad(scope["loss"], logps)[0]
    objective = Objective(aggregation="sequence_sum")
    loss = policy_loss(objective, logps, advantage, mask)[0] / normalizer(objective, mask)
    torch.testing.assert_close(torch.autograd.grad(loss, logps)[0], theirs, atol=1e-12, rtol=0)


@pytest.mark.slow
@NEEDS_TRL
@pytest.mark.filterwarnings("ignore")
def test_the_overlong_punishment_equals_trls():
    from trl.rewards import get_soft_overlong_punishment

    from medground.training.grpo.overlong import SoftOverlong

    for limit, buffer in ((20, 4), (20, 20), (2048, 512), (5, 1)):
        lengths = range(1, limit + 1)
        theirs = get_soft_overlong_punishment(limit, buffer)(completion_ids=[[0] * length for length in lengths])
        ours = [SoftOverlong(limit, buffer)(completion_of(length)).value for length in lengths]
        assert ours == pytest.approx(theirs, abs=1e-12)


def completion_of(tokens):
    import numpy as np

    ids = None if tokens is None else np.zeros(tokens, np.int64)
    return SimpleNamespace(completion=SimpleNamespace(token_ids=ids))


def test_the_overlong_punishment_by_hand():
    """Equation 13 of DAPO with its own numbers: 16384 expected tokens, a buffer of 4096."""
    from medground.training.grpo.overlong import SoftOverlong

    term = SoftOverlong(20480, 4096)
    lengths = {1: 0.0, 16384: 0.0, 16385: -1 / 4096, 18432: -0.5, 20480: -1.0, 30000: -1.0}
    assert {length: term(completion_of(length)).value for length in lengths} == lengths
    assert term(completion_of(None)).value is None
