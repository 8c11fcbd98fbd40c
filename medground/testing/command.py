"""Does a command keep the promises of the command line?"""

import click
from click.testing import CliRunner

from medground.hookspecs import CORE_COMMANDS
from medground.testing.findings import Findings, shown


def check_command(command: click.Command, /) -> None:
    """Check a command that a plugin adds to ``medground``: its name, its help, and its answer to a wrong option.

    Raises:
        ConformanceError: listing every promise broken.
    """
    findings = Findings(command)
    if findings.expect(isinstance(command, click.Command), "a command is a click.Command", shown(command)):
        findings.subject = f"command {command.name}"
        findings.expect(
            command.name not in CORE_COMMANDS, "its name is not one of medground itself", shown(command.name)
        )
        for name, one in [(command.name or "", command), *getattr(command, "commands", {}).items()]:
            findings.expect(one.help, "every command has a help text", name)
            answer = CliRunner().invoke(one, ["--help"])
            findings.expect(answer.exit_code == 0, "--help exits with 0", f"{name} exits with {answer.exit_code}")
            answer = CliRunner().invoke(one, ["--no-such-option"])
            findings.expect(
                answer.exit_code == 2, "a wrong option exits with 2", f"{name} exits with {answer.exit_code}"
            )
    findings.conclude()
