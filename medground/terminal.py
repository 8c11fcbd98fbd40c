"""What reaches a terminal: text alone, whatever a model, a file's name, a plugin's metadata or a server wrote.

The command line writes through `clean_streams`, so that a line of code that prints cannot forget it. A live display needs
control sequences: it writes through `console`, and cleans its texts by `printable` itself.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO
from unicodedata import category

if TYPE_CHECKING:
    from rich.console import Console


def printable(text: str) -> str:
    """Return a text without what moves, hides or reorders it on a terminal; line ends and tabs stay, odd spaces turn plain.

    What goes is all that Unicode does not count as printable: C0 and C1 (ESC among them), bidirectional and zero-width
    characters, lone surrogates.

    >>> printable("mass\\x1b]52;c;ZXZpbA==\\x07 in the \\u202eleft\\u200b lobe\\n")
    'mass]52;c;ZXZpbA== in the left lobe\\n'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else " " * (category(char) == "Zs") for char in text)


class CleanStream:
    """A text stream that writes what `printable` returns.

    Args:
        stream: where it writes.
        forgiving: drop what cannot be written, for example since the terminal is gone; people's text ends no work.
    """

    def __init__(self, stream: TextIO, *, forgiving: bool) -> None:
        self.stream, self.forgiving = stream, forgiving

    def write(self, text: str) -> int:
        """Write a text; return its length.

        Raises:
            TypeError: for bytes, which `buffer` takes.
        """
        if not isinstance(text, str):
            raise TypeError(f"a stream of text takes no {type(text).__name__}")
        with self._errors():
            self.stream.write(printable(text))
        return len(text)

    def flush(self) -> None:
        """Hand everything on."""
        with self._errors():
            self.stream.flush()

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.suppress(OSError, ValueError) if self.forgiving else contextlib.nullcontext()

    @property
    def buffer(self) -> "CleanBytes":
        """Bytes as text, cleaned too."""
        return CleanBytes(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class CleanBytes(io.RawIOBase):
    """A stream of UTF-8 bytes that hands them to a `CleanStream`."""

    def __init__(self, stream: CleanStream) -> None:
        self.stream = stream

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write bytes that end with a whole character; return their number."""
        self.stream.write(bytes(data).decode(errors="replace"))
        return len(data)


@contextlib.contextmanager
def clean_streams() -> Iterator[None]:
    """Write stdout and stderr through `CleanStream`; a stream that was closed before the start goes nowhere."""
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout, sys.stderr = _clean(sys.stdout, forgiving=False), _clean(sys.stderr, forgiving=True)
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def _clean(stream: TextIO | None, *, forgiving: bool) -> Any:
    return CleanStream(stream or open(os.devnull, "w"), forgiving=forgiving)


def examples(*commands: str) -> str:
    """Return the epilog of a command's --help that shows command lines, which click would wrap elsewhere.

    >>> examples("medground doctor", "medground doctor --json").splitlines()[1:]
    ['Examples:', '  medground doctor', '  medground doctor --json']
    """
    return "\n".join(["\b", "Examples:", *(f"  {command}" for command in commands)])


def console(stream: Any) -> "Console":
    """Return a console of rich on `sys.stdout` or `sys.stderr`; what it is given must be `printable`."""
    from rich.console import Console

    while isinstance(stream, CleanStream):
        stream = stream.stream
    return Console(file=stream)
