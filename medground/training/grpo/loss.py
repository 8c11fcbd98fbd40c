"""The loss of a step, as a sum over tokens and a denominator.

Every loss is ``sum(per-token terms) / Z`` with Z known before the first micro-batch, over all micro-batches and ranks of
the optimiser step. So the sums of micro-batches add up to the loss of the whole, however the step is cut.

Shapes: S sequences of at most T completion tokens; ``logp``, ``old``, ``sampler``, ``ref`` [S, T] log-probabilities in
float32; ``mask`` [S, T] bool, true for generated tokens up to and including the end token; ``advantage`` [S].
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Ratio = Literal["token", "sequence"]
Aggregation = Literal["sequence", "token", "constant", "sequence_sum"]
Estimator = Literal["k1", "k2", "k3", "k3_ratio"]
Correction = Literal["none", "truncate", "mask"]
LIMIT = 20.0
"""Differences of log-probabilities are clamped to this before they are exponentiated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Which loss: the choices the literature names, one field each.

    grpo is ``sequence`` aggregation of the token ratio; dr_grpo ``constant``; dapo ``token`` with ``epsilon_high``
    0.28; gspo the ``sequence`` ratio with epsilons of 3e-4 and 4e-4; cispo sets ``cispo``.
    """

    ratio: Ratio = "token"
    """The importance ratio of a token: its own, or its sequence's geometric mean (GSPO, arXiv 2507.18071)."""
    cispo: bool = False
    """Weight log-probabilities by the capped, detached ratio instead of clipping (CISPO, arXiv 2506.13585)."""
    epsilon: float = 0.2
    """Clip below at 1 - epsilon."""
    epsilon_high: float | None = None
    """Clip above at 1 + epsilon_high; epsilon if None (clip-higher, DAPO, arXiv 2503.14476)."""
    dual_clip: float | None = None
    """For negative advantages the loss is at most this times -A (dual-clip PPO, arXiv 1912.09729)."""
    aggregation: Aggregation = "sequence"
    """What is averaged: sequences of token means, tokens, tokens over a constant length, or sequence sums."""
    max_length: int | None = None
    """The constant length of ``constant`` aggregation, tokens (Dr. GRPO)."""
    beta: float = 0.0
    """Weight of the KL term; 0 needs no reference."""
    estimator: Estimator = "k3_ratio"
    """How the KL to the reference is estimated per token, see `kl`."""
    correction: Correction = "none"
    """What is done about a sampler that is not the trainer: cap, or drop, its importance weight."""
    correction_low: float = 0.0
    """Weights below are dropped by ``mask``."""
    correction_high: float = 2.0
    """Weights above are capped by ``truncate`` and dropped by ``mask``."""

    @property
    def high(self) -> float:
        """The upper clip distance in force."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high


def denominator(objective: Objective, mask: Tensor) -> float:
    """Z of these sequences; add it up over micro-batches and ranks before the first backward.

    Sequences without a token, such as masked overlong ones, do not count.
    """
    lengths = mask.sum(dim=1)
    sequences = int((lengths > 0).sum())
    if objective.aggregation == "token":
        return float(lengths.sum())
    if objective.aggregation == "constant":
        if not objective.max_length:
            raise ValueError("constant aggregation needs max_length, the tokens a sequence counts as")
        return float(sequences * objective.max_length)
    return float(sequences)


def policy_loss(
    objective: Objective,
    logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    old: Tensor | None = None,
    sampler: Tensor | None = None,
    ref: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The summed loss of some sequences, to be divided by the step's `denominator`, and sums to log.

    Args:
        objective: which loss.
        logp: [S, T] with gradient.
        advantage: [S], constants.
        mask: [S, T] bool.
        old: log-probabilities of the policy that the clip is measured from; the detached `logp` if None, which is
            exact for the first optimiser step on a batch.
        sampler: log-probabilities under whoever sampled, where that is another implementation than the trainer.
        ref: log-probabilities of the reference; needed when ``objective.beta`` is not 0.

    Returns:
        The scalar sum, and detached sums over tokens: ``kl``, ``clipped_low``, ``clipped_high``, ``tokens``.
    """
    before = logp.detach() if old is None else old.detach()
    ratio = _ratio(objective, logp, before, mask)
    gain = advantage.detach().to(logp.dtype).unsqueeze(1)
    if objective.cispo:
        capped = ratio.detach().clamp(max=1 + objective.high)
        token = -capped * gain * logp
    else:
        clipped = ratio.clamp(1 - objective.epsilon, 1 + objective.high)
        token = -torch.minimum(ratio * gain, clipped * gain)
        if objective.dual_clip is not None:
            token = torch.where(gain < 0, torch.minimum(token, -objective.dual_clip * gain), token)
    if sampler is not None and objective.correction != "none":
        token = token * importance(objective, before, sampler)
    sums = {
        "tokens": mask.sum(),
        "clipped_low": ((ratio < 1 - objective.epsilon) & (gain < 0) & mask).sum(),
        "clipped_high": ((ratio > 1 + objective.high) & (gain > 0) & mask).sum(),
        "kl": torch.zeros((), dtype=logp.dtype),
    }
    if ref is not None:
        sums["kl"] = _sum(kl("k3", logp.detach(), ref.detach(), ratio.detach()), mask)
    if objective.beta:
        if ref is None:
            raise ValueError("a KL weight needs the reference's log-probabilities")
        token = token + objective.beta * kl(objective.estimator, logp, ref, ratio)
    return _sum(_weighted(objective, token, mask), mask), {name: value.detach() for name, value in sums.items()}


