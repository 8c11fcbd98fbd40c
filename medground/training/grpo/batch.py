"""The completions of a step, cut into optimizer updates and forward passes.

A batch holds the groups of all ranks; its mini-batches are one optimizer update each, and their micro-batches one forward
pass of this rank each. Normalizers are known before the first backward pass, so it does not matter how the work is cut.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from medground.pipeline.rollouts import Group
from medground.recipe.schema import GrpoConfig
from medground.training.grpo.loss import Objective, normalizer
from medground.training.schedule import by_image
from medground.types import Completion, Messages


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MicroBatch:
    """S completions of one query, computed together; T tokens of the longest. Tensors are on the CPU."""

    group: int
    """Index of the group in the batch."""
    rows: slice
    """The S completions among the G of the group."""
    messages: Messages
    """The conversation."""
    advantages: Tensor
    """[S] float64."""
    loss_mask: Tensor
    """[S, T] bool: tokens in the loss."""
    sampler_logps: Tensor
    """[S, T] float32; NaN where the sampler gave none."""
    old_logps: Tensor | None = None
    """[S, T] under the policy that sampled, on its device; None while that is still the current policy."""
    ref_logps: Tensor | None = None
    """[S, T] under the reference, on its device; None without a KL term."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Minibatch:
    """One optimizer update."""

    micro_batches: Sequence[MicroBatch]
    """Of this rank, groups about one image one after the other; those whose gradient is exactly zero are left out."""
    normalizer: float
    """The divisor of the summed loss: over the groups of all ranks, those left out included."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """One step's groups: N of G completions each."""

    groups: list[Group]
    """Those of other ranks with a single pixel for each image and mask."""
    images: list[int]
    """[N] equal numbers for groups about one image."""
    questions: list[int]
    """[N] the position in the step of the question that a group is about, from 0."""
    messages: list[Messages | None]
    """None for groups owned by other ranks; each rank runs the forward passes of its own groups."""
    dummy_prompt: Messages
    """A conversation for forward passes that only keep ranks in lockstep."""
    usable: list[bool]
    """[N]; a group with a member that has no score is not used at all."""
    rewards: Tensor
    """[N, G] float64 on the CPU; NaN throughout an unusable group."""
    advantages: Tensor
    """[N, G] float64."""
    contributions: Mapping[str, Tensor]
    """Label of a weighted term -> [N, G] what it adds to the advantages."""
    constant: Tensor
    """[N] bool: groups without a signal, unusable ones among them."""
    drawn: int
    """Samples taken from the stream, replaced ones included."""
    unresampled: int
    """Usable constant groups of the first draw."""

    def minibatches(self, config: GrpoConfig, objective: Objective) -> list[Minibatch]:
        """Return the optimizer updates of one pass over the batch: of so many questions each, with all their groups."""
        updates: dict[int, list[int]] = {}
        for index, question in enumerate(self.questions):
            updates.setdefault(question // config.mini_batch_size, []).append(index)
        return [self._minibatch(indices, config, objective) for indices in updates.values()]

    def _minibatch(self, indices: Sequence[int], config: GrpoConfig, objective: Objective) -> Minibatch:
        masks = {index: self._loss_mask(index, config) for index in indices if self.usable[index]}
        return Minibatch(
            micro_batches=[
                micro
                for index in chain(*by_image(masks, self.images))
                if self._has_signal(index, masks[index], objective)
                for micro in self._micro_batches(index, masks[index], config)
            ],
            normalizer=max(1.0, sum(normalizer(objective, mask) for mask in masks.values())),
        )

    def _micro_batches(self, index: int, loss_mask: Tensor, config: GrpoConfig) -> Iterator[MicroBatch]:
        """Yield the forward passes of a group, each cut to its longest completion."""
        messages = self.messages[index]
        completions = self._completions(index)
        if messages is None:
            return
        sampler_logps = _sampler_logps(completions)
        size = config.micro_batch_size or config.num_generations
        for start in range(0, len(completions), size):
            rows = slice(start, start + size)
            longest = max(1, *(_length(completion) for completion in completions[rows]))
            yield MicroBatch(
                group=index,
                rows=rows,
                messages=messages,
                advantages=self.advantages[index, rows],
                loss_mask=loss_mask[rows, :longest],
                sampler_logps=sampler_logps[rows, :longest],
            )

    def _has_signal(self, index: int, loss_mask: Tensor, objective: Objective) -> bool:
        """Return True if this rank owns the group and its gradient can be non-zero."""
        constant = bool(self.constant[index]) and not objective.beta and not objective.entropy_bonus
        return self.messages[index] is not None and not constant and bool(loss_mask.any())

    def _loss_mask(self, index: int, config: GrpoConfig) -> Tensor:
        """Return [G, T] bool; with ``mask_truncated`` completions that reached the length limit are not in the loss."""
        completions = self._completions(index)
        in_loss = [not config.mask_truncated or completion.finish_reason == "stop" for completion in completions]
        lengths = torch.tensor([_length(completion) for completion in completions])
        tokens = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
        return tokens & torch.tensor(in_loss).unsqueeze(1)

    def _completions(self, index: int) -> list[Completion]:
        return [rollout.completion for rollout in self.groups[index].rollouts]


def _sampler_logps(completions: Sequence[Completion]) -> Tensor:
    """Return [G, T] float32 log-probabilities as the sampler gave them; NaN where it gave none."""
    logps = torch.full((len(completions), max(1, *map(_length, completions))), math.nan)
    for row, completion in enumerate(completions):
        if completion.logprobs is not None:
            logps[row, : len(completion.logprobs)] = torch.from_numpy(completion.logprobs)
    return logps


def _length(completion: Completion) -> int:
    return 0 if completion.token_ids is None else len(completion.token_ids)
