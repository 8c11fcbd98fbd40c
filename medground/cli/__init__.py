"""The command line: parse, call, print. Commands are imported when they are used, so that --help takes no time.

Results go to stdout, people's text to stderr. Exit codes: 0 ok, 1 run failed, 2 usage, 3 bad input, 4 missing plugin
or extra, 5 interrupted and resumable, 70 our bug.
"""

import errno
import importlib
import logging
import signal
import sys
import traceback
from typing import Any, NoReturn, cast

import click

from medground.cli.plugin_commands import plugin_commands
from medground.errors import Interrupted, MedgroundError
from medground.runs.exits import refuse_early_exit
from medground.runs.stopping import terminable
from medground.terminal import clean_streams, examples, printable
from medground.training.launcher import exit_process, rank

COMMANDS = {
    "doctor": "What is installed and whether it works; `doctor frames` checks coordinates.",
    "eval": "Measure a recipe on a dataset, or saved answers again; resumable.",
    "export": "Write a run's result for transformers and peft, with a model card.",
    "fetch": "Download the weights a recipe names, licence shown first.",
    "ground": "Ground one question in one image: text, box, points, mask, overlay.",
    "plugins": "List, show, check and write plugins.",
    "recipe": "List, check, show and compare recipes.",
    "reward": "Score answers with a rubric; audit a rubric.",
    "sweep": "The variants of a recipe over seeds and datasets, compared; resumable.",
    "train": "Train a reasoner, supervised or by GRPO; resumable.",
    "volume": "Ground one question in one volume: masks in its geometry, measures, a page.",
    "run": "Ground a folder or a manifest of images; resumable.",
}
"""The commands of medground itself, each in the module of its name, and what --help says of it."""


class LazyGroup(click.Group):
    """A group whose commands are imported only when one is run or asked for its own help; plugins add to them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, without importing a command."""
        return sorted([*COMMANDS, *plugin_commands()])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command.

        Raises:
            PluginError: if it is a plugin's, and that is broken.
        """
        command: click.Command | None = None
        if cmd_name in COMMANDS:
            command = getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)
        else:
            from medground.registry import components, factory

            if any(component.name == cmd_name for component in components("command")):
                command = cast(click.Command, factory("command", cmd_name))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line each, from the table and from the metadata of plugins."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted((COMMANDS | plugin_commands()).items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        'medground ground scan.png "Which bright spot on the left is new?"',
        "medground plugins list --kind segmenter",
    ),
)
@click.version_option(package_name="medground", message="medground %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--local_rank", hidden=True, help="Added by DeepSpeed's launcher; the environment has it, too.")
def medground(debug: bool, local_rank: str | None) -> None:
    """Reasoning grounding in medical images: a vague question in; reasoning, box, key points and mask out.

    Research software, not a medical device.
    """
    logger = logging.getLogger("medground")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        logger.addHandler(_StderrHandler())


class _StderrHandler(logging.Handler):
    """Write messages as people's text to the current `sys.stderr`: a progress bar puts its own there, to print above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        sys.stderr.write(f"{printable(record.getMessage())}\n")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code."""
    if arguments is None:
        refuse_early_exit()
    try:
        with clean_streams(), terminable():
            code = _run(sys.argv[1:] if arguments is None else arguments)
    except BrokenPipeError:
        # stdout was closed, for example by `head`: flushing it at exit would fail again.
        sys.stdout = None
        code = 1
    except KeyboardInterrupt:  # a second one, or while an error was printed
        code = 5
    if arguments is None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is done stays done while Python ends
    exit_process(code)


def _run(words: list[str]) -> int:
    try:
        code: Any = medground.main(words, prog_name="medground", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return _fail("interrupted", "run the same command again", 5)
    except click.ClickException as error:
        error.show(sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the command line ends with an exit code, whatever happens
        if "--debug" in words:
            sys.stderr.write(traceback.format_exc())
            return 1
        if not isinstance(error, MedgroundError):
            return _report_unexpected(error, words)
        # All ranks are interrupted together; the first one prints it.
        silent = isinstance(error, Interrupted) and rank() > 0
        return error.exit_code if silent else _fail(error.message, error.hint, error.exit_code)


def _report_unexpected(error: Exception, words: list[str]) -> int:
    """Report a path that cannot be used (most often --out), a failure of a plugin's command, or else our bug."""
    if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
        # Of a copy that fails, the second file is the one that is written.
        subject = f"{error.filename2 or error.filename or 'the result'} cannot be used: {error.strerror}"
        return _fail(subject, "check the path, its permissions and the space left", 1)
    from medground.registry import OWN, components
    from medground.registry.errors import as_plugin_error

    plugins = {component.name: component for component in components("command") if component.name not in COMMANDS}
    component = plugins.get(next((word for word in words if word in COMMANDS or word in plugins), ""))
    if component is not None and (component.distribution != OWN or isinstance(error, ImportError)):
        failure = as_plugin_error(component, error)
        return _fail(failure.message, failure.hint, failure.exit_code)
    subject = f"medground has a bug: {type(error).__name__}: {error}"
    return _fail(subject, "run again with --debug and report the traceback", 70)


def _fail(message: str, hint: str | None, code: int) -> int:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f" hint: {hint}", err=True)
    return code
