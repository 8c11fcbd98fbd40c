"""Where terms run that medground does not ship: in a child forked per batch, or here with a watchdog.

The child is a copy of this process: closures work, and nothing is copied on the way in. What it changes is lost. Lines of
text come back through a pipe. It ends with its work, with its time limit, with its parent, or when it takes more memory
than `MEMORY`; whatever it started ends with it. It computes in Python and NumPy alone: an accelerator is of no use there.
"""

import contextlib
import ctypes
import faulthandler
import gc
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from medground.errors import RunError
from medground.runs.exits import blame, end_process, say_last

SECONDS = 60.0
"""How long a term may take for one batch, where it declares no ``time_limit``."""
MEMORY = 4 << 30
"""Bytes that a child may take beyond what this process has."""
LINE = 1 << 16
"""The longest line that comes back, in bytes."""
GRACE = 5.0
"""Seconds after a time limit until the process ends without Python's help."""

Send = Callable[[bytes], None]
_DONE = b"done"


class Ending(StrEnum):
    """How the work of a child ended."""

    DONE = "done"
    LEFT = "left"
    """It ended its process, or was killed."""
    LATE = "late"
    GARBLED = "garbled"
    """It sent what is no line."""


@dataclass(frozen=True, slots=True)
class ChildResult:
    """What came back from a child."""

    lines: list[bytes]
    ending: Ending
    cause: str
    """The ending in words, as ``ended its process (exit status 0)``."""


def can_fork() -> bool:
    """Return whether this system has children that are copies of their parent."""
    return hasattr(os, "fork")


def run_in_child(work: Callable[[Send], None], seconds: float) -> ChildResult:
    """Run `work` in a forked child, and return the lines that it sends.

    Args:
        work: takes the function that sends one line without a line break, of at most `LINE` bytes.
        seconds: until the child is killed.

    Raises:
        RunError: if the system gives no child.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()  # else the child has the unwritten text too
    reading, writing = os.pipe()
    parent = os.getpid()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child takes none of their locks
            pid = os.fork()
    except OSError as error:
        os.close(reading)
        os.close(writing)
        raise RunError(
            f"no child can be forked: {error.strerror}", hint="free memory, or set in_process = True on the term"
        ) from error
    if pid == 0:
        _work_and_end(work, writing, parent, seconds)
    os.close(writing)
    lines, ending, status = list[bytes](), Ending.LATE, 0
    try:
        ending = _receive(reading, seconds, lines)
    finally:
        os.close(reading)
        status = _end_group(pid, GRACE if ending is Ending.LEFT else 0.0)
    causes = {
        Ending.LEFT: f"ended its process ({_how(status)})",
        Ending.LATE: f"did not finish within {seconds:g} s",
    }
    return ChildResult(lines, ending, causes.get(ending, "gave back no text that can be read"))


def _receive(reading: int, seconds: float, lines: list[bytes]) -> Ending:
    """Append what a child sends to `lines`, until it has done its work or goes no further."""
    deadline, rest = time.monotonic() + seconds, b""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if not poll.poll(1000 * min(left, 3600.0)):
            continue
        chunk = os.read(reading, LINE)
        if not chunk:
            return Ending.LEFT
        *whole, rest = (rest + chunk).split(b"\n")
        lines += whole
        if lines and lines[-1] == _DONE:
            lines.pop()
            return Ending.DONE
        if len(rest) > LINE:
            return Ending.GARBLED
    return Ending.LATE


def _end_group(pid: int, seconds: float) -> int:
    """Wait so long for a child to end by itself, then end it and whatever it started; return its wait status."""
    deadline, status = time.monotonic() + seconds, 0
    with contextlib.suppress(ChildProcessError):  # where nobody waits for children, nothing is known of them
        ended = False
        while not ended and time.monotonic() < deadline:
            number, status = os.waitpid(pid, os.WNOHANG)
            ended = number == pid
            if not ended:
                time.sleep(0.002)
        for kill in (os.killpg, os.kill):  # it may not have its own group yet
            if kill is os.killpg or not ended:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(pid, signal.SIGKILL)
        if not ended:
            status = os.waitpid(pid, 0)[1]
    return status


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"signal {-code}"


def _work_and_end(work: Callable[[Send], None], writing: int, parent: int, seconds: float) -> NoReturn:
    """Be the child: do the work and end, without the teardown of what this copy of the parent holds."""
    own = os.getpid()

    def send(line: bytes) -> None:
        if os.getpid() != own:
            os._exit(1)  # the work forked a copy of this child
        os.write(writing, line + b"\n")

    try:
        os.setsid()
        _end_with(parent, seconds)
        gc.freeze()  # files that the parent has open are not closed here, which would write what it has not written yet
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        _give_own_streams()
        _limit_memory()
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(1)  # the threads of the parent's pool are not in this copy
        work(send)
        send(_DONE)
    finally:
        os._exit(1)


def _end_with(parent: int, seconds: float) -> None:
    """Have this child killed when its parent ends, or else soon after its time limit."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _give_own_streams() -> None:
    """Read nothing, and write to stderr what the work prints: stdout is for results."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # stderr is closed
        os.dup2(null, 1)
        os.dup2(null, 2)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it lasts as long as the process
    sys.stdout = sys.stderr = open(2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115


def _limit_memory() -> None:
    import resource

    try:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # no Linux
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (size + MEMORY, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))


@contextlib.contextmanager
def watch(what: str, seconds: float) -> Iterator[None]:
    """End this process with 1, naming `what`, if the block takes longer; what it prints goes to stderr."""

    def end() -> None:
        say_last(
            f"error: {what} did not finish within {seconds:g} s\n hint: set time_limit = SECONDS on it if it is only slow"
        )
        end_process(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=2)  # where the block keeps Python from running
    try:
        with blame(what), contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        timer.cancel()
