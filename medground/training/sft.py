"""Supervised fine-tuning: the cold start before GRPO. The target is the ideal completion of the prompt interface, with the
sample's reasoning trace where it has one. Engine, loop and checkpoints are those of GRPO.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from medground.errors import InputError, RecipeError
from medground.protocols import CompletionGroup, Engine, PromptInterface, TrainableReasoner
from medground.training.loop import Pause, Result, State
from medground.training.ranks import evenly
from medground.training.schedule import drawn, extent, learning_rate
from medground.types import Sample

THINK = "think"
"""The label of a sample that holds its reasoning trace."""


class Sft:
    """See `medground.training.loop.Method`. The loss is the mean over all target tokens of the batch.

    Args:
        prompt_interface: asks the question and writes the ideal answer.
        reasoner: what is trained.
        policy: its policy as the engine returned it.
        engine: differentiates and steps.
        samples: the training data.
        settings: the recipe's ``sft`` section.
        seed: of the run.
    """

    def __init__(
        self,
        prompt_interface: PromptInterface,
        reasoner: TrainableReasoner,
        policy: nn.Module,
        engine: Engine,
        samples: Sequence[Sample],
        settings: dict[str, Any],
        seed: int,
    ) -> None:
        self.prompt_interface, self.reasoner, self.policy, self.engine = prompt_interface, reasoner, policy, engine
        self.samples, self.settings, self.seed = samples, settings, seed
        self.epoch, self.planned = extent(len(samples), settings)

    def step(self, state: State, pause: Pause) -> Result:
        """See `Method.step`."""
        size = self.settings["train_batch_size"]
        order = drawn(state.drawn, size, samples=len(self.samples), batch=size, seed=self.seed)
        samples = [self.samples[index] for index in order]
        targets = [self.target(sample) for sample in samples]
        below = float(sum(len(ids) for _, ids in targets))
        own = slice(self.engine.rank, None, self.engine.world_size)
        sums = {"loss": 0.0, "entropy": 0.0, "trained": 0.0}
        for rows in self._passes(samples[own], [ids for _, ids in targets][own]):
            pause()
            spare = rows is None
            if rows is None:
                rows = self._rows(samples[:1], [self.reasoner.tokenize("")])
            logp, spread = self.policy(rows, 1.0)
            share = -logp.sum() / below * (0.0 if spare else 1.0)
            self.engine.backward(share)
            if not spare:
                sums["loss"] += float(share.detach())
                sums["entropy"] += float(spread.sum())
                sums["trained"] += sum(rows.prompt_lengths) + int(rows.mask.sum())
        sums = self.engine.all_reduce(sums)
        loss, skipped = sums["loss"], None
        if not torch.isfinite(torch.tensor(loss)):
            self.engine.discard()
            skipped = f"the loss is {loss}"
        rate, norm = self._rate(state.step), float("nan")
        if skipped is None:
            norm = self.engine.step(rate)
            if not torch.isfinite(torch.tensor(norm)):
                skipped = f"the gradient norm is {norm}"
        told = [{"sample": sample.query.id, "target": text} for sample, (text, _) in zip(samples, targets, strict=True)]
        return Result(
            metrics={
                "loss": loss,
                "grad_norm": norm,
                "learning_rate": rate,
                "entropy": sums["entropy"] / below,
                "completions/mean_length": below / size,
                "epoch": (state.drawn + size) / self.epoch,
            },
            drawn=size,
            tokens=int(sums["trained"]),
            skipped=skipped,
            incident={"targets": told} if skipped else None,
        )

    def target(self, sample: Sample) -> tuple[str, list[int]]:
        """What the reasoner should write about a sample, as text and as token ids.

        Raises:
            InputError: if the prompt interface cannot write an answer from what the sample holds.
        """
        size = sample.query.size
        try:
            text = self.prompt_interface.answer(
                sample.target, sample.labels.get(THINK), frame=self.reasoner.frame(size), size=size
            )
        except ValueError as error:
            raise InputError(f"no target can be written for sample {sample.query.id!r}: {error}") from error
        return text, self.reasoner.tokenize(text)

    def _passes(self, samples: Sequence[Sample], targets: Sequence[list[int]]) -> Iterator[CompletionGroup | None]:
        """What is computed together: so many samples, or packed as many as ``max_length`` tokens hold; None for passes that
        only keep other ranks company."""
        if self.settings["packing"]:
            rows = self._rows(samples, targets) if samples else None
            prompts = rows.prompt_lengths if rows else ()
            lengths = [prompt + len(ids) for prompt, ids in zip(prompts, targets, strict=True)]
            for span in evenly(self.engine, packs(lengths, self.settings["max_length"])):
                yield None if rows is None or span is None else rows.part(*span)
            return
        at_once = self.settings["micro_batch_size"]
        for start in evenly(self.engine, range(0, len(samples), at_once)):
            part = None if start is None else slice(start, start + at_once)
            yield None if part is None else self._rows(samples[part], targets[part])

    def _rows(self, samples: Sequence[Sample], targets: Sequence[list[int]]) -> CompletionGroup:
        messages = [self.prompt_interface.render(sample.query) for sample in samples]
        rows = self.reasoner.rows(messages, targets, packed=self.settings["packing"])
        most = self.settings["max_length"]
        for sample, prompt, ids in zip(samples, rows.prompt_lengths, targets, strict=True):
            if prompt + len(ids) > most:
                raise RecipeError(
                    f"sample {sample.query.id!r} takes {prompt + len(ids)} tokens, more than sft.max_length={most}",
                    hint="raise it, or set reasoner.max_pixels",
                )
        return rows

    def _rate(self, update: int) -> float:
        return learning_rate(
            update,
            updates=self.planned,
            peak=self.settings["learning_rate"],
            schedule=self.settings["schedule"],
            warmup_ratio=self.settings["warmup_ratio"],
        )


def packs(lengths: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Neighbours that go into one sequence of at most so many tokens, as (first, one past the last).

    >>> packs([3, 4, 2, 9, 1], 9)
    [(0, 3), (3, 4), (4, 5)]
    """
    found, start, filled = [], 0, 0
    for place, length in enumerate(lengths):
        if place > start and filled + length > most:
            found.append((start, place))
            start, filled = place, 0
        filled += length
    return [*found, (start, len(lengths))] if lengths else []
