"""Build a dataset from source samples: `medground data build`.

A dataset is a folder with ``images/``, ``masks/``, ``manifest.jsonl`` (see `medground.data.manifest`), ``rejected.jsonl``
(what could not be used: where, and why), ``findings.jsonl`` (what the linter says of the sources that were used) and
``build.json`` (how it was built, counts, and a digest of all of it). It is built in a folder beside its own, whose name
ends in ``.building``, and renamed when it is complete.
"""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import medground
from medground.data.duplicates import Fingerprint
from medground.data.key_points import RULES
from medground.data.lint.source import SourceFinding, lint_source
from medground.data.region_props import RegionProps, region_props
from medground.data.source_samples import BadSample, SourceSample, refuse_mask
from medground.data.splits import (
    GROUPS,
    SPLITS,
    Owners,
    assign,
    groups_of,
    joined,
    leakage_groups,
    leaking_groups,
    pseudonym,
)
from medground.errors import InputError, did_you_mean
from medground.geometry import Point, mask_box
from medground.images.pictures import png_bytes
from medground.runs.files import locked, sha256_file
from medground_data.image_writer import ImageWriter

Bools = NDArray[np.bool_]
COMPONENTS = ("all", "largest", "each")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How samples are made of source samples."""

    components: str = "all"
    """``all``: a mask is one target; ``largest``: its largest component is; ``each``: every component is one."""
    points: str = "halves"
    """The rule for key points, of `medground.data.key_points.RULES`."""
    min_area: int = 16
    """Targets of fewer pixels are left out."""
    min_fraction: float = 0.0
    """Targets of less than this share of the image are left out."""
    max_fraction: float = 0.95
    """Targets of more than this share of the image are left out: they cannot be pointed at."""
    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "val": 0.1, "test": 0.1})
    """The fractions of the splits."""
    splits: str = "auto"
    """``make`` new splits, ``keep`` the source's as they are, or ``auto``: keep them where every source sample states one."""
    near_duplicates: bool = True
    """True: images that look the same go to one split, as equal images do."""
    seed: int = 0
    """Of the splits and the questions."""
    group_pattern: str | None = None
    """A regular expression that finds the patient in a source sample's id, by its first group or as a whole; where it finds
    nothing, the source's own group holds."""

    def __post_init__(self) -> None:
        for word, known in ((self.components, COMPONENTS), (self.points, RULES), (self.splits, _SPLITTING)):
            if word not in known:
                raise ValueError(f"{word!r} is none of {', '.join(known)}")
        if any(share < 0 for share in self.fractions.values()) or abs(sum(self.fractions.values()) - 1) > 1e-6:
            raise ValueError(f"shares of the splits are not negative and sum to 1, not {dict(self.fractions)}")
        if self.group_pattern is not None:
            try:
                re.compile(self.group_pattern)
            except re.error as error:
                raise ValueError(f"{self.group_pattern!r} is no regular expression: {error}") from error
        unknown = sorted(set(self.fractions) - set(SPLITS))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(SPLITS)}")


_SPLITTING = ("auto", "make", "keep")


@dataclass(slots=True, kw_only=True, eq=False)
class Draft:
    """A sample that is being built: its manifest words, and what the later stages need."""

    line: dict[str, Any]
    where: str
    owners: Owners
    """What may not part."""
    fingerprint: Fingerprint
    """Of its image."""
    props: RegionProps
    stated_split: str | None


@dataclass(slots=True)
class Drafts:
    """The samples of a source before they are split and written."""

    drafts: list[Draft] = field(default_factory=list)
    rejected: list[BadSample] = field(default_factory=list)
    findings: list[SourceFinding] = field(default_factory=list)
    sources: int = 0
    """Source samples read, bad ones included."""


QuestionSource = Callable[[list[Draft], Path], list[BadSample]]
"""Sets the question of every draft and returns those to leave out; the folder stores what must survive a restart."""