def kl(estimator: Estimator, logp: Tensor, ref: Tensor, ratio: Tensor) -> Tensor:
    """A per-token estimate of the KL from the policy to the reference, [S, T] (Schulman's k1, k2, k3).

    With x = ref - logp: k1 = -x, k2 = x²/2, k3 = e^x - x - 1. What counts is the gradient each has as a loss term, in
    expectation on-policy: k1 none, k2 the reverse KL's, k3 the *forward* KL's, and k3 times the differentiable ratio the
    reverse KL's again (arXiv 2512.21852).
    """
    x = (ref.detach() - logp).clamp(-LIMIT, LIMIT)
    if estimator == "k1":
        return -x
    if estimator == "k2":
        return x.square() / 2
    k3 = torch.exp(x) - x - 1
    return ratio * k3 if estimator == "k3_ratio" else k3


def importance(objective: Objective, before: Tensor, sampler: Tensor) -> Tensor:
    """[S, T] detached weights exp(before - sampler), capped or dropped; 1 where the sampler's value is not a number."""
    weight = torch.exp((before.detach() - sampler.detach()).clamp(-LIMIT, LIMIT))
    weight = torch.where(sampler.isnan(), torch.ones_like(weight), weight)
    if objective.correction == "truncate":
        return weight.clamp(max=objective.correction_high)
    kept = (weight >= objective.correction_low) & (weight <= objective.correction_high)
    return torch.where(kept, weight, torch.zeros_like(weight))


def _ratio(objective: Objective, logp: Tensor, before: Tensor, mask: Tensor) -> Tensor:
    """[S, T] importance ratios with gradient."""
    step = torch.where(mask, logp - before, 0.0).clamp(-LIMIT, LIMIT)
    if objective.ratio == "token":
        return torch.exp(step)
    mean = step.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.exp(mean).expand_as(step)


def _weighted(objective: Objective, token: Tensor, mask: Tensor) -> Tensor:
    if objective.aggregation != "sequence":
        return token
    return token / mask.sum(dim=1, keepdim=True).clamp(min=1)


def _sum(token: Tensor, mask: Tensor) -> Tensor:
    """The sum over generated tokens; padding may hold anything, infinities too, and must not reach the gradient."""
    return torch.where(mask, token, torch.zeros_like(token)).sum()
