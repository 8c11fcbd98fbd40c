"""``medground plugins``: what is installed, what is wrong with it, and a start for a plugin of your own."""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from medground.errors import PluginError
from medground.registry import KINDS, Component, components
from medground.registry.errors import lacking
from medground.registry.isolation import attempt, seconds

KIND_WORDS = [kind.replace("_", "-") for kind in KINDS]
NEW_KINDS = ["segmenter", "reward", "prompt-interface", "reasoner"]


@click.group()
def plugins() -> None:
    """List plugins, find out what is wrong with one, or start your own."""


@plugins.command("list")
@click.option("--kind", type=click.Choice(KIND_WORDS), help="Only components of this kind.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
@click.option("--strict", is_flag=True, help="Exit with 4 if anything listed has a problem.")
def list_(kind: str | None, as_json: bool, strict: bool) -> None:
    """List every component with its owner, from metadata alone: nothing is imported."""
    found = components(kind)
    if as_json:
        click.echo(json.dumps([asdict(component) for component in found], indent=2))
    else:
        rows = [_row(component) for component in found]
        _table(["kind", "name", "package", "version", "module", "problem", "remedy"], rows)
    broken = {component.distribution for component in found if component.problem}
    if strict and broken:
        raise PluginError(
            f"{_count(broken)} with problems: {', '.join(sorted(broken))}", hint="medground plugins doctor"
        )


@plugins.command()
@click.option("--seconds", "limit", type=click.FloatRange(min=0.1), help="Time limit for importing one plugin.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
@click.option("--strict", is_flag=True, help="Exit with 4 if a plugin has a problem.")
def doctor(limit: float | None, as_json: bool, strict: bool) -> None:
    """Import every plugin in a process of its own and say what is wrong with it, and what to do.

    Each builds something tiny of what it offers, to see whether the installed versions of its libraries fit together.
    That takes some seconds per plugin.
    """
    found = examine(limit or seconds() or 30.0)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        columns = ["package", "version", "module", "status", "cause", "remedy"]
        _table(columns, [[str(row[column] or "") for column in columns] for row in found])
    if strict:
        refuse(found)


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


def examine(limit: float) -> list[dict[str, Any]]:
    """One row per problem of each plugin (distribution and module), or one that says it is well.

    `limit` is for importing each, in seconds.
    """
    owned: dict[tuple[str, str], list[Component]] = defaultdict(list)
    for component in components():
        owned[component.distribution, component.module].append(component)
    groups = [owned[key] for key in sorted(owned)]
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return [row for rows in pool.map(lambda group: _diagnose(group, limit), groups) for row in rows]


def refuse(found: Sequence[Mapping[str, Any]]) -> None:
    """Stop where `examine` met a broken plugin.

    Raises:
        PluginError: names their packages.
    """
    broken = {row["package"] for row in found if row["status"] == "broken"}
    if broken:
        raise PluginError(f"{_count(broken)} with problems: {', '.join(sorted(broken))}")


def _diagnose(group: list[Component], limit: float) -> list[dict[str, Any]]:
    problems = {component.problem: component.hint for component in group if component.problem}
    usable = [component for component in group if component.kind in KINDS and component.module]
    if usable:
        found = attempt(usable[0], limit, self_check=True)
        if found.cause is not None:
            problems[found.cause] = found.remedy
    first = group[0]
    row = {
        "package": first.distribution,
        "version": first.version,
        "module": first.module,
        "components": ", ".join(f"{component.kind}.{component.name}".strip(".") for component in group),
    }
    if not problems:
        extra = lacking(first)
        missing = (
            {"cause": f"needs {extra}", "remedy": f"pip install '{extra}'"}
            if extra
            else {"cause": None, "remedy": None}
        )
        return [row | {"status": "extra missing" if extra else "ok"} | missing]
    return [row | {"status": "broken", "cause": cause, "remedy": remedy} for cause, remedy in problems.items()]


def _row(component: Component) -> list[str]:
    shown = asdict(component)
    return [shown[key] or "" for key in ("kind", "name", "distribution", "version", "module", "problem", "hint")]


def _table(columns: list[str], rows: list[list[str]]) -> None:
    """A table for people on a terminal; elsewhere one line per row, columns parted by tabs."""
    used = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row[index] for index in used))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index in used:
        table.add_column(
            columns[index], overflow="fold", style="red" if columns[index] in ("problem", "cause") else None
        )
    for row in rows:
        table.add_row(*(row[index].replace("[", r"\[") for index in used))
    Console().print(table)


def _count(broken: set[str]) -> str:
    return "1 plugin" if len(broken) == 1 else f"{len(broken)} plugins"
