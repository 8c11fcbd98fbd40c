"""``medground export``: a run's result in the layout of released checkpoints."""

import json
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
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")
def export(run: Path, to: Path, adapter: str, as_json: bool) -> None:
    """Write the result of the run in the folder RUN so that transformers or peft loads it as it is.

    With it comes a model card that says what the run recorded, and no more. Research software, not a medical device.
    """
    from medground.training.export import export as write

    result = write(run, to, adapter="separate" if adapter == "separate" else "merge")
    if as_json:
        click.echo(json.dumps({"folder": str(result.folder), "step": result.step, "adapter": result.adapter}))
    else:
        what = "the adapter" if result.adapter else "the model"
        click.echo(f"{what} of step {result.step} is in {result.folder}; add its licence to README.md", err=True)
