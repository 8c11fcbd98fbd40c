"""Files that survive a kill: replaced in one move, appended line by line, locked, identified by their digest."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from medground.errors import RunError

if TYPE_CHECKING:
    from filelock import BaseFileLock


def write_atomic(path: Path, text: str) -> None:
    """Replace a text file in one move, so that a reader or a kill never meets half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


class JsonLines:
    """A file of one JSON value per line, appended to; a kill can tear its last line only.

    Args:
        path: the file; made by the first `append`.
        allow_nan: write numbers that are not finite, which are not JSON.
    """

    def __init__(self, path: Path, *, allow_nan: bool = False) -> None:
        self.path, self.allow_nan = path, allow_nan
        self._file: IO[bytes] | None = None

    def append(self, *records: Mapping[str, Any] | Sequence[Any]) -> None:
        """Write one line per record and hand them to the operating system; a torn last line is ended before.

        Raises:
            ValueError: if a number is not finite.
        """
        text = "".join(map(self._line, records))
        if self._file is None:
            self._file = self.path.open("a+b")
            if _is_torn(self._file):
                text = f"\n{text}"
        self._file.write(text.encode())
        self._file.flush()

    def rewrite(self, records: Iterable[Mapping[str, Any] | Sequence[Any]]) -> None:
        """Replace all lines in one move."""
        text = "".join(map(self._line, records))
        self.close()
        write_atomic(self.path, text)

    def sync(self) -> None:
        """Bring all lines to the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self) -> Iterator[Any]:
        """Yield the records in order, without lines that a kill has torn; none if there is no file."""
        if not self.path.is_file():
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError):
                    yield json.loads(line)

    def _line(self, record: Mapping[str, Any] | Sequence[Any]) -> str:
        return json.dumps(record, ensure_ascii=True, allow_nan=self.allow_nan) + "\n"


def locked(path: Path, message: str, hint: str) -> "BaseFileLock":
    """Return a lock that this process holds until it is released or the process ends; usable as a context.

    Args:
        path: the lock's file; made if it does not exist.
        message: of the error if another process holds it.
        hint: its remedy.

    Raises:
        RunError: if another process holds the lock.
    """
    from filelock import FileLock, Timeout  # it imports asyncio

    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RunError(message, hint=hint) from error
    return lock


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_torn(file: IO[bytes]) -> bool:
    """Return True if the last line of a file has no end."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read() != b"\n"
