"""Python processes that import what this one can, and nothing of the current folder."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import IO


def start_python(
    code: str, *arguments: str, stdout: int | IO[bytes] = subprocess.DEVNULL, pass_fds: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    """Start Python on `code`, in a session of its own; it reads nothing, and what it writes to stderr is dropped.

    Args:
        code: what it runs.
        arguments: its ``sys.argv[1:]``.
        stdout: where it prints.
        pass_fds: file descriptors that it inherits.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folder or os.getcwd() for folder in sys.path)},
        pass_fds=pass_fds,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
