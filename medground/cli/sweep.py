"""``medground sweep``: the variants of a recipe over seeds and datasets; interruptible at any time."""

import json
from pathlib import Path

import click

from medground.cli.completion import OVERRIDE, RECIPE
from medground.progress import counted
from medground.runs.stopping import interruptible
from medground.terminal import examples


@click.command(
    epilog=examples(
        "medground sweep sweep/asm_swap data.path=made --dry-run",
        "medground sweep sweep/asm_swap data.path=made --out sweeps/experts --resume",
    )
)
@click.argument("recipe", type=RECIPE)
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="The folder to write.")
@click.option("--resume", is_flag=True, help="Continue what --out holds.")
@click.option("--dry-run", is_flag=True, help="Check every trial and list them; do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the results, or the plan, as JSON on stdout.")
def sweep(
    recipe: str, overrides: tuple[str, ...], out: Path | None, resume: bool, dry_run: bool, as_json: bool
) -> None:
    """Do every variant of RECIPE, per seed and dataset: a table with intervals and tests in the folder --out.

    Every trial is checked before the first one starts; impossible ones are skipped with a reason. variants.NAME.KEY=VALUE
    changes the rows whose names match NAME; * matches anything. SIGTERM or Ctrl-C leaves with 5; run again with --resume.
    Research software, not a medical device.
    """
    from medground.errors import RunError, UsageError

    if dry_run:
        _plan(recipe, overrides, as_json)
        return
    if out is None:
        raise UsageError("a sweep needs a folder", hint="give --out sweeps/NAME, or --dry-run")
    from medground.runs.jsonable import plain
    from medground.sweeps.run import sweep as run
    from medground.sweeps.tables import as_markdown

    with interruptible() as stopped, counted("sweeping") as progress:
        summary = run(
            recipe,
            *overrides,
            out=out,
            resume=resume,
            stopped=stopped,
            progress=progress,
        ).summary
    if as_json:
        click.echo(json.dumps({"folder": str(out), **plain(summary)}))
    else:
        click.echo(f"{as_markdown(summary)}\nsee {out / 'report.html'}", err=True)
    if summary.failed:
        name, cause = next(iter(summary.failed.items()))
        raise RunError(
            f"{len(summary.failed)} trials failed, the first: {name}: {cause}", hint="fix it and add --resume"
        )


def _plan(recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    from medground.sweeps.plan import plan

    checked = plan(recipe, *overrides)
    trainings = {digest: trial.trained for digest, trial in checked.trainings.items()}
    rows = [(trial.name, trainings.get(trial.training or ""), trial.skipped) for trial in checked.trials]
    if as_json:
        trials = [dict(zip(("trial", "training", "skipped"), row, strict=True)) for row in rows]
        click.echo(json.dumps({"recipe": checked.recipe.name, "baseline": checked.baseline, "trials": trials}))
        return
    for name, training, skipped in rows:
        remark = f"skipped: {skipped}" if skipped else f"trained as {training}" if training else ""
        click.echo(f"{name:<32} {remark}".rstrip())
    click.echo(f"{len(checked.possible)} of {len(rows)} trials can be done, with {len(trainings)} trainings", err=True)
