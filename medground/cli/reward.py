"""``medground reward``: score written answers with a recipe's rubric."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from medground.errors import InputError


@click.group()
def reward() -> None:
    """Score answers with a rubric; audit a rubric."""


@reward.command()
@click.argument("recipe")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--term", "own", multiple=True, metavar="NAME=my.py:fn", help="A term of your own, weight 1; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Only the result lines; no summary on stderr.")
def score(recipe: str, file: Path, overrides: tuple[str, ...], own: tuple[str, ...], as_json: bool) -> None:
    """Score every line of FILE with the rubric of RECIPE.

    A line is {"prediction": text, "ground_truth": {"bbox_2d", "point_2d", optional "mask"}}, optionally with "size",
    "frame" and "image". One JSON line per input line goes to stdout, in order. --term runs the file it names.
    """
    from medground.evaluate.lines import score_lines
    from medground.foreign import own_term
    from medground.recipe import resolve
    from medground.rubric import Rubric, Term, rubric

    resolved = resolve(recipe, *overrides)
    terms = [Term(*own_term(text)) for text in own]
    graded = Rubric([*(rubric(resolved).terms if resolved.terms or not terms else ()), *terms])
    tally = _Tally()
    with _opened(file) as lines:
        for result in score_lines(lines, resolved, graded, file.parent):
            click.echo(json.dumps(result, allow_nan=False))
            tally.add(result)
    if not as_json:
        click.echo(tally.text(), err=True)
    if tally.bad:
        first = tally.bad[0]
        raise InputError(
            f"{len(tally.bad)} of {tally.lines} lines of {file.name} are no input", hint=f"the first is {first}"
        )


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        stream = file.open("rb")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    with stream:
        yield stream


class _Tally:
    """What people want to know about many result lines."""

    def __init__(self) -> None:
        self.lines = 0
        self.bad: list[str] = []
        self.scores: list[float] = []
        self.values: dict[str, list[float]] = {}
        self.weights: dict[str, float] = {}
        self.faults: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.causes: dict[str, str] = {}

    def add(self, result: dict[str, Any]) -> None:
        self.lines += 1
        if "error" in result:
            self.bad.append(result["error"])
        if result["score"] is not None:
            self.scores.append(result["score"])
        if result["fault"] is not None:
            self.faults[result["fault"]] += 1
        for label, term in result["terms"].items():
            self.weights[label] = term["weight"]
            values = self.values.setdefault(label, [])
            if term["value"] is not None:
                values.append(term["value"])
            if failure := term["details"].get("failure"):
                self.failures[f"{label}: {failure['kind']}"] += 1
                self.causes.setdefault(f"{label}: {failure['kind']}", failure["cause"])

    def text(self) -> str:
        mean = f"{sum(self.scores) / len(self.scores):.4f}" if self.scores else "none"
        rows = [f"{self.lines} lines, {len(self.scores)} scored, mean {mean}"]
        for label, values in self.values.items():
            shown = f"{sum(values) / len(values):.4f}" if values else "abstains"
            rows.append(f"  {label:<24} {shown:>8}  x {self.weights[label]:g}")
        rows += [f"  fault {fault}: {count}" for fault, count in sorted(self.faults.items())]
        rows += [f"  failed {what} {count} times, first: {self.causes[what]}" for what, count in self.failures.items()]
        return "\n".join(rows)
