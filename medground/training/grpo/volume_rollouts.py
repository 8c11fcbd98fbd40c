"""The first half of a step on questions about volumes whose slice the reasoner chooses: two exchanges, both in the update.

The G completions of a first exchange are a group. Every slice that they name has a second exchange, whose G completions are a
group of their own; completions that name the same slice share it. What the second exchange earns counts for the first:

    reward of a first completion = its own terms + mean reward of the second group on its slice

A slice that shows nothing of the target adds 0, whatever was earned on it: nothing that is said there finds the target. So
does an answer that names no slice. Advantages are within a group.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from medground.data.dataset import Dataset
from medground.errors import RecipeError
from medground.pipeline.rollouts import Group, RolloutPipeline
from medground.pipeline.slices import SliceTruth, slice_of
from medground.protocols import Engine, RolloutSource
from medground.recipe.schema import GrpoConfig
from medground.recipe.volume_training import SECOND
from medground.rewards.rubric import Rubric, Score
from medground.rewards.term import Term, TermScore
from medground.training.grpo.batch import Batch
from medground.training.grpo.rollouts import Rollouts
from medground.training.method import CheckStop
from medground.training.schedule import rank_shares
from medground.training.volume_questions import VolumeEntry
from medground.types import Messages, Sample

Slice = tuple[int, int]
"""The position of a question in the step, and the number of a slice of its volume."""


class VolumeRollouts(Rollouts):
    """Draws questions about volumes and has both exchanges sampled and scored.

    Args:
        asking: of the first exchange: from completions to scores by their own terms.
        pipeline: of the second.
        samples: the first exchanges, whose entries open the volumes.
        config: the recipe's ``grpo`` section.
        seed: of the run.
        source: as of `Rollouts`.
        engine: knows this rank.
        images: as of `Rollouts`.
    """

    def __init__(
        self,
        asking: RolloutPipeline,
        pipeline: RolloutPipeline,
        samples: Dataset[VolumeEntry],
        config: GrpoConfig,
        seed: int,
        source: RolloutSource,
        engine: Engine,
        images: Sequence[int] | None = None,
    ) -> None:
        super().__init__(pipeline, samples, config, seed, source, engine, images)
        self.asking, self.entries = asking, {entry.id: entry for entry in samples.entries}
        self.volumes = samples
        self.weights |= {SECOND: 1.0}

    def conversations(self, sample: Sample) -> list[Messages]:
        """See `Rollouts.conversations`; all slices of a volume are as long, so one stands for them."""
        second = self.entries[sample.query.id].read().second(0)
        return [self.asking.pipeline.render(sample.query), self.pipeline.pipeline.render(second.query)]

    def draw(self, step: int, start: int, check_stop: CheckStop) -> Batch:
        """Return the batch of a step whose first question is at position `start` of the stream.

        The groups of first exchanges come first, then those of second ones, each in the order of the questions.
        """
        count = self.config.train_batch_size
        order, numbers = self._order(start, count)
        shares = rank_shares(numbers, self.engine.world_size)
        rank = self.engine.rank
        questions = {position: self.volumes.entries[order[position]].read() for position in shares[rank]}

        firsts = [questions[position].first() for position in shares[rank]]
        first, first_messages = self._drawn(self.asking, firsts, shares, step, 0, check_stop)
        own = {position: question.slices for position, question in questions.items()}
        truths = {position: truth for share in self.engine.gather(own) for position, truth in share.items()}

        chosen = [*chosen_slices(first)]
        second_shares = [
            [index for index, (position, _) in enumerate(chosen) if position in share] for share in map(set, shares)
        ]
        seconds = [
            questions[position].second(number) for position, number in map(chosen.__getitem__, second_shares[rank])
        ]
        second, second_messages = self._drawn(self.pipeline, seconds, second_shares, step, 0, check_stop)

        by_slice = dict(zip(chosen, second, strict=True))
        ids = [self.volumes.entries[index].source.id for index in order]
        groups = [
            credited(group, truths[position], {number: by_slice[position, number] for number in slices_of(group)})
            for position, group in enumerate(first)
        ]
        groups = [_described(group, "slice", ids[position], truths[position]) for position, group in enumerate(groups)]
        groups += [
            _described(by_slice[position, number], "answer", ids[position], truths[position], number)
            for position, number in chosen
        ]
        pictures = [(self.volumes.entries[index].image_key, None) for index in order]
        images: dict[Any, int] = {}
        return self._batch(
            groups,
            [*first_messages, *second_messages],
            images=[
                images.setdefault(picture, len(images))
                for picture in [*pictures, *((pictures[position][0], number) for position, number in chosen)]
            ],
            questions=[*range(count), *(position for position, _ in chosen)],
            drawn=count,
        )


def slice_rubric(terms: Sequence[Term], labels: Sequence[str]) -> Rubric:
    """Return the own terms of a first exchange: those of a rubric that have one of the labels.

    Raises:
        RecipeError: if one of them needs a mask, which a text that names a slice has not.
    """
    own = [term for term in terms if term.label in labels]
    for term in own:
        if term.needs_mask:
            raise RecipeError(
                f"volume.slice_rewards: the term {term.label!r} needs a mask, and a text that names a slice has none",
                hint="take it out of volume.slice_rewards",
            )
    return Rubric(own)


def slices_of(group: Group) -> list[int]:
    """Return the slices that the completions of a first exchange name, each once, in order of first mention."""
    named = [slice_of(rollout.grounding) for rollout in group.rollouts]
    return list(dict.fromkeys(number for number in named if number is not None))


def chosen_slices(first: Sequence[Group]) -> Iterator[Slice]:
    """Yield the slices that have a second exchange, in the order of the questions."""
    for position, group in enumerate(first):
        for number in slices_of(group):
            yield position, number


def credited(group: Group, truth: SliceTruth, second: Mapping[int, Group]) -> Group:
    """Return a first exchange whose scores have, as one more term, what the second exchange on their slice earned.

    Args:
        group: the first exchange, scored by its own terms.
        truth: how much of the target each slice holds.
        second: slice -> the group of the second exchange on it.
    """
    scores = []
    for rollout, score in zip(group.rollouts, group.scores, strict=True):
        number = slice_of(rollout.grounding)
        shown = number is not None and truth.shows(number)
        scores.append(_with_second(score, second[number] if number is not None and shown else None))
    return replace(group, scores=scores)


def _with_second(score: Score, second: Group | None) -> Score:
    """Return a score with the mean reward of a second exchange added; 0 where there is none.

    A second exchange in which a completion has no reward leaves the first without one.
    """
    if score.total is None and not score.terms and score.failures:  # nobody's answer, not scored by any term
        return score
    totals = [other.total for other in second.scores] if second is not None else [0.0]
    known = [total for total in totals if total is not None]
    value = fmean(known) if len(known) == len(totals) else None
    failures = () if second is None or value is not None else tuple(f for one in second.scores for f in one.failures)
    return replace(
        score,
        total=None if score.total is None or value is None else score.total + value,
        terms={**score.terms, SECOND: TermScore(value, 1.0)},
        failures=(*score.failures, *failures),
    )


def _described(group: Group, exchange: str, volume: str, truth: SliceTruth, slice_: int | None = None) -> Group:
    """Return a group with what the table of a run says of both exchanges."""
    numbers = [slice_of(rollout.grounding) if exchange == "slice" else slice_ for rollout in group.rollouts]
    return replace(
        group,
        details=[
            {
                "exchange": exchange, "volume": volume, "slice": number,
                **(truth.distances(number) or {"slice_error_mm": None, "slice_off_mm": None}),
            }
            for number in numbers
        ],
    )  # fmt: skip
