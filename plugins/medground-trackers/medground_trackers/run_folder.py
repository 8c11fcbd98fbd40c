"""What the trackers share: folders and names that belong to one run."""

import uuid
from pathlib import Path

from medground.errors import RecipeError


def folder_inside(run: Path, folder: str, tracker: str) -> Path:
    """Return a tracker's own folder in a run's.

    Args:
        run: the run's folder.
        folder: relative to it.
        tracker: whose folder it is.

    Raises:
        RecipeError: if it is outside the run's.
    """
    target = run / folder
    if not target.resolve().is_relative_to(run.resolve()):
        raise RecipeError(
            f"the folder of tracker {tracker} is outside the run: {folder}", hint="name one inside the run"
        )
    return target


def unique_name(run: Path, tracker: str) -> str:
    """Return the name of a run that no other has: its folder's, with letters drawn at its first start."""
    path = run / f"{tracker}.name"
    if not path.is_file():
        path.write_text(f"{run.resolve().name}-{uuid.uuid4().hex[:8]}", encoding="utf-8")
    return path.read_text(encoding="utf-8")
