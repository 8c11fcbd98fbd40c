"""Masks become samples: what `medground data build` does.

A dataset is a folder with ``images/``, ``masks/``, ``manifest.jsonl`` (read by `medground.data.samples`),
``rejected.jsonl`` (what could not be used: where, and why) and ``build.json`` (how it was made, counts, and a digest of
all of it). It is made beside its place, under a name ending in ``.building``, and renamed into it when it is whole.
"""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

import medground
from medground.data.duplicates import Fingerprint, fingerprint
from medground.data.key_points import RULES
from medground.data.region_props import RegionProps, region_props
from medground.data.source_samples import BadSample, SourceSample
from medground.data.splits import SPLITS, assign, straddling, together
from medground.errors import InputError, did_you_mean
from medground.geometry import Point, box_iou, mask_box
from medground.images.pictures import png_bytes
from medground.images.regions import parts
from medground.types import Image

Bools = NDArray[np.bool_]
COMPONENTS = ("all", "largest", "each")
_STATED = 0.5
"""A stated box that overlaps the mask's own less than this (IoU) belongs to another frame or orientation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How samples are made of cases."""

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
    """The shares of the splits."""
    splits: str = "auto"
    """``make`` new splits, ``keep`` the source's as they are, or ``auto``: keep them where every case states one."""
    near_duplicates: bool = True
    """Whether images that look the same may not part between splits, beside those that are the same."""
    seed: int = 0
    """Of the splits and the questions."""
    group_pattern: str | None = None
    """A regular expression that finds the patient in a case's id, by its first group or as a whole; where it finds
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
class Row:
    """A sample being made: its manifest words, and what the later stages want to know of it."""

    line: dict[str, Any]
    where: str
    group: str
    print: Fingerprint
    looks: RegionProps
    given_split: str | None


@dataclass(slots=True)
class Made:
    """What the first stage made of a source."""

    rows: list[Row] = field(default_factory=list)
    rejected: list[BadSample] = field(default_factory=list)
    cases: int = 0


Ask = Callable[[list[Row], Path], list[BadSample]]
"""Gives every row its question, in place, and says which rows are to be left out; the folder keeps what must last."""


def build(
    cases: Iterable[SourceSample | BadSample],
    out: Path,
    options: Options,
    ask: Ask,
    *,
    about: Mapping[str, Any] | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Make a dataset of cases and return what its ``build.json`` holds.

    Args:
        cases: what a reader gives.
        out: the dataset's folder; it must not exist or be empty.
        options: how samples are made.
        ask: who writes the questions.
        about: the source, the reader and its options, for ``build.json``.
        advance: told after every case.

    Raises:
        InputError: if `out` holds something, or not one sample could be made.
    """
    refuse_another(out)
    work = out.with_name(f"{out.name}.building")
    for name in ("images", "masks"):
        shutil.rmtree(work / name, ignore_errors=True)
        (work / name).mkdir(parents=True)
    made = _made(cases, work, options, advance)
    for case in ask(made.rows, work):
        made.rejected.append(case)
    made.rows = [row for row in made.rows if row.line.get("question")]
    if not made.rows:
        raise InputError(
            f"not one sample could be made of {made.cases} cases",
            hint=_first(made.rejected) or "the source holds no masks",
        )
    summary = _split(made, options)
    summary = {**_summary(made, options), **summary, **(about or {})}
    _write(work, made, summary)
    if out.is_dir():
        out.rmdir()
    os.replace(work, out)
    return summary


