"""The first half of a step: groups of completions, scored, and the advantage of each."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from medground.errors import RecipeError
from medground.pipeline.rollouts import Group, RolloutPipeline
from medground.protocols import Engine, RolloutSource, TrainableReasoner
from medground.recipe.schema import GrpoConfig
from medground.rewards.rubric import usable_groups
from medground.runs import failpoints
from medground.training.grpo.advantage import estimate
from medground.training.grpo.batch import Batch
from medground.training.method import CheckStop
from medground.training.schedule import rank_shares, sample_indices, sampling_seed
from medground.types import Completion, Mask, Messages, Sample, Sampling

AT_ONCE = 256
"""Completions sampled in one call; between calls a run can be stopped."""


class OwnSampler:
    """See `medground.protocols.RolloutSource`: the trained model itself, whose weights are always the newest."""

    def __repr__(self) -> str:
        return "OwnSampler()"

    def begin(self, reasoner: TrainableReasoner, engine: Engine) -> None:
        """See `RolloutSource.begin`."""
        self.reasoner, self.engine = reasoner, engine

    def sync(self, weights: Iterator[tuple[str, Tensor]], version: int) -> None:
        """See `RolloutSource.sync`; no-op."""

    def generate(self, batch: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]) -> list[list[Completion]]:
        """See `RolloutSource.generate`."""
        with self.engine.full_parameters():
            return self.reasoner.generate(batch, sampling, seeds) if batch else []

    def sleep(self) -> None:
        """See `RolloutSource.sleep`; no-op: the update needs the model."""

    def close(self) -> None:
        """See `RolloutSource.close`; no-op."""


class Rollouts:
    """Draws samples, has completions sampled, and scores them.

    Every rank samples and scores its own share of the groups, and ranks exchange the results: all that follows from
    rewards and lengths is then computed alike everywhere, as by one process. Seeds belong to samples, so results do not
    depend on the number of ranks.

    Args:
        pipeline: from completions to scores.
        samples: the training data.
        config: the recipe's ``grpo`` section.
        seed: of the run.
        source: who samples; it has begun, and the caller gives it the weights.
        engine: knows this rank.
        images: a number for each sample's image, where the samples of an image are drawn together.

    Raises:
        RecipeError: if the config does not sample several different completions per query.
    """

    def __init__(
        self,
        pipeline: RolloutPipeline,
        samples: Sequence[Sample],
        config: GrpoConfig,
        seed: int,
        source: RolloutSource,
        engine: Engine,
        images: Sequence[int] | None = None,
    ) -> None:
        if config.num_generations < 2 or config.temperature <= 0:
            raise RecipeError(
                "grpo compares several sampled completions of a question",
                hint="set grpo.num_generations to 2 or more and grpo.temperature above 0",
            )
        self.pipeline, self.samples, self.seed, self.config = pipeline, samples, seed, config
        self.source, self.engine, self.images = source, engine, images
        self.weights = {term.label: term.weight for term in pipeline.rubric.terms}
        """Label of a reward term -> its weight."""
        self.sampling = Sampling(
            num_generations=config.num_generations,
            temperature=config.temperature,
            max_completion_length=config.max_completion_length,
            seed=seed,
        )

    def draw(self, step: int, start: int, check_stop: CheckStop) -> Batch:
        """Return the batch of a step whose first sample is at position `start` of the stream.

        With ``resample_constant`` groups whose rewards are all equal are replaced by the stream's next samples, up to
        so many times (dynamic sampling, DAPO, arXiv 2503.14476); those still constant after that stay.
        """
        size = self.config.train_batch_size
        groups, messages, images = self._groups(step, start, size, 0, check_stop)
        taken, unresampled = size, 0
        for attempt in range(self.config.resample_constant + 1):
            batch = self._batch(groups, messages, images=images, questions=range(size), drawn=taken)
            constant = [index for index in range(size) if batch.usable[index] and bool(batch.constant[index])]
            unresampled = unresampled if attempt else len(constant)
            if not constant or attempt == self.config.resample_constant:
                break
            replacements = self._groups(step, start + taken, len(constant), attempt + 1, check_stop)
            taken += len(constant)
            for index, group, conversation, image in zip(constant, *replacements, strict=True):
                groups[index], messages[index], images[index] = group, conversation, image
        return replace(batch, unresampled=unresampled)

    def conversations(self, sample: Sample) -> list[Messages]:
        """Return the conversations that ask a sample."""
        return [self.pipeline.pipeline.render(sample.query)]

    def _batch(
        self,
        groups: list[Group],
        messages: list[Messages | None],
        *,
        images: list[int],
        questions: Sequence[int],
        drawn: int,
    ) -> Batch:
        """Return groups with their advantages; arguments as of `Batch`."""
        rewards = _rewards(groups)
        usable = usable_groups(group.scores for group in groups)
        advantages = estimate(
            self.config.advantage_estimator,
            rewards,
            {label: (weight, _values(groups, label)) for label, weight in self.weights.items() if weight != 0},
            scale=self.config.scale_rewards,
            eps=self.config.advantage_eps,
        )
        own = next((conversation for conversation in messages if conversation is not None), None)
        constant = zip(usable, advantages.constant.tolist(), strict=True)
        return Batch(
            groups=groups,
            images=images,
            questions=list(questions),
            messages=messages,
            dummy_prompt=self.conversations(self.samples[0])[0] if own is None else own,
            usable=usable,
            rewards=rewards,
            advantages=advantages.values,
            contributions=advantages.contributions,
            constant=advantages.constant,
            drawn=drawn,
            unresampled=sum(is_usable and is_constant for is_usable, is_constant in constant),
        )

    def _order(self, start: int, count: int) -> tuple[list[int], list[int]]:
        """Return the samples at so many positions of the stream, and a number for the image of each."""
        batch = self.config.train_batch_size
        order = sample_indices(start, count, samples=len(self.samples), batch=batch, seed=self.seed, images=self.images)
        return order, order if self.images is None else [self.images[index] for index in order]

    def _groups(
        self, step: int, start: int, count: int, attempt: int, check_stop: CheckStop
    ) -> tuple[list[Group], list[Messages | None], list[int]]:
        order, images = self._order(start, count)
        shares = rank_shares(images, self.engine.world_size)
        samples = [self.samples[order[position]] for position in shares[self.engine.rank]]
        return *self._drawn(self.pipeline, samples, shares, step, attempt, check_stop), images

    def _drawn(
        self,
        pipeline: RolloutPipeline,
        samples: Sequence[Sample],
        shares: Sequence[Sequence[int]],
        step: int,
        attempt: int,
        check_stop: CheckStop,
    ) -> tuple[list[Group], list[Messages | None]]:
        """Sample and score this rank's share; return the groups of all ranks, and the conversations of its own.

        Args:
            pipeline: asks and scores.
            samples: of this rank.
            shares: the positions of each rank's samples among all.
            step: its number.
            attempt: how often samples were drawn for this step before.
            check_stop: called often.
        """
        rank, ranks = self.engine.rank, self.engine.world_size
        messages = [pipeline.pipeline.render(sample.query) for sample in samples]
        seeds = [sampling_seed(self.seed, step, sample.query.id, attempt) for sample in samples]
        completions: list[list[Completion]] = []
        at_once = max(1, AT_ONCE // self.sampling.num_generations)
        for first in range(0, max(map(len, shares)), at_once):  # as often as the rank with the most
            check_stop()
            span = slice(first, first + at_once)
            completions += self.source.generate(messages[span], self.sampling, seeds[span])
            failpoints.failpoint("rollout.mid")
        check_stop()
        groups = pipeline.score(samples, completions) if samples else []
        failpoints.failpoint("reward.mid")
        gathered = [groups] if ranks == 1 else self.engine.gather([_without_pixels(group) for group in groups])
        gathered[rank] = groups
        by_position = {
            position: group
            for share, its_groups in zip(shares, gathered, strict=True)
            for position, group in zip(share, its_groups, strict=True)
        }
        own = dict(zip(shares[rank], messages, strict=True))
        positions = range(len(by_position))
        return [by_position[position] for position in positions], [own.get(position) for position in positions]


def _without_pixels(group: Group) -> Group:
    """Return what other ranks need of a group: all but pixels."""
    query, target = group.sample.query, group.sample.target
    regions = tuple(replace(region, mask=None) for region in target.regions)
    sample = replace(
        group.sample,
        query=replace(query, image=np.zeros((1, 1, 3), np.uint8)),
        target=replace(target, regions=regions, published=None),
    )
    rollouts = [
        replace(
            rollout,
            sample=sample,
            grounding=rollout.grounding.with_masks([_one_pixel(region.mask) for region in rollout.grounding.regions]),
        )
        for rollout in group.rollouts
    ]
    return Group(sample=sample, rollouts=rollouts, scores=group.scores)


def _one_pixel(mask: Mask | None) -> Mask | None:
    """Return a mask of one pixel, set unless the mask is empty."""
    return None if mask is None else replace(mask, data=np.array([[mask.data.any()]]))


def _rewards(groups: Sequence[Group]) -> Tensor:
    """Return [N, G] totals; NaN throughout a group in which one has none: dropping single members biases its mean."""
    nan = float("nan")
    rows = [[nan if score.total is None else score.total for score in group.scores] for group in groups]
    rewards = torch.tensor(rows, dtype=torch.float64)
    return torch.where(rewards.isnan().any(dim=1, keepdim=True), nan, rewards)


def _values(groups: Sequence[Group], label: str) -> Tensor:
    """Return [N, G] values of a term; NaN where it gave none."""
    nan = float("nan")
    values = [
        [score.terms[label].value if label in score.terms else None for score in group.scores] for group in groups
    ]
    return torch.tensor([[nan if value is None else value for value in row] for row in values], dtype=torch.float64)
