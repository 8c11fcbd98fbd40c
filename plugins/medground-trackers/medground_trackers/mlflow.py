"""MLflow: into the run's folder, or to a tracking server that the user consents to."""

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medground.errors import RunError
from medground.servers import checked_url
from medground_trackers.run_folder import folder_inside, unique_name

log = logging.getLogger(__name__)

AT_ONCE = 1000
"""Metrics that a server takes in one request."""


class MLflow:
    """Writes a run's numbers for MLflow, into the run's folder or to a server.

    In metric names a dot takes the place of ``/``, which its files cannot hold.

    Args:
        experiment: groups runs there.
        base_url: the tracking server, for example ``http://127.0.0.1:5000``; None writes into the run's folder.
        allow_upload: consent to send the run's numbers to a server that is not on this machine, which a recipe file cannot
            give; MEDGROUND_ALLOW_UPLOAD=host in the environment is another way to give it.
        folder: where its files go where there is no server, inside the run's folder.
    """

    def __init__(
        self,
        *,
        experiment: str = "medground",
        base_url: str | None = None,
        allow_upload: bool = False,
        folder: str = "mlruns",
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        self.experiment, self.folder = experiment, folder
        self.base_url = base_url and checked_url(base_url, allow_upload=allow_upload, sent="the run's numbers")
        self._connect, self._metric, self._failure = MlflowClient, Metric, MlflowException
        self._client: Any = None
        self._run = ""

    def __repr__(self) -> str:
        return f"MLflow(experiment={self.experiment!r}, base_url={self.base_url!r}, folder={self.folder!r})"

    def begin(self, folder: Path, step: int) -> None:
        """See `Tracker.begin`; after an interruption the same run goes on, and steps done again stand in it twice.

        Raises:
            RecipeError: if its own folder is outside the run's.
            RunError: if the server does not take the run.
        """
        name = unique_name(folder, "mlflow")
        address = self.base_url
        if address is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # else it wants a database, and sqlalchemy
            address = folder_inside(folder, self.folder, "mlflow").resolve().as_uri()
        try:
            client = self._connect(tracking_uri=address)
            known = client.get_experiment_by_name(self.experiment)
            experiment = known.experiment_id if known else client.create_experiment(self.experiment)
            earlier = client.search_runs([experiment], f"attributes.run_name = '{name}'")
            run = earlier[0] if earlier else client.create_run(experiment, run_name=name)
            client.update_run(run.info.run_id, status="RUNNING")
        except self._failure as error:
            raise RunError(
                f"tracker mlflow cannot start: {str(error).splitlines()[0][:200]}",
                hint="start the server, or leave base_url out to write into the run's folder",
            ) from error
        self._client, self._run = client, run.info.run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`; a number that is not finite is left out. After a first failure nothing more is sent."""
        if self._client is None:
            return
        now = int(time.time() * 1000)
        numbers = [
            self._metric(name.replace("/", "."), float(value), now, step)
            for name, value in metrics.items()
            if math.isfinite(value)
        ]
        try:
            for start in range(0, len(numbers), AT_ONCE):
                self._client.log_batch(self._run, metrics=numbers[start : start + AT_ONCE])
        except self._failure as error:
            log.warning(
                "tracker mlflow stops at step %d, later numbers are in events.jsonl alone: %s",
                step,
                str(error).splitlines()[0][:200],
            )
            self._client = None

    def close(self) -> None:
        """See `Tracker.close`."""
        if self._client is not None:
            try:
                self._client.set_terminated(self._run)
            except self._failure as error:
                log.warning("tracker mlflow did not end its run: %s", str(error).splitlines()[0][:200])
