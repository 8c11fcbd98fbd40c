"""The outside of weights files: what a file is, how long it must be, what its header promises. Torch is not imported.

Everything here looks at a few bytes first, so that a wrong file costs neither time nor memory.
"""

import json
import math
import re
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medground.errors import InputError, MedgroundError

Parsed = Any
"""The content of a JSON file."""
POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that git-LFS has not replaced by its content."""
MOST_TENSORS = 65_536
"""In one file; the largest published shards hold a few thousand."""
MOST_HEADER = 16 * 2**20
"""Bytes of a safetensors header, and of a zip archive's directory."""
MOST_SETTINGS = 4 * 2**20
"""Bytes of a configuration."""
MOST_TOKENIZER = 128 * 2**20
"""Bytes of another JSON file of a checkpoint: vocabularies and tokenizers."""
MOST_NUMBER = 2**40
"""Of any number in a configuration: the largest are limits of pixels and bases of rotary positions."""
MOST_NUMBERS = ((r"^model_max_length$", math.inf), (r"(experts|heads|groups)$", 65_536), (r"factor$", 65_536))
"""Patterns of keys, and the most their numbers may be where that is another."""
LAYERS = r"^(num_\w*layers|layers|n_layers?|\w*depths?|num_blocks|num_stages)$"
"""Keys that count modules, each of which has tensors of its own."""
CODE = ("auto_map", "custom_pipelines")
"""Keys through which a checkpoint brings code of its own."""
ATTENTIONS = frozenset({"sdpa", "eager", "flash_attention_2"})
"""Implementations of attention that are installed libraries; any other word may name a repository of kernels."""
MOST_REASON = 240
"""Characters that are shown of an error of another library."""
AGAIN = "copy or fetch it again"
RELEASED = "copy it from the released checkpoint"


def check_file(path: Path) -> bytes:
    """Return how a file begins; stop at what is no regular file, or is a git-LFS pointer.

    Raises:
        InputError: naming the file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is no regular file", hint="give the file of the released checkpoint")
        with path.open("rb") as file:
            begin = file.read(len(POINTER))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if begin == POINTER:
        raise InputError(
            f"{path} is a git-LFS pointer, a text that stands for the content", hint=f"git -C {path.parent} lfs pull"
        )
    return begin


def read_json(path: Path, most: int = MOST_SETTINGS) -> Parsed:
    """Return the content of a JSON file of at most `most` bytes.

    Raises:
        InputError: if it is no regular file, too large, or no JSON.
    """
    check_file(path)
    if path.stat().st_size > most:
        raise InputError(f"{path} is larger than {most:,} bytes", hint=RELEASED)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # ValueError: of encoding too
        raise InputError(f"{path} is damaged or truncated: {error}", hint=RELEASED) from error


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a safetensors file promises, by name.

    Raises:
        InputError: if it is shorter than that, or is no safetensors file.
    """
    check_file(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            raise _truncated(path, size, 8 + length)
        if length > MOST_HEADER:
            raise _damaged(path, f"its header is {length:,} bytes long")
        text = file.read(length)
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        check_shapes(shapes, size, path)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"its header: {error}") from error
    if size < 8 + length + end:
        raise _truncated(path, size, 8 + length + end)
    return shapes


def check_shapes(shapes: Mapping[str, tuple[int, ...]], size: int, path: Path) -> None:
    """Stop at more tensors than a file may hold, and at shapes that `size` bytes cannot hold, even of no elements.

    Raises:
        InputError: naming the file.
    """
    if len(shapes) > MOST_TENSORS:
        raise _damaged(path, f"it names {len(shapes):,} tensors, more than {MOST_TENSORS:,}")
    for name, shape in shapes.items():
        sides = all(type(side) is int and 0 <= side <= size for side in shape)
        if not sides or len(shape) > 16 or math.prod(shape) > size * 8:
            raise _damaged(path, f"{name} has the shape {str(list(shape))[:80]}")


