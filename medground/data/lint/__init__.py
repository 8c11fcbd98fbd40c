"""Faults of a dataset, found before they become numbers: `medground data lint`."""

from collections.abc import Callable
from pathlib import Path

from medground.data.lint.dataset import check_across
from medground.data.lint.findings import CODES as CODES
from medground.data.lint.findings import Finding as Finding
from medground.data.lint.findings import Line as Line
from medground.data.lint.pixels import Opened, check_pixels
from medground.data.lint.records import check_line, read_line
from medground.data.samples import MANIFEST
from medground.errors import InputError


def lint(path: str | Path, *, advance: Callable[[int], None] = lambda count: None) -> tuple[list[Finding], int]:
    """Check a dataset: every line by itself, its files, and the lines against one another.

    Args:
        path: a folder with ``manifest.jsonl``, or the file.
        advance: told after every line.

    Returns:
        the findings in the order of the lines, and how many lines there are.

    Raises:
        InputError: if there is no manifest, or it holds no lines.
    """
    manifest = Path(path).expanduser()
    if manifest.is_dir():
        manifest = manifest / MANIFEST
    if not manifest.is_file():
        raise InputError(f"{manifest} does not exist", hint=f"give a folder with {MANIFEST}")
    texts = manifest.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [read_line(text, number) for number, text in enumerate(texts, start=1) if text.strip()]
    if not lines:
        raise InputError(f"{manifest} holds no samples")
    root, opened = manifest.parent.resolve(), Opened()
    for line in lines:
        if line.words:
            check_line(line)
            check_pixels(line, root, opened)
        advance(1)
    check_across(lines)
    return [finding for line in lines for finding in line.findings], len(lines)
