"""``medground reward``: score written answers with a recipe's rubric, and audit the rubric itself."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medground.cli.completion import OVERRIDE, RECIPE
from medground.errors import InputError, RunError
from medground.terminal import examples

if TYPE_CHECKING:
    from medground.evaluation.scoring import ScoreResult
    from medground.recipe import Recipe
    from medground.rewards.audit.shares import AdvantageShares
    from medground.rewards.rubric import Rubric


@click.group(
    epilog=examples(
        "medground reward score train/soft answers.jsonl",
        "medground reward audit bbox_iou",
    )
)
def reward() -> None:
    """Score answers with a rubric; audit a rubric."""


@reward.command(
    epilog=examples(
        "medground reward score train/soft answers.jsonl",
        "medground reward score train/soft answers.jsonl --term near=my.py:near --json",
    )
)
@click.argument("recipe", type=RECIPE)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
@click.option("--term", "own", multiple=True, metavar="NAME=my.py:fn", help="A term of your own, weight 1; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Only the result lines; no summary on stderr.")
def score(recipe: str, file: Path, overrides: tuple[str, ...], own: tuple[str, ...], as_json: bool) -> None:
    """Score every line of FILE with the rubric of RECIPE.

    A line is {"prediction": text, "ground_truth": {"bbox_2d", "point_2d", optional "mask"}}, optionally with "size",
    "frame" and "image". One JSON line per input line goes to stdout, in order. --term runs the file it names.
    """
    from medground.evaluation.scoring import score_lines
    from medground.recipe import resolve
    from medground.rewards.adapters import user_reward
    from medground.rewards.rubric import Rubric, rubric
    from medground.rewards.term import Term
    from medground.runs.jsonable import plain

    resolved = resolve(recipe, *overrides)
    terms = [Term(*user_reward(text)) for text in own]
    graded = Rubric([*(rubric(resolved).terms if resolved.terms or not terms else ()), *terms])
    tally = _Tally()
    with _opened(file) as lines:
        for result in score_lines(lines, resolved, graded, file.parent):
            click.echo(json.dumps(plain(result), allow_nan=False))
            tally.add(result)
    if not as_json:
        click.echo(tally.text(), err=True)
    if tally.bad:
        first = tally.bad[0]
        raise InputError(
            f"{len(tally.bad)} of {tally.lines} lines of {file.name} are invalid", hint=f"the first is {first}"
        )
    if tally.unscored:
        raise RunError(
            f"{len(tally.unscored)} of {tally.lines} lines of {file.name} have no score: {tally.unscored[0]}",
            hint="mend the term, or take it out: rewards.NAME=null",
        )


@reward.command(
    epilog=examples(
        "medground reward audit train/soft --out cards/soft",
        "medground reward audit bbox_iou",
    )
)
@click.argument("what", type=RECIPE, metavar="RECIPE|TERM")
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
@click.option(
    "--sample", type=click.IntRange(1), metavar="N", help="Draw completions of N questions: which term decides?"
)
@click.option(
    "--completions", type=click.Path(path_type=Path), metavar="RUN", help="The same, of completions of a run."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write card.md, card.json and curves.svg there.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the honest answers and of the search.")
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON on stdout.")
def audit(
    what: str,
    overrides: tuple[str, ...],
    sample: int | None,
    completions: Path | None,
    out: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Score answers whose worth is known, and name what the rubric gets wrong: the reward card.

    RECIPE|TERM is a recipe, the name of one reward component, or NAME=my.py:fn, a function of your own (its file is
    run). For a single term, overrides are those of a recipe with that term at weight 1.

    With --sample or --completions the card also says which term decides the advantage in training.
    """
    if sample is not None and completions is not None:
        raise click.UsageError("--sample and --completions are two sources of completions: give one of them")
    from medground.evaluation.scoring import reader
    from medground.rewards.audit import audit as examine

    resolved, graded = _under_audit(what, overrides)
    advantage = _advantage(resolved, sample, completions)
    card = examine(graded, reader(resolved), name=" ".join((what, *overrides)), seed=seed, advantage=advantage)
    written = card.write(out) if out is not None else []
    if as_json:
        click.echo(json.dumps(card.to_dict(), allow_nan=False))
        return
    if out is None:
        click.echo(card.markdown())
    click.echo(f"{len(card.findings)} findings about {card.name}", err=True)
    for finding in card.findings:
        click.echo(f"  {finding.check}: {finding.says}", err=True)
    if advantage is not None:
        click.echo(advantage.sentence(), err=True)
    for path in written:
        click.echo(f"wrote {path}", err=True)


