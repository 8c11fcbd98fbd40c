"""Checkpoints that are whole or not there: a killed save never leaves a folder that looks like one.

    write into .tmp-<step>-<pid>, fsync -> manifest with size and SHA-256 of every file, fsync -> rename -> fsync folder

and only then are older ones removed; two always stay, and those whose steps the caller names. At start leftovers of
killed saves are removed, and the newest checkpoint is verified against its manifest; one that fails is put aside and the
one before it is used.
"""

import json
import logging
import os
import re
import shlex
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypedDict

from medground.errors import RunError
from medground.runs import failpoints
from medground.runs.files import sha256_file, sync
from medground.runs.jsonable import restore

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
"""Of the manifest and of what lies beside it; a newer one is refused, not guessed at."""
NEWEST_KEPT = 2
_NAME = re.compile(r"step-(\d{8})")


class FileRecord(TypedDict):
    """What a manifest states of a file."""

    size: int
    """Bytes."""
    sha256: str


class Checkpoints:
    """The checkpoints of one run, in one folder.

    Args:
        folder: holds them, as ``step-00000010``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def clean(self) -> list[str]:
        """Remove what killed saves left behind; return its names. Only the process that owns the run calls it."""
        orphans = sorted(path for path in self.folder.glob(".tmp-*") if path.is_dir())
        for path in orphans:
            shutil.rmtree(path)
        return [path.name for path in orphans]

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, newest first; unverified. What has another name is none."""
        names = (_NAME.fullmatch(path.name) for path in self.folder.glob("step-*") if path.is_dir())
        return sorted((int(name[1]) for name in names if name), reverse=True)

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint of a step."""
        return self.folder / f"step-{step:08d}"

    def newest(self) -> Path | None:
        """Return the newest checkpoint that is what its manifest says, and put damaged ones aside; None if there is none.

        Raises:
            RunError: if all are damaged, or one is of a newer format than this version reads.
        """
        damaged: dict[Path, str] = {}
        for path in map(self.path, self.steps()):
            if (problem := verify(path)) is None:
                for other, problem in damaged.items():
                    other.rename(other.with_name(f".damaged-{other.name}-{os.getpid()}"))
                    logger.warning("checkpoint %s is damaged (%s); the one before it is used", other.name, problem)
                return path
            damaged[path] = problem
        for path, problem in damaged.items():
            raise RunError(
                f"every checkpoint in {self.folder} is damaged, the newest, {path.name}: {problem}",
                hint=f"restore it, or rm -r {shlex.quote(str(self.folder))} and --resume begins at step 1",
            )
        return None

    def save(
        self,
        step: int,
        write: Callable[[Path], None],
        published: Callable[[Path], None],
        *,
        keep: Collection[int] = (),
    ) -> Path:
        """Write the checkpoint of a step, whole or not at all, then remove older ones.

        Args:
            step: the last finished step.
            write: fills the folder it is given.
            published: called with the final folder once it is in place and before older ones go.
            keep: steps whose checkpoints stay, however old.

        Raises:
            RunError: if the disk is full or cannot be written; earlier checkpoints stay as they were.
        """
        final = self.path(step)
        temporary = self.folder / f".tmp-{step:08d}-{os.getpid()}"
        try:
            temporary.mkdir(parents=True)
            write(temporary)
            failpoints.failpoint("save.before_manifest")
            _write_manifest(temporary)
            failpoints.failpoint("save.before_rename")
            temporary.rename(final)
            sync(self.folder)
        except OSError as error:
            raise _cannot_save(self.folder, temporary, step, error) from error
        failpoints.failpoint("save.after_rename")
        published(final)
        self.prune(keep)
        return final

    def prune(self, keep: Collection[int] = ()) -> None:
        """Remove all but the newest two and those of some steps."""
        for step in [step for step in self.steps()[NEWEST_KEPT:] if step not in keep]:
            # Renamed first: a folder that is half removed must not look like a checkpoint.
            removed = self.path(step).rename(self.folder / f".tmp-prune-{step:08d}-{os.getpid()}")
            failpoints.failpoint("prune.mid")
            shutil.rmtree(removed)


def verify(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, in a few words; None if it holds the files of its manifest and no others.

    Raises:
        RunError: if it is of a newer format.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, files = restore(int, manifest["format"]), restore(dict[str, FileRecord], manifest["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "it has no readable manifest"
    if version > FORMAT:
        raise RunError(
            f"checkpoint {folder.name} has format {version}; this version reads up to {FORMAT}",
            hint="use the version of medground that wrote it, or a newer one",
        )
    if version < 1 or not files:
        return "its manifest is of no format, or empty"
    inside = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    present = {path.relative_to(folder).as_posix(): path for path in inside}
    if more := sorted(present.keys() - files.keys() - {MANIFEST}):
        return f"{more[0]} is not in its manifest"
    for name, stated in files.items():
        path = present.get(name)
        if path is None or path.is_symlink() or not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != stated["size"] or sha256_file(path) != stated["sha256"]:
            return f"{name} is not what was written"
    return None


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in files
    }
    for path in files:
        sync(path)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"format": FORMAT, "files": listed}, indent=1) + "\n", encoding="utf-8")
    sync(manifest)
    for path in {folder, *(file.parent for file in files)}:
        sync(path)


def _cannot_save(folder: Path, temporary: Path, step: int, error: OSError) -> RunError:
    written = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
    shutil.rmtree(temporary, ignore_errors=True)
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    return RunError(
        f"the checkpoint of step {step} could not be written: {error.strerror or error}",
        hint=f"{written:,} bytes were written before that and {free:,} are free; make room, then --resume. "
        "Earlier checkpoints are intact",
    )
