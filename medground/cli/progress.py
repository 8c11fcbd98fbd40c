"""A progress bar on a terminal, nothing anywhere else."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(what: str, *, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(n)``; a `total` of None is not known beforehand. rich is imported only when stderr is a terminal."""
    with counted(what) as report:
        count = done
        report(count, total)

        def advance(more: int) -> None:
            nonlocal count
            count += more
            report(count, total)

        yield advance


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield ``report(done, total)``, for work whose size is known only once it begins."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
