"""Where a U-MRG table lies: a file, a folder, or the hub's cache; which variant and which split by name."""

import os
import re
from pathlib import Path

from medground.errors import InputError, UsageError

SPLITS = ("train", "test", "val", "validation")
VARIANTS = {"14k": "U_MRG_14k", "6k": "U_MRG_6k"}
"""Name -> the published folder; case and separators do not matter."""
_HUB_ID = re.compile(r"([\w][\w.-]*/[\w][\w.-]*)(?:@([\w./-]+))?")
_PART = re.compile(r"(\w+?)(?:-\d+(?:-of-\d+)?)?\.parquet")
"""``train.parquet``, ``train-00000-of-00003.parquet``."""


def is_umrg(path: str | Path) -> bool:
    """Return True if a path is a parquet file, or a folder that holds some by a split's name."""
    location = Path(path).expanduser()
    if location.is_dir():
        return bool(_variants(location)) or any(split in SPLITS for split in _tables(location))
    return str(path).endswith(".parquet")


def is_hub_id(path: str | Path) -> bool:
    """Return True if a name that is no path here could be a data set's on the hub."""
    return _HUB_ID.fullmatch(str(path)) is not None


def files(path: str | Path, split: str | None = None) -> dict[str, list[Path]]:
    """Return the files of every split.

    Args:
        path: a ``.parquet`` file; a folder with ``train.parquet`` and ``test.parquet`` (or numbered parts, also in
            ``data/``); a folder of the variants ``U_MRG_14k`` and ``U_MRG_6k``; or the hub id of a data set that
            ``medground fetch`` has fetched.
        split: ``train``, ``test``; or with the variant, ``14k/train``, ``6k/test``; None takes all.

    Raises:
        InputError: if there is no such table.
        UsageError: if the folder holds several variants and the split names none.
    """
    location = _located(path)
    variant, _, name = split.rpartition("/") if split else ("", "", "")
    if location.is_file():
        tables = {_split_of(location) or name or "train": [location]}
    else:
        folder = _of_variant(location, variant)
        tables = _tables(folder)
        if not tables:
            raise InputError(f"{folder.name} holds no train.parquet or test.parquet", hint="give the table's folder")
    if not name:
        return tables
    if name not in tables:
        raise InputError(f"there is no split {name!r}", hint=f"there is {', '.join(sorted(tables))}")
    return {name: tables[name]}


def _located(path: str | Path) -> Path:
    location = Path(path).expanduser()
    if location.exists():
        return location
    named = _HUB_ID.fullmatch(str(path))
    if named is None:
        raise InputError(f"{path} does not exist", hint="give a parquet file, its folder, or a hub id")
    cached = _cached(named[1], named[2])
    if cached is None:
        raise InputError(
            f"{path} is neither here nor in the local hub cache",
            hint="download it with `medground fetch RECIPE data.path=OWNER/NAME`, which shows its licence first",
        )
    return cached


def _cached(repository: str, revision: str | None) -> Path | None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(repository, repo_type="dataset", revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _of_variant(location: Path, variant: str) -> Path:
    present = _variants(location)
    if variant:
        named = [name for name, folder in VARIANTS.items() if _plain(variant) in (_plain(name), _plain(folder))]
        if not named or named[0] not in present:
            known = ", ".join(present) or "none"
            raise InputError(f"{location.name} holds no variant {variant!r}", hint=f"variants found: {known}")
        return present[named[0]]
    if len(present) > 1 and not _tables(location):
        raise UsageError(
            f"{location.name} holds the variants {' and '.join(present)}",
            hint=f"name one: data.split={next(iter(present))}/train",
        )
    return next(iter(present.values())) if present and not _tables(location) else location


def _variants(location: Path) -> dict[str, Path]:
    """``14k`` and ``6k`` -> their folders, where they are."""
    inside = {_plain(path.name): path for path in location.iterdir() if path.is_dir()} if location.is_dir() else {}
    return {name: inside[_plain(folder)] for name, folder in VARIANTS.items() if _plain(folder) in inside}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _tables(folder: Path) -> dict[str, list[Path]]:
    tables: dict[str, list[Path]] = {}
    for path in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")], key=os.fspath):
        split = _split_of(path)
        if split:
            tables.setdefault(split, []).append(path)
    return tables


def _split_of(path: Path) -> str | None:
    named = _PART.fullmatch(path.name)
    return named[1] if named and named[1] in SPLITS else None
