"""Progress of long work: a bar with the time left on a terminal and in a notebook, a line now and then elsewhere.

All of it goes to stderr, or to the output of the notebook's cell. rich is imported only where there is a bar.
"""

import io
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Any, Protocol

import click

from medground.terminal import clean_streams, console, printable

SHOWN = ("reward", "loss", "kl", "entropy", "completions/mean_length", "grad_norm")
EVERY = 30.0
"""Seconds between two lines where there is neither a terminal nor a notebook."""
REFRESH = 0.25
"""Seconds between two updates of a bar."""
WINDOW = 60.0
"""The speed of work is that of about so many seconds, and at least of its newest step."""
WIDTH = 100
"""Columns of a bar in a notebook."""
Metrics = Mapping[str, float]


class Count(Protocol):
    """Takes how much is done, of how much where that is known, and a note on what is being done."""

    def __call__(self, done: float, total: float | None, note: str = "") -> None:
        """Show it."""


@contextmanager
def progress(what: str, *, total: int | None, done: int = 0, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Yield ``advance(n)``.

    Args:
        what: the work, in a word.
        total: how much there is; None where it is not known beforehand.
        done: how much was done before.
        unit: what is counted, in the singular; "" shows no speed.
    """
    with counted(what, unit=unit) as report:
        count = done
        report(count, total)

        def advance(more: int) -> None:
            nonlocal count
            count += more
            report(count, total)

        yield advance


@contextmanager
def counted(what: str, *, unit: str = "") -> Iterator[Count]:
    """Yield ``report(done, total, note)``, for work whose size is known only once it begins; the first call is the start."""
    with _display(what, unit, eager=False) as display:
        begun = False

        def report(done: float, total: float | None, note: str = "") -> None:
            nonlocal begun
            if not begun:
                display.begin(done, total)
                begun = True
            else:
                display.count(done, total, {"note": note})

        yield report


@contextmanager
def training_progress() -> Iterator[tuple[Callable[[int, int], None], Callable[[int, Metrics], None]]]:
    """Yield two functions: one takes (done, planned) once, one takes (step, metrics) of every step and validation.

    A bar has the newest numbers under it, each term's reward and the last validation. Without one there is a line for the
    first step, the last one, one every `EVERY` seconds, and every validation.
    """
    with _display("step", "step", eager=True) as display:
        planned = 0

        def begin(done: int, total: int) -> None:
            nonlocal planned
            planned = total
            display.begin(done, total)

        def report(step: int, metrics: Metrics) -> None:
            if any(name.startswith("eval/") for name in metrics):
                display.event("validation", f"after step {step}: {headline(metrics)}")
            else:
                display.count(step, planned, {"step": headline(metrics), "terms": terms(metrics)})

        yield begin, report


@contextmanager
def counted_in_notebook(what: str, given: Count | None, *, unit: str = "") -> Iterator[Count]:
    """Yield `given`; without it a report that shows a bar in a notebook, and nothing elsewhere."""
    if given is not None or not in_notebook():
        yield given or _ignored
        return
    with counted(what, unit=unit) as report:
        yield report


def _ignored(done: float, total: float | None, note: str = "") -> None:
    """Outside a notebook a call from Python shows nothing unless it is told to."""


def in_notebook() -> bool:
    """Return True in the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class Pace:
    """The speed of work and its time left, by its newest minute.

    Args:
        done: how much was done before.
    """

    def __init__(self, done: float) -> None:
        self.times = deque([(monotonic(), done)])
        """(seconds, done then), the oldest first."""

    def at(self, done: float) -> float:
        """Record that so much is done; return the time, s."""
        now = monotonic()
        self.times.append((now, done))
        while len(self.times) > 2 and self.times[1][0] <= now - WINDOW:
            self.times.popleft()
        return now

    def describe(self, total: float | None, unit: str) -> str:
        """Return speed and time left in words; "" while nothing was done."""
        (begun, before), (now, done) = self.times[0], self.times[-1]
        if now <= begun or done <= before:
            return ""
        speed = (done - before) / (now - begun)
        left = "" if total is None else f"{timedelta(seconds=round((total - done) / speed))} left"
        return "  ".join(filter(None, [unit and rate(speed, unit), left]))


class _Display(Protocol):
    def begin(self, done: float, total: float | None) -> None: ...

    def count(self, done: float, total: float | None, notes: Mapping[str, str]) -> None: ...

    def event(self, name: str, text: str) -> None: ...


@contextmanager
def _display(what: str, unit: str, *, eager: bool) -> Iterator[_Display]:
    if in_notebook():
        with _Cell(_Screen(what, unit)) as cell:
            yield cell
    elif sys.stderr.isatty():
        from rich.live import Live

        screen = _Screen(what, unit)
        with Live(screen, console=screen.console, refresh_per_second=1 / REFRESH), clean_streams():
            yield screen
    else:
        yield _Lines(what, unit, eager=eager)


class _Lines:
    """The lines of a log.

    Args:
        what: the work.
        unit: what is counted.
        eager: write the first count and the last one, too.
    """

    def __init__(self, what: str, unit: str, *, eager: bool) -> None:
        self.what, self.unit, self.eager = what, unit, eager

    def begin(self, done: float, total: float | None) -> None:
        self.pace = Pace(done)
        self.due = 0.0 if self.eager else self.pace.times[0][0] + EVERY

    def count(self, done: float, total: float | None, notes: Mapping[str, str]) -> None:
        now = self.pace.at(done)
        if now >= self.due or (self.eager and done == total):
            self.due = now + EVERY
            counts = f"{self.what} {int(done)}" + ("" if total is None else f" of {int(total)}")
            note = notes.get("step") or notes.get("note", "")
            words = filter(None, [counts, printable(note), self.pace.describe(total, self.unit)])
            click.echo("  ".join(words), err=True)

    def event(self, name: str, text: str) -> None:
        click.echo(f"{name} {text}", err=True)


class _Screen:
    """A bar, and lines of notes under it."""

    def __init__(self, what: str, unit: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.unit = unit
        self.console = console(sys.stderr)
        words = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[pace]}", markup=False)
        self.bar = Progress(words[0], BarColumn(), MofNCompleteColumn(), words[1], console=self.console)
        self.task = self.bar.add_task(printable(what), total=None, pace="")
        self.lines: dict[str, str] = {}

    def begin(self, done: float, total: float | None) -> None:
        self.pace = Pace(done)
        self.bar.update(self.task, total=total, completed=done)

    def count(self, done: float, total: float | None, notes: Mapping[str, str]) -> None:
        self.pace.at(done)
        self.bar.update(self.task, completed=done, total=total, pace=self.pace.describe(total, self.unit))
        self.lines |= notes

    def event(self, name: str, text: str) -> None:
        self.lines = {name: text} | {key: line for key, line in self.lines.items() if key != name}

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        named = [(name if name != "note" else "", line) for name, line in self.lines.items() if line]
        return Group(self.bar, *(Text(printable(f"{name:<10} {line}")) for name, line in named))


class _Cell:
    """A screen in the output of a notebook's cell, written anew where it stands."""

    def __init__(self, screen: _Screen) -> None:
        self.screen, self.due = screen, 0.0

    def __enter__(self) -> "_Cell":
        from IPython.display import display

        self.handle = display(self._bundle(), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.update(self._bundle(), raw=True)

    def begin(self, done: float, total: float | None) -> None:
        self.screen.begin(done, total)
        self._show()

    def count(self, done: float, total: float | None, notes: Mapping[str, str]) -> None:
        self.screen.count(done, total, notes)
        self._show()

    def event(self, name: str, text: str) -> None:
        self.screen.event(name, text)
        self._show()

    def _show(self) -> None:
        now = monotonic()
        if now >= self.due:
            self.due = now + REFRESH
            self.handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=WIDTH, force_jupyter=False).print(self.screen)
        return {"text/plain": "\n".join(line.rstrip() for line in text.getvalue().splitlines())}


def headline(metrics: Metrics) -> str:
    """Return the main metrics as one line.

    >>> headline({"reward": 0.51239, "epoch": 1.0, "loss": 0.02}), headline({"eval/iou": 0.5, "eval/iou/n": 64.0})
    ('reward 0.5124  loss 0.02', 'iou 0.5')
    """
    names = {name: name for name in SHOWN if name in metrics}
    names |= {name: name.removeprefix("eval/") for name in metrics if name.startswith("eval/") and name.count("/") == 1}
    return "  ".join(f"{word} {metrics[name]:.4g}" for name, word in names.items())


def terms(metrics: Metrics) -> str:
    """Return each term's mean reward as one line.

    >>> terms({"reward": 0.5, "reward/bbox_iou/mean": 0.25, "reward/bbox_iou/std": 0.1})
    'bbox_iou 0.25'
    """
    means = [name for name in metrics if name.startswith("reward/") and name.endswith("/mean")]
    return "  ".join(f"{name.split('/')[1]} {metrics[name]:.3g}" for name in means)


def rate(speed: float, unit: str) -> str:
    """Return a speed, in units per second, in words.

    >>> rate(4.0, "step"), rate(0.25, "step")
    ('4.0 steps/s', '4.0 s/step')
    """
    return f"{speed:.1f} {unit}s/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit}"
