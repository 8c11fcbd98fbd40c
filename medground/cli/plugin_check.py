"""``medground plugins check``: the conformance kit on a component that is installed."""

import json
from pathlib import Path
from typing import Any

import click

from medground.errors import RunError, UsageError
from medground.hookspecs import KINDS
from medground.registry import bind, components, factory
from medground.terminal import examples


class KindChoice(click.Choice[str]):
    """The kinds of components, also as recipes and lists spell them: ``prompt_interface``."""

    def __init__(self) -> None:
        super().__init__([kind.replace("_", "-") for kind in KINDS])

    def normalize_choice(self, choice: Any, ctx: click.Context | None) -> str:
        """Return a word for comparison."""
        return super().normalize_choice(choice, ctx).replace("_", "-")


@click.command(
    epilog=examples(
        "medground plugins check region_growing --quick",
        "medground plugins check medsam checkpoint=medsam_vit_b.pth --kind segmenter",
    )
)
@click.argument("name")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--kind", type=KindChoice(), help="Where components of several kinds have that name.")
@click.option("--source", type=click.Path(path_type=Path, exists=True), help="Of a reader: a folder or file it reads.")
@click.option("--quick", is_flag=True, help="Try less, where a component is slow.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
def check(
    name: str, arguments: tuple[str, ...], kind: str | None, source: Path | None, quick: bool, as_json: bool
) -> None:
    """Check the component NAME against every promise of its kind; exit with 1 where it breaks one.

    What is tried stands in a line each. KEY=VALUE are arguments of the component.
    """
    from medground import testing

    owned = _kind(name, kind)
    given: list[Any] = [factory(owned, name)]
    if (owned == "reader") != (source is not None):
        missing = "a reader is checked on a source" if owned == "reader" else f"a {owned} has no source"
        raise UsageError(missing, hint="give --source FOLDER" if owned == "reader" else "leave out --source")
    if source is not None:
        given.append(source)
    options = _arguments(arguments)
    if owned not in ("reader", "command"):
        bind(owned, name, options)
    broken: list[str] = []
    checks: tuple[str, ...] = ()
    try:
        checks = getattr(testing, f"check_{owned}")(*given, quick=quick, **options).checks
    except testing.ConformanceError as error:
        broken = error.broken
    if as_json:
        click.echo(json.dumps({"kind": owned, "name": name, "checks": checks, "broken": broken}, indent=2))
    for sentence in broken:
        click.echo(f"broken: {sentence}", err=True)
    if broken:
        raise RunError(f"{owned} {name!r} breaks {len(broken)} of its promises")
    click.echo(f"{owned} {name!r} keeps its promises in {len(checks)} checks", err=True)


def _kind(name: str, kind: str | None) -> str:
    """Return the kind of the one component of that name.

    Raises:
        UsageError: if there are several, or a component of no kind.
    """
    if kind is not None:
        return kind.replace("-", "_")
    owned = sorted({component.kind for component in components() if component.name == name})
    if len(owned) == 1:
        return owned[0]
    what = f"{name!r} is the name of a {' and of a '.join(owned)}" if owned else f"no component is called {name!r}"
    raise UsageError(what, hint=f"add --kind {owned[0].replace('_', '-')}" if owned else "medground plugins list")


def _arguments(texts: tuple[str, ...]) -> dict[str, Any]:
    from medground.recipe.layers import from_override

    values: dict[str, Any] = {}
    for text in texts:
        values |= from_override(f"component.{text}").data["component"]
    return values
