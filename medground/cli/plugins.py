"""``medground plugins``: what is installed, what is wrong with it, and a start for a plugin of your own."""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import click

from medground.errors import PluginError
from medground.registry import KINDS, Component, components
from medground.registry.errors import missing_extra
from medground.registry.isolation import SECONDS, check_plugin
from medground.terminal import console, printable

KIND_WORDS = [kind.replace("_", "-") for kind in KINDS]
NEW_KINDS = ["segmenter", "reward", "prompt-interface", "reasoner", "reader", "command"]


@click.group()
def plugins() -> None:
    """List plugins, find out what is wrong with one, or start your own."""


@plugins.command("list")
@click.option("--kind", type=click.Choice(KIND_WORDS), help="Only components of this kind.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
@click.option("--strict", is_flag=True, help="Exit with 4 if anything listed has a problem.")
def list_(kind: str | None, as_json: bool, strict: bool) -> None:
    """List every component with its owner, from metadata alone: nothing is imported."""
    listed = components(kind)
    if as_json:
        click.echo(json.dumps([asdict(component) for component in listed], indent=2))
    else:
        columns = ["kind", "name", "package", "version", "module", "problem", "remedy"]
        _table(columns, [[value or "" for value in astuple(component)] for component in listed])
    if strict:
        _refuse({component.distribution for component in listed if component.problem}, hint="medground plugins doctor")


@plugins.command()
@click.option("--seconds", type=click.FloatRange(min=0.1), default=SECONDS, show_default=True, help="To import one.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
@click.option("--strict", is_flag=True, help="Exit with 4 if a plugin has a problem.")
def doctor(seconds: float, as_json: bool, strict: bool) -> None:
    """Import every plugin in a process of its own and say what is wrong with it, and what to do.

    Each builds something tiny of what it offers, to see whether the installed versions of its libraries fit together.
    That takes some seconds per plugin.
    """
    rows = examine(seconds)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        columns = ["package", "version", "module", "status", "cause", "remedy"]
        _table(columns, [[getattr(row, column) or "" for column in columns] for row in rows])
    if strict:
        refuse_broken(rows)


@plugins.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(NEW_KINDS), required=True, help="What it offers.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write; default ./medground-NAME.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
def new(name: str, kind: str, out: Path | None, as_json: bool) -> None:
    """Write a plugin package that offers one component, with tests that pass as they are."""
    from medground.cli.template import write

    folder, files = write(name, kind, out)
    click.echo(json.dumps({"folder": str(folder), "files": files}, indent=2) if as_json else str(folder))
    click.echo(f"Next: pip install -e {folder} && python -m pytest {folder}", err=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginStatus:
    """How a plugin is: one problem of it, or that it works. The fields are the columns of ``plugins doctor``."""

    package: str
    version: str
    module: str
    components: str
    status: Literal["ok", "extra missing", "broken"]
    cause: str | None = None
    remedy: str | None = None


def examine(seconds: float = SECONDS) -> list[PluginStatus]:
    """Check each plugin (distribution and module) in a process of its own; one row per problem, or one where it works.

    Args:
        seconds: for importing each.
    """
    owned: dict[tuple[str, str], list[Component]] = defaultdict(list)
    for component in components():
        owned[component.distribution, component.module].append(component)
    groups = [owned[key] for key in sorted(owned)]
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return [row for rows in pool.map(lambda group: _examine_one(group, seconds), groups) for row in rows]


def refuse_broken(rows: Sequence[PluginStatus]) -> None:
    """Stop where a plugin is broken.

    Raises:
        PluginError: names their packages.
    """
    _refuse({row.package for row in rows if row.status == "broken"})


def _refuse(packages: set[str], hint: str | None = None) -> None:
    if packages:
        count = "1 plugin" if len(packages) == 1 else f"{len(packages)} plugins"
        raise PluginError(f"{count} with problems: {', '.join(sorted(packages))}", hint=hint)


def _examine_one(group: list[Component], seconds: float) -> list[PluginStatus]:
    problems = {component.problem: component.hint for component in group if component.problem}
    usable = [component for component in group if component.kind in KINDS and component.module]
    if usable and (problem := check_plugin(usable[0], seconds)):
        problems[problem.cause] = problem.remedy
    first = group[0]
    row = partial(
        PluginStatus,
        package=first.distribution,
        version=first.version,
        module=first.module,
        components=", ".join(f"{component.kind}.{component.name}".strip(".") for component in group),
    )
    if problems:
        return [row(status="broken", cause=cause, remedy=remedy) for cause, remedy in problems.items()]
    if all(extras := [missing_extra(component) for component in group]):
        return [row(status="extra missing", cause=f"needs {extras[0]}", remedy=f"pip install '{extras[0]}'")]
    return [row(status="ok")]


def _table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table for people on a terminal; elsewhere one line per row, with tabs between columns."""
    used = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row[index] for index in used))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index in used:
        table.add_column(
            columns[index], overflow="fold", style="red" if columns[index] in ("problem", "cause") else None
        )
    for row in rows:
        table.add_row(*(Text(printable(row[index])) for index in used))
    console(sys.stdout).print(table)
