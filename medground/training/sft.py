"""Supervised fine-tuning: the cold start before GRPO.

The target is the ideal completion of the prompt interface, with the sample's reasoning trace where it has one.
"""

import math
from collections.abc import Iterator, Sequence

from torch import nn

from medground.data.json_text import shown
from medground.errors import InputError, RecipeError
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.slices import SliceQuery
from medground.protocols import CompletionGroup, Engine, TrainableReasoner
from medground.recipe.schema import SftConfig
from medground.training.method import CheckStop, StepResult, TrainingState
from medground.training.ranks import pad_to_longest
from medground.training.schedule import learning_rate, sample_indices, training_horizon
from medground.types import Completion, Sample

THINK = "think"
"""The label of a sample that holds its reasoning trace."""


class SftTrainer:
    """See `medground.training.loop.Method`. The loss is the mean over all target tokens of the batch.

    Args:
        pipeline: renders the question and writes the ideal answer.
        reasoner: what is trained.
        policy: its policy as the engine returned it.
        engine: differentiates and steps.
        samples: the training data.
        config: the recipe's ``sft`` section.
        seed: of the run.
        asking: of the first exchanges among `samples`, where there are any.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        reasoner: TrainableReasoner,
        policy: nn.Module,
        engine: Engine,
        samples: Sequence[Sample],
        config: SftConfig,
        seed: int,
        asking: Pipeline | None = None,
    ) -> None:
        self.asking = asking
        self.pipeline, self.reasoner, self.policy, self.engine = pipeline, reasoner, policy, engine
        self.samples, self.config, self.seed = samples, config, seed
        self.epoch_length, self.planned = training_horizon(len(samples), config)

    def step(self, state: TrainingState, check_stop: CheckStop) -> StepResult:
        """See `Method.step`."""
        size = self.config.train_batch_size
        order = sample_indices(state.drawn, size, samples=len(self.samples), batch=size, seed=self.seed)
        samples = [self.samples[index] for index in order]
        targets = [self.target(sample) for sample in samples]
        normalizer = float(sum(len(ids) for _, ids in targets))
        own = slice(self.engine.rank, None, self.engine.world_size)
        loss = entropy = tokens_computed = 0.0
        for rows in self._forward_passes(samples[own], [ids for _, ids in targets][own]):
            check_stop()
            if rows is None:  # a dummy pass that keeps ranks in lockstep
                dummy = self._rows(samples[:1], [self.reasoner.tokenize("")])
                self.engine.backward(-self.policy(dummy, 1.0)[0].sum() / normalizer * 0.0)
                continue
            logps, entropies = self.policy(rows, 1.0)
            share = -logps.sum() / normalizer
            self.engine.backward(share)
            loss += float(share.detach())
            entropy += float(entropies.sum())
            tokens_computed += sum(rows.prompt_lengths) + int(rows.mask.sum())
        total = self.engine.all_reduce({"loss": loss, "entropy": entropy, "tokens": tokens_computed})
        rate, norm, skipped = learning_rate(state.step, self.planned, self.config), math.nan, None
        if math.isfinite(total["loss"]):
            norm = self.engine.step(rate)
            if not math.isfinite(norm):
                skipped = f"the gradient norm is {norm}"
        else:
            self.engine.discard()
            skipped = f"the loss is {total['loss']}"
        texts = [
            {"sample": sample.query.id, "target": text} for sample, (text, _) in zip(samples, targets, strict=True)
        ]
        return StepResult(
            metrics={
                "loss": total["loss"],
                "grad_norm": norm,
                "learning_rate": rate,
                "entropy": total["entropy"] / normalizer,
                "completions/mean_length": normalizer / size,
                "epoch": (state.drawn + size) / self.epoch_length,
            },
            drawn=size,
            tokens=int(total["tokens"]),
            skipped=skipped,
            incident={"targets": texts} if skipped else None,
        )

    def check(self, sample: Sample) -> None:
        """See `Method.check`."""
        self.target(sample)

    def check_length(self, sample: Sample) -> None:
        """See `Method.check_length`."""
        self._rows([sample], [self.target(sample)[1]])

    def target(self, sample: Sample) -> tuple[str, list[int]]:
        """Return the ideal completion for a sample, as text and as token ids.

        Raises:
            InputError: if the prompt interface cannot write an answer from the sample, or would read it as a fault.
        """
        size = sample.query.size
        frame = self.reasoner.frame(size)
        pipeline = self._pipeline(sample)
        [proposed] = pipeline.proposed([sample.query])
        if proposed.fault is not None:
            raise InputError(f"sample {sample.query.id!r} cannot be a target: {proposed.cause}")
        interface = pipeline.knowing(proposed.query)
        try:
            text = interface.answer(sample.target, sample.labels.get(THINK), frame=frame, size=size)
        except ValueError as error:
            raise InputError(f"sample {sample.query.id!r} cannot be a target: {error}") from error
        if fault := interface.parse(Completion(text=text, frame=frame), size).fault:
            raise InputError(
                f"sample {sample.query.id!r} cannot be a target: its answer {shown(text[-120:])} would be read as {fault}",
                hint="take its line out of the manifest, or correct its box, points and think",
            )
        return text, self.reasoner.tokenize(text)

    def close(self) -> None:
        """See `Method.close`; no-op."""

    def _pipeline(self, sample: Sample) -> Pipeline:
        """Return what asks a sample."""
        return self.asking if self.asking is not None and isinstance(sample.query, SliceQuery) else self.pipeline

    def _forward_passes(
        self, samples: Sequence[Sample], targets: Sequence[list[int]]
    ) -> Iterator[CompletionGroup | None]:
        """Yield so many samples at a time, or packed as many as ``max_length`` tokens hold.

        None: a dummy pass that keeps ranks in lockstep.
        """
        if self.config.packing:
            rows = self._rows(samples, targets) if samples else None
            prompts = rows.prompt_lengths if rows else ()
            lengths = [prompt + len(ids) for prompt, ids in zip(prompts, targets, strict=True)]
            for span in pad_to_longest(self.engine, packs(lengths, self.config.max_length)):
                yield None if rows is None or span is None else rows.part(*span)
            return
        size = self.config.micro_batch_size
        for start in pad_to_longest(self.engine, range(0, len(samples), size)):
            yield None if start is None else self._rows(samples[start : start + size], targets[start : start + size])

    def _rows(self, samples: Sequence[Sample], targets: Sequence[list[int]]) -> CompletionGroup:
        messages = [self._pipeline(sample).render(sample.query) for sample in samples]
        rows = self.reasoner.rows(messages, targets, packed=self.config.packing)
        limit = self.config.max_length
        for sample, prompt, ids in zip(samples, rows.prompt_lengths, targets, strict=True):
            length = prompt + len(ids)
            if length > limit:
                raise RecipeError(
                    f"sample {sample.query.id!r} takes {length} tokens, more than sft.max_length={limit}",
                    hint=f"set sft.max_length={length} or more, or set reasoner.max_pixels",
                )
        return rows


def packs(lengths: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Return neighbours that go into one sequence of at most `limit` tokens, as (first, one past the last).

    >>> packs([3, 4, 2, 9, 1], 9)
    [(0, 3), (3, 4), (4, 5)]
    """
    spans, start, tokens = [], 0, 0
    for index, length in enumerate(lengths):
        if index > start and tokens + length > limit:
            spans.append((start, index))
            start, tokens = index, 0
        tokens += length
    return [*spans, (start, len(lengths))] if lengths else []
