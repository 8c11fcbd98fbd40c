"""Advantages: how much better a completion did than its siblings.

All estimators subtract the mean of the group. They differ in what they divide by: see `estimate`. An advantage is the sum of
what each reward term adds to it, its contribution, which tells which term decides.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medground.recipe.schema import AdvantageEstimator, RewardScale

SAME = 1e-6
"""Rewards of a group within this, relative to their size, count as equal: else rounding noise becomes an advantage."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Advantages:
    """Advantages of N groups of G completions."""

    values: Tensor
    """[N, G] float64; 0 where there is no reward."""
    contributions: Mapping[str, Tensor]
    """Label of a weighted term -> [N, G] float64; their sum is `values`."""
    constant: Tensor
    """[N] bool: groups without a signal, whose advantages are all 0."""


def estimate(
    estimator: AdvantageEstimator,
    rewards: Tensor,
    terms: Mapping[str, tuple[float, Tensor]],
    *,
    scale: RewardScale = RewardScale.by_estimator,
    eps: float = 1e-4,
) -> Advantages:
    """Return the advantages of a batch.

    With r the reward, a weighted sum of terms, and c = r - mean(r) within the group:

    ``grpo``: c / (std(r) + eps), the deviation within the group (Shao et al. 2024, arXiv 2402.03300, section 4.1.2) or as
    `scale` says, see `advantages`.

    ``rloo``: r minus the mean of the others, c * n / (n - 1) (Ahmadian et al. 2024, arXiv 2402.14740, section 3.3).

    ``reinforce_plus_plus``: c / (std(c) + eps) over the batch; of the published variants the one for several completions
    per query (Hu et al. 2025, arXiv 2501.03262, REINFORCE++ with baseline).

    ``gdpo``: every term normalised within the group as ``grpo`` normalises the reward, then summed with the weights, then
    divided by std + eps over the batch (Liu et al. 2026, arXiv 2601.05242, section 3). Weights then weigh terms of equal
    spread. Groups whose weighted sums are equal may have a signal. A completion of which a term abstains gets nothing
    from that term and does not count in its mean.

    Args:
        estimator: which of them.
        rewards: [N, G]; NaN marks a completion without a reward.
        terms: label -> weight, and [N, G] values; NaN where the term abstains or the completion has no reward.
        scale: what ``grpo`` divides by.
        eps: added to standard deviations.

    Raises:
        ValueError: if G is 1, or a reward is infinite.
    """
    if estimator == "gdpo":
        return _decoupled(rewards, terms, eps)
    rewards = _checked(rewards)
    valid = ~rewards.isnan()
    centred, constant = _centred(rewards, valid), _constant(rewards, valid)
    if estimator == "rloo":
        count = valid.sum(dim=1, keepdim=True).clamp(min=2)
        divisor = (count - 1) / count.to(torch.float64)
    elif estimator == "reinforce_plus_plus":
        divisor = torch.full_like(centred, spread_of(torch.where(valid, centred, math.nan)) + eps)
    else:
        divisor = _divisor(rewards, RewardScale.group if scale == "by_estimator" else scale, eps)
    return Advantages(
        values=torch.where(constant, 0.0, centred / divisor),
        contributions={
            label: torch.where(constant, 0.0, _centred(weight * values.to(torch.float64).nan_to_num(), valid) / divisor)
            for label, (weight, values) in terms.items()
        },
        constant=constant.squeeze(1),
    )


def shares(advantages: Tensor, contributions: Mapping[str, Tensor]) -> dict[str, float]:
    """Return how much of the variance of the advantages each term decides: label -> share; NaN where there is none.

    The share of a term is sum(contribution * advantage) / sum(advantage²), so shares add up to 1. That of a term which works
    against the others is negative.
    """
    variance = float(advantages.square().sum())
    return {
        label: float((contribution * advantages).sum()) / variance if variance else math.nan
        for label, contribution in contributions.items()
    }


