"""``medground train``: SFT or GRPO, interruptible at any time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from medground.runs.progress import say, training_progress
from medground.runs.stopping import interruptible


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder; it is a recipe from then on.")
@click.option(
    "--resume", is_flag=True, help="Continue from the newest checkpoint of --out, or of the run RECIPE names."
)
@click.option("--dry-run", is_flag=True, help="Check everything, do two steps, print the plan; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
def train(
    recipe: str, overrides: tuple[str, ...], out: Path | None, resume: bool, dry_run: bool, as_json: bool
) -> None:
    """Train the reasoner of RECIPE into the folder --out.

    SIGTERM or Ctrl-C saves and leaves with 5; run again with --resume. Research software, not a medical device.
    """
    from medground.training import launcher, run

    if not launcher.launched() and (count := run.processes(recipe, *overrides, out=out, resume=resume)) > 1:
        given = {"--resume": resume, "--dry-run": dry_run, "--json": as_json}
        options = [name for name, said in given.items() if said] + (["--out", str(out)] if out else [])
        raise click.exceptions.Exit(launcher.start(["train", recipe, *overrides, *options], count))
    if dry_run:
        plan = run.probe(recipe, *overrides)
        if not plan["rank"]:
            click.echo(json.dumps(plan) if as_json else _told(plan))
        return
    with interruptible() as stopped, training_progress() as (started, report):
        done = run.train(
            recipe,
            *overrides,
            out=out,
            resume=resume,
            stopped=stopped,
            say=say,
            report=report,
            started=started,
        )
    if done.rank:
        return
    if as_json:
        summary = {"steps": done.steps, "skipped": done.skipped, "before": done.before}
        click.echo(json.dumps({"folder": str(done.folder), **summary}))
    elif done.before == done.steps:
        click.echo(f"{done.folder} was finished already: all {done.steps} steps are done", err=True)
    else:
        skipped = f", {done.skipped} of them skipped" if done.skipped else ""
        click.echo(
            f"{done.steps} steps done{skipped}; medground ground IMAGE QUESTION --recipe {done.folder}", err=True
        )


def _told(plan: Mapping[str, Any]) -> str:
    minutes, gigabytes = plan["seconds"] / 60, plan["peak_memory_bytes"] / 1e9
    rows = {
        "method": plan["method"],
        "samples": f"{plan['samples']:,}",
        "steps": f"{plan['steps']:,}",
        "parameters": f"{plan['parameters']:,}, {plan['parameters_trained']:,} of them trained",
        "tokens": f"{plan['tokens']:,.0f} trained, {plan['tokens_per_step']:,.0f} a step",
        "time": f"{minutes:,.1f} min on {plan['device']}, {plan['seconds_per_step']:.2f} s a step",
        "memory": f"{gigabytes:,.2f} GB",
        "state": _state(plan["state_bytes"], plan["processes"]),
    }
    lines = [f"{name:<11} {value}" for name, value in rows.items()]
    return "\n".join([*lines, "assuming", *(f"  - {each}" for each in plan["assumptions"])])


def _state(held: Mapping[str, float], processes: int) -> str:
    parts = ", ".join(f"{name} {held[name] / 1e9:,.2f}" for name in ("weights", "gradients", "optimizer"))
    host = f", and {held['host'] / 1e9:,.2f} GB on the host" if held["host"] else ""
    return f"{held['device'] / 1e9:,.2f} GB in each of {processes} ({parts}){host}"