def refuse_another(out: Path) -> None:
    """Stop before anything that stands at `out` is written over.

    Raises:
        InputError: if there is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} already holds something", hint="give another --out, or remove it first")


def _made(
    cases: Iterable[SourceSample | BadSample], work: Path, options: Options, advance: Callable[[int], None]
) -> Made:
    made = Made()
    last = _LastImage(work)
    patient = re.compile(options.group_pattern) if options.group_pattern else None
    for case in cases:
        made.cases += 1
        if isinstance(case, BadSample):
            made.rejected.append(case)
        else:
            if patient and (named := patient.search(case.id)):
                case = replace(
                    case, group=f"{case.labels.get('dataset', '')}|{named[1] if patient.groups else named[0]}"
                )
            try:
                made.rows += _rows(case, last, work, options, made.rejected)
            except InputError as error:
                made.rejected.append(BadSample(case.where, str(error)))
        advance(1)
    return made


class _LastImage:
    """The image of the case before, most often that of the next one too; written once."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.key: str | None = None
        self.image: Image
        self.print: Fingerprint
        self.name = ""

    def of(self, case: SourceSample) -> tuple[Image, Fingerprint, str]:
        """(pixels, fingerprint, file in the dataset) of a case's image."""
        if case.image_key != self.key:
            self.key = None
            self.image = case.read_image()
            self.print = fingerprint(self.image)
            self.name = self._written(case)
            self.window: str | None = getattr(case.read_image, "window", None)
            self.key = case.image_key
        return self.image, self.print, self.name

    def _written(self, case: SourceSample) -> str:
        name = f"images/{self.print.pixels[:16]}"
        for known in (".png", ".jpg"):
            if (self.work / f"{name}{known}").exists():
                return f"{name}{known}"
        if case.file is not None and (suffix := _copied_as(case.file)):
            shutil.copyfile(case.file, self.work / f"{name}{suffix}")
            return f"{name}{suffix}"
        (self.work / f"{name}.png").write_bytes(png_bytes(self.image))
        return f"{name}.png"


def _copied_as(file: Path) -> str | None:
    """The suffix under which a PNG or JPEG file is copied as it is; None for one that carries words or is neither.

    EXIF, comments and text chunks may name a person: of such a file only the pixels are taken.
    """
    if file.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        return None
    with Pillow.open(file) as picture:
        words = {"exif", "comment", "xmp", "photoshop", "XML:com.adobe.xmp"} | set(getattr(picture, "text", {}))
        if words & picture.info.keys():
            return None
        return {"PNG": ".png", "JPEG": ".jpg"}.get(picture.format or "")


def _rows(
    case: SourceSample, last: _LastImage, work: Path, options: Options, rejected: list[BadSample]
) -> Iterator[Row]:
    """The samples of one case; targets that are filtered out are told to `rejected`."""
    image, print_, name = last.of(case)
    mask = case.read_mask()
    _check(case, mask, image)
    for number, target in _targets(mask, options.components):
        reason = _unfit(target, options)
        which = "" if number is None else f", component {number}"
        if reason:
            rejected.append(BadSample(f"{case.where}{which}", reason))
            continue
        identity = case.id if number is None else f"{case.id}-{number}"
        if (work / "masks" / f"{identity}.png").exists():
            raise InputError(f"its sample would be called {identity!r}, and there is one of that name")
        (work / "masks" / f"{identity}.png").write_bytes(png_bytes(target))
        points: Sequence[Point] = RULES[options.points](target)
        line: dict[str, Any] = {
            "id": identity,
            "image": name,
            "mask": f"masks/{identity}.png",
            "question": case.question,
            "bbox_2d": list(mask_box(target)),
            "point_2d": [list(point) for point in points],
            "size": list(target.shape),
            "group": hashlib.blake2b(case.group.encode(errors="surrogatepass"), digest_size=6).hexdigest(),
            **{_RENAMED.get(key, key): value for key, value in case.labels.items() if key not in _OWN},
        }
        if case.think:
            line["think"] = case.think
        if last.window:
            line["window_used"] = last.window
        if case.spacing:
            line["spacing"] = list(case.spacing)
        yield Row(
            line=line,
            where=f"{case.where}{which}",
            group=case.group,
            print=print_,
            looks=region_props(image, target),
            given_split=case.split,
        )


_OWN = (
    "id", "image", "mask", "question", "bbox_2d", "point_2d", "size", "group", "split", "think", "spacing", "patient",
    "volume",
)  # fmt: skip
"""Labels that are not copied: what has a place of its own, and names of people, for which ``group`` stands."""
_RENAMED = {"plane": "source_plane", "slice": "source_slice", "window": "window_used"}
"""In a manifest these words ask for a view of a volume; the images here are pictures already."""


