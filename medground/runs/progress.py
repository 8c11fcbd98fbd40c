"""Progress on a terminal; rich is imported only there."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

import click

from medground.terminal import clean_streams, console, printable

SHOWN = ("reward", "loss", "kl", "entropy", "completions/mean_length", "grad_norm")
EVERY = 30.0
"""Seconds between two lines about a run's steps where there is no terminal."""
WINDOW = 60.0
"""A run's speed is that of about so many seconds, and at least of its newest step."""
Metrics = Mapping[str, float]


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
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(sys.stderr)) as bar, clean_streams():
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def training_progress() -> Iterator[tuple[Callable[[int, int], None], Callable[[int, Metrics], None]]]:
    """Yield two functions: one takes (done, planned) once, one takes (step, metrics) of every step and validation.

    On a terminal: a bar with rate and time left, under it the newest numbers, each term's reward and the last validation.
    Anywhere else: a line for the first step, the last one, one every `EVERY` seconds, and every validation.
    """
    if not sys.stderr.isatty():
        lines = _LogLines()
        yield lines.begin, lines.report
        return
    from rich.live import Live

    shown = _Dashboard()
    with Live(shown, console=shown.console, refresh_per_second=4), clean_streams():
        yield shown.begin, shown.report


class _Pace:
    """The speed of a run and its time left, by its newest steps.

    Args:
        done: steps done before.
        planned: steps of the whole run.
    """

    def __init__(self, done: int, planned: int) -> None:
        self.planned = planned
        self.times = deque([(monotonic(), done)])
        """(seconds, steps done then), the oldest first."""

    def at(self, step: int) -> float:
        """Record that `step` is done; return the time, s."""
        now = monotonic()
        self.times.append((now, step))
        while len(self.times) > 2 and self.times[1][0] <= now - WINDOW:
            self.times.popleft()
        return now

    def __str__(self) -> str:
        (begun, before), (now, step) = self.times[0], self.times[-1]
        if now <= begun:
            return ""
        speed = (step - before) / (now - begun)
        return f"{rate(speed)}  {timedelta(seconds=round((self.planned - step) / speed))} left"


class _LogLines:
    """The lines of a log while a run trains."""

    def begin(self, done: int, planned: int) -> None:
        self.pace = _Pace(done, planned)
        self.due = 0.0

    def report(self, step: int, metrics: Metrics) -> None:
        if _of_validation(metrics):
            click.echo(f"validation after step {step}: {headline(metrics)}", err=True)
            return
        now = self.pace.at(step)
        if now >= self.due or step == self.pace.planned:
            self.due = now + EVERY
            click.echo(f"step {step} of {self.pace.planned}  {headline(metrics)}  {self.pace}", err=True)


class _Dashboard:
    """The live display on a terminal while a run trains."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.console = console(sys.stderr)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
        self.bar = Progress(*columns, console=self.console)
        self.task = self.bar.add_task("", total=None, pace="")
        self.lines: dict[str, str] = {}

    def begin(self, done: int, planned: int) -> None:
        self.pace = _Pace(done, planned)
        self.bar.reset(self.task, total=planned, completed=done, pace="")

    def report(self, step: int, metrics: Metrics) -> None:
        if _of_validation(metrics):
            self.lines["validation"] = f"after step {step}: {headline(metrics)}"
            return
        self.pace.at(step)
        self.bar.update(self.task, completed=step, pace=str(self.pace))
        self.lines |= {"step": headline(metrics), "terms": terms(metrics)}

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        return Group(self.bar, *(Text(printable(f"{name:<10} {line}")) for name, line in self.lines.items() if line))


def _of_validation(metrics: Metrics) -> bool:
    return any(name.startswith("eval/") for name in metrics)


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


def rate(speed: float) -> str:
    """Return a speed in words.

    >>> rate(4.0), rate(0.25)
    ('4.0 steps/s', '4.0 s/step')
    """
    return f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step"
