"""Does a command keep the promises of the command line?"""

from functools import partial

import click
from click.testing import CliRunner

from medground.hookspecs import CORE_COMMANDS
from medground.testing.findings import ConformanceReport, Findings, shown


def check_command(command: click.Command, /, *, quick: bool = False) -> ConformanceReport:
    """Check a command that a plugin adds to ``medground``: its name, its help, and its answer to a wrong option.

    Args:
        command: with its commands, where it is a group.
        quick: leave out the commands of a group.

    Returns:
        what was tried.

    Raises:
        ConformanceError: listing every promise broken.
    """
    findings = Findings(command)
    if findings.expect(isinstance(command, click.Command), "a command is a click.Command", shown(command)):
        findings.subject = f"command {command.name}"
        findings.expect(
            command.name not in CORE_COMMANDS, "its name is not one of medground itself", shown(command.name)
        )
        commands = {command.name or "": command, **({} if quick else getattr(command, "commands", {}))}
        findings.run(
            {
                f"{name}: its help, and a wrong option": partial(_check_one, name, one, findings)
                for name, one in commands.items()
            }
        )
    return findings.conclude()


def _check_one(name: str, command: click.Command, findings: Findings) -> None:
    findings.expect(command.help, "every command has a help text", name)
    answer = CliRunner().invoke(command, ["--help"])
    findings.expect(answer.exit_code == 0, "--help exits with 0", f"{name} exits with {answer.exit_code}")
    answer = CliRunner().invoke(command, ["--no-such-option"])
    findings.expect(answer.exit_code == 2, "a wrong option exits with 2", f"{name} exits with {answer.exit_code}")
