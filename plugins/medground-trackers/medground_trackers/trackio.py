"""Trackio: into its own folder on this machine, or to a server that the user consents to."""

import math
import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from medground.errors import RunError
from medground.servers import checked_url
from medground_trackers.run_folder import unique_name

ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""Variables that make Trackio send numbers to another machine."""


class Trackio:
    """Writes a run's numbers for Trackio, on this machine or to a server.

    Its dashboard reads one folder for all runs, so that is where the numbers are.

    Args:
        project: groups runs there.
        base_url: a Trackio server, which takes the token in TRACKIO_WRITE_TOKEN; None writes to the folder that
            TRACKIO_DIR names, else to ``trackio`` in the cache of huggingface_hub.
        allow_upload: consent to send the run's numbers to a server that is not on this machine, which a recipe file cannot
            give; MEDGROUND_ALLOW_UPLOAD=host in the environment is another way to give it.
    """

    def __init__(self, *, project: str = "medground", base_url: str | None = None, allow_upload: bool = False) -> None:
        import trackio

        self.project = project
        self.base_url = base_url and checked_url(base_url, allow_upload=allow_upload, sent="the run's numbers")
        self._trackio = trackio
        self._run: Any = None

    def __repr__(self) -> str:
        return f"Trackio(project={self.project!r}, base_url={self.base_url!r})"

    def begin(self, folder: Path, step: int) -> None:
        """See `Tracker.begin`; after an interruption the same run goes on, and steps done again stand in it twice.

        Raises:
            RunError: if a variable of the environment names another server, or the server does not take the run.
        """
        for variable in ELSEWHERE:
            if os.environ.get(variable):
                raise RunError(
                    f"{variable} would send the run's numbers to another server than the recipe says",
                    hint=f"unset {variable}, or set base_url of tracker trackio",
                )
        try:
            with redirect_stdout(sys.stderr):  # stdout is for results
                self._run = self._trackio.init(
                    project=self.project,
                    name=unique_name(folder, "trackio"),
                    server_url=self.base_url,
                    resume="allow",
                    embed=False,
                    auto_log_cpu=False,
                    auto_log_gpu=False,
                )
        except (ValueError, OSError) as error:
            raise RunError(
                f"tracker trackio cannot start: {str(error).splitlines()[0][:200]}",
                hint="trackio show starts a server and prints its token, or leave base_url out",
            ) from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`; a number that is not finite is left out."""
        self._run.log({name: float(value) for name, value in metrics.items() if math.isfinite(value)}, step=step)

    def close(self) -> None:
        """See `Tracker.close`; waits until its numbers are written."""
        if self._run is not None:
            with redirect_stdout(sys.stderr):
                self._run.finish()
