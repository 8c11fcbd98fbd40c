"""``medground fetch``: the weights and data a recipe names, licence shown first."""

import json

import click

from medground.cli.completion import OVERRIDE, RECIPE
from medground.errors import RunError
from medground.terminal import examples


@click.command(
    epilog=examples(
        "medground fetch infer/toy segmenter=medsam2",
        "medground fetch infer/qwen3_vl_8b --commercial --yes",
    )
)
@click.argument("recipe", type=RECIPE)
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
@click.option("--commercial", is_flag=True, help="Refuse what may not be used commercially, or where that is unknown.")
@click.option("--yes", is_flag=True, help="Download without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print the downloads as JSON on stdout.")
def fetch(recipe: str, overrides: tuple[str, ...], commercial: bool, yes: bool, as_json: bool) -> None:
    """Download the weights and data RECIPE names, after showing their sources and licences.

    Revisions and hashes are recorded in medground.lock.json in the hub's cache folder.
    """
    from medground.recipe import resolve
    from medground.runs.hub import download, hub_items, look_up, refuse_non_commercial

    listings = [look_up(item) for item in hub_items(resolve(recipe, *overrides))]
    if not listings:
        click.echo("this recipe names nothing to download", err=True)
    for listing in listings:
        click.echo(f"{listing.item.key}: {listing.item.id}", err=True)
        click.echo(f"  licence  {listing.terms}", err=True)
        click.echo(f"  commit   {listing.commit}, {len(listing.files)} files, {listing.size / 1e6:.1f} MB", err=True)
    if commercial:
        refuse_non_commercial(listings)
    if listings and not yes and not click.confirm("download under these terms?", err=True):
        raise RunError("nothing was downloaded", hint="answer y, or pass --yes")
    downloads = [download(listing) for listing in listings]
    for result in downloads:
        click.echo(f"{result.listing.item.id} is at {result.path}", err=True)
    if as_json:
        click.echo(json.dumps([result.to_dict() for result in downloads]))
