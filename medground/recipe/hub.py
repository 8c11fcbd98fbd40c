"""Weights and data a recipe names, downloaded from the Hugging Face hub: licence first, hashes checked, all recorded.

A recipe names published weights by their hub id, ``owner/name[/file][@revision]``, in a component's argument
``checkpoint``; a component that is given none may have a default, its factory's attribute ``published``. A data set is
``data.path``. Whatever exists on disk is left alone. Nothing else in medground downloads anything.

What is known beforehand about licences and hashes is in ``sources.json``: SHA-256 only where several public records
agree (the files themselves were not at hand), null where a licence is not stated.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from medground.errors import PluginError, RunError
from medground.recipe import Recipe, checkpoints
from medground.recipe.checkpoints import KEYS

LOCK = "medground.lock.json"
"""In the hub's cache folder: id -> revision asked for, commit, licence, SHA-256 of every file."""
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(/[\w./-]+)?(@[\w./-]+)?")
_NEEDED = (".safetensors", ".json", ".txt", ".jinja", ".model", ".md")
_PICKLED = (".bin", ".pt", ".pth")
"""Taken only from a repository that has no safetensors."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One thing a recipe names that lies on the hub."""

    key: str
    """Dotted place in the recipe, such as ``segmenter.checkpoint``."""
    repository: str
    file: str = ""
    """One file of the repository; "" takes what a model folder needs."""
    revision: str = "main"
    kind: str = "model"
    """``model`` or ``dataset``."""

    @property
    def id(self) -> str:
        """As a recipe names it."""
        name = f"{self.repository}/{self.file}" if self.file else self.repository
        return name if self.revision == "main" else f"{name}@{self.revision}"


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What the hub says about a wanted thing, before anything is downloaded."""

    wanted: Wanted
    commit: str
    files: Mapping[str, int | None]
    """Name -> size in bytes, where the hub says."""
    sha256: Mapping[str, str]
    """Name -> expected hash, where sources.json or the hub knows one."""
    licence: str | None
    """None where none is stated."""
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files of known size."""
        return sum(size or 0 for size in self.files.values())


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What lies in the cache now."""

    offer: Offer
    path: Path
    """The file, or the folder."""
    sha256: Mapping[str, str] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as the lock file keeps it, with the id and the path."""
        return {"id": self.offer.wanted.id, "path": str(self.path), **_locked(self)}


def wanted(recipe: Recipe) -> list[Wanted]:
    """What a recipe names that is not a path on this machine, each once.

    Raises:
        RecipeError: if a component's values must still be given.
        PluginError: if a component cannot be had.
    """
    found = [*_weights(recipe), *_data(recipe)]
    return list({item.id: item for item in found}.values())


def _weights(recipe: Recipe) -> Iterator[Wanted]:
    for key, checkpoint, revision in checkpoints(recipe, *KEYS):
        item = parse(checkpoint, key, revision=revision)
        if item is not None:
            yield item


def _data(recipe: Recipe) -> Iterator[Wanted]:
    path = recipe.data.get("data", {}).get("path")
    item = parse(path, "data.path", kind="dataset")
    if item is not None:
        yield item


def parse(name: Any, key: str, *, revision: str | None = None, kind: str = "model") -> Wanted | None:
    """A hub id as something wanted, or None where the name is no hub id or exists on disk.

    >>> parse("wanglab/MedSAM2/MedSAM2_latest.pt@main", "segmenter.checkpoint").file
    'MedSAM2_latest.pt'
    >>> parse("./weights/medsam2.pt", "segmenter.checkpoint") is None
    True
    """
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name) or Path(name).exists():
        return None
    path, _, inside = name.partition("@")
    owner, repository, *file = path.split("/")
    return Wanted(
        key=key,
        repository=f"{owner}/{repository}",
        file="/".join(file),
        revision=inside or revision or "main",
        kind=kind,
    )


