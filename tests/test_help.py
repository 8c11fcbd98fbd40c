"""Every --help shows two examples, and each is a command line that its command takes."""

import shlex
from collections.abc import Iterator

import click
import pytest
from click.core import iter_params_for_processing

from medground.cli import medground
from medground.cli.completion import OVERRIDE, RECIPE
from medground.recipe import find_problems, names, resolve
from medground.registry import OWN, components

BROKEN_NAMES = [component.name for component in components("command") if component.distribution != OWN]


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that reach it."""
    yield context.command_path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and name not in BROKEN_NAMES:
                yield from walk(child, click.Context(child, parent=context, info_name=name))


COMMANDS = dict(walk(medground, click.Context(medground, info_name="medground")))


def shown(path: str) -> list[str]:
    """The examples in the --help of a command."""
    command = COMMANDS[path]
    text = command.get_help(click.Context(command, info_name=path))
    return [line.strip() for line in text.partition("Examples:\n")[2].splitlines() if line.strip()]


def values_of(line: str) -> Iterator[tuple[click.Context, click.Parameter, object]]:
    """Parse a command line as its command would, all but whether files exist, and yield every value.

    Raises:
        click.UsageError: if an option, a choice or the number of arguments is wrong.
    """
    program, *words = shlex.split(line)
    assert program == "medground"
    command: click.Command = medground
    context = click.Context(command, info_name=program)
    while True:
        options, rest, order = command.make_parser(context).parse_args(list(words))
        for parameter in iter_params_for_processing(order, command.get_params(context)):
            value, rest = parameter.handle_parse_result(context, options, rest)
            if value not in (None, ()):
                yield context, parameter, value
        if not rest:
            return
        if not isinstance(command, click.Group):
            raise click.UsageError(f"unexpected words {rest}", context)
        name, child, words = command.resolve_command(context, rest)
        assert child is not None
        command, context = child, click.Context(child, parent=context, info_name=name)


def test_the_walk_reaches_groups_subcommands_and_plugins():
    assert {"medground", "medground doctor frames", "medground recipe show", "medground data build"} <= COMMANDS.keys()
    assert len(COMMANDS) > 24


@pytest.mark.parametrize("path", COMMANDS)
def test_two_examples_of_the_command_itself(path):
    lines = shown(path)
    assert len(lines) == len(set(lines)) == 2
    assert all(
        line.startswith("medground ") if path == "medground" else f"{line} ".startswith(f"{path} ") for line in lines
    )


@pytest.mark.parametrize("line", [line for path in COMMANDS for line in shown(path)])
def test_an_example_is_a_command_line_and_its_recipe_is_valid(line):
    given = list(values_of(line))
    recipe = next((value for _, parameter, value in given if parameter.type is RECIPE), None)
    overrides = next((value for _, parameter, value in given if parameter.type is OVERRIDE), ())
    if recipe in names():
        assert find_problems(resolve(str(recipe), *overrides)) == []


@pytest.mark.parametrize(
    "line",
    [
        "medground plugins list --kind sgementer",
        "medground fetch",
        "medground recipe show infer/toy --explian seed",
        "medground export a b --to c",
        "medground lsit",
    ],
)
def test_a_line_that_the_command_would_refuse_is_noticed(line):
    with pytest.raises(click.UsageError):
        list(values_of(line))
