"""The command line: parse, call, print. Commands are imported when they are used, so that --help is instant.

Results go to stdout, people's text to stderr. Exit codes: 0 ok, 1 run failed, 2 usage, 3 bad input, 4 missing plugin
or extra, 5 interrupted and resumable, 70 our bug.
"""

import errno
import importlib
import sys
from typing import Any, NoReturn

import click

from medground.errors import Interrupted, MedgroundError
from medground.training.launcher import leave, rank

COMMANDS = {
    "data": ("medground_data.command", "Make a dataset of images and masks; check, describe and export it."),
    "doctor": ("medground.cli.doctor", "What is installed and whether it works; `doctor frames` checks coordinates."),
    "eval": ("medground.cli.eval", "Measure a recipe on a dataset, or saved answers again; resumable."),
    "export": ("medground.cli.export", "Write a run's result for transformers and peft, with a model card."),
    "fetch": ("medground.cli.fetch", "Download the weights a recipe names, licence shown first."),
    "ground": ("medground.cli.ground", "Ground one question in one image: text, box, points, mask, overlay."),
    "plugins": ("medground.cli.plugins", "List, check and write plugins."),
    "recipe": ("medground.cli.recipe", "List, check, show and compare recipes."),
    "reward": ("medground.cli.reward", "Score answers with a rubric; audit a rubric."),
    "sweep": ("medground.cli.sweep", "The variants of a recipe over seeds and datasets, compared; resumable."),
    "train": ("medground.cli.train", "Train a reasoner, supervised or by GRPO; resumable."),
    "run": ("medground.cli.run", "Ground a folder or a manifest of images; resumable."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when one is run or asked for its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, without importing anything."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line each, from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in sorted(COMMANDS.items())])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="medground", message="medground %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--local_rank", hidden=True, help="What DeepSpeed's launcher adds; the environment says it too.")
def medground(debug: bool, local_rank: str | None) -> None:
    """Reasoning grounding in medical images: a vague question in; reasoning, box, key points and mask out.

    Research software, not a medical device.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        code: Any = medground.main(given, prog_name="medground", standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.Abort:
        code = _say("interrupted", "run the same command again", 5)
    except click.ClickException as error:
        error.show()
        code = 2
    except MedgroundError as error:
        if "--debug" in given:
            raise
        agreed = isinstance(error, Interrupted) and rank() > 0  # the first process says it for all
        code = error.exit_code if agreed else _say(error.message, error.hint, error.exit_code)
    except BrokenPipeError:
        # The reader of our output left; there is nobody to tell, and flushing at exit would fail again.
        sys.stdout = None
        code = 1
    except Exception as error:  # the last floor
        if "--debug" in given:
            raise
        code = _unforeseen(error)
    leave(code if isinstance(code, int) else 0)


def _unforeseen(error: Exception) -> int:
    """A path that cannot be used (most often --out), or our bug, and said to be one."""
    if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
        what = f"{error.filename or 'the result'} cannot be used: {error.strerror}"
        return _say(what, "check the path, its permissions and the space left", 1)
    what = f"{type(error).__name__}: {error}"
    return _say(f"medground has a bug: {what}", "run again with --debug and report the traceback", 70)


def _say(message: str, hint: str | None, code: int) -> int:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f" hint: {hint}", err=True)
    return code
