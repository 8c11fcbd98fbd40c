"""Samples for training and evaluation, from a manifest or the published parquet table; images are read when used.

A line of a manifest holds ``id``, ``image``, ``question``, and the truth: ``mask`` (a file), ``bbox_2d`` (x1, y1, x2, y2,
half-open) and ``point_2d`` ([[x, y], ...]) in pixels of the image; a missing box is that of the mask. Optional are
``split``, ``think`` (a reasoning trace), ``spacing`` (mm per pixel along y and x), ``plane``, ``slice`` and ``window`` of
DICOM and NIfTI, and any further words, which become labels.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from medground.data.umrg import UmrgSamples, read_umrg
from medground.data.umrg.locate import is_hub_id, is_umrg
from medground.errors import InputError, UsageError, did_you_mean
from medground.geometry import Box, Point, mask_box
from medground.images.paths import missing_name
from medground.images.read import mask_view, read_any_mask, show
from medground.images.view import PLAIN, View
from medground.types import Query, Sample, Target

MANIFEST = "manifest.jsonl"
_OWN = ("id", "image", "mask", "question", "bbox_2d", "point_2d", "size", "split", "plane", "slice", "spacing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a manifest, checked but with its files unread."""

    id: str
    image: Path
    mask: Path | None
    question: str
    box: Box | None
    points: tuple[Point, ...]
    labels: dict[str, str]
    split: str
    spacing: tuple[float, float] | None = None
    """As the manifest states it, mm along y and x."""
    view: View = PLAIN


class Samples(Sequence[Sample]):
    """The samples of a manifest, in its order; indexing one reads its image and mask.

    Args:
        entries: checked lines.
        files: what was read.
    """

    def __init__(self, entries: Sequence[Entry], files: Sequence[Path] = ()) -> None:
        self.entries, self.files = list(entries), list(files)

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Samples": ...
    def __getitem__(self, index: int | slice) -> "Sample | Samples":
        if isinstance(index, slice):
            return Samples(self.entries[index], self.files)
        return _sample(self.entries[index])

    @property
    def ids(self) -> list[str]:
        """The id of every sample, in order; nothing is read."""
        return [entry.id for entry in self.entries]

    def of(self, split: str) -> "Samples":
        """The samples of one split.

        Raises:
            InputError: if there are none.
        """
        found = [entry for entry in self.entries if entry.split == split]
        if not found:
            raise InputError(
                f"no sample is in the split {split!r}",
                hint=did_you_mean(split, {entry.split for entry in self.entries}),
            )
        return Samples(found, self.files)

    def where(self, keep: Callable[[Mapping[str, str]], bool]) -> "Samples":
        """The samples whose labels `keep` says True to; perhaps none."""
        return Samples([entry for entry in self.entries if keep(entry.labels)], self.files)


def read_samples(
    path: str | Path, *, split: str | None = None, limit: int | None = None, reader: str | None = None
) -> Samples | UmrgSamples:
    """Read the samples of a manifest, or of a table of the published schema.

    Args:
        path: a folder with ``manifest.jsonl``, or the file; a ``.parquet`` file or its folder; a fetched hub id.
        split: take only these samples.
        limit: take only the first so many of those.
        reader: a name of `READERS`; None takes the one that fits the path.

    Raises:
        UsageError: if there is no such reader.
        InputError: naming what cannot be used: the first bad line of a manifest; of a table, only if no row is usable.
        PluginError: without what the reader needs.
    """
    if reader is None:
        reader = "umrg" if not (Path(path).expanduser() / MANIFEST).is_file() and _is_table(path) else "manifest"
    if reader not in READERS:
        raise UsageError(f"there is no reader {reader!r} of samples", hint=did_you_mean(reader, READERS))
    return READERS[reader](path, split=split, limit=limit)


def read_manifest(path: str | Path, *, split: str | None = None, limit: int | None = None) -> Samples:
    """Read the manifest of a folder (or a manifest file) and check every line.

    A line that names no split is given one: by its patient where there is such a label, else by its image, so that two
    questions about one image never part; about 8 in 10 are ``train``, one ``val``, one ``test``.

    Args:
        path: a folder with ``manifest.jsonl``, or the file.
        split: take only these samples.
        limit: take only the first so many of those.

    Raises:
        InputError: naming the first line that cannot be used.
    """
    manifest = Path(path).expanduser()
    if manifest.is_dir():
        manifest = manifest / MANIFEST
    if not manifest.is_file():
        raise InputError(
            f"{manifest} does not exist", hint=f"data.path is a folder with {MANIFEST}, or a parquet table"
        )
    root = manifest.parent.resolve()
    lines = manifest.read_text(encoding="utf-8", errors="replace").splitlines()
    entries = [_entry(text, number, root) for number, text in enumerate(lines, start=1) if text.strip()]
    if not entries:
        raise InputError(f"{manifest} holds no samples")
    _check_unique(entries)
    found = Samples(entries, [manifest])
    found = found if split is None else found.of(split)
    return found if limit is None else found[:limit]


