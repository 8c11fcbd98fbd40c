"""Scalars in TensorBoard's event files."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medground_trackers.run_folder import folder_inside


class TensorBoard:
    """Writes a run's numbers as event files, for TensorBoard.

    Args:
        folder: where the event files go, inside the run's folder.
    """

    def __init__(self, *, folder: str = "tensorboard") -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.folder = folder
        self._event, self._summary, self._open = event_pb2, summary_pb2, EventFileWriter
        self._writer: Any = None

    def __repr__(self) -> str:
        return f"TensorBoard(folder={self.folder!r})"

    def begin(self, folder: Path, step: int) -> None:
        """See `Tracker.begin`; readers drop what earlier files of the folder hold of later steps.

        Raises:
            RecipeError: if its own folder is outside the run's.
        """
        target = folder_inside(folder, self.folder, "tensorboard")
        self._writer = self._open(str(target))
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(step=step + 1, session_log=start)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`; a number that is not finite is left out."""
        values = [
            self._summary.Summary.Value(tag=name, simple_value=float(value))
            for name, value in metrics.items()
            if math.isfinite(value)
        ]
        self._write(step=step, summary=self._summary.Summary(value=values))

    def close(self) -> None:
        """See `Tracker.close`."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, **what: Any) -> None:
        self._writer.add_event(self._event.Event(wall_time=time.time(), **what))
        self._writer.flush()  # a step that is in a checkpoint is never missing here, whatever happens next
