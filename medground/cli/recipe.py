"""``medground recipe``: list, check, show and compare recipes."""

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from medground.cli.completion import OVERRIDE, RECIPE
from medground.errors import RecipeError
from medground.terminal import examples

if TYPE_CHECKING:
    from medground.recipe import Recipe
    from medground.recipe.explain import Explanation

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
overrides = click.argument("overrides", nargs=-1, type=OVERRIDE, metavar="[KEY=VALUE]...")
variant = click.option("--variant", help="Apply one row of the recipe's variants.")


@click.group(
    epilog=examples(
        "medground recipe list",
        "medground recipe show train/soft --explain grpo.beta",
    )
)
def recipe() -> None:
    """List, check, show and compare recipes."""


@recipe.command(
    "list",
    epilog=examples(
        "medground recipe list",
        "medground recipe list --json",
    ),
)
@as_json
def list_(as_json: bool) -> None:
    """Name every shipped recipe with the command that runs it."""
    from medground.recipe import names, usage_line

    commands = {name: usage_line(name) for name in names()}
    if as_json:
        click.echo(json.dumps([{"name": name, "command": command} for name, command in commands.items()]))
        return
    width = max(map(len, commands), default=0)
    for name, command in commands.items():
        click.echo(f"{name:<{width}}  {command}")


@recipe.command(
    epilog=examples(
        "medground recipe check infer/toy segmenter=medsam2",
        "medground recipe check mine.yaml --strict --commercial",
    )
)
@click.argument("source", type=RECIPE, metavar="RECIPE")
@overrides
@variant
@click.option("--strict", is_flag=True, help="A value that must still be given (???) is a problem too.")
@click.option(
    "--commercial", is_flag=True, help="Weights that may not be used commercially, or unknown terms, are problems too."
)
@as_json
def check(
    source: str, overrides: tuple[str, ...], variant: str | None, strict: bool, commercial: bool, as_json: bool
) -> None:
    """Check RECIPE: its words, components, arguments and prompt kinds. Exit 2 on problems.

    Components are built only if they need no weights, to see whether their constructors take the arguments.
    """
    from medground.recipe import InvalidRecipe, Problem, find_problems, resolve, untrained_kinds
    from medground.recipe.constructors import find_unbuildable
    from medground.runs.hub import non_commercial
    from medground.training.validation import incompatible_validation

    missing: list[str] = []
    problems: list[Problem]
    try:
        resolved = resolve(source, *overrides, variant=variant)
        missing = resolved.missing
        problems = find_problems(resolved, strict_missing=strict)
        problems += find_unbuildable(resolved)
        if problem := incompatible_validation(resolved):
            problems.append(problem)
        if commercial and not problems:
            problems += non_commercial(resolved)
    except InvalidRecipe as error:
        problems = list(error.problems)
    except RecipeError as error:
        problems = [Problem("", "", error.message, error.hint)]
    if as_json:
        rows = [asdict(problem) for problem in problems]
        click.echo(json.dumps({"ok": not problems, "problems": rows, "missing": missing}))
    else:
        for problem in problems:
            click.echo(f"error: {problem.sentence}", err=True)
            if problem.hint:
                click.echo(f" hint: {problem.hint}", err=True)
        if missing and not strict:
            click.echo(f"still to be given: {', '.join(missing)}", err=True)
        if not problems:
            click.echo(f"{source} is valid", err=True)
            for kind in sorted(untrained_kinds(resolved)):
                click.echo(f"note: its segmenter is given {kind}, which it was not trained for", err=True)
    if problems:
        raise click.exceptions.Exit(2)


