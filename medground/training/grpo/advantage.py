"""Advantages: how much better a completion did than its siblings (GRPO, Shao et al. 2024, arXiv 2402.03300)."""

import math

import torch
from torch import Tensor

from medground.recipe.schema import RewardScale

SAME = 1e-6
"""Rewards of a group within this, relative to their size, count as equal: else rounding noise becomes an advantage."""


def advantages(
    rewards: Tensor, *, scale: RewardScale = RewardScale.group, eps: float = 1e-4, batch_std: float | None = None
) -> Tensor:
    """Return the advantage of each reward within its group.

    A = (r - mean) / (s + eps), over the valid rewards of the group; s is their standard deviation with n-1 (`group`),
    that of all centred rewards of the batch (`batch`), or 1 without eps (`none`, Dr. GRPO, arXiv 2503.20783).

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
    values = rewards.detach().to(torch.float64)
    if values.dim() != 2 or values.shape[1] < 2:
        raise ValueError(f"advantages need groups of two or more, [N, G], not {tuple(values.shape)}")
    if torch.isinf(values).any():
        raise ValueError("a reward is infinite; a failed reward is NaN")
    valid = ~values.isnan()
    centred = _centred(values, valid)
    if scale == "none":
        spread = torch.ones_like(centred)
    elif scale == "group":
        variance = centred.square().sum(dim=1, keepdim=True) / (valid.sum(dim=1, keepdim=True) - 1).clamp(min=1)
        spread = variance.sqrt() + eps
    else:
        spread = torch.full_like(centred, (batch_std if batch_std is not None else spread_of(rewards)) + eps)
    return torch.where(_constant(values, valid) | ~valid, 0.0, centred / spread)


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


def constant_groups(rewards: Tensor) -> Tensor:
    """Return [N] bool: the groups without a signal: their valid rewards are equal or fewer than two."""
    values = rewards.detach().to(torch.float64)
    return _constant(values, ~values.isnan()).squeeze(1)


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
