"""Read JSON and JSON lines that others wrote: the one reader of them.

Text is UTF-8, with or without a byte order mark. A line ends at a line feed and nowhere else: U+2028 and its like may
stand inside a text. What could be read in two ways is refused: a word that is stated twice, half of a surrogate pair.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medground.errors import InputError
from medground.images.pictures import MAX_BYTES, printable

MAX_LINE = 10_000_000
"""Bytes; a longer line is refused before it is parsed."""
_SHOWN = 60
"""The most characters of a bad value that a message repeats."""
_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}


@dataclass(frozen=True, slots=True)
class JsonLine:
    """One line that is not empty."""

    number: int
    """From 1; empty lines count."""
    value: Any = None
    problem: str = ""
    """Why the line is no JSON value; empty where it is one."""


def parse_json(data: bytes) -> Any:
    """Parse a JSON text.

    Raises:
        InputError: for anything else; its message fits behind a name and "is".
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8", hint="save it as UTF-8") from error
    try:
        value = json.loads(text, object_pairs_hook=_words_once)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError("not Unicode: it holds half of a surrogate pair", hint="write the whole character") from error
    except (ValueError, RecursionError) as error:
        raise InputError("not JSON", hint="download or export it again") from error
    return value


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of bounded size.

    Raises:
        InputError: if it is none.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{printable(path.name)} takes {path.stat().st_size / 1e6:.0f} MB", hint="split it")
    try:
        return parse_json(path.read_bytes())
    except InputError as error:
        raise InputError(f"{printable(path.name)} is {error.message}", hint=error.hint) from error


def read_json_lines(path: Path, *, own: bool = False) -> Iterator[JsonLine]:
    """Parse the lines of a file one by one; empty lines are passed over, bad ones come with their problem.

    Args:
        path: the file.
        own: medground wrote it: lines are of any length, and a last one without an end, which a kill has torn, is left out.

    Raises:
        InputError: if the file cannot be read, or is no text.
    """
    name = printable(path.name)
    try:
        longest = MAX_BYTES if own else MAX_LINE
        with path.open("rb") as stream:
            refuse_archive(start := stream.read(512), name)
            if start.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise InputError(f"{name} is UTF-16 text", hint="save it as UTF-8")
            if b"\0" in start:
                raise InputError(f"{name} is no text file", hint="give a file of JSON lines")
            stream.seek(0)
            number = 0
            while data := stream.readline(longest + 1):
                number += 1
                if own and not data.endswith(b"\n"):
                    return
                if len(data) > longest:
                    while data and not data.endswith(b"\n"):
                        data = stream.readline(longest)
                    yield JsonLine(number, problem=f"longer than {longest} bytes")
                elif data.strip(b"\xef\xbb\xbf \t\r\n"):
                    yield parse_line(data, number)
    except OSError as error:
        raise InputError(
            f"{name} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from error


def parse_line(data: bytes, number: int) -> JsonLine:
    """Parse one line."""
    try:
        return JsonLine(number, parse_json(data))
    except InputError as error:
        return JsonLine(number, problem=error.message)


def refuse_archive(start: bytes, name: str) -> None:
    """Raise if a file that begins with `start` is an archive.

    Raises:
        InputError: naming its kind.
    """
    if kind := next((kind for magic, kind in _ARCHIVES.items() if start.startswith(magic)), None):
        raise InputError(f"{name} is a {kind} archive", hint="unpack it and give the folder")


def id_text(value: Any) -> str | None:
    """Return the name that a JSON value states: a text as it is, a whole number by its digits, so that 3 is "3".

    None for anything else: an empty text, a fraction, a truth value. Every reader of ids converts them here, so that a
    sample and its prediction meet whichever way each of them spells the number.

    >>> id_text(0), id_text("0"), id_text(0.0), id_text(True)
    ('0', '0', None, None)
    """
    return (str(value) or None) if type(value) in (str, int) else None


def shown(value: Any) -> str:
    """Return a bad value for a message, shortened."""
    return "None" if value is None else repr(str(value)[:_SHOWN])


def _words_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    words: dict[str, Any] = {}
    for name, value in pairs:
        if name in words:
            raise InputError(f"not clear: it states {shown(name)} twice", hint="remove one of the two")
        words[name] = value
    return words