def _decoupled(rewards: Tensor, terms: Mapping[str, tuple[float, Tensor]], eps: float) -> Advantages:
    missing = rewards.isnan()
    columns = {label: torch.where(missing, math.nan, values.to(torch.float64)) for label, (_, values) in terms.items()}
    weighted = {label: terms[label][0] * advantages(values, eps=eps) for label, values in columns.items()}
    total = torch.zeros_like(rewards, dtype=torch.float64) + sum(weighted.values())
    # The batch's mean is 0: it is 0 in every group. Subtracting its rounding error would give constant groups a signal.
    spread = spread_of(torch.where(missing, math.nan, total)) + eps
    return Advantages(
        values=total / spread,
        contributions={label: values / spread for label, values in weighted.items()},
        constant=(total == 0).all(dim=1),
    )


def advantages(
    rewards: Tensor, *, scale: RewardScale = RewardScale.group, eps: float = 1e-4, batch_std: float | None = None
) -> Tensor:
    """Return GRPO's advantage of each reward within its group.

    A = (r - mean) / (s + eps), over the valid rewards of the group; s is their standard deviation with n-1 (`group`),
    that of all rewards of the batch (`batch`), or 1 without eps (`none`, Dr. GRPO, arXiv 2503.20783).

    >>> advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64), eps=0.0)
    tensor([[ 1.5000, -0.5000, -0.5000, -0.5000]], dtype=torch.float64)

    Args:
        rewards: [N, G], one row per group; NaN marks a completion without a reward (it abstains or failed).
        scale: the divisor.
        eps: added to the standard deviation.
        batch_std: the standard deviation over all ranks for ``scale="batch"``; this batch's own if None.

    Returns:
        [N, G] float64; exactly 0 for a group whose rewards are all equal, for one with fewer than two valid rewards,
        and wherever the reward is NaN.

    Raises:
        ValueError: if G is 1, or a reward is infinite.
    """
    rewards = _checked(rewards)
    valid = ~rewards.isnan()
    divisor = _divisor(rewards, scale, eps, batch_std)
    return torch.where(_constant(rewards, valid), 0.0, _centred(rewards, valid) / divisor)


def spread_of(rewards: Tensor) -> float:
    """Return the standard deviation (n-1) of a batch's valid rewards [N, G] around their own mean."""
    total, squares, count = moments(rewards)
    return spread_from(total, squares, count)


def moments(rewards: Tensor) -> tuple[float, float, int]:
    """Return sum, sum of squares and count of the valid rewards: what ranks add up to agree on `spread_from`."""
    values = rewards.detach().to(torch.float64)
    valid = values[~values.isnan()]
    return float(valid.sum()), float(valid.square().sum()), int(valid.numel())


def spread_from(total: float, squares: float, count: int) -> float:
    """Return the standard deviation (n-1) from summed `moments`; 0 for fewer than two."""
    if count < 2:
        return 0.0
    return math.sqrt(max(0.0, squares - total * total / count) / (count - 1))


def _checked(rewards: Tensor) -> Tensor:
    values = rewards.detach().to(torch.float64)
    if values.dim() != 2 or values.shape[1] < 2:
        raise ValueError(f"advantages need groups of two or more, [N, G], not {tuple(values.shape)}")
    if torch.isinf(values).any():
        raise ValueError("a reward is infinite; a failed reward is NaN")
    return values


def _divisor(rewards: Tensor, scale: RewardScale, eps: float, batch_std: float | None = None) -> Tensor:
    """Return what GRPO divides centred rewards by, [N, 1] or [N, G]."""
    valid = ~rewards.isnan()
    centred = _centred(rewards, valid)
    if scale == "none":
        return torch.ones_like(centred)
    if scale == "batch":
        return torch.full_like(centred, (spread_of(rewards) if batch_std is None else batch_std) + eps)
    variance = centred.square().sum(dim=1, keepdim=True) / (valid.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    return variance.sqrt() + eps


def _centred(values: Tensor, valid: Tensor) -> Tensor:
    filled = torch.where(valid, values, 0.0)
    mean = filled.sum(dim=1, keepdim=True) / valid.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(valid, values - mean, 0.0)


def _constant(values: Tensor, valid: Tensor) -> Tensor:
    """Return [N, 1] bool; a group with fewer than two valid rewards is constant."""
    highest = torch.where(valid, values, -math.inf).amax(dim=1, keepdim=True)
    lowest = torch.where(valid, values, math.inf).amin(dim=1, keepdim=True)
    size = torch.where(valid, values.abs(), 1.0).amax(dim=1, keepdim=True).clamp(min=1.0)
    return highest - lowest <= SAME * size
