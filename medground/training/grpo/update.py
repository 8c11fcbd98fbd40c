"""The second half of a step: from advantages to parameters.

A group is one forward pass: image and prompt once, all its completions behind them (or a few of them at a time, exactly).
Denominators are known before the first backward pass, so it does not matter how the work is cut. The policy that sampled
is the one being differentiated in the first update of a batch, so no pass computes its log-probabilities again; only
later updates on the same batch need them, and get them before anything moves.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from medground.errors import RecipeError
from medground.protocols import CompletionGroup, Engine, TrainableReasoner
from medground.runs import failpoints
from medground.training.grpo.loss import Objective, denominator, importance, policy_loss
from medground.training.grpo.rollouts import Batch
from medground.training.ranks import evenly

PUBLISHED = {
    "grpo": Objective(),
    "dr_grpo": Objective(aggregation="constant"),
    "dapo": Objective(aggregation="token", epsilon_high=0.28),
    "gspo": Objective(ratio="sequence", epsilon=3e-4, epsilon_high=4e-4),
    "cispo": Objective(cispo=True, aggregation="token", epsilon_high=4.0),
}
"""The losses by their names in a recipe, with the numbers they were published with (cispo: ratios are capped at 5)."""
UNCORRECTED = Objective(correction="truncate", correction_high=math.inf)
"""Importance weights as they are."""
AGGREGATIONS = {
    "sequence_mean": "sequence",
    "token_mean": "token",
    "constant": "constant",
    "sequence_sum": "sequence_sum",
}


def objective_of(settings: dict[str, Any]) -> Objective:
    """The loss of a recipe's ``grpo`` section: a published one, with what the recipe says otherwise.

    >>> from medground.recipe import resolve
    >>> objective_of(resolve({"grpo": {"loss": "dapo", "epsilon": 0.1}}).settings("grpo")).epsilon_high
    0.28
    """
    said: dict[str, Any] = {
        key: settings[key] for key in ("epsilon", "epsilon_high", "dual_clip") if settings[key] is not None
    }
    if settings["aggregation"] != "by_loss":
        said["aggregation"] = AGGREGATIONS[settings["aggregation"]]
    said |= {"beta": settings["beta"], "estimator": settings["kl_estimator"], "correction": settings["correction"]}
    said |= {"correction_low": settings["correction_floor"], "correction_high": settings["correction_cap"]}
    return replace(PUBLISHED[settings["loss"]], max_length=settings["max_completion_length"], **said)


class NotFinite(Exception):
    """A loss or a gradient that is not a finite number; nothing was stepped with it."""


@dataclass(slots=True)
class Sums:
    """What a step's passes add up to."""

    loss: float = 0.0
    updates: int = 0
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    token: dict[str, float] = field(default_factory=dict)
    """Sums over tokens of the first pass over each group: tokens, kl, entropy, clipped_low, clipped_high; and over those
    that the sampler gave a log-probability of: compared, mismatch, weight, corrected."""
    highest_mismatch: float = 0.0
    """The largest difference between the log-probabilities of sampler and trainer for one token."""
    weights: tuple[float, float] = (math.inf, -math.inf)
    """The smallest and the largest importance weight, before it is corrected."""
    trained: int = 0
    """Tokens computed: prompts as often as they are computed (once per forward pass where completions share them, else
    once per completion), and completions."""
    images: int = 0
    """Images encoded in forward passes that are differentiated: as often as prompts."""

    @classmethod
    def of_ranks(cls, parts: "Sequence[Sums]") -> "Sums":
        """The sums over ranks; updates, gradient norm and learning rate are the same on each."""
        found = replace(
            parts[0],
            loss=sum(part.loss for part in parts),
            token={},
            highest_mismatch=max(part.highest_mismatch for part in parts),
            weights=(min(part.weights[0] for part in parts), max(part.weights[1] for part in parts)),
            trained=sum(part.trained for part in parts),
            images=sum(part.images for part in parts),
        )
        for part in parts:
            found.add(**part.token)
        return found

    def add(self, **values: float) -> None:
        """Add to sums over tokens."""
        for name, value in values.items():
            self.token[name] = self.token.get(name, 0.0) + value


