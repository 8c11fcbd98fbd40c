"""The loss of a step: a sum over tokens, divided by a normalizer.

Every loss is ``sum(per-token terms) / Z`` with Z known before the first micro-batch, over all micro-batches and ranks of
the optimizer step. So the sums of micro-batches add up to the loss of the whole, however the step is cut.

Shapes: S sequences of at most T completion tokens; ``logps``, ``old_logps``, ``sampler_logps``, ``ref_logps`` [S, T]
log-probabilities in float32; ``mask`` [S, T] bool, true for generated tokens up to and including the end token;
``advantages`` [S].
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from medground.recipe.schema import Aggregation as RecipeAggregation
from medground.recipe.schema import GrpoConfig, GrpoLoss, KlEstimator, SamplerCorrection

Ratio = Literal["token", "sequence"]
Aggregation = Literal["sequence", "token", "constant", "sequence_sum"]
SAPO_POSITIVE, SAPO_NEGATIVE = 1.0, 1.05
"""SAPO's temperatures for positive advantages and for the others."""
LIMIT = 20.0
"""Differences of log-probabilities are clamped to this before they are exponentiated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss: the choices the literature names, one field each.

    grpo is ``sequence`` aggregation of the token ratio; dr_grpo ``constant``; dapo ``token`` with ``epsilon_high``
    0.28; gspo the ``sequence`` ratio with epsilons of 3e-4 and 4e-4; cispo sets ``cispo``, sapo ``sapo``.
    """

    ratio: Ratio = "token"
    """The importance ratio of a token: its own, or its sequence's geometric mean (GSPO, arXiv 2507.18071)."""
    sapo: bool = False
    """Weaken ratios away from 1 by a smooth gate instead of clipping them, see `soft_gate`."""
    cispo: bool = False
    """Weight log-probabilities by the capped, detached ratio instead of clipping (CISPO, arXiv 2506.13585)."""
    epsilon: float = 0.2
    """Clip below at 1 - epsilon."""
    epsilon_high: float | None = None
    """Clip above at 1 + epsilon_high; epsilon if None (clip-higher, DAPO, arXiv 2503.14476)."""
    dual_clip: float | None = None
    """For negative advantages the loss is at most this times -A (dual-clip PPO, arXiv 1912.09729)."""
    aggregation: Aggregation = "sequence"
    """The unit of the mean: sequences of token means, tokens, tokens over a constant length, or sequence sums."""
    max_length: int | None = None
    """The constant length of ``constant`` aggregation, tokens (Dr. GRPO)."""
    beta: float = 0.0
    """Weight of the KL term; 0 needs no reference."""
    estimator: KlEstimator = KlEstimator.k3_ratio
    """The per-token estimator of the KL to the reference, see `kl`."""
    entropy_bonus: float = 0.0
    """Weight c of the entropy H that is subtracted from the loss of each token (A3C, arXiv 1602.01783, section 4)."""
    correction: SamplerCorrection = SamplerCorrection.none
    """The use of the importance weights of a sampler that is not the trainer: capped, or their tokens dropped."""
    correction_low: float = 0.0
    """Weights below are dropped by ``mask``."""
    correction_high: float = 2.0
    """Weights above are capped by ``truncate`` and dropped by ``mask``."""

    @property
    def high(self) -> float:
        """The upper clip distance in force."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high


PUBLISHED = {
    GrpoLoss.grpo: Objective(),
    GrpoLoss.dr_grpo: Objective(aggregation="constant"),
    GrpoLoss.dapo: Objective(aggregation="token", epsilon_high=0.28),
    GrpoLoss.gspo: Objective(ratio="sequence", epsilon=3e-4, epsilon_high=4e-4),
    GrpoLoss.cispo: Objective(cispo=True, aggregation="token", epsilon_high=4.0),
    GrpoLoss.sapo: Objective(sapo=True),
}
"""The losses by their names in a recipe, with the numbers they were published with (cispo: ratios are capped at 5)."""
AGGREGATIONS: dict[RecipeAggregation, Aggregation] = {
    RecipeAggregation.sequence_mean: "sequence",
    RecipeAggregation.token_mean: "token",
    RecipeAggregation.constant: "constant",
    RecipeAggregation.sequence_sum: "sequence_sum",
}
UNCORRECTED = Objective(correction=SamplerCorrection.truncate, correction_high=math.inf)
"""Leaves importance weights as they are."""


def objective_of(config: GrpoConfig) -> Objective:
    """Return the loss of a recipe's ``grpo`` section: a published one, with the recipe's own numbers over it.

    >>> objective_of(GrpoConfig(loss=GrpoLoss.dapo, epsilon=0.1)).epsilon_high
    0.28
    """
    published = PUBLISHED[config.loss]
    return replace(
        published,
        epsilon=published.epsilon if config.epsilon is None else config.epsilon,
        epsilon_high=published.epsilon_high if config.epsilon_high is None else config.epsilon_high,
        dual_clip=config.dual_clip,
        aggregation=AGGREGATIONS.get(config.aggregation, published.aggregation),
        max_length=config.max_completion_length,
        beta=config.beta,
        estimator=config.kl_estimator,
        entropy_bonus=config.entropy_bonus,
        correction=config.correction,
        correction_low=config.correction_floor,
        correction_high=config.correction_cap,
    )


def normalizer(objective: Objective, mask: Tensor) -> float:
    """Return Z of these sequences; add it up over micro-batches and ranks before the first backward pass.

    Sequences without a token, for example masked overlong ones, do not count.
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
    logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    old_logps: Tensor | None = None,
    sampler_logps: Tensor | None = None,
    ref_logps: Tensor | None = None,
    entropies: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the summed loss of some sequences, to be divided by the step's `normalizer`, and sums to log.

    Args:
        objective: the loss.
        logps: [S, T] with gradient.
        advantages: [S], constants.
        mask: [S, T] bool.
        old_logps: of the policy that the clip is measured from; the detached `logps` if None, which is exact for the
            first optimizer step on a batch.
        sampler_logps: as the sampler gave them, where it is another implementation than the trainer.
        ref_logps: of the reference; needed if ``objective.beta`` is not 0.
        entropies: [S, T] of the policy at each token, with gradient; needed if ``objective.entropy_bonus`` is not 0.

    Returns:
        The scalar sum, and detached sums over tokens: ``kl``, ``clipped_low``, ``clipped_high``, ``tokens``.
    """
    old_logps = logps.detach() if old_logps is None else old_logps.detach()
    ratio = _ratio(objective, logps, old_logps, mask)
    gain = advantages.detach().to(logps.dtype).unsqueeze(1)
    if objective.sapo:
        token = -soft_gate(ratio, gain) * gain
    elif objective.cispo:
        capped = ratio.detach().clamp(max=1 + objective.high)
        token = -capped * gain * logps
    else:
        clipped = ratio.clamp(1 - objective.epsilon, 1 + objective.high)
        token = -torch.minimum(ratio * gain, clipped * gain)
        if objective.dual_clip is not None:
            token = torch.where(gain < 0, torch.minimum(token, -objective.dual_clip * gain), token)
    if sampler_logps is not None and objective.correction != "none":
        token = token * importance(objective, old_logps, sampler_logps)
    sums = {
        "tokens": mask.sum(),
        "clipped_low": _clipped(objective, (ratio < 1 - objective.epsilon) & (gain < 0) & mask),
        "clipped_high": _clipped(objective, (ratio > 1 + objective.high) & (gain > 0) & mask),
        "kl": torch.zeros((), dtype=logps.dtype),
    }
    if ref_logps is not None:
        sums["kl"] = _sum(kl(KlEstimator.k3, logps.detach(), ref_logps.detach(), ratio.detach()), mask)
    if objective.beta:
        if ref_logps is None:
            raise ValueError("beta is not 0 and ref_logps is missing")
        token = token + objective.beta * kl(objective.estimator, logps, ref_logps, ratio)
    if objective.entropy_bonus:
        if entropies is None:
            raise ValueError("entropy_bonus is not 0 and entropies is missing")
        token = token - objective.entropy_bonus * entropies
    return _sum(_weighted(objective, token, mask), mask), {name: value.detach() for name, value in sums.items()}


def soft_gate(ratio: Tensor, gain: Tensor) -> Tensor:
    """Return SAPO's gate of each ratio, f(r) = 4/t * sigmoid(t * (r - 1)) (arXiv 2511.20347, equation 6).

    Its slope is 1 at r = 1 and falls off smoothly to both sides: faster, with t = 1.05, where the advantage is not
    positive, and with t = 1 elsewhere, the published temperatures.
    """
    temperature = torch.where(gain > 0, torch.full_like(gain, SAPO_POSITIVE), SAPO_NEGATIVE)
    return torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature


def kl(estimator: KlEstimator, logps: Tensor, ref_logps: Tensor, ratio: Tensor) -> Tensor:
    """Return per-token estimates of the KL from the policy to the reference, [S, T] (Schulman's k1, k2, k3).

    With x = ref_logps - logps: k1 = -x, k2 = x²/2, k3 = e^x - x - 1. What counts is the gradient each has as a loss term, in
    expectation on-policy: k1 none, k2 the reverse KL's, k3 the *forward* KL's, and k3 times the differentiable ratio the
    reverse KL's again (arXiv 2512.21852).
    """
    x = (ref_logps.detach() - logps).clamp(-LIMIT, LIMIT)
    if estimator == "k1":
        return -x
    if estimator == "k2":
        return x.square() / 2
    k3 = torch.exp(x) - x - 1
    return ratio * k3 if estimator == "k3_ratio" else k3


def importance(objective: Objective, old_logps: Tensor, sampler_logps: Tensor) -> Tensor:
    """Return [S, T] detached weights exp(old_logps - sampler_logps), capped or dropped; 1 where the sampler gave NaN."""
    weight = torch.exp((old_logps.detach() - sampler_logps.detach()).clamp(-LIMIT, LIMIT))
    weight = torch.where(sampler_logps.isnan(), torch.ones_like(weight), weight)
    if objective.correction == "truncate":
        return weight.clamp(max=objective.correction_high)
    within = (weight >= objective.correction_low) & (weight <= objective.correction_high)
    return torch.where(within, weight, torch.zeros_like(weight))


def _ratio(objective: Objective, logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """Return [S, T] importance ratios with gradient."""
    step = torch.where(mask, logps - old_logps, 0.0).clamp(-LIMIT, LIMIT)
    if objective.ratio == "token":
        return torch.exp(step)
    mean = step.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.exp(mean).expand_as(step)


def _clipped(objective: Objective, beyond: Tensor) -> Tensor:
    """Return the number of tokens that were clipped; none by a loss that does not clip."""
    return torch.zeros_like(beyond).sum() if objective.sapo else beyond.sum()


def _weighted(objective: Objective, token: Tensor, mask: Tensor) -> Tensor:
    if objective.aggregation != "sequence":
        return token
    return token / mask.sum(dim=1, keepdim=True).clamp(min=1)


def _sum(token: Tensor, mask: Tensor) -> Tensor:
    """Return the sum over generated tokens; padding may hold anything, infinities too, and must not reach the gradient."""
    return torch.where(mask, token, torch.zeros_like(token)).sum()
