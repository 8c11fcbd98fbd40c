"""How this process ends: not with 0 before its command is done, whatever the code that the command runs does."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from medground.errors import RunError

_leave: Callable[[int], NoReturn] = os._exit
_decided: int | None = None
"""The exit code of the command; None while it runs."""
_running = "code that this command runs"
"""What is to blame where the process ends early."""


def refuse_early_exit() -> None:
    """Let `os._exit` in this process end it with 1 in place of 0 until `decide` was called, and let no program replace it.

    Children that are forked from it end as they like.
    """
    own = os.getpid()

    def leave(code: int) -> NoReturn:
        if os.getpid() != own:
            _leave(code)
        if _decided is None:
            say_last(f"error: {_running} ended the process before the command was done")
        end_process(code or (1 if _decided is None else _decided))

    def unless_own(replace: Callable[..., NoReturn]) -> Callable[..., NoReturn]:
        def program(path: str, *arguments: object) -> NoReturn:
            if os.getpid() == own:
                raise RunError(f"{_running} would replace the process by another program: {path}")
            replace(path, *arguments)

        return program

    for module in (os, sys.modules[os.name]):
        vars(module).update(_exit=leave, execv=unless_own(os.execv), execve=unless_own(os.execve))


@contextmanager
def blame(what: str) -> Iterator[None]:
    """Name `what` where the block ends the process early."""
    global _running
    before, _running = _running, what
    try:
        yield
    finally:
        _running = before


def decide(code: int) -> None:
    """State the exit code of the command, which is done."""
    global _decided
    _decided = code


def end_process(code: int) -> NoReturn:
    """End this process now, without Python's teardown."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    _leave(code)


def say_last(text: str) -> None:
    """Write a line to stderr past whatever replaced `sys.stderr`, for a process that ends at once."""
    try:
        os.write(2, f"{text}\n".encode(errors="backslashreplace"))
    except OSError:
        return  # stderr is closed