def look_up(item: Wanted) -> Offer:
    """Ask the hub what there is, under which licence. Downloads nothing.

    Raises:
        RunError: if the hub cannot be reached or has no such thing.
    """
    info = _ask(
        item,
        lambda hub: hub.HfApi().repo_info(
            item.repository, repo_type=item.kind, revision=item.revision, files_metadata=True
        ),
    )
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    names = [item.file] if item.file else _needed(list(sizes), item.kind)
    if item.file and item.file not in sizes:
        raise RunError(f"{item.repository} has no file {item.file}", hint=f"it has: {', '.join(sorted(sizes))}")
    known = _known(item.repository)
    hashes = {s.rfilename: s.lfs.sha256 for s in info.siblings if s.lfs is not None and s.rfilename in names}
    # Ours outranks the hub's: a file replaced there is refused, not trusted.
    hashes |= {name: value for name, value in known.get("sha256", {}).items() if name in names}
    card = info.card_data.to_dict() if info.card_data is not None else {}
    return Offer(
        wanted=item,
        commit=str(info.sha),
        files={name: sizes[name] for name in names},
        sha256=hashes,
        licence=known["licence"] if "licence" in known else card.get("license_name") or card.get("license"),
        note=known.get("note", ""),
    )


def download(offer: Offer) -> Fetched:
    """Download what was offered into the hub's cache, check every hash, and record it in the lock file.

    Raises:
        RunError: if the hub cannot be reached, or a file is not the one expected; that file is removed.
    """
    item = offer.wanted
    paths = {name: _download_one(item, name) for name in offer.files}
    hashes = {name: _sha256(path) for name, path in paths.items()}
    before = _read_lock().get(item.id, {})
    recorded = before.get("sha256", {}) if before.get("commit") == offer.commit else {}
    for name, expected in [*offer.sha256.items(), *recorded.items()]:
        if name in hashes and hashes[name] != expected:
            _remove(paths[name])
            raise RunError(
                f"{name} of {item.repository} has SHA-256 {hashes[name]}, expected {expected}; it was removed",
                hint="fetch again; if it happens again the file on the hub is not the published one",
            )
    first = next(iter(paths.values()))
    inside = first.parents[len(Path(next(iter(paths))).parts) - 1]
    fetched = Fetched(offer=offer, path=first if item.file else inside, sha256=hashes)
    _write_lock(_read_lock() | {item.id: _locked(fetched)})
    return fetched


def _download_one(item: Wanted, name: str) -> Path:
    found = _ask(
        item, lambda hub: hub.hf_hub_download(item.repository, name, repo_type=item.kind, revision=item.revision)
    )
    return Path(found)


def _ask(item: Wanted, question: Callable[[Any], Any]) -> Any:
    """Ask the hub; every way it can fail is one sentence."""
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError as error:
        raise PluginError("fetching needs huggingface_hub", hint="pip install huggingface_hub") from error
    try:
        return question(hub)
    except errors.GatedRepoError as error:
        where = f"{hub.constants.ENDPOINT}/{item.repository}"
        raise RunError(
            f"{item.id} is behind a form", hint=f"accept its terms at {where} and log in: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise RunError(f"{item.repository} has no revision {item.revision}", hint="see its list of commits") from error
    except errors.RepositoryNotFoundError as error:
        raise RunError(
            f"the hub has no {item.kind} {item.repository}, or it is private", hint=f"see {item.key}"
        ) from error
    # A client that cannot connect raises its HTTP library's error, of which the hub's own are a kind.
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"the hub at {hub.constants.ENDPOINT} cannot be asked for {item.id}: {what}",
            hint=f"download it where there is a network, and give its path as {item.key}",
        ) from error


def _needed(names: list[str], kind: str) -> list[str]:
    if kind == "dataset":
        return sorted(names)
    suffixes = _NEEDED if any(name.endswith(".safetensors") for name in names) else _NEEDED + _PICKLED
    return sorted(name for name in names if name.endswith(suffixes) or name.upper().startswith("LICENSE"))


def _known(repository: str) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(files("medground").joinpath("sources.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = table.get(repository) or table.get(repository.split("/")[0]) or {}
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """A file of the cache: the name and the content it points to."""
    content = path.resolve()
    path.unlink()
    content.unlink(missing_ok=True)


def _locked(fetched: Fetched) -> dict[str, Any]:
    offer = fetched.offer
    return {
        "revision": offer.wanted.revision,
        "commit": offer.commit,
        "licence": offer.licence,
        "sha256": dict(sorted(fetched.sha256.items())),
    }


def _lock_path() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / LOCK


def _read_lock() -> dict[str, Any]:
    path = _lock_path()
    if not path.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is not JSON", hint="move it away; fetching again writes a new one") from error
    return found


def _write_lock(entries: Mapping[str, Any]) -> None:
    path = _lock_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)
