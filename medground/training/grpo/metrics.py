"""What a step says about itself: metrics under the names dashboards of TRL know, and the completions table."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medground.evaluation.causes import is_empty
from medground.images.overlay import draw_rollout
from medground.pipeline.pipeline import Group
from medground.rewards.rubric import Score, failure_counts
from medground.runs.folder import completion_row
from medground.training.grpo.rollouts import Batch
from medground.training.grpo.update import Sums
from medground.types import Rollout

MISMATCH = "sampling/sampling_logp_difference/mean"
DRAWN = 4
"""Completions a step may show as pictures."""


def of_batch(batch: Batch, labels: Sequence[str]) -> dict[str, float]:
    """What was sampled, and how it was scored."""
    rollouts = [rollout for group in batch.groups for rollout in group.rollouts]
    scores = [score for group in batch.groups for score in group.scores]
    usable = batch.rewards[torch.tensor(batch.usable)]
    found = {
        "reward": _mean(usable.flatten()),
        "reward_std": _mean(usable.std(dim=1)) if len(usable) else float("nan"),
        "frac_reward_zero_std": batch.unresampled / len(batch.groups),
        "frac_groups_left_out": 1 - len(usable) / len(batch.groups),
        "resampled_groups": float(batch.drawn - len(batch.groups)),
        **_lengths(rollouts),
        "completions/count": float(len(rollouts)),
        **_masks(rollouts),
        "completions/grounded_ratio": sum(_fault(each) is None for each in rollouts) / len(rollouts),
    }
    for label in labels:
        values = [score.terms[label].value for score in scores if label in score.terms]
        said = torch.tensor([value for value in values if value is not None], dtype=torch.float64)
        found[f"reward/{label}/mean"] = _mean(said)
        found[f"reward/{label}/std"] = float(said.std()) if len(said) > 1 else 0.0
        found[f"reward/{label}/abstained_ratio"] = 1 - len(said) / len(scores)
    for rollout in rollouts:
        if fault := _fault(rollout):
            found[f"faults/{fault}"] = found.get(f"faults/{fault}", 0.0) + 1
    return found | {f"failures/{kind}": float(count) for kind, count in sorted(failure_counts(scores).items())}


def of_update(sums: Sums, *, kl: bool) -> dict[str, float]:
    """What the policy did; means over all generated tokens of the groups that were trained on."""
    token = sums.token
    tokens = max(1.0, token.get("tokens", 0.0))
    low, high = token.get("clipped_low", 0.0) / tokens, token.get("clipped_high", 0.0) / tokens
    found = {
        "loss": sums.loss / max(1, sums.updates),
        "grad_norm": sums.grad_norm / max(1, sums.updates),
        "learning_rate": sums.learning_rate,
        "entropy": token.get("entropy", 0.0) / tokens,
        "clip_ratio/low_mean": low,
        "clip_ratio/high_mean": high,
        "clip_ratio/region_mean": low + high,
        "images_trained": float(sums.images),
    }
    if kl:
        found["kl"] = token.get("kl", 0.0) / tokens
    if token.get("compared"):
        found[MISMATCH] = token["mismatch"] / token["compared"]
        found["sampling/sampling_logp_difference/max"] = sums.highest_mismatch
        found["sampling/importance_sampling_ratio/min"] = sums.weights[0]
        found["sampling/importance_sampling_ratio/mean"] = token["weight"] / token["compared"]
        found["sampling/importance_sampling_ratio/max"] = sums.weights[1]
        found["sampling/corrected_ratio"] = token["corrected"] / token["compared"]
    return found


def table(batch: Batch) -> list[dict[str, Any]]:
    """One row per completion."""
    return [
        _row(group, index, rollout, score, float(advantage))
        for group, line in zip(batch.groups, batch.advantages, strict=True)
        for index, (rollout, score, advantage) in enumerate(zip(group.rollouts, group.scores, line, strict=True))
    ]


def pictures(batch: Batch) -> list[tuple[str, Callable[[], Any]]]:
    """The best completion of each of this rank's first groups, drawn beside the truth when called."""
    found: list[tuple[str, Callable[[], Any]]] = []
    seen = [place for place, messages in enumerate(batch.messages) if messages is not None]
    for place in seen[:DRAWN]:
        group, line = batch.groups[place], batch.rewards[place]
        best = int(torch.nan_to_num(line, nan=-torch.inf).argmax())
        found.append((_name(group, best), partial(draw_rollout, group.rollouts[best])))
    return found


def _row(group: Group, index: int, rollout: Rollout, score: Score, advantage: float) -> dict[str, Any]:
    return {
        "name": _name(group, index),
        **completion_row(rollout),
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
    lengths = [0 if each.completion.token_ids is None else len(each.completion.token_ids) for each in rollouts]
    ended = [length for length, each in zip(lengths, rollouts, strict=True) if each.completion.finish_reason == "stop"]
    return {
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": 1 - len(ended) / len(lengths),
        "completions/mean_terminated_length": sum(ended) / len(ended) if ended else 0.0,
    }


def _masks(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """How many masks were made, and how many of them have no pixel; nothing where no term needs masks."""
    masks = [each.mask for each in rollouts if each.mask is not None]
    return {"masks/count": float(len(masks)), "masks/empty": float(sum(map(is_empty, masks)))} if masks else {}


def _mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else float("nan")