class Update:
    """Turns a batch into optimiser updates.

    Args:
        reasoner: makes groups, and holds the reference.
        policy: the module to call, as the engine returned it.
        engine: differentiates and steps.
        settings: the recipe's ``grpo`` section.
    """

    def __init__(
        self, reasoner: TrainableReasoner, policy: nn.Module, engine: Engine, settings: dict[str, Any]
    ) -> None:
        self.reasoner, self.policy, self.engine, self.settings = reasoner, policy, engine, settings
        self.objective = objective_of(settings)

    @property
    def per_step(self) -> int:
        """Optimiser updates per step."""
        return len(self._minis(self.settings["train_batch_size"])) * int(self.settings["num_iterations"])

    def __call__(self, batch: Batch, rate: Callable[[int], float], pause: Callable[[], None]) -> Sums:
        """Do all updates on one batch.

        Args:
            batch: what was sampled.
            rate: the learning rate of the step's u-th update, from 0.
            pause: called while nothing has been changed yet.

        Raises:
            NotFinite: at the first loss or gradient that is not finite, on any rank; updates before it stay done.
        """
        sums = Sums()
        minis = self._minis(len(batch.groups))
        old = self._old(batch, minis[1:] if self.settings["num_iterations"] == 1 else minis)
        for iteration in range(self.settings["num_iterations"]):
            for mini in minis:
                first = sums.updates == 0
                self._accumulate(batch, mini, {} if first else old, sums, iteration == 0, pause if first else _go_on)
                sums.learning_rate = rate(sums.updates)
                norm = self.engine.step(sums.learning_rate)
                sums.updates += 1
                if not math.isfinite(norm):
                    raise NotFinite(f"the gradient norm is {norm}")
                sums.grad_norm += norm
        return Sums.of_ranks(self.engine.gather(sums)) if self.engine.world_size > 1 else sums

    def _minis(self, count: int) -> list[range]:
        size = self.settings["mini_batch_size"]
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def _accumulate(
        self,
        batch: Batch,
        mini: Sequence[int],
        old: dict[tuple[int, int], Tensor],
        sums: Sums,
        count: bool,
        pause: Callable[[], None],
    ) -> None:
        """Gradients of one mini-batch; `count` says whether its tokens enter the metrics."""
        below = self._denominator(batch, mini)
        for found in self._parts(batch, mini):
            pause()
            if found is None:
                loss = self._company(batch)
            else:
                place, start, part = found
                loss = self._part_loss(batch, place, start, part, old.get((place, start)), sums, count) / below
            total = self.engine.all_reduce({"loss": float(loss.detach())})["loss"]
            if not math.isfinite(total):
                self.engine.discard()
                raise NotFinite(f"the loss is {total}")
            self.engine.backward(loss)
            failpoints.failpoint("update.mid")
            sums.loss += float(loss.detach())

    def _company(self, batch: Batch) -> Tensor:
        """A loss of zero, from the passes of one token: for ranks that have fewer groups than others."""
        part = self.reasoner.group(batch.spare, [self.reasoner.tokenize("")])
        logp: Tensor = self.policy(part, 1.0)[0]
        if self.objective.beta:
            with self.reasoner.reference() as reference, torch.no_grad():
                reference(part, 1.0)
        return 0.0 * logp.sum()

    def _part_loss(
        self, batch: Batch, place: int, start: int, part: CompletionGroup, old: Tensor | None, sums: Sums, count: bool
    ) -> Tensor:
        rows = slice(start, start + len(part.mask))
        temperature = self.settings["temperature"]
        logp, entropy = self.policy(part, temperature)
        mask = part.mask & self._kept(batch, place)[rows].to(part.mask.device).unsqueeze(1)
        ref = None
        if self.objective.beta:
            with self.reasoner.reference() as reference, torch.no_grad():
                ref = reference(part, temperature)[0]
        advantage = batch.advantages[place, rows].to(logp.device)
        sampler = _said(batch, place, rows, part.mask).to(logp.device)
        loss, found = policy_loss(self.objective, logp, advantage, mask, old=old, sampler=sampler, ref=ref)
        sums.trained += sum(part.prompt_lengths) + int(part.mask.sum())
        sums.images += len(part.prompt_lengths)
        if count:
            sums.add(**{name: float(value) for name, value in found.items()})
            sums.add(entropy=float(torch.where(mask, entropy, 0.0).sum()))
            _compare(self.objective, logp.detach() if old is None else old, sampler, part.mask, sums)
        return loss

    @torch.no_grad()
    def _old(self, batch: Batch, minis: Sequence[range]) -> dict[tuple[int, int], Tensor]:
        """Log-probabilities under the policy that sampled, for every group that a later update than the first sees."""
        old = {}
        for mini in minis:
            for found in self._parts(batch, mini):
                if found is None:
                    self.policy(self.reasoner.group(batch.spare, [self.reasoner.tokenize("")]), 1.0)
                else:
                    place, start, part = found
                    old[place, start] = self.policy(part, self.settings["temperature"])[0]
        return old

    def _parts(self, batch: Batch, mini: Sequence[int]) -> Iterator[tuple[int, int, CompletionGroup] | None]:
        """This rank's forward passes of a mini-batch: (which group, its first completion, the completions); None for those
        that only keep other ranks company."""
        size = self.settings["micro_batch_size"] or self.settings["num_generations"]
        plan = [
            (place, start)
            for place in mini
            if self._teaches(batch, place)
            for start in range(0, len(batch.groups[place].rollouts), size)
        ]
        group: CompletionGroup | None = None
        for found in evenly(self.engine, plan):
            if found is None:
                yield None
                continue
            place, start = found
            if group is None or start == 0:
                group = self._group(batch, place)
            yield place, start, group.part(start, start + size)

    def _teaches(self, batch: Batch, place: int) -> bool:
        """Whether a group is this rank's and has a gradient that is not exactly zero."""
        if batch.messages[place] is None or not batch.usable[place]:
            return False
        if bool(batch.constant[place]) and not self.objective.beta:
            return False
        return bool(self._kept(batch, place).any())

    def _group(self, batch: Batch, place: int) -> CompletionGroup:
        messages = batch.messages[place]
        assert messages is not None
        group = self.reasoner.group(messages, [rollout.completion for rollout in batch.groups[place].rollouts])
        self._check_prompt(max(group.prompt_lengths), batch.groups[place].sample.query.id)
        return group

    def _check_prompt(self, length: int, name: str) -> None:
        most = self.settings["max_prompt_length"]
        if length > most:
            raise RecipeError(
                f"the prompt of sample {name!r} takes {length} tokens, more than grpo.max_prompt_length={most}",
                hint="raise it, or set reasoner.max_pixels",
            )

    def _denominator(self, batch: Batch, mini: Sequence[int]) -> float:
        """Z over the mini-batch, other ranks' groups included; those that are skipped because they teach nothing stay in it."""
        total = 0.0
        for place in mini:
            if batch.usable[place]:
                lengths = torch.tensor([_length(rollout.completion) for rollout in batch.groups[place].rollouts])
                lengths = torch.where(self._kept(batch, place), lengths, 0)
                mask = torch.arange(max(1, int(lengths.max()))) < lengths.unsqueeze(1)
                total += denominator(self.objective, mask)
        return max(1.0, total)

    def _kept(self, batch: Batch, place: int) -> Tensor:
        """[G] bool: completions in the loss; with ``mask_truncated`` those that ran out of room are not."""
        masked = self.settings["mask_truncated"]
        reasons = [rollout.completion.finish_reason for rollout in batch.groups[place].rollouts]
        return torch.tensor([not masked or reason == "stop" for reason in reasons])


