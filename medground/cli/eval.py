"""``medground eval``: measure a recipe on a dataset; interruptible at any time."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medground.cli.completion import OVERRIDE, RECIPE
from medground.errors import UsageError
from medground.progress import counted
from medground.runs.stopping import interruptible
from medground.terminal import examples

if TYPE_CHECKING:
    from medground.evaluation.results import Comparison, EvaluationSummary, MetricSummary
    from medground.evaluation.volume_evaluation import VolumeEvaluation

SHOWN = (
    "iou",
    "pdice",
    "pdice_compat",
    "dice_joint",
    "dice_ellipse",
    "dice_over_ellipse",
    "boundary_f",
    "hd95_px",
    "hd95_mm",
    "candidate_dice",
    "candidate_recall",
    "selection_accuracy",
)
SHOWN_OF_SETS = ("no_target_accuracy", "target_miss", "instance_f1_50", "matched_iou", "count_error", "union_dice")


@click.command(
    epilog=examples(
        "medground eval infer/toy data.path=made data.split=test --out results/toy",
        "medground eval eval/baselines data.path=made --out results/again --baseline results/toy",
    )
)
@click.argument("recipe", type=RECIPE)
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help="Score these saved answers: a run's or an evaluation's lines, or {prediction, ground_truth} lines.",
)
@click.option("--baseline", type=click.Path(path_type=Path), help="The folder of an evaluation to test against.")
@click.option("--store", type=click.Path(path_type=Path), help="Keep completions and masks here for other evaluations.")
@click.option(
    "--volumes", is_flag=True, help="Measure on whole volumes, which the data holds: see `data build --volumes`."
)
@click.option("--resume", is_flag=True, help="Continue what --out holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
def eval(  # the command's own name; nothing here needs the builtin
    recipe: str,
    overrides: tuple[str, ...],
    out: Path,
    predictions: Path | None,
    baseline: Path | None,
    store: Path | None,
    volumes: bool,
    resume: bool,
    as_json: bool,
) -> None:
    """Measure RECIPE on its data: report.html, metrics.json, samples.jsonl and the run's record in the folder --out.

    SIGTERM or Ctrl-C leaves with 5; run again with --resume. Research software, not a medical device.
    """
    from medground.evaluation.evaluate import evaluate
    from medground.evaluation.volume_evaluation import evaluate_volumes
    from medground.pipeline.cache import StageCache
    from medground.runs.jsonable import plain

    cache = None if store is None else StageCache(store)
    if volumes:
        if predictions is not None or baseline is not None:
            raise UsageError(
                "--volumes takes no saved answers and no baseline", hint="leave --predictions, --baseline out"
            )
        with interruptible() as stopped, counted("evaluating", unit="volume") as progress:
            measured = evaluate_volumes(
                recipe, *overrides, out=out, resume=resume, store=cache, stopped=stopped, progress=progress
            )
        if as_json:
            click.echo(json.dumps({"folder": str(out), **plain(measured)}))
        else:
            click.echo(_volumes_text(measured, out), err=True)
        return
    with interruptible() as stopped, counted("evaluating", unit="answer") as progress:
        result = evaluate(
            recipe,
            *overrides,
            out=out,
            predictions=predictions,
            baseline=baseline,
            resume=resume,
            store=cache,
            stopped=stopped,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps({"folder": str(out), **_brief(plain(result.summary))}))
    else:
        click.echo(_text(result.summary, out), err=True)


def _brief(summary: dict[str, Any]) -> dict[str, Any]:
    """Return a summary as JSON-ready values without its groups and bins."""
    long = ("groups", "crossed", "calibration", "kind", "description", "agreement")
    conditions = {
        name: {key: value for key, value in condition.items() if key not in long}
        for name, condition in summary["conditions"].items()
    }
    return {**summary, "conditions": conditions}


def _text(summary: "EvaluationSummary", out: Path) -> str:
    from medground.evaluation.confidence_report import verdict

    by = ", ".join(f"{count} by {kind}" for kind, count in summary.clusters.by.items())
    lines = [*summary.causes]
    lines.append(
        f"{summary.samples} samples in {summary.clusters.count} clusters ({by}); intervals of "
        f"{summary.resampling.level:.0%}"
    )
    for name, condition in summary.conditions.items():
        faults = ", ".join(f"{count} {fault}" for fault, count in (condition.failures | condition.excluded).items())
        empty = f", {condition.empty_masks} of {condition.masks} masks empty" if condition.empty_masks else ""
        empty += f", {condition.absent_masks} of {condition.masks} not present" if condition.absent_masks else ""
        lines.append(f"{name}: {condition.ok} of {condition.answers} answers, {faults or 'no faults'}{empty}")
        lines += [f"  used {amount:g} {unit}" for unit, amount in condition.usage.items()]
        shown = [key for key in (*SHOWN, *SHOWN_OF_SETS) if key in condition.metrics]
        lines += [f"  {key:<18}{_mean(condition.metrics[key])}" for key in shown]
    if summary.confidence is not None:
        lines.append(verdict(summary.confidence.selective))
    for row in summary.baseline.comparisons if summary.baseline else ():
        lines.append(_against(str(row.condition), row))
    return "\n".join([*lines, f"see {out / 'report.html'}"])


def _volumes_text(measured: "VolumeEvaluation", out: Path) -> str:
    faults = ", ".join(f"{count} {fault}" for fault, count in measured.faults.items())
    lines = [f"{measured.samples} volumes in {measured.clusters} clusters; {faults or 'no faults'}"]
    lines += [f"  {name:<18}{_mean(row)}" for name, row in measured.metrics.items()]
    for way, metrics in measured.conditions.items():
        lines += [f"{way}:", *(f"  {name:<18}{_mean(row)}" for name, row in metrics.items())]
    lines += [_against(measured.propagation, row) for row in measured.comparisons]
    return "\n".join([*lines, f"see {out / 'report.html'}"])


def _against(name: str, row: "Comparison") -> str:
    return (
        f"{name} {row.metric} against {row.against}: {row.difference:+.4f} "
        f"[{_edge(row.low)}, {_edge(row.high)}], p {row.p:.4f}, Holm {row.p_holm:.4f}"
    )


def _mean(row: "MetricSummary") -> str:
    if row.mean is None:
        return "none"
    return f"{row.mean:8.4f}  [{_edge(row.low)}, {_edge(row.high)}]  n {row.n}"


def _edge(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"
