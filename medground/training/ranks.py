"""What several ranks must agree on."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from medground.protocols import Engine

T = TypeVar("T")


def evenly(engine: Engine, mine: Sequence[T]) -> Iterator[T | None]:
    """This rank's forward passes, filled up with None where the busiest rank has more, or no rank any.

    Engines that shard exchange parameters and gradients within a pass: ranks with different numbers of passes would wait
    for one another for ever.
    """
    most = max(1, *engine.gather(len(mine))) if engine.even else len(mine)
    yield from mine
    for _ in range(most - len(mine)):
        yield None