READERS: Mapping[str, Callable[..., Samples | UmrgSamples]] = {"manifest": read_manifest, "umrg": read_umrg}
"""Name, as ``data.reader`` says it, and what reads samples."""


def _is_table(path: str | Path) -> bool:
    return is_umrg(path) or (not Path(path).expanduser().exists() and is_hub_id(path))


def _entry(text: str, number: int, root: Path) -> Entry:
    line = _object(text, number)
    image = _file(line.get("image"), number, root)
    if image is None:
        raise _bad(number, 'needs an "image" path')
    if not isinstance(line.get("question"), str) or not line["question"].strip():
        raise _bad(number, 'needs a "question"')
    mask = _file(line.get("mask"), number, root)
    box = None if line.get("bbox_2d") is None else Box(*_numbers(line["bbox_2d"], 4, number, "bbox_2d"))
    if mask is None and box is None:
        raise _bad(number, 'needs a "mask" or a "bbox_2d"')
    points = tuple(Point(*_numbers(point, 2, number, "point_2d")) for point in line.get("point_2d") or ())
    labels = {str(key): str(value) for key, value in line.items() if key not in _OWN and value is not None}
    split = str(line["split"]) if line.get("split") else _split(labels.get("patient") or str(line["image"]))
    spacing = None if line.get("spacing") is None else _numbers(line["spacing"], 2, number, "spacing")
    return Entry(
        id=str(line.get("id") or f"line-{number}"), image=image, mask=mask, question=line["question"], box=box,
        points=points, labels=labels, split=split, view=view_of(line, number),
        spacing=(spacing[0], spacing[1]) if spacing else None,
    )  # fmt: skip


def view_of(line: Mapping[str, Any], number: int) -> View:
    """How the image of a manifest's line is to be looked at.

    Raises:
        InputError: for words of the wrong kind.
    """
    chosen = {key: line.get(key) for key in ("plane", "slice", "window")}
    if not all(value is None or type(value) is (int if key == "slice" else str) for key, value in chosen.items()):
        raise _bad(number, "has a plane, slice or window of the wrong kind")
    return View(**chosen)


def _object(text: str, number: int) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(number, "is not JSON") from error
    if not isinstance(line, dict):
        raise _bad(number, "is not a JSON object")
    return line


def _file(name: Any, number: int, root: Path) -> Path | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise _bad(number, f"names a file by {name!r}")
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise _bad(number, "names a file outside the manifest's folder")
    if not path.is_file():
        raise _bad(number, f"names {missing_name(name)}, which does not exist")
    return path


def _numbers(values: Any, count: int, number: int, key: str) -> list[float]:
    good = isinstance(values, list) and len(values) == count
    if not good or not all(type(each) in (int, float) and math.isfinite(each) for each in values):
        raise _bad(number, f"has a {key} that is not {count} finite numbers each")
    return [float(each) for each in values]


def _split(name: str) -> str:
    """One of ten parts, by name."""
    part = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=4).digest()[0] % 10
    return {0: "test", 1: "val"}.get(part, "train")


def _check_unique(entries: Sequence[Entry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            raise InputError(f"two samples are called {entry.id!r}", hint="give every line an id of its own")
        seen.add(entry.id)


def _sample(entry: Entry) -> Sample:
    shown = show(entry.image, entry.view)
    image = shown.image
    mask = None if entry.mask is None else read_any_mask(entry.mask, mask_view(entry.mask, entry.view))
    if mask is not None and mask.shape != image.shape[:2]:
        raise InputError(f"the mask of {entry.id} is {mask.shape} and its image {image.shape[:2]}")
    if mask is not None and not mask.any():
        raise InputError(f"the mask of {entry.id} is empty", hint="take the line out of the manifest")
    box = entry.box
    if box is None:
        assert mask is not None
        box = mask_box(mask)
    return Sample(
        query=Query(image=image, question=entry.question, id=entry.id),
        target=Target(box=box, points=entry.points, mask=mask),
        labels={**entry.labels, **({"window": str(shown.about["window"])} if shown.about else {})},
        spacing=entry.spacing or shown.spacing,
    )


def _bad(number: int, what: str) -> InputError:
    return InputError(f"manifest line {number} {what}", hint="mend or remove the line")
