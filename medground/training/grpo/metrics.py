"""The records of a step: metrics under the names that dashboards of TRL know, the completions table, incidents."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from medground.evaluation.causes import is_empty
from medground.evaluation.pictures import ranked
from medground.images.overlay import draw_rollout
from medground.pipeline.rollouts import Group
from medground.protocols import CompletionGroup
from medground.rewards.rubric import Score, failure_counts
from medground.runs.folder import completion_row
from medground.training.grpo.advantage import shares
from medground.training.grpo.batch import Batch
from medground.types import Rollout

MISMATCH = "sampling/sampling_logp_difference/mean"
NOT_FINITE = ("nan", "infinite")
"""Kinds of reward failures that are numbers gone wrong, see `medground.rubric`."""


@dataclass(slots=True)
class StepStats:
    """The sums over the forward passes of a step; those over tokens are of the first pass over each group."""

    loss: float = 0.0
    updates: int = 0
    grad_norm: float = 0.0
    """Summed over updates."""
    learning_rate: float = 0.0
    """Of the last update."""
    tokens: float = 0.0
    """Tokens in the loss."""
    kl: float = 0.0
    entropy: float = 0.0
    clipped_low: float = 0.0
    clipped_high: float = 0.0
    compared: float = 0.0
    """Generated tokens with a log-probability of the sampler."""
    mismatch: float = 0.0
    """Absolute differences between the log-probabilities of sampler and trainer, over compared tokens."""
    weight: float = 0.0
    """Importance weights before correction, over compared tokens."""
    corrected: float = 0.0
    """Compared tokens whose weight was capped or dropped."""
    highest_mismatch: float = 0.0
    """The largest difference for one token."""
    lowest_weight: float = math.inf
    highest_weight: float = -math.inf
    tokens_computed: int = 0
    """Prompts as often as they are computed (once per forward pass where completions share them, else once per
    completion), and completions."""
    tokens_per_question: int = 0
    """The same if each question's prompt were computed whole, its image with it."""
    tokens_per_completion: int = 0
    """The same if each completion were computed with a prompt and an image of its own."""
    prompts: int = 0
    """Prompts in forward passes that are differentiated."""
    images: int = 0
    """Images encoded in these passes."""

    def add(self, **sums: float) -> None:
        """Add to sums."""
        for name, value in sums.items():
            setattr(self, name, getattr(self, name) + value)

    def count(self, completions: CompletionGroup) -> None:
        """Count the tokens and images of a forward pass, and what they would be if nothing were shared."""
        prompts, generated = completions.prompt_lengths, int(completions.mask.sum())
        whole = getattr(completions, "whole_prompt_lengths", prompts)
        self.tokens_computed += sum(prompts) + generated
        self.tokens_per_question += (sum(whole) if prompts else 0) + generated
        self.tokens_per_completion += sum(whole) * (len(completions.mask) // max(1, len(whole))) + generated
        self.prompts += len(prompts)
        self.images += getattr(completions, "images", len(prompts))

    @classmethod
    def of_ranks(cls, ranks: "Sequence[StepStats]") -> "StepStats":
        """Return the sums over ranks; updates, gradient norm and learning rate are the same on each."""
        total = replace(
            ranks[0],
            highest_mismatch=max(stats.highest_mismatch for stats in ranks),
            lowest_weight=min(stats.lowest_weight for stats in ranks),
            highest_weight=max(stats.highest_weight for stats in ranks),
        )
        for stats in ranks[1:]:
            total.add(**{name: getattr(stats, name) for name in SUMMED})
        return total


SUMMED = (
    "loss", "tokens", "kl", "entropy", "clipped_low", "clipped_high", "compared", "mismatch", "weight", "corrected",
    "tokens_computed", "tokens_per_question", "tokens_per_completion", "prompts", "images",
)  # fmt: skip
"""The fields of `StepStats` that ranks add up."""


def batch_metrics(batch: Batch, labels: Sequence[str]) -> dict[str, float]:
    """Return the metrics of sampling and scoring."""
    rollouts = [rollout for group in batch.groups for rollout in group.rollouts]
    scores = [score for group in batch.groups for score in group.scores]
    usable = batch.rewards[torch.tensor(batch.usable)]
    metrics = {
        "reward": _mean(usable.flatten()),
        "reward_std": _mean(usable.std(dim=1)) if len(usable) else float("nan"),
        "frac_reward_zero_std": batch.unresampled / len(batch.groups),
        "frac_groups_left_out": 1 - len(usable) / len(batch.groups),
        "resampled_groups": float(batch.drawn - len(batch.groups)),
        **_lengths(rollouts),
        "completions/count": float(len(rollouts)),
        **_masks(rollouts),
        "completions/grounded_ratio": sum(_fault(rollout) is None for rollout in rollouts) / len(rollouts),
        "completions/abstained_ratio": sum(rollout.grounding.abstains for rollout in rollouts) / len(rollouts),
    }
    for label in labels:
        values = [score.terms[label].value for score in scores if label in score.terms]
        due = [score for score in scores if label in score.terms or not score.terms]
        given = torch.tensor([value for value in values if value is not None], dtype=torch.float64)
        metrics[f"reward/{label}/mean"] = _mean(given)
        metrics[f"reward/{label}/std"] = float(given.std()) if len(given) > 1 else 0.0
        metrics[f"reward/{label}/abstained_ratio"] = 1 - len(given) / len(due) if due else 1.0
    for label, share in shares(batch.advantages, batch.contributions).items():
        metrics[f"reward/{label}/advantage_share"] = share
    for rollout in rollouts:
        if fault := _fault(rollout):
            metrics[f"faults/{fault}"] = metrics.get(f"faults/{fault}", 0.0) + 1
    metrics |= _exchanges(batch)
    return metrics | {f"failures/{kind}": float(count) for kind, count in sorted(failure_counts(scores).items())}


def _exchanges(batch: Batch) -> dict[str, float]:
    """Return the metrics of both exchanges apart, and the slice's error in mm; nothing of questions about images."""
    rows = [
        (row, score)
        for group in batch.groups
        for row, score in zip(group.details, group.scores if group.details else [], strict=True)
    ]
    first = [row for row, _ in rows if row["exchange"] == "slice"]
    if not first:
        return {}
    distances = [row for row in first if row["slice_error_mm"] is not None]
    metrics = {
        "slice/named_ratio": sum(row["slice"] is not None for row in first) / len(first),
        "slice/measured": float(len(distances)),
        "slice/error_mm": _average([row["slice_error_mm"] for row in distances]),
        "slice/off_mm": _average([row["slice_off_mm"] for row in distances]),
        "slice/second_exchanges": float(len(batch.groups) - batch.drawn),
    }
    for exchange in ("slice", "answer"):
        totals = [score.total for row, score in rows if row["exchange"] == exchange and score.total is not None]
        metrics[f"{exchange}/reward"] = _average(totals)
    return metrics


def update_metrics(stats: StepStats, *, kl: bool) -> dict[str, float]:
    """Return the metrics of the policy; means over all tokens in the loss."""
    tokens, updates = max(1.0, stats.tokens), max(1, stats.updates)
    low, high = stats.clipped_low / tokens, stats.clipped_high / tokens
    metrics = {
        "loss": stats.loss / updates,
        "grad_norm": stats.grad_norm / updates,
        "learning_rate": stats.learning_rate,
        "entropy": stats.entropy / tokens,
        "clip_ratio/low_mean": low,
        "clip_ratio/high_mean": high,
        "clip_ratio/region_mean": low + high,
        "images_trained": float(stats.images),
        "prompts_trained": float(stats.prompts),
        "tokens_trained/computed": float(stats.tokens_computed),
        "tokens_trained/image_per_question": float(stats.tokens_per_question),
        "tokens_trained/prompt_per_completion": float(stats.tokens_per_completion),
    }
    if kl:
        metrics["kl"] = stats.kl / tokens
    if stats.compared:
        metrics[MISMATCH] = stats.mismatch / stats.compared
        metrics["sampling/sampling_logp_difference/max"] = stats.highest_mismatch
        metrics["sampling/importance_sampling_ratio/min"] = stats.lowest_weight
        metrics["sampling/importance_sampling_ratio/mean"] = stats.weight / stats.compared
        metrics["sampling/importance_sampling_ratio/max"] = stats.highest_weight
        metrics["sampling/corrected_ratio"] = stats.corrected / stats.compared
    return metrics


def completion_rows(batch: Batch) -> list[dict[str, Any]]:
    """Return the completions table: one row per completion."""
    return [
        _row(group, index, rollout, score, float(advantage))
        for group, advantages in zip(batch.groups, batch.advantages, strict=True)
        for index, (rollout, score, advantage) in enumerate(zip(group.rollouts, group.scores, advantages, strict=True))
    ]


def pictures(batch: Batch) -> list[tuple[str, Callable[[], Any]]]:
    """Return the completions of this rank with the highest, the median and the lowest reward, and what draws each."""
    own = [group for group, messages in zip(batch.groups, batch.messages, strict=True) if messages is not None]
    rollouts = {_name(group, index): rollout for group in own for index, rollout in enumerate(group.rollouts)}
    totals = {_name(group, index): score.total for group in own for index, score in enumerate(group.scores)}
    rewards = {name: total for name, total in totals.items() if total is not None}
    drawn = list(ranked(rewards).extremes().values()) or list(rollouts)[:1]
    return [(name, partial(draw_rollout, rollouts[name])) for name in drawn]


def incident(batch: Batch, skipped: str | None) -> Mapping[str, Any] | None:
    """Return the batch if its step was skipped or a reward was not a finite number; token ids make it repeatable."""
    not_finite = any(
        failure.kind in NOT_FINITE for group in batch.groups for score in group.scores for failure in score.failures
    )
    if skipped is None and not not_finite:
        return None
    ids = [rollout.completion.token_ids for group in batch.groups for rollout in group.rollouts]
    rows = zip(completion_rows(batch), ids, strict=True)
    return {"completions": [{**row, "token_ids": token_ids} for row, token_ids in rows]}


def _row(group: Group, index: int, rollout: Rollout, score: Score, advantage: float) -> dict[str, Any]:
    return {
        "name": _name(group, index),
        **completion_row(rollout),
        **(group.details[index] if group.details else {}),
        **{f"reward/{label}": term.value for label, term in score.terms.items()},
        "reward": score.total,
        "failures": "; ".join(failure.cause for failure in score.failures) or None,
        "advantage": advantage,
    }


def _name(group: Group, index: int) -> str:
    return f"{group.sample.query.id}#{index}"


def _fault(rollout: Rollout) -> str | None:
    fault = rollout.fault or rollout.grounding.fault
    return None if fault is None else fault.value


def _lengths(rollouts: Sequence[Rollout]) -> dict[str, float]:
    completions = [rollout.completion for rollout in rollouts]
    lengths = [0 if completion.token_ids is None else len(completion.token_ids) for completion in completions]
    ended = [
        length for length, completion in zip(lengths, completions, strict=True) if completion.finish_reason == "stop"
    ]
    return {
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": 1 - len(ended) / len(lengths),
        "completions/mean_terminated_length": sum(ended) / len(ended) if ended else 0.0,
    }


def _masks(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Return the counts of masks, of masks without a pixel and, apart from these, of what the segmenter says is absent.

    Nothing if no reward needs masks.
    """
    masks = [mask for rollout in rollouts if (mask := rollout.grounding.mask) is not None]
    if not masks:
        return {}
    absent = float(sum(mask.absent for mask in masks))
    return {"masks/count": float(len(masks)), "masks/empty": float(sum(map(is_empty, masks))), "masks/absent": absent}


def _average(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else float("nan")