def open_archive(path: Path) -> zipfile.ZipFile:
    """Return a zip archive as PyTorch writes it: nothing compressed, no more inside than the file is long.

    Raises:
        InputError: if it is another kind of archive, damaged or truncated.
    """
    size = path.stat().st_size
    _check_directory(path, size)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, LookupError, NotImplementedError, struct.error, OSError) as error:
        raise _damaged(path, str(error)) from error
    entries = archive.infolist()
    packed = any(
        entry.compress_type or entry.flag_bits & 1 or entry.compress_size != entry.file_size for entry in entries
    )
    total = sum(entry.file_size for entry in entries)
    if not packed and total <= size and len(entries) <= 2 * MOST_TENSORS:
        return archive
    archive.close()
    if packed:
        raise InputError(f"{path.name} holds compressed records, which PyTorch does not write", hint=AGAIN)
    raise _damaged(path, f"its {len(entries):,} records promise {total:,} bytes in a file of {size:,}")


def _check_directory(path: Path, size: int) -> None:
    """Stop at an archive without an end, or with a directory too long to be read, before it is read."""
    with path.open("rb") as file:
        file.seek(max(0, size - 2**16 - 200))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) < end + 22:
        raise InputError(f"{path} is truncated: {size:,} bytes, and the end is missing", hint=AGAIN)
    lengths = [int.from_bytes(tail[end + 12 : end + 16], "little")]
    if (wide := tail.rfind(b"PK\6\6", 0, end)) >= 0:
        lengths = [length for length in lengths if length != 0xFFFFFFFF]
        lengths.append(int.from_bytes(tail[wide + 40 : wide + 48], "little"))
    if max(lengths, default=0) > MOST_HEADER:
        raise _damaged(path, f"its directory is {max(lengths):,} bytes long")


def check_settings(settings: Parsed, path: Path, tensors: int) -> None:
    """Stop at a configuration that brings code, or with numbers that no model has.

    Args:
        settings: what `read_json` returns; dictionaries and lists are searched to the bottom.
        path: where it comes from, for the error.
        tensors: how many the checkpoint holds; every layer has one at least.

    Raises:
        InputError: naming the key.
    """
    for where, value in walk(settings):
        key = where.rpartition(".")[2]
        most = next((most for word, most in (*MOST_NUMBERS, (LAYERS, tensors)) if re.search(word, key)), MOST_NUMBER)
        if key in CODE:
            reason, hint = (
                "which would run code from the checkpoint",
                "use a checkpoint of an architecture its library has",
            )
        elif "attn_implementation" in where and isinstance(value, str) and value not in ATTENTIONS:
            reason, hint = (
                "which would fetch code",
                f"take it out; a recipe chooses among {', '.join(sorted(ATTENTIONS))}",
            )
        elif isinstance(value, int | float) and not abs(value) <= most:  # NaN too
            reason, hint = f"which no model of {tensors:,} tensors has", RELEASED
        else:
            continue
        raise InputError(f"{path.parent.name}/{path.name} has {where[-80:]!r}: {repr(value)[:80]}, {reason}", hint=hint)


def walk(settings: Parsed) -> Iterator[tuple[str, Parsed]]:
    """Yield every value in a parsed JSON file with its keys, joined by dots; an item of a list has the keys of the list.

    >>> list(walk({"a": {"b": [1]}}))[-1]
    ('a.b', 1)
    """
    values = [("", settings)]
    while values:
        where, value = values.pop()
        yield where, value
        if isinstance(value, dict):
            values += [(f"{where}.{key}"[-200:] if where else key, item) for key, item in value.items()]
        elif isinstance(value, list):
            values += [(where, item) for item in value]


@contextmanager
def refusing(what: str, *, hint: str = "compare its files with the released ones") -> Iterator[None]:
    """Turn an error of a library that reads a foreign file into one sentence.

    The libraries raise about twenty classes of errors there, `Exception` itself among them, and Rust's panics.

    Args:
        what: how the sentence begins, for example ``folder cannot be loaded, its tokenizer``.
        hint: the remedy.

    Raises:
        InputError: for any error but those of medground, and of a library that is not installed.
    """
    try:
        yield
    except (MedgroundError, ImportError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:MOST_REASON] or type(error).__name__
        raise InputError(f"{what}: {reason}", hint=hint) from error


def _truncated(path: Path, size: int, promised: int) -> InputError:
    return InputError(f"{path} is truncated: {size:,} of at least {promised:,} bytes are here", hint=AGAIN)


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path.name} is damaged or no file of weights: {reason}", hint=AGAIN)
