"""Download the weights and data a recipe names from the Hugging Face hub: show licences, check hashes, record both.

A recipe names published weights by their hub id, ``owner/name[/file][@revision]``, in a component's argument
``checkpoint``; a component without one may have a default, the first of its factory's attribute ``published``. A dataset
is ``data.path``. Whatever exists on disk is left alone. Nothing else in medground downloads anything.

What a plugin declares of published weights, terms and hashes (`medground.licences`), outranks what the hub states.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

from medground.errors import PluginError, RunError
from medground.licences import Published, Terms, commercial_remedy, declared, stated
from medground.recipe import Recipe
from medground.recipe.checkpoints import KEYS, NamedCheckpoint, checkpoints
from medground.recipe.validation import Problem
from medground.runs.files import sha256_file, write_atomic

LOCK = "medground.lock.json"
"""In the hub's cache folder: id -> `LockEntry`."""
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(/[\w./-]+)?(@[\w./-]+)?")
_MODEL_FILES = (".safetensors", ".json", ".txt", ".jinja", ".model", ".md")
_PICKLED = (".bin", ".pt", ".pth")
"""Taken only from a repository that has no safetensors."""


@dataclass(frozen=True, kw_only=True)
class HubItem:
    """Something on the hub that a recipe names."""

    key: str
    """Dotted key in the recipe, for example ``segmenter.checkpoint``."""
    repository: str
    file: str = ""
    """One file of the repository; "" takes what a model folder needs."""
    revision: str = "main"
    kind: str = "model"
    """``model`` or ``dataset``."""
    published: tuple[Published, ...] = field(default=(), repr=False, compare=False)
    """What the component that reads it declares of published weights."""
    neighbours: tuple[Published, ...] = field(default=(), repr=False, compare=False)
    """What the others of its plugin declare."""

    @property
    def id(self) -> str:
        """As a recipe names it."""
        name = f"{self.repository}/{self.file}" if self.file else self.repository
        return name if self.revision == "main" else f"{name}@{self.revision}"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What the hub states about an item before anything is downloaded."""

    item: HubItem
    commit: str
    files: Mapping[str, int | None]
    """Name -> size in bytes, where the hub states it."""
    sha256: Mapping[str, str]
    """Name -> expected hash, where the plugin or the hub states one."""
    terms: Terms

    @property
    def size(self) -> int:
        """Bytes of all files of known size."""
        return sum(size or 0 for size in self.files.values())


class LockEntry(TypedDict):
    """What the lock file records of a download."""

    revision: str
    """As the recipe names it."""
    commit: str
    licence: str | None
    sha256: dict[str, str]
    """Of every file, by name."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """Files in the cache."""

    listing: Listing
    path: Path
    """The file, or the folder."""
    sha256: Mapping[str, str] = field(repr=False)

    @property
    def lock_entry(self) -> LockEntry:
        """The record for the lock file."""
        return {
            "revision": self.listing.item.revision,
            "commit": self.listing.commit,
            "licence": self.listing.terms.licence,
            "sha256": dict(sorted(self.sha256.items())),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the lock entry with the id and the path."""
        return {"id": self.listing.item.id, "path": str(self.path), **self.lock_entry}


def hub_items(recipe: Recipe) -> list[HubItem]:
    """Return what a recipe names that is not a path on this machine, without repetitions.

    Raises:
        RecipeError: if a component's values must still be given.
        PluginError: if a component is missing or broken.
    """
    return list({item.id: item for item in _items(recipe)}.values())


def _items(recipe: Recipe) -> Iterator[HubItem]:
    for key, checkpoint, revision, published, neighbours in checkpoints(recipe, *KEYS):
        if item := parse_hub_id(checkpoint, key, revision=revision):
            yield replace(item, published=published, neighbours=neighbours)
    if not {"data", "data.path"} & {*recipe.missing} and (
        item := parse_hub_id(recipe.config.data.path, "data.path", kind="dataset")
    ):
        yield item


def parse_hub_id(name: Any, key: str, *, revision: str | None = None, kind: str = "model") -> HubItem | None:
    """Return the item of a hub id, or None if the name is no hub id or exists on disk.

    >>> parse_hub_id("wanglab/MedSAM2/MedSAM2_latest.pt@main", "segmenter.checkpoint").file
    'MedSAM2_latest.pt'
    >>> parse_hub_id("./weights/medsam2.pt", "segmenter.checkpoint") is None
    True
    """
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name) or Path(name).exists():
        return None
    path, _, pinned = name.partition("@")
    owner, repository, *file = path.split("/")
    return HubItem(
        key=key,
        repository=f"{owner}/{repository}",
        file="/".join(file),
        revision=pinned or revision or "main",
        kind=kind,
    )


def look_up(item: HubItem) -> Listing:
    """Ask the hub for an item's files and licence. Downloads nothing.

    Raises:
        RunError: if the hub cannot be reached or has no such item.
    """
    with _hub(item) as hub:
        info = hub.HfApi().repo_info(item.repository, repo_type=item.kind, revision=item.revision, files_metadata=True)
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    if item.file and item.file not in sizes:
        raise RunError(f"{item.repository} has no file {item.file}", hint=f"it has: {', '.join(sorted(sizes))}")
    names = [item.file] if item.file else _needed(list(sizes), item.kind)
    known = declared(item.repository, (*item.published, *item.neighbours))
    hashes = {s.rfilename: s.lfs.sha256 for s in info.siblings if s.lfs is not None and s.rfilename in names}
    # Ours outranks the hub's: a file replaced there is refused, not trusted.
    hashes |= {name: value for name, value in (known.sha256 if known else {}).items() if name in names}
    card = info.card_data.to_dict() if info.card_data is not None else {}
    named = card.get("license_name") or card.get("license")
    return Listing(
        item=item,
        commit=str(info.sha),
        files={name: sizes[name] for name in names},
        sha256=hashes,
        terms=known.terms if known else stated(", ".join(named) if isinstance(named, list) else named),
    )


