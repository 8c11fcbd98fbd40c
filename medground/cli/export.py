"""``medground export``: a run's result in the layout of released checkpoints."""

import json
import shlex
from pathlib import Path

import click

from medground.terminal import examples


@click.command(
    epilog=examples(
        "medground export runs/toy --to exported",
        "medground export runs/lora --to exported --adapter separate",
    )
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
@click.option(
    "--adapter",
    type=click.Choice(["merge", "separate"]),
    default="merge",
    show_default=True,
    help="Fold a LoRA adapter into the weights, or leave it an adapter.",
)
@click.option("--base-model", metavar="TEXT", help="What training started from: a hub id, or words.")
@click.option("--data", metavar="TEXT", help="The training data: a hub id, or words.")
@click.option(
    "--licence", metavar="NAME", help="Of the weights, as the hub writes it: apache-2.0, cc-by-nc-4.0, other."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
def export(
    run: Path,
    to: Path,
    adapter: str,
    base_model: str | None,
    data: str | None,
    licence: str | None,
    as_json: bool,
) -> None:
    """Write the result of the run in the folder RUN so that transformers or peft loads it as it is.

    With it come a recipe, so that the folder answers questions wherever it lies, and a model card that says what the run
    recorded and you declare, and no more. Research software, not a medical device.
    """
    from medground.training.export import export as write

    result = write(
        run,
        to,
        adapter="separate" if adapter == "separate" else "merge",
        base_model=base_model,
        data=data,
        licence=licence,
    )
    if as_json:
        click.echo(json.dumps({"folder": str(result.folder), "step": result.step, "adapter": result.adapter}))
    else:
        what = "the adapter" if result.adapter else "the model"
        click.echo(f"{what} of step {result.step} is in {result.folder}", err=True)
        click.echo(f"ask it: medground ground IMAGE QUESTION --recipe {shlex.quote(str(result.folder))}", err=True)
        if licence is None:
            click.echo("its licence is not known: --licence NAME says it in README.md", err=True)
