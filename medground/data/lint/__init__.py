"""Checks of a dataset, before its faults become numbers: `medground data lint`."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from medground.data.lint.dataset import check_across
from medground.data.lint.findings import CODES as CODES
from medground.data.lint.findings import Finding as Finding
from medground.data.lint.findings import Line as Line
from medground.data.lint.pixels import check_pixels, open_fingerprinted
from medground.data.lint.records import check_record
from medground.data.manifest import manifest_file, owners_of, read_records
from medground.errors import InputError


def lint(
    path: str | Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[Finding], int]:
    """Check a dataset: every line by itself, its files, and the lines against one another.

    Args:
        path: a folder with ``manifest.jsonl``, or the file.
        progress: takes the lines that are checked and all lines, at the start and after every line.

    Returns:
        the findings in the order of the lines, and how many lines there are.

    Raises:
        InputError: if there is no manifest, or it holds no lines.
    """
    manifest = manifest_file(path)
    root = manifest.parent.resolve()
    open_once = lru_cache(maxsize=1)(open_fingerprinted)  # lines about one image most often follow one another
    lines = [Line(record, owners=owners_of(record, root)) for record in read_records(manifest)]
    if not lines:
        raise InputError(f"{manifest} holds no samples", hint="build it anew: medground data build")
    progress(0, len(lines))
    for number, line in enumerate(lines, start=1):
        check_record(line)
        check_pixels(line, root, open_once)
        progress(number, len(lines))
    check_across(lines)
    return [finding for line in lines for finding in line.findings], len(lines)