def refuse_non_commercial(listings: Iterable[Listing]) -> None:
    """Stop at weights or data that may not be used commercially, or of which that is not known.

    Raises:
        RunError: naming the first, and what to type instead.
    """
    for listing in listings:
        item = listing.item
        if refusal := listing.terms.refusal:
            raise RunError(f"{item.key}: {item.id} {refusal}", hint=commercial_remedy(item.key, item.published))


def non_commercial(recipe: Recipe) -> list[Problem]:
    """Return a problem for each checkpoint that may not be used commercially, or of which that is not known; asks no hub.

    Known are the terms that plugins declare, and of what was fetched those that the lock file records.

    Raises:
        RecipeError: if a component's values must still be given.
        PluginError: if a component is missing or broken.
    """
    problems = []
    for named in checkpoints(recipe, *KEYS):
        if refusal := terms_of(named).refusal:
            what = f"{named.key}: {named.checkpoint} {refusal}"
            remedy = commercial_remedy(named.key, named.published)
            problems.append(Problem(named.key, recipe.origin(named.key), what, remedy))
    return problems


def terms_of(named: NamedCheckpoint) -> Terms:
    """Return the terms of a checkpoint as its plugin declares them, else as the lock file records them of a download.

    Of other weights, for example of your own, they are not known.
    """
    known = (*named.published, *named.neighbours)
    item = parse_hub_id(named.checkpoint, named.key, revision=named.revision)
    if item is None:
        entry = next((entry for entry in known if entry.id == named.checkpoint), None)
        return entry.terms if entry else stated(None)
    if entry := declared(item.repository, known):
        return entry.terms
    recorded = _read_lock().get(item.id) if find_spec("huggingface_hub") else None
    return stated(recorded["licence"] if recorded else None)


def download(listing: Listing) -> Download:
    """Download the files of a listing into the hub's cache, check every hash, and record it in the lock file.

    Raises:
        RunError: if the hub cannot be reached, or a file has another hash than expected; that file is removed.
    """
    item = listing.item
    with _hub(item) as hub:
        paths = {
            name: Path(hub.hf_hub_download(item.repository, name, repo_type=item.kind, revision=item.revision))
            for name in listing.files
        }
    hashes = {name: sha256_file(path) for name, path in paths.items()}
    entry = _read_lock().get(item.id)
    recorded = entry["sha256"] if entry and entry["commit"] == listing.commit else {}
    for name, expected in [*listing.sha256.items(), *recorded.items()]:
        if name in hashes and hashes[name] != expected:
            _remove(paths[name])
            raise RunError(
                f"{name} of {item.repository} has SHA-256 {hashes[name]}, expected {expected}; it was removed",
                hint="fetch again; if it happens again the file on the hub is not the published one",
            )
    name, path = next(iter(paths.items()))
    folder = path.parents[len(Path(name).parts) - 1]
    result = Download(listing=listing, path=path if item.file else folder, sha256=hashes)
    _write_lock(_read_lock() | {item.id: result.lock_entry})
    return result


@contextmanager
def _hub(item: HubItem) -> Iterator[Any]:
    """Yield the module huggingface_hub and turn each of its failures about an item into one sentence."""
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError as error:
        raise PluginError("fetching needs huggingface_hub", hint="pip install huggingface_hub") from error
    try:
        yield hub
    except errors.GatedRepoError as error:
        where = f"{hub.constants.ENDPOINT}/{item.repository}"
        raise RunError(f"{item.id} is gated", hint=f"accept its terms at {where} and log in: hf auth login") from error
    except errors.RevisionNotFoundError as error:
        raise RunError(f"{item.repository} has no revision {item.revision}", hint="see its list of commits") from error
    except errors.RepositoryNotFoundError as error:
        raise RunError(
            f"the hub has no {item.kind} {item.repository}, or it is private", hint=f"fix {item.key}"
        ) from error
    # A client that cannot connect raises its HTTP library's error, of which the hub's own are a kind.
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"the hub at {hub.constants.ENDPOINT} does not answer for {item.id}: {cause}",
            hint=f"download it where there is a network, and give its path as {item.key}",
        ) from error


def _needed(names: list[str], kind: str) -> list[str]:
    if kind == "dataset":
        return sorted(names)
    suffixes = _MODEL_FILES if any(name.endswith(".safetensors") for name in names) else _MODEL_FILES + _PICKLED
    return sorted(name for name in names if name.endswith(suffixes) or name.upper().startswith("LICENSE"))


def _remove(path: Path) -> None:
    """Remove a file of the cache: the name and the content it points to."""
    content = path.resolve()
    path.unlink()
    content.unlink(missing_ok=True)


def _lock_path() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / LOCK


def _read_lock() -> dict[str, LockEntry]:
    path = _lock_path()
    if not path.exists():
        return {}
    try:
        entries: dict[str, LockEntry] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is not JSON", hint="move it away; fetching again writes a new one") from error
    return entries


def _write_lock(entries: Mapping[str, LockEntry]) -> None:
    path = _lock_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(entries, indent=1, sort_keys=True) + "\n")
