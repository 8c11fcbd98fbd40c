"""Several processes for one run: how ``medground train`` starts them on one machine, and how they end.

Every process runs the same command with the environment variables torchrun sets; torchrun itself, DeepSpeed's launcher or
a cluster's may start them just as well. SIGTERM or Ctrl-C is forwarded once; a process that fails ends the others.
"""

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn, TypeVar

from medground.errors import RunError
from medground.runs.exits import decide, end_process

T = TypeVar("T")
GRACE = 15.0
"""Seconds that the others have to end by themselves once a process has failed."""


def world_size() -> int:
    """Return the number of processes that were started together, this one included."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return int(os.environ.get("RANK") or 0)


def launched() -> bool:
    """Return True if a launcher has started this process, as one of several (or of one)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def interleave(shares: Sequence[Sequence[T]]) -> list[T]:
    """Return what ranks share out in turn, in its order again.

    >>> interleave(["ace", "bd"])
    ['a', 'b', 'c', 'd', 'e']
    """
    return [share[index] for index in range(max(map(len, shares))) for share in shares if index < len(share)]


def exit_process(code: int) -> NoReturn:
    """End this process.

    One of several ends without Python's teardown: threads of communication libraries may abort in it after all work is
    done, and the launcher would take that for a failure.
    """
    decide(code)
    if not launched():
        sys.exit(code)
    end_process(code)


def start(arguments: Sequence[str], count: int) -> int:
    """Run ``medground ARGUMENTS`` in `count` processes; return the exit code of the run.

    Raises:
        RunError: if one of them was killed.
    """
    port = _free_port()
    children = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "medground", *arguments],  # -P: no module of the current folder is imported
            env={**os.environ, **_environment(number, count, port)},
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which forwards it once
        )
        for number in range(count)
    ]
    with _forward_signals(children):
        failed = _wait(children)
    if failed is None:
        return 0
    failed_rank, code = failed
    if code < 0:
        raise RunError(
            f"process {failed_rank} of {count} was killed by {signal.Signals(-code).name}, and the others were stopped",
            hint="add --resume to continue from the newest checkpoint",
        )
    return code


def _wait(children: "Sequence[subprocess.Popen[bytes]]") -> tuple[int, int] | None:
    """Wait until all have ended; once one has failed, kill the others after `GRACE` seconds.

    Returns:
        the rank and the code of the one that failed first, of several one that was killed; None if none did.
    """
    failed: tuple[int, int] | None = None
    deadline = math.inf
    while alive := [child for child in children if child.poll() is None]:
        if failed is None and (failed := _failed(children)):
            deadline = time.monotonic() + GRACE
        if time.monotonic() > deadline:
            for child in alive:
                child.kill()
        with suppress(subprocess.TimeoutExpired):
            alive[0].wait(0.2)
    return failed or _failed(children)


def _failed(children: "Sequence[subprocess.Popen[bytes]]") -> tuple[int, int] | None:
    codes = [(child.returncode, number) for number, child in enumerate(children) if child.returncode]
    return min(codes)[::-1] if codes else None


@contextmanager
def _forward_signals(children: "Sequence[subprocess.Popen[bytes]]") -> Iterator[None]:
    """Forward a first SIGINT or SIGTERM as SIGTERM, a second one as SIGKILL."""
    received: list[int] = []

    def forward(number: int, _: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL if received else signal.SIGTERM)
        received.append(number)

    handlers: dict[int, Callable[[int, object], None]] = dict.fromkeys((signal.SIGINT, signal.SIGTERM), forward)
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _environment(number: int, count: int, port: int) -> Mapping[str, str]:
    return {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        # As torchrun: processes whose thread pools fight for the same cores are slower than single threads.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
