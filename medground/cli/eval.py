"""``medground eval``: a recipe over a dataset, measured; interruptible at any time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from medground.recipe.completion import OVERRIDE, RECIPE
from medground.runs.progress import counted
from medground.runs.stopping import interruptible

SHOWN = ("iou", "pdice", "pdice_compat", "dice_joint", "dice_over_ellipse", "boundary_f", "hd95_px", "hd95_mm")


@click.command()
@click.argument("recipe", type=RECIPE)
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help="Score these saved answers: a run's or an evaluation's lines, or {prediction, ground_truth} lines.",
)
@click.option("--baseline", type=click.Path(path_type=Path), help="The folder of an evaluation to be tested against.")
@click.option("--store", type=click.Path(path_type=Path), help="Keep completions and masks here for other evaluations.")
@click.option("--resume", is_flag=True, help="Go on with what --out holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
def eval(  # the command's own name; nothing here needs the builtin
    recipe: str,
    overrides: tuple[str, ...],
    out: Path,
    predictions: Path | None,
    baseline: Path | None,
    store: Path | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Measure RECIPE on its data: report.html, metrics.json, samples.jsonl and the run's record in the folder --out.

    SIGTERM or Ctrl-C leaves with 5; run again with --resume. Research software, not a medical device.
    """
    from medground.evaluation.evaluate import evaluate
    from medground.pipeline.cache import StageCache

    with interruptible() as stopped, counted("evaluating") as report:
        done = evaluate(
            recipe,
            *overrides,
            out=out,
            predictions=predictions,
            baseline=baseline,
            resume=resume,
            store=None if store is None else StageCache(store),
            stopped=stopped,
            say=lambda text: click.echo(text, err=True),
            report=report,
        )
    if as_json:
        click.echo(json.dumps({"folder": str(out), **_brief(done.metrics)}))
    else:
        click.echo(_told(done.metrics, out), err=True)


def _brief(metrics: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("samples", "answers", "ok", "failures", "refusals", "excluded", "masks", "empty_masks", "usage", "metrics")
    arms = {name: {key: arm[key] for key in keys} for name, arm in metrics["arms"].items()}
    shared = ("recipe", "causes", "length_limit", "samples", "split", "clusters", "resampling", "skipped")
    whole = {key: metrics[key] for key in shared}
    return {**whole, "arms": arms, "comparisons": metrics.get("comparisons", []), "baseline": metrics.get("baseline")}


def _told(metrics: Mapping[str, Any], out: Path) -> str:
    by = ", ".join(f"{count} by {kind}" for kind, count in metrics["clusters"]["by"].items())
    level = f"{metrics['resampling']['level']:.0%}"
    lines = [*metrics["causes"]]
    lines.append(
        f"{metrics['samples']} samples in {metrics['clusters']['count']} clusters ({by}); intervals of {level}"
    )
    for name, arm in metrics["arms"].items():
        faults = {**arm["failures"], **arm["excluded"]}
        told = ", ".join(f"{count} {fault}" for fault, count in faults.items()) or "no faults"
        empty = f", {arm['empty_masks']} of {arm['masks']} masks empty" if arm["empty_masks"] else ""
        lines.append(f"{name}: {arm['ok']} of {arm['answers']} answers, {told}{empty}")
        lines += [f"  used {amount:g} {what}" for what, amount in arm["usage"].items()]
        lines += [f"  {key:<18}{_row(arm['metrics'][key])}" for key in SHOWN if key in arm["metrics"]]
    for row in (metrics.get("baseline") or {}).get("comparisons", []):
        lines.append(
            f"{row['arm']} {row['metric']} against {row['against']}: {row['difference']:+.4f} "
            f"[{_edge(row['low'])}, {_edge(row['high'])}], p {row['p']:.4f}, Holm {row['p_holm']:.4f}"
        )
    return "\n".join([*lines, f"see {out / 'report.html'}"])


def _row(row: Mapping[str, Any]) -> str:
    if row["mean"] is None:
        return "none"
    return f"{row['mean']:8.4f}  [{_edge(row['low'])}, {_edge(row['high'])}]  n {row['n']}"


def _edge(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"
