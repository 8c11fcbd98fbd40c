"""Ranks in lockstep."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from medground.protocols import Engine

T = TypeVar("T")


def pad_to_longest(engine: Engine, passes: Sequence[T]) -> Iterator[T | None]:
    """Yield this rank's forward passes, then None until the busiest rank is done, and at least one on every rank.

    Engines that shard exchange parameters and gradients within a pass: ranks with different numbers of passes would wait
    for one another for ever. An engine without ``lockstep`` gets its passes alone.
    """
    longest = max(1, *engine.gather(len(passes))) if engine.lockstep else len(passes)
    yield from passes
    for _ in range(longest - len(passes)):
        yield None
