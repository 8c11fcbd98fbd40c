"""The folder of a server's images, which ends with the server."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "medground-serve-"
YOUNG_SECONDS = 60.0
"""In which a server surely locks the folder that it has made."""


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a new folder that no other user can read, under ``TMPDIR``; at the end it is removed.

    A server that is killed cannot remove its folder: those that no server has locked are removed here.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, or in use
            if folder.stat().st_mtime < time.time() - YOUNG_SECONDS:
                os.close(_locked(folder))
                shutil.rmtree(folder)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        lock = _locked(Path(name))
        try:
            yield Path(name)
        finally:
            os.close(lock)


def _locked(folder: Path) -> int:
    """Return a file descriptor that locks a folder until it is closed.

    Raises:
        OSError: if another process has locked it, or it is no folder of ours.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            raise PermissionError(folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