def build(
    source: Iterable[SourceSample | BadSample],
    out: Path,
    options: Options,
    ask: QuestionSource,
    *,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build a dataset and return what its ``build.json`` holds.

    Args:
        source: what a reader yields.
        out: the dataset's folder; it must not exist or be empty.
        options: how samples are made.
        ask: sets the questions.
        about: the source, the reader and its options, for ``build.json``.

    Raises:
        InputError: if `out` holds something, or not one sample could be made.
    """
    with building(out):
        work = out.with_name(f"{out.name}.building")
        for name in ("images", "masks"):
            shutil.rmtree(work / name, ignore_errors=True)
            (work / name).mkdir(parents=True)
        built = _draft(source, work, options)
        built.rejected += ask(built.drafts, work)
        built.drafts = [draft for draft in built.drafts if draft.line.get("question")]
        if not built.drafts:
            raise InputError(
                f"not one sample could be made of {built.sources} source samples",
                hint=_first(built.rejected) or "the source holds no masks",
            )
        splits = _split(built.drafts, options)
        summary = {**_summary(built, options), **splits, **(about or {})}
        _write(work, built, summary)
        if out.is_dir():
            out.rmdir()
        os.replace(work, out)
        return summary


@contextmanager
def building(out: Path) -> Iterator[None]:
    """Keep other processes from building at `out`, which is free.

    Raises:
        RunError: if another process builds there.
        InputError: if `out` holds something.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f"{out.name}.building.lock")
    with locked(lock, f"{out} is being built by another process", "wait for it, or give another folder"):
        try:
            refuse_existing(out)
            yield
        finally:
            lock.unlink(missing_ok=True)


