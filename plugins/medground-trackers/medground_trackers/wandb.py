"""Weights & Biases: into the run's folder, or to a server that the user consents to."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medground.errors import RunError
from medground.servers import checked_url
from medground_trackers.run_folder import folder_inside, unique_name


class WandB:
    """Writes a run's numbers for Weights & Biases, into the run's folder or to a server.

    Its own extras are off: code, git state, host, hardware, packages.

    Args:
        project: groups runs there.
        base_url: the server, for example ``https://api.wandb.ai``, with the key of ``wandb login``; None writes into the
            run's folder, from where ``wandb sync`` can send it later.
        allow_upload: consent to send the run's numbers to a server that is not on this machine, which a recipe file cannot
            give; MEDGROUND_ALLOW_UPLOAD=host in the environment is another way to give it.
        folder: where its files go, inside the run's folder.
    """

    def __init__(
        self,
        *,
        project: str = "medground",
        base_url: str | None = None,
        allow_upload: bool = False,
        folder: str = ".",
    ) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self.project, self.folder = project, folder
        self.base_url = base_url and checked_url(base_url, allow_upload=allow_upload, sent="the run's numbers")
        self._wandb = wandb
        self._run: Any = None

    def __repr__(self) -> str:
        return f"WandB(project={self.project!r}, base_url={self.base_url!r}, folder={self.folder!r})"

    def begin(self, folder: Path, step: int) -> None:
        """See `Tracker.begin`; after an interruption the same run goes on, with a second folder of files.

        Raises:
            RecipeError: if its own folder is outside the run's.
            RunError: if the server does not take the run.
        """
        target, name = folder_inside(folder, self.folder, "wandb"), unique_name(folder, "wandb")
        target.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {"base_url": self.base_url} if self.base_url else {}
        settings |= dict.fromkeys(("disable_code", "disable_git", "x_disable_meta", "x_disable_stats"), True)
        settings |= {
            "x_disable_machine_info": True,
            "console": "off",
            "silent": True,
            "x_save_requirements": False,
            "host": "",
        }
        try:
            self._run = self._wandb.init(
                project=self.project,
                id=name,
                name=name,
                dir=str(target),
                mode="online" if self.base_url else "offline",
                resume="allow" if self.base_url else None,
                reinit="create_new",
                settings=self._wandb.Settings(**settings),
            )
        except self._wandb.Error as error:
            raise RunError(
                f"tracker wandb cannot start: {str(error).splitlines()[0]}",
                hint="wandb login, or leave base_url out to write into the run's folder",
            ) from error
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")  # its own step cannot go back after an interruption

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`; a number that is not finite is left out."""
        numbers = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._run.log({**numbers, "step": step})

    def close(self) -> None:
        """See `Tracker.close`."""
        if self._run is not None:
            self._run.finish()
