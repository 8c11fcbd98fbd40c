"""Several processes for one run: how ``medground train`` starts them on one machine, and how they leave.

Every process runs the same command with the environment variables torchrun sets; torchrun itself, DeepSpeed's launcher or
a cluster's may start them just as well. SIGTERM or Ctrl-C is passed on once; a process that fails takes the others along.
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

T = TypeVar("T")
GRACE = 15.0
"""Seconds that the others have to end by themselves once a process has failed."""


def ranks() -> int:
    """How many processes were started together with this one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Which of them this one is."""
    return int(os.environ.get("RANK") or 0)


def launched() -> bool:
    """Whether something has started this process as one of several (or of one)."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def dealt(hands: Sequence[Sequence[T]]) -> list[T]:
    """What was dealt out to ranks in turn, in its order again.

    >>> dealt(["ace", "bd"])
    ['a', 'b', 'c', 'd', 'e']
    """
    return [hand[place] for place in range(max(map(len, hands))) for hand in hands if place < len(hand)]


def declare_no_accelerator() -> None:
    """Tell DeepSpeed, before it is imported, that it computes on CPUs where it does: it warns where it must find out."""
    import torch

    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def leave(code: int) -> NoReturn:
    """End this process.

    One of several goes without Python's teardown: threads of communication libraries may abort in it, now and then, after
    all work is done, and the launcher would take that for a failure.
    """
    if not launched():
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def start(arguments: Sequence[str], count: int) -> int:
    """Run ``medground ARGUMENTS`` in so many processes; return the exit code of the run.

    Raises:
        RunError: if one of them was killed.
    """
    port = _free_port()
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "medground", *arguments],
            env={**os.environ, **_environment(number, count, port)},
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which passes it on once
        )
        for number in range(count)
    ]
    with _passing_on(children):
        failed = _wait(children)
    if failed is None:
        return 0
    who, code = failed
    if code < 0:
        raise RunError(
            f"process {who} of {count} was killed by {signal.Signals(-code).name}, and the others were stopped",
            hint="the newest checkpoint is whole: add --resume to continue from it",
        )
    return code


def _wait(children: "Sequence[subprocess.Popen[bytes]]") -> tuple[int, int] | None:
    """Until all have ended; once one has failed, the others have a moment and are then killed.

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
def _passing_on(children: "Sequence[subprocess.Popen[bytes]]") -> Iterator[None]:
    """Within, a first SIGINT or SIGTERM is passed on as SIGTERM, a second one as SIGKILL."""
    asked: list[int] = []

    def pass_on(number: int, _: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL if asked else signal.SIGTERM)
        asked.append(number)

    handlers: dict[int, Callable[[int, object], None]] = dict.fromkeys((signal.SIGINT, signal.SIGTERM), pass_on)
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
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