@recipe.command(
    epilog=examples(
        "medground recipe show train/soft grpo.beta=0.01",
        "medground recipe show infer/toy --explain segmenter",
    )
)
@click.argument("source", type=RECIPE, metavar="RECIPE")
@overrides
@variant
@click.option("--origins/--no-origins", default=True, help="The origin of every value.  [default: origins]")
@click.option("--graph", is_flag=True, help="Show the stages the recipe composes instead.")
@click.option("--explain", "key", metavar="KEY", help="Explain one key instead: meaning, type, default, origin.")
@as_json
def show(
    source: str,
    overrides: tuple[str, ...],
    variant: str | None,
    origins: bool,
    graph: bool,
    key: str | None,
    as_json: bool,
) -> None:
    """Show RECIPE with everything it extends, every default, and the origin of every value."""
    from medground.recipe import resolve

    resolved = resolve(source, *overrides, variant=variant)
    if key is not None:
        from medground.recipe.explain import explain

        explanation = explain(resolved, key)
        click.echo(json.dumps(explanation.to_dict()) if as_json else _explained(explanation))
    elif graph:
        from medground.pipeline.describe import describe

        text = describe(resolved)
        click.echo(json.dumps({"name": resolved.name, "graph": text}) if as_json else text)
    elif as_json:
        keys = ("name", "data", "missing", "variants", *(("origins",) if origins else ()))
        click.echo(json.dumps({key: getattr(resolved, key) for key in keys}))
    else:
        click.echo(_listing(resolved, origins))


@recipe.command(
    epilog=examples(
        "medground recipe diff train/soft train/hard",
        "medground recipe diff infer/toy runs/toy --json",
    )
)
@click.argument("first", type=RECIPE, metavar="A")
@click.argument("second", type=RECIPE, metavar="B")
@as_json
def diff(first: str, second: str, as_json: bool) -> None:
    """Compare the meaning of two recipes, whatever files they are made of."""
    from medground.recipe import leaves, resolve

    sides = [resolve(source) for source in (first, second)]
    one, two = ({".".join(path): value for path, value in leaves(side.data)} for side in sides)
    keys = [key for key in {**one, **two} if (key in one, one.get(key)) != (key in two, two.get(key))]
    if as_json:
        click.echo(json.dumps({"a": {k: one[k] for k in keys if k in one}, "b": {k: two[k] for k in keys if k in two}}))
        return
    for key in keys:
        for sign, values, side in (("-", one, sides[0]), ("+", two, sides[1])):
            if key in values:
                click.echo(f"{sign} {key}: {inline(values[key])}  # {side.origins[key]}")
    if not keys:
        click.echo(f"{first} and {second} mean the same", err=True)


def _listing(recipe: "Recipe", origins: bool) -> str:
    """Return the recipe as YAML, each value followed by a comment with its origin."""
    lines: list[tuple[str, str]] = []

    def add(data: Any, path: tuple[str, ...]) -> None:
        indent = "  " * (len(path) - 1)
        if isinstance(data, dict) and data:
            if path:
                lines.append((f"{indent}{inline(path[-1])}:", ""))
            for key, value in data.items():
                add(value, (*path, key))
        else:
            lines.append((f"{indent}{inline(path[-1])}: {inline(data)}", recipe.origins[".".join(path)]))

    add(recipe.data, ())
    width = max((len(line) for line, origin in lines if origin), default=0)
    text = [f"{line:<{width}}  # {origin}" if origin and origins else line for line, origin in lines]
    if recipe.variants:
        text.append("variants:")
        text += [f"  {inline(name)}: {inline(row)}" for name, row in recipe.variants.items()]
    return "\n".join(text)


def _explained(explanation: "Explanation") -> str:
    """Return an explanation for people."""
    value, origin = explanation.value, explanation.origin
    if isinstance(value, dict) and len(value) > 3:
        here = f"a section of {len(value)} keys; without --explain, show has each with its origin"
    elif value is None and not origin:
        here = "not given"
    else:
        here = f"{inline(value)}, from {origin}" if origin not in ("", "default") else f"{inline(value)}, the default"
    rows = {
        "takes": explanation.type,
        "default": "none" if explanation.default is None else inline(explanation.default),
        "here": here,
        "one of": ", ".join(explanation.allowed),
    }
    lines = [f"  {title:<8} {text}" for title, text in rows.items() if text]
    return "\n".join([explanation.key, f"  {explanation.meaning}", *lines])


def inline(value: Any) -> str:
    """Return a value on one line of YAML: JSON, but plain words stay bare, in lists too."""
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*|\?\?\?", value, re.ASCII)
    if plain and value.lower() not in ("null", "true", "false", "nan", "inf", "infinity", "yes", "no", "on", "off"):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
