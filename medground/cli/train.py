"""``medground train``: SFT or GRPO, interruptible at any time."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medground.cli.completion import OVERRIDE, RECIPE
from medground.progress import training_progress
from medground.runs.stopping import interruptible
from medground.terminal import examples

if TYPE_CHECKING:
    from medground.training.memory import StateBytes
    from medground.training.probe import Estimate


@click.command(
    epilog=examples(
        "medground train train/toy data.path=phantoms --out runs/toy",
        "medground train runs/toy --resume",
    )
)
@click.argument("recipe", type=RECIPE)
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
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
    from medground.training import launcher
    from medground.training.plan import plan_training, require_for_training
    from medground.training.run import execute

    plan = plan_training(recipe, *overrides, out=out, resume=resume)
    if not launcher.launched() and plan.processes > 1:
        flags = {"--resume": resume, "--dry-run": dry_run, "--json": as_json}
        options = [name for name, given in flags.items() if given] + (["--out", str(out)] if out else [])
        raise click.exceptions.Exit(launcher.start(["train", recipe, *overrides, *options], plan.processes))
    if dry_run:
        require_for_training(plan.recipe)

        from medground.training.probe import probe  # imports torch

        estimate = probe(plan)
        if estimate.rank == 0:
            click.echo(json.dumps(estimate.to_dict()) if as_json else _text(estimate))
        return
    with interruptible() as stopped, training_progress() as (started, report):
        result = execute(plan, stopped=stopped, report=report, started=started)
    if result.rank:
        return
    if as_json:
        summary = {"steps": result.steps, "skipped": result.skipped, "before": result.before}
        click.echo(json.dumps({"folder": str(result.folder), **summary}))
    elif result.before == result.steps:
        click.echo(f"{result.folder} was finished already: all {result.steps} steps are done", err=True)
    else:
        skipped = f", {result.skipped} of them skipped" if result.skipped else ""
        click.echo(
            f"{result.steps} steps done{skipped}; medground ground IMAGE QUESTION --recipe {result.folder}", err=True
        )


def _text(estimate: "Estimate") -> str:
    peak = estimate.peak_memory_bytes
    rows = {
        "method": estimate.method,
        "samples": f"{estimate.samples:,}",
        "steps": f"{estimate.steps:,}",
        "parameters": f"{estimate.parameters:,}, {estimate.parameters_trained:,} of them trained",
        "tokens": f"{estimate.tokens:,.0f} trained, {estimate.tokens_per_step:,.0f} a step",
        "time": f"{estimate.seconds / 60:,.1f} min on {estimate.device}, {estimate.seconds_per_step:.2f} s a step",
        "memory": "unknown" if peak is None else f"{peak / 1e9:,.2f} GB",
        "state": _state(estimate.state_bytes, estimate.processes),
    }
    lines = [f"{name:<11} {value}" for name, value in rows.items()] + [
        f"{'sharing':<11} {text}" for text in estimate.shared
    ]
    return "\n".join([*lines, "assuming", *(f"  - {assumption}" for assumption in estimate.assumptions)])


def _state(sizes: "StateBytes", processes: int) -> str:
    parts = {"weights": sizes.weights, "gradients": sizes.gradients, "optimizer": sizes.optimizer}
    listed = ", ".join(f"{name} {size / 1e9:,.2f}" for name, size in parts.items())
    host = f", and {sizes.host / 1e9:,.2f} GB on the host" if sizes.host else ""
    return f"{sizes.device / 1e9:,.2f} GB in each of {processes} ({listed}){host}"