def refuse_existing(out: Path) -> None:
    """Refuse to write over anything at `out`.

    Raises:
        InputError: if there is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} already holds something", hint="give another --out, or remove it first")


def _draft(source: Iterable[SourceSample | BadSample], work: Path, options: Options) -> Drafts:
    built = Drafts()
    writer = ImageWriter(work)
    patient = re.compile(options.group_pattern) if options.group_pattern else None
    for sample in source:
        built.sources += 1
        if isinstance(sample, BadSample):
            built.rejected.append(sample)
        else:
            if patient and (match := patient.search(sample.id)):
                group = f"{sample.labels.get('dataset', '')}|{match[1] if patient.groups else match[0]}"
                sample = replace(sample, group=group)
            try:
                built.drafts += _drafts(sample, writer, work, options, built)
            except InputError as error:
                built.rejected.append(BadSample(sample.where, str(error)))
    return built


def _drafts(sample: SourceSample, writer: ImageWriter, work: Path, options: Options, built: Drafts) -> Iterator[Draft]:
    """The drafts of one source sample; findings, and targets that are filtered out, are added to `built`."""
    written = writer.write(sample)
    mask = sample.load_mask()
    if Path(sample.id).name != sample.id or sample.id.startswith("."):
        raise InputError("its id is not fit to be a file name")
    findings = lint_source(sample, written.image, mask)
    refuse_mask(mask, written.image.size, sample.box)
    built.findings += findings
    for number, target in _targets(mask, options.components):
        reason = _unfit(target, options)
        where = sample.where if number is None else f"{sample.where}, component {number}"
        if reason:
            built.rejected.append(BadSample(where, reason))
            continue
        name = sample.id if number is None else f"{sample.id}-{number}"
        if (work / "masks" / f"{name}.png").exists():
            raise InputError(f"its sample would be called {name!r}, and there is one of that name")
        (work / "masks" / f"{name}.png").write_bytes(png_bytes(target))
        points: Sequence[Point] = RULES[options.points](target)
        line: dict[str, Any] = {
            "id": name,
            "image": written.name,
            "mask": f"masks/{name}.png",
            "question": sample.question,
            "bbox_2d": list(mask_box(target)),
            "point_2d": [list(point) for point in points],
            "size": list(target.shape),
            **{_RENAMED.get(key, key): value for key, value in sample.labels.items() if key not in _OWN},
        }
        if sample.think:
            line["think"] = sample.think
        if written.image.window:
            line["window_used"] = written.image.window
        if sample.spacing:
            line["spacing"] = list(sample.spacing)
        yield Draft(
            line=line,
            where=where,
            owners={**groups_of(sample.labels), "source": sample.group},
            fingerprint=written.fingerprint,
            props=region_props(written.image.pixels, target),
            stated_split=sample.split,
        )


_OWN = ("id", "image", "mask", "question", "bbox_2d", "point_2d", "size", "split", "think", "spacing", *GROUPS)
"""Labels that are not copied: words of the manifest itself, and names of people, for which ``group`` stands."""
_RENAMED = {"plane": "source_plane", "slice": "source_slice", "window": "window_used"}
"""In a manifest these words ask for a view of a volume; the images here are pictures already."""


def _targets(mask: Bools, components: str) -> list[tuple[int | None, Bools]]:
    if components == "all":
        return [(None, mask)]
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest_first = [labels == index + 1 for index in np.argsort(-areas, kind="stable")]
    return [(None, largest_first[0])] if components == "largest" else list(enumerate(largest_first, start=1))


def _unfit(target: Bools, options: Options) -> str | None:
    area = int(target.sum())
    fraction = area / target.size
    if area < options.min_area:
        return f"{area} px are fewer than the {options.min_area} asked for"
    if fraction < options.min_fraction:
        return f"{fraction:.4f} of the image is less than the {options.min_fraction:g} asked for"
    if fraction > options.max_fraction:
        return f"{fraction:.4f} of the image is more than the {options.max_fraction:g} allowed"
    return None


def _split(drafts: Sequence[Draft], options: Options) -> dict[str, Any]:
    """Set the split of every draft; return what ``build.json`` states about it."""
    owners = [draft.owners for draft in drafts]
    groups = leakage_groups(owners, [draft.fingerprint for draft in drafts], near=options.near_duplicates)
    for draft, first in zip(drafts, joined(owners), strict=True):
        draft.line["group"] = pseudonym(drafts[first].owners["source"])
    stated = [draft.stated_split for draft in drafts]
    keep = options.splits == "keep" or (options.splits == "auto" and all(stated))
    if keep:
        unnamed = sum(not split for split in stated)
        unknown = sorted({split for split in stated if split} - set(SPLITS))
        if unnamed or unknown:
            why = f"{unnamed} samples state none" if unnamed else f"the source calls one {unknown[0]!r}"
            raise InputError(
                f"the source's splits cannot be kept: {why}",
                hint="--splits make" if unnamed else did_you_mean(unknown[0], SPLITS),
            )
        splits = [str(split) for split in stated]
    else:
        strata = [(draft.line.get("modality"), draft.line.get("category")) for draft in drafts]
        splits = assign(groups, strata, options.fractions, seed=options.seed)
    for draft, split in zip(drafts, splits, strict=True):
        draft.line["split"] = split
    return {
        "splits_kept": keep,
        "splits_replaced": 0 if keep else sum(map(bool, stated)),
        "groups": len(set(groups)),
        "leaking_groups": leaking_groups(groups, splits),
    }


def _summary(built: Drafts, options: Options) -> dict[str, Any]:
    return {
        "medground": medground.__version__,
        "options": {**asdict(options), "fractions": dict(options.fractions)},
        "cases": built.sources,
        "samples": len(built.drafts),
        "images": len({draft.line["image"] for draft in built.drafts}),
        "rejected": len(built.rejected),
        "findings": dict(sorted(Counter(finding.code for finding in built.findings).items())),
    }


def _write(work: Path, built: Drafts, summary: dict[str, Any]) -> None:
    used = {draft.line["image"] for draft in built.drafts} | {draft.line["mask"] for draft in built.drafts}
    for folder in ("images", "masks"):
        for path in (work / folder).iterdir():
            if f"{folder}/{path.name}" not in used:
                path.unlink()
    order = ("id", "image", "mask", "question", "bbox_2d", "point_2d", "size", "split", "group")
    lines = [{**{key: draft.line[key] for key in order}, **draft.line} for draft in built.drafts]
    _write_lines(work / "manifest.jsonl", lines)
    _write_lines(work / "rejected.jsonl", [asdict(sample) for sample in built.rejected])
    _write_lines(work / "findings.jsonl", [asdict(finding) for finding in built.findings])
    summary["by_split"] = dict(sorted(Counter(str(line["split"]) for line in lines).items()))
    summary["digest"] = digest(work, lines)
    (work / "build.json").write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def digest(folder: Path, lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the SHA-256 over a dataset's lines and the bytes of the images and masks they name."""
    total = hashlib.sha256()
    for line in lines:
        total.update(json.dumps(line, sort_keys=True).encode(errors="surrogatepass"))
    for name in sorted({str(line[key]) for line in lines for key in ("image", "mask")}):
        total.update(bytes.fromhex(sha256_file(folder / name)))
    return total.hexdigest()


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _first(rejected: Sequence[BadSample]) -> str:
    return f"the first: {rejected[0].where}: {rejected[0].reason}" if rejected else ""