def _advantage(recipe: "Recipe", sample: int | None, run: Path | None) -> "AdvantageShares | None":
    """Return which term decides the advantage, of completions that are drawn or that a run saved; None if not asked."""
    if run is None and sample is None:
        return None
    from medground.recipe import check
    from medground.training.plan import require_for_training

    if sample is not None:
        check(recipe, strict_missing=True)
        require_for_training(recipe)
    from medground.training.grpo.prediction import sampled_shares, saved_shares  # imports torch

    return sampled_shares(recipe, sample) if sample is not None else saved_shares(recipe, run or Path())


def _under_audit(what: str, overrides: tuple[str, ...]) -> "tuple[Recipe, Rubric]":
    """Return the recipe that decides how answers are read, and the rubric: a recipe's, or one of a single term."""
    from medground.recipe import resolve
    from medground.registry import components
    from medground.rewards.adapters import user_reward
    from medground.rewards.rubric import Rubric, rubric
    from medground.rewards.term import Term

    if "=" in what:
        return resolve({"prompt_interface": "bbox_points"}, *overrides), Rubric([Term(*user_reward(what))])
    if any(component.kind == "reward" and component.name == what for component in components()):
        resolved = resolve({"prompt_interface": "bbox_points", "rewards": {what: 1}}, *overrides)
    else:
        resolved = resolve(what, *overrides)
    return resolved, rubric(resolved)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        stream = file.open("rb")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    with stream:
        yield stream


class _Tally:
    """A summary of many results, for people."""

    def __init__(self) -> None:
        self.lines = 0
        self.bad: list[str] = []
        self.unscored: list[str] = []
        """Why a weighted term gave no number, for each line that has no score because of one."""
        self.scores: list[float] = []
        self.values: dict[str, list[float]] = {}
        self.weights: dict[str, float] = {}
        self.faults: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.causes: dict[str, str] = {}
        self.abstentions: Counter[tuple[str, str]] = Counter()
        """(Label, reason) -> lines."""

    def add(self, result: "ScoreResult") -> None:
        self.lines += 1
        if result.error is not None:
            self.bad.append(result.error)
        if result.score is not None:
            self.scores.append(result.score)
        if result.fault is not None:
            self.faults[result.fault] += 1
        failures = [term.details.get("failure") for term in result.terms.values() if term.weight != 0]
        causes = [failure["cause"] for failure in failures if failure and failure["kind"] != "released"]
        self.unscored += causes[:1]
        for label, term in result.terms.items():
            self.weights[label] = term.weight
            self.values.setdefault(label, []).extend(() if term.value is None else (term.value,))
            if failure := term.details.get("failure"):
                key = f"{label}: {failure['kind']}"
                self.failures[key] += 1
                self.causes.setdefault(key, failure["cause"])
            elif term.value is None:
                self.abstentions[label, term.details.get("undefined", "it says not why")] += 1

    def text(self) -> str:
        mean = f"{sum(self.scores) / len(self.scores):.4f}" if self.scores else "none"
        rows = [f"{self.lines} lines, {len(self.scores)} scored, mean {mean}"]
        for label, values in self.values.items():
            shown = f"{sum(values) / len(values):.4f}" if values else "abstains"
            rows.append(f"  {label:<24} {shown:>8}  x {self.weights[label]:g}")
        rows += [f"  {label} abstained {count} times: {reason}" for (label, reason), count in self.abstentions.items()]
        rows += [f"  fault {fault}: {count}" for fault, count in sorted(self.faults.items())]
        rows += [f"  failed {what} {count} times, first: {self.causes[what]}" for what, count in self.failures.items()]
        return "\n".join(rows)
