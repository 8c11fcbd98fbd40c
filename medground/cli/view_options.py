"""The options that say what of a volume is looked at, the same for `ground` and `run`."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from medground.images.view import PLANES
from medground.images.windows import RULES, WINDOWS

Command = TypeVar("Command", bound=Callable[..., Any])


def view_options(command: Command) -> Command:
    """Add --plane, --slice and --window."""
    window = f"Of DICOM and NIfTI: {', '.join([*WINDOWS, *RULES])} or CENTRE,WIDTH; without it the file's own."
    for option in (
        click.option("--window", metavar="WINDOW", help=window),
        click.option(
            "--slice", type=click.IntRange(min=0), help="Of a volume, in its voxels; or a film's frame; from 0."
        ),
        click.option("--plane", type=click.Choice(PLANES), help="Of a NIfTI volume."),
    ):
        command = option(command)
    return command
