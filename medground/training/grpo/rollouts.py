"""The first half of a step: groups of completions, scored, and the advantage of each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medground.errors import RecipeError
from medground.pipeline.pipeline import Group, RolloutPipeline
from medground.protocols import Engine, RolloutSource, TrainableReasoner
from medground.rewards.rubric import usable_groups
from medground.runs import failpoints
from medground.training.grpo.advantage import advantages, constant_groups
from medground.training.launcher import dealt
from medground.training.schedule import drawn, sampling_seed
from medground.types import Completion, Mask, Messages, Sample, Sampling

AT_ONCE = 256
"""Completions asked for in one call; between calls a run can be stopped."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """One step's groups: N of G completions each."""

    groups: list[Group]
    """Those of other ranks with a single pixel for each image and mask."""
    messages: list[Messages | None]
    """None for groups of other ranks: whose conversation it is, is whose forward pass it will be."""
    spare: Messages
    """A conversation for passes that only keep other ranks company."""
    usable: list[bool]
    """[N]; a group with a member that has no score is not used at all."""
    rewards: Tensor
    """[N, G] float64 on the CPU; NaN throughout an unusable group."""
    advantages: Tensor
    """[N, G] float64."""
    constant: Tensor
    """[N] bool: groups that teach nothing, unusable ones among them."""
    drawn: int
    """Samples taken from the stream, replaced ones included."""
    unresampled: int
    """Constant groups of the first draw."""


class OwnSampler:
    """See `medground.protocols.RolloutSource`: the trained model itself, whose weights are always the newest."""

    def begin(self, reasoner: TrainableReasoner, engine: Engine) -> None:
        """See `RolloutSource.begin`."""
        self.reasoner, self.engine = reasoner, engine

    def sync(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        """See `RolloutSource.sync`; there is nothing to take."""

    def generate(self, batch: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]) -> list[list[Completion]]:
        """See `RolloutSource.generate`."""
        with self.engine.whole():
            return self.reasoner.sample(batch, sampling, seeds) if batch else []

    def sleep(self) -> None:
        """See `RolloutSource.sleep`; the model is what is updated."""

    def close(self) -> None:
        """See `RolloutSource.close`; the model is not its own."""


class Rollouts:
    """Draws samples, has completions written, and scores them.

    Every rank asks for and scores its own share of the groups, and is told what became of the others: all that follows
    from rewards and lengths is then computed alike everywhere, as by one process. Seeds belong to samples, so results do
    not depend on how many ranks there are.

    Args:
        graph: from completions to scores.
        samples: the training data.
        settings: the recipe's ``grpo`` section.
        seed: of the run.
        source: who samples; it has begun, and the caller feeds it with weights.
        engine: which rank this is.
    """

    def __init__(
        self,
        graph: RolloutPipeline,
        samples: Sequence[Sample],
        settings: dict[str, Any],
        seed: int,
        source: RolloutSource,
        engine: Engine,
    ) -> None:
        if settings["num_generations"] < 2 or settings["temperature"] <= 0:
            raise RecipeError(
                "grpo compares several sampled completions of a question",
                hint="set grpo.num_generations to 2 or more and grpo.temperature above 0",
            )
        self.graph, self.samples, self.seed, self.settings, self.engine = graph, samples, seed, settings, engine
        self._write = source.generate
        self.sampling = Sampling(
            num_generations=settings["num_generations"],
            temperature=settings["temperature"],
            max_completion_length=settings["max_completion_length"],
            seed=seed,
        )

    def draw(self, step: int, start: int, pause: Callable[[], None]) -> Batch:
        """The batch of a step whose first sample is at position `start` of the stream.

        With ``resample_constant`` groups whose rewards are all equal give their place to the stream's next sample, up to
        so many times (dynamic sampling, DAPO, arXiv 2503.14476); those still constant after that stay.
        """
        size = self.settings["train_batch_size"]
        groups, messages = self._groups(step, start, size, 0, pause)
        taken, unresampled = size, 0
        for attempt in range(self.settings["resample_constant"] + 1):
            rewards = _rewards(groups)
            usable = usable_groups(group.scores for group in groups)
            dull = [i for i in range(size) if usable[i] and bool(constant_groups(rewards[i : i + 1]))]
            unresampled = unresampled if attempt else len(dull)
            if not dull or attempt == self.settings["resample_constant"]:
                break
            fresh, asked = self._groups(step, start + taken, len(dull), attempt + 1, pause)
            taken += len(dull)
            for place, group, conversation in zip(dull, fresh, asked, strict=True):
                groups[place], messages[place] = group, conversation
        return Batch(
            groups=groups,
            messages=messages,
            spare=own[0] if (own := [each for each in messages if each is not None]) else self._ask(self.samples[0]),
            usable=usable,
            rewards=rewards,
            advantages=advantages(rewards, scale=self.settings["scale_rewards"], eps=self.settings["advantage_eps"]),
            constant=constant_groups(rewards),
            drawn=taken,
            unresampled=unresampled,
        )

    def _groups(
        self, step: int, start: int, count: int, attempt: int, pause: Callable[[], None]
    ) -> tuple[list[Group], list[Messages | None]]:
        order = drawn(start, count, samples=len(self.samples), batch=self.settings["train_batch_size"], seed=self.seed)
        rank, ranks = self.engine.rank, self.engine.world_size
        samples = [self.samples[index] for index in order[rank::ranks]]
        messages = [self._ask(sample) for sample in samples]
        seeds = [sampling_seed(self.seed, step, sample.query.id, attempt) for sample in samples]
        completions: list[list[Completion]] = []
        at_once = max(1, AT_ONCE // self.sampling.num_generations)
        for first in range(0, -(-count // ranks), at_once):  # as often as the rank with the most
            pause()
            part = slice(first, first + at_once)
            completions += self._write(messages[part], self.sampling, seeds[part])
            failpoints.failpoint("rollout.mid")
        pause()
        groups = self.graph.score(samples, completions) if samples else []
        failpoints.failpoint("reward.mid")
        if ranks == 1:
            return groups, list(messages)
        everyone = dealt(self.engine.gather([_told(group) for group in groups]))
        asked: list[Messages | None] = [None] * count
        everyone[rank::ranks], asked[rank::ranks] = groups, messages
        return everyone, asked

    def _ask(self, sample: Sample) -> Messages:
        return self.graph.grounding.prompt_interface.render(sample.query)


def _told(group: Group) -> Group:
    """What other ranks need to know of a group: all but pixels."""
    query, target = group.sample.query, group.sample.target
    sample = replace(
        group.sample,
        query=replace(query, image=np.zeros((1, 1, 3), np.uint8)),
        target=replace(target, mask=None, published=None),
    )
    rollouts = [replace(rollout, sample=sample, mask=_small(rollout.mask)) for rollout in group.rollouts]
    return Group(sample=sample, rollouts=rollouts, scores=group.scores)


def _small(mask: Mask | None) -> Mask | None:
    """One pixel that says whether a mask is empty."""
    return None if mask is None else replace(mask, data=np.array([[mask.data.any()]]))


def _rewards(groups: Sequence[Group]) -> Tensor:
    """[N, G] totals; NaN throughout a group in which one has none, because dropping single members biases its mean."""
    nan = float("nan")
    rows = [[nan if score.total is None else score.total for score in group.scores] for group in groups]
    rewards = torch.tensor(rows, dtype=torch.float64)
    return torch.where(rewards.isnan().any(dim=1, keepdim=True), nan, rewards)
