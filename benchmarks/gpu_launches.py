"""Count what the host launches. A GPU that computes faster than its host launches waits for the host."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

NO_WORK = {"detach", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
"""Operations that compute nothing, beside views."""


class Launches(TorchDispatchMode):
    """Enter to count torch's operations by name, views left out; those of a graph that is played are not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if not function.is_view and name not in NO_WORK:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def launches(work: Callable[[], Any]) -> "Counter[str]":
    """Return how often each operation is launched."""
    with Launches() as launched:
        work()
    return launched.counts
