"""``medground plugins``: what is installed, what is wrong with it, and a start for a plugin of your own."""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal

import click

from medground.cli.plugin_check import KindChoice, check
from medground.errors import PluginError
from medground.registry import KINDS, Component, components
from medground.registry.errors import missing_extra
from medground.registry.isolation import SECONDS, check_plugin
from medground.terminal import console, examples, printable


@click.group(
    epilog=examples(
        "medground plugins list --kind segmenter",
        "medground plugins show sam2",
    )
)
def plugins() -> None:
    """List and show plugins, find out what is wrong with one, or start your own."""


plugins.add_command(check)


@plugins.command(
    "list",
    epilog=examples(
        "medground plugins list",
        "medground plugins list --kind segmenter --json",
    ),
)
@click.option("--kind", type=KindChoice(), help="Only components of this kind.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
@click.option("--strict", is_flag=True, help="Exit with 4 if anything listed has a problem.")
def list_(kind: str | None, as_json: bool, strict: bool) -> None:
    """List every component: what it is, the prompt kinds it takes or gives, the licence of its weights.

    Built-ins are imported in one process of their own and every other plugin in another: one that is broken costs its own
    row, which says so.
    """
    from medground.cli.component_pages import COLUMNS, Row
    from medground.registry.description import describe_all

    rows = [Row.of(component, description) for component, description in describe_all(components(kind)).items()]
    rows.sort(key=lambda row: row.component)
    if as_json:
        click.echo(json.dumps([row.to_dict() for row in rows], indent=2))
    elif sys.stdout.isatty():
        for title, group in groupby(rows, key=lambda row: row.component.kind):
            _table(COLUMNS[1:], [row.cells[1:] for row in group], title=title)
    else:
        _table(COLUMNS, [row.cells for row in rows])
    if strict:
        _refuse({row.component.distribution for row in rows if row.problem}, hint="medground plugins doctor")


@plugins.command(
    epilog=examples(
        "medground plugins show medsam2",
        "medground plugins show bbox_iou --kind reward --json",
    )
)
@click.argument("name")
@click.option("--kind", type=KindChoice(), help="Where components of several kinds have that name.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
def show(name: str, kind: str | None, as_json: bool) -> None:
    """Show the component NAME: its arguments with defaults and meaning, the terms of its weights, an example to paste."""
    from medground.cli.component_pages import find_named, page
    from medground.registry.description import describe_all
    from medground.registry.isolation import Problem

    pages = []
    for component, description in describe_all(find_named(name, kind)).items():
        if isinstance(description, Problem):
            what = f"{component.kind} {name!r} of {component.owner}: {description.cause}"
            raise PluginError(what, hint=description.remedy)
        pages.append(page(component, description))
    if as_json:
        click.echo(json.dumps([one.to_dict() for one in pages], indent=2))
    else:
        click.echo("\n\n".join(one.text for one in pages))


@plugins.command(
    epilog=examples(
        "medground plugins doctor",
        "medground plugins doctor --strict --seconds 120",
    )
)
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


@plugins.command(
    epilog=examples(
        "medground plugins new glow --kind segmenter",
        "medground plugins new near --kind reward --out packages/medground-near",
    )
)
@click.argument("name")
@click.option("--kind", type=KindChoice(), required=True, help="What it offers.")
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


def _table(columns: list[str], rows: list[list[str]], title: str | None = None) -> None:
    """Print a table for people on a terminal; elsewhere one line per row, with tabs between columns.

    A column without values is left out; a column ``description`` is cut to fit one line.
    """
    used = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row[index] for index in used))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for index in used:
        column, longest = columns[index], max(len(row[index]) for row in rows)
        table.add_column(
            column,
            overflow="fold",
            min_width=12 if column == "description" else min(longest, 24),
            style="red" if column in ("problem", "cause") else None,
        )
    for row in rows:
        cells = [Text(printable(row[index]), no_wrap=columns[index] == "description") for index in used]
        for cell in cells:
            cell.overflow = "ellipsis" if cell.no_wrap else None
        table.add_row(*cells)
    console(sys.stdout).print(table)
