"""Does a rollout source keep the promises of `medground.protocols.RolloutSource`?"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import numpy as np

from medground.frames import Frame, pixels
from medground.geometry import Size
from medground.hookspecs import Factory
from medground.protocols import Engine, RolloutSource, TrainableReasoner
from medground.testing import examples
from medground.testing.findings import ConformanceReport, Findings, make, shown
from medground.types import Completion, Messages, Sampling, image_of, text_of

SAMPLING = Sampling(num_generations=3, temperature=1.0, max_completion_length=16)
SEEDS = (11, 22, 33)


class Speller:
    """What a source samples with in a check: its tokens depend on the conversation and the seed alone."""

    policy = None

    def frame(self, size: Size) -> Frame:
        """Return pixels."""
        return pixels(size)

    def generate(
        self, batch: Sequence[Messages], sampling: Sampling, seeds: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        """Return drawn digits."""
        starts = seeds or [sampling.seed] * len(batch)
        return [
            [self._completion(messages, seed + index) for index in range(sampling.num_generations)]
            for messages, seed in zip(batch, starts, strict=True)
        ]

    def _completion(self, messages: Messages, seed: int) -> Completion:
        image = image_of(messages)
        drawn = np.random.default_rng([seed, zlib.crc32(text_of(messages).encode())]).integers(0, 10, 4)
        text = "".join(map(str, drawn.tolist()))
        logprobs = np.full(4, np.log(0.1), np.float32)
        frame = self.frame((image.shape[0], image.shape[1]))
        return Completion(text=text, frame=frame, token_ids=drawn.astype(np.int32), logprobs=logprobs)


class OneProcess:
    """Who holds the weights in a check: nobody else."""

    rank, world_size, lockstep, zero_stage, offload = 0, 1, False, 0, False

    def full_parameters(self) -> AbstractContextManager[None]:
        """Return nothing to enter."""
        return nullcontext()


def check_rollout(
    factory: Factory,
    reasoner: TrainableReasoner | None = None,
    engine: Engine | None = None,
    /,
    *,
    quick: bool = False,
    **arguments: Any,
) -> ConformanceReport:
    """Check a source made by ``factory(**arguments)`` over two updates.

    Args:
        factory: makes the source.
        reasoner: whose policy it samples for; without one, one of the kit that draws digits.
        engine: holds its weights; without one, one of the kit, of a single process and without weights.
        quick: leave out the second update.
        arguments: of the factory.

    Returns:
        what was tried.

    Raises:
        ConformanceError: listing every promise broken.
    """
    findings = Findings(factory)
    source: RolloutSource = make(factory, arguments, findings)
    sampled = reasoner or cast(TrainableReasoner, Speller())
    with findings.attempt("begin takes the reasoner and the engine"):
        source.begin(sampled, engine or cast(Engine, OneProcess()))
    checks = {"three conversations after the first sync, and none": partial(_check_step, source, engine, 0, findings)}
    if not quick:
        checks["the same after the next one, with another seed"] = partial(_check_step, source, engine, 1, findings)
    findings.run(checks)
    with findings.attempt("close works"):
        source.close()
    return findings.conclude()


def _check_step(source: RolloutSource, engine: Engine | None, version: int, findings: Findings) -> None:
    conversations = examples.conversations()
    with findings.attempt("every conversation is answered", f"after sync {version}"):
        source.sync(iter(()) if engine is None else cast(Iterator[Any], engine.named_weights()), version)
        groups = source.generate(conversations, SAMPLING, SEEDS)
        counts = [len(group) for group in groups]
        right = counts == [SAMPLING.num_generations] * len(conversations)
        findings.expect(right, "one list per conversation, of num_generations completions", shown(counts))
        for completion in (completion for group in groups for completion in group):
            _check_completion(completion, findings)
        texts = _texts(groups)
        again = _texts(source.generate(conversations, SAMPLING, SEEDS))
        findings.expect(again == texts, "the same weights and seeds give the same completions", shown(again))
        changed = _texts(source.generate(conversations, SAMPLING, (*SEEDS[:2], SEEDS[2] + 100)))
        findings.expect(
            changed[:2] == texts[:2], "a completion depends on the seed of its own conversation", shown(changed)
        )
        none = source.generate([], SAMPLING, [])
        findings.expect(none == [], "no conversations give []", shown(none))
        source.sleep()


def _check_completion(completion: Completion, findings: Findings) -> None:
    ids, logprobs = completion.token_ids, completion.logprobs
    whole = ids is not None and logprobs is not None and ids.dtype == np.int32 and ids.shape == logprobs.shape
    findings.expect(whole, "completions carry token_ids and one logprob each", f"{shown(ids)} and {shown(logprobs)}")
    findings.expect(isinstance(completion.frame, Frame), "completions declare their frame", shown(completion.frame))


def _texts(groups: Sequence[Sequence[Completion]]) -> list[list[str]]:
    return [[completion.text for completion in group] for group in groups]