def _check(case: SourceSample, mask: Bools, image: Image) -> None:
    if Path(case.id).name != case.id or case.id.startswith("."):
        raise InputError("its id is not fit to be a file name")
    size = image.shape[:2]
    if mask.shape != size:
        turned = " (it would fit if it were transposed)" if mask.shape == size[::-1] else ""
        raise InputError(f"the mask is {mask.shape[0]} x {mask.shape[1]} and its image {size[0]} x {size[1]}{turned}")
    if not mask.any():
        raise InputError("the mask is empty")
    if case.box is not None:
        overlap = float(box_iou(case.box, mask_box(mask)))
        if overlap < _STATED:
            raise InputError(
                f"the stated box overlaps that of the mask by {overlap:.2f}; it counts another frame or orientation"
            )


def _targets(mask: Bools, components: str) -> list[tuple[int | None, Bools]]:
    if components == "all":
        return [(None, mask)]
    found = parts(mask)
    return [(None, found[0])] if components == "largest" else [(n, part) for n, part in enumerate(found, start=1)]


def _unfit(target: Bools, options: Options) -> str | None:
    area = int(target.sum())
    share = area / target.size
    if area < options.min_area:
        return f"{area} px are fewer than the {options.min_area} asked for"
    if share < options.min_fraction:
        return f"{share:.4f} of the image is less than the {options.min_fraction:g} asked for"
    if share > options.max_fraction:
        return f"{share:.4f} of the image is more than the {options.max_fraction:g} allowed"
    return None


def _split(made: Made, options: Options) -> dict[str, Any]:
    """Give every row its split, and say how."""
    rows = made.rows
    groups = together([row.group for row in rows], [row.print for row in rows], near=options.near_duplicates)
    stated = [row.given_split for row in rows]
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
        found = [str(split) for split in stated]
    else:
        strata = [(row.line.get("modality"), row.line.get("category")) for row in rows]
        found = assign(groups, strata, options.fractions, seed=options.seed)
    for row, split in zip(rows, found, strict=True):
        row.line["split"] = split
    return {"splits_kept": keep, "groups": len(set(groups)), "leaking_groups": straddling(groups, found)}


def _summary(made: Made, options: Options) -> dict[str, Any]:
    return {
        "medground": medground.__version__,
        "options": {**asdict(options), "fractions": dict(options.fractions)},
        "cases": made.cases,
        "samples": len(made.rows),
        "images": len({row.line["image"] for row in made.rows}),
        "rejected": len(made.rejected),
    }


def _write(work: Path, made: Made, summary: dict[str, Any]) -> None:
    used = {row.line["image"] for row in made.rows} | {row.line["mask"] for row in made.rows}
    for folder in ("images", "masks"):
        for path in (work / folder).iterdir():
            if f"{folder}/{path.name}" not in used:
                path.unlink()
    order = ("id", "image", "mask", "question", "bbox_2d", "point_2d", "size", "split", "group")
    lines = [{**{key: row.line[key] for key in order}, **row.line} for row in made.rows]
    _write_lines(work / "manifest.jsonl", lines)
    _write_lines(work / "rejected.jsonl", [asdict(case) for case in made.rejected])
    summary["by_split"] = dict(sorted(Counter(str(line["split"]) for line in lines).items()))
    summary["digest"] = digest(work, lines)
    (work / "build.json").write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def digest(folder: Path, lines: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over a dataset's lines and the bytes of the images and masks they name."""
    total = hashlib.sha256()
    for line in lines:
        total.update(json.dumps(line, sort_keys=True).encode(errors="surrogatepass"))
    for name in sorted({str(line[key]) for line in lines for key in ("image", "mask")}):
        total.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return total.hexdigest()


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _first(rejected: Sequence[BadSample]) -> str:
    return f"the first: {rejected[0].where}: {rejected[0].reason}" if rejected else ""