def _said(batch: Batch, place: int, rows: slice, mask: Tensor) -> Tensor:
    """[G, T] float32 log-probabilities as the sampler gave them; NaN where it gave none."""
    said = torch.full(mask.shape, math.nan)
    for row, rollout in enumerate(batch.groups[place].rollouts[rows]):
        if rollout.completion.logprobs is not None:
            said[row, : len(rollout.completion.logprobs)] = torch.from_numpy(rollout.completion.logprobs)
    return said


def _compare(objective: Objective, before: Tensor, sampler: Tensor, mask: Tensor, sums: Sums) -> None:
    """How far the sampler's log-probabilities are from the trainer's for the same tokens."""
    both = mask & ~sampler.isnan()
    if not bool(both.any()):
        return
    difference = (before[both].double() - sampler[both].double()).abs()
    raw = importance(UNCORRECTED, before, sampler)[both].double()
    used = raw if objective.correction == "none" else importance(objective, before, sampler)[both].double()
    sums.add(mismatch=float(difference.sum()), compared=len(difference))
    sums.add(weight=float(raw.sum()), corrected=float((used != raw).sum()))
    sums.highest_mismatch = max(sums.highest_mismatch, float(difference.max()))
    sums.weights = (min(sums.weights[0], float(raw.min())), max(sums.weights[1], float(raw.max())))


def _length(completion: Any) -> int:
    return 0 if completion.token_ids is None else len(completion.token_ids)


def _go_on() -> None:
    """No pause: something has been changed already."""
