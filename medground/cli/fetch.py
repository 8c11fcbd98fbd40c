"""``medground fetch``: the weights and data a recipe names, licence shown first."""

import json

import click

from medground.errors import RunError
from medground.recipe.completion import OVERRIDE, RECIPE


@click.command()
@click.argument("recipe", type=RECIPE)
@click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
@click.option("--yes", is_flag=True, help="Download without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print what was fetched as JSON on stdout.")
def fetch(recipe: str, overrides: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Download the weights and data RECIPE names, after showing where they come from and under which licence.

    Revisions and hashes are recorded in medground.lock.json in the hub's cache folder.
    """
    from medground.recipe import resolve
    from medground.recipe.hub import download, look_up, wanted

    items = wanted(resolve(recipe, *overrides))
    if not items:
        click.echo("this recipe names nothing that would have to be downloaded", err=True)
    offers = [look_up(item) for item in items]
    for offer in offers:
        licence = offer.licence or "UNKNOWN: none is stated"
        click.echo(f"{offer.wanted.key}: {offer.wanted.id}", err=True)
        click.echo(f"  licence  {licence}{f'; {offer.note}' if offer.note else ''}", err=True)
        click.echo(f"  commit   {offer.commit}, {len(offer.files)} files, {offer.size / 1e6:.1f} MB", err=True)
    if offers and not yes and not click.confirm("download under these terms?", err=True):
        raise RunError("nothing was downloaded", hint="answer y, or give --yes")
    fetched = [download(offer) for offer in offers]
    for item in fetched:
        click.echo(f"{item.offer.wanted.id} is at {item.path}", err=True)
    if as_json:
        click.echo(json.dumps([item.to_dict() for item in fetched]))
