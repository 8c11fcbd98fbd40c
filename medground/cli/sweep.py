"""``medground sweep``: the variants of a recipe over seeds and datasets; interruptible at any time."""

import json
from pathlib import Path

import click

from medground.recipe.completion import OVERRIDE, RECIPE
from medground.runs.stopping import interruptible


@click.command()
@click.argument("recipe", type=RECIPE)
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="The folder to write.")
@click.option("--resume", is_flag=True, help="Go on with what --out holds.")
@click.option("--dry-run", is_flag=True, help="Check every cell and list them; do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found, or the plan, as JSON on stdout.")
def sweep(
    recipe: str, overrides: tuple[str, ...], out: Path | None, resume: bool, dry_run: bool, as_json: bool
) -> None:
    """Do every variant of RECIPE, per seed and dataset: a table with intervals and tests in the folder --out.

    Every cell is checked before the first one starts; impossible ones are skipped and say why. variants.NAME.KEY=VALUE
    changes the rows that NAME fits, * standing for anything. SIGTERM or Ctrl-C leaves with 5; run again with --resume.
    Research software, not a medical device.
    """
    from medground.errors import RunError, UsageError

    if dry_run:
        _plan(recipe, overrides, as_json)
        return
    if out is None:
        raise UsageError("a sweep needs a folder", hint="give --out sweeps/NAME, or --dry-run")
    from medground.sweeps.run import sweep as run
    from medground.sweeps.tables import as_markdown

    with interruptible() as stopped:
        done = run(
            recipe,
            *overrides,
            out=out,
            resume=resume,
            stopped=stopped,
            say=lambda text: click.echo(text, err=True),
        )
    if as_json:
        click.echo(json.dumps({"folder": str(out), **done.found}))
    else:
        click.echo(f"{as_markdown(done.found)}\nsee {out / 'report.html'}", err=True)
    if done.failed:
        name, why = next(iter(done.failed.items()))
        raise RunError(f"{len(done.failed)} cells failed, the first: {name}: {why}", hint="mend it and add --resume")


def _plan(recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    from medground.sweeps.plan import plan

    made = plan(recipe, *overrides)
    trainings = {digest: cell.trained for digest, cell in made.trainings.items()}
    rows = [
        {
            "cell": cell.name,
            "training": None if cell.training is None else trainings.get(cell.training),
            "skipped": cell.skipped,
        }
        for cell in made.cells
    ]
    if as_json:
        click.echo(json.dumps({"recipe": made.recipe.name, "baseline": made.baseline, "cells": rows}))
        return
    for row in rows:
        what = (
            f"skipped: {row['skipped']}" if row["skipped"] else f"trained as {row['training']}" * bool(row["training"])
        )
        click.echo(f"{row['cell']:<32} {what}".rstrip())
    click.echo(f"{len(made.possible)} of {len(rows)} cells can be done, with {len(trainings)} trainings", err=True)
