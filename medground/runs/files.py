"""Files that survive a kill: replaced in one move, appended line by line, locked, identified by their digest.

Nothing is written through a link: a link in the place of a file is replaced or refused.
"""

import hashlib
import json
import os
import re
import shlex
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from medground.errors import RunError
from medground.runs.failpoints import failpoint
from medground.runs.jsonable import restore

if TYPE_CHECKING:
    from filelock import BaseFileLock


Written = TypeVar("Written")
_LEFTOVER = re.compile(r"\.tmp-\d+-.+")
"""The name of a file that `replacing` has not moved into its place yet."""
_FRESH = 2_000_000_000
"""Nanoseconds in which a file may change twice without another time: so young a file is hashed each time."""
_digests: dict[tuple[int, ...], str] = {}
"""Identity, size and times of a file -> its digest, within this process."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside a file; what is written there replaces the file in one move when the block ends without an error.

    Raises:
        OSError: with the path of the file, if it cannot be written.
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        temporary.unlink(missing_ok=True)
        yield temporary
        failpoint("files.replace")
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Replace a text file in one move, so that a reader, a kill or a power cut never meets half of it."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
    sync(path.parent)


def read_json(path: Path, kind: type[Written]) -> Written:
    """Return what a run wrote as JSON.

    Raises:
        RunError: if it cannot be read, or is of another kind.
    """
    try:
        value: Written = restore(kind, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}", hint="restore it, or choose another --out") from error
    return value


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
            RunError: if the file is a link, or has a second name.
            OSError: with the path of the file, if it cannot be written.
        """
        text = "".join(map(self._line, records))
        try:
            if self._file is None:
                self._file = _open_to_append(self.path)
                if _is_torn(self._file):
                    text = f"\n{text}"
            self._file.write(text.encode())
            failpoint("files.append")
            self._file.flush()
        except OSError as error:
            error.filename = str(self.path)
            raise

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
                with suppress(ValueError, RecursionError):
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
        RunError: if another process holds the lock, or something else stands in its place: some systems empty a lock's file.
    """
    from filelock import FileLock, Timeout  # it imports asyncio

    if os.path.lexists(path) and not (_is_own_file(status := path.lstat()) and status.st_size == 0):
        raise RunError(f"{path} is not a lock of medground", hint=f"rm {shlex.quote(str(path))}")
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RunError(message, hint=hint) from error
    return lock


def lock_folder(folder: Path) -> "BaseFileLock":
    """Make a folder, lock it for this process, and remove what a killed writer of its files left.

    Raises:
        RunError: if another process writes to it, or it holds a link: whoever writes there would write elsewhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = locked(folder / ".lock", f"another process writes to {folder}", "wait for it, or choose another --out")
    try:
        for path in _walk(folder):
            if _LEFTOVER.fullmatch(path.name) and not path.is_dir():
                path.unlink()
    except BaseException:
        lock.release()
        raise
    return lock


def _walk(folder: Path) -> Iterator[Path]:
    """Yield everything in a folder; stop at what is neither a file nor a folder."""
    for parent, folders, names in os.walk(folder):
        for path in [Path(parent, name) for name in (*folders, *names)]:
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                what = "a link" if stat.S_ISLNK(mode) else "no file"
                hint = f"rm {shlex.quote(str(path))}, or choose another --out"
                raise RunError(f"{path} is {what}, and nothing is written through it", hint=hint)
            yield path


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, which is read once in this process as long as its identity, size and times stay."""
    status = path.stat()
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key not in _digests:
        digest = sha256_file(path)
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _FRESH:
            return digest
        _digests[key] = digest
    return _digests[key]


def sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _open_to_append(path: Path) -> IO[bytes]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError:
        if path.is_symlink():
            raise RunError(f"{path} is a link", hint=f"rm {shlex.quote(str(path))}") from None
        raise
    if not _is_own_file(os.fstat(handle)):
        os.close(handle)
        raise RunError(f"{path} is a file with a second name, or none", hint=f"rm {shlex.quote(str(path))}")
    return os.fdopen(handle, "a+b")


def _is_own_file(status: os.stat_result) -> bool:
    """Return True for a regular file with one name: what is written to it appears nowhere else."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _is_torn(file: IO[bytes]) -> bool:
    """Return True if the last line of a file has no end."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read() != b"\n"
