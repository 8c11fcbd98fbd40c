"""Drafts: the samples of a dataset that is being built, before they have questions and splits."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medground.data.duplicates import Fingerprint
from medground.data.key_points import RULES
from medground.data.lint.source import SourceFinding, lint_source
from medground.data.region_props import RegionProps, region_props
from medground.data.source_samples import BadSample, SourceRegion, SourceSample, SourceVolume, refuse_mask
from medground.data.splits import GROUPS, SPLITS, Owners, groups_of, pseudonym
from medground.errors import InputError
from medground.geometry import Point, mask_box
from medground.images.pictures import png_bytes
from medground.images.rle import encode_rle
from medground_data.image_writer import ImageWriter, WrittenImage

Bools = NDArray[np.bool_]
COMPONENTS = ("all", "largest", "each")
TARGETS = ("one", "every", "both")


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

    targets: str = "one"
    """What a question means: ``one`` target, ``every`` target of a category in its image, or ``both`` kinds are asked."""
    negatives: float = 0.0
    """The share of the samples whose target is absent, as near as it can be had."""
    exhaustive: tuple[str, ...] = ()
    """Categories of which the source marks every instance in every image; ``all`` stands for all of its categories."""
    volumes: bool = False
    """True: the volumes that slices are of are written too, with a sample for each target of a volume."""

    def __post_init__(self) -> None:
        words = (self.components, COMPONENTS), (self.points, RULES), (self.splits, _SPLITTING), (self.targets, TARGETS)
        for word, known in words:
            if word not in known:
                raise ValueError(f"{word!r} is none of {', '.join(known)}")
        if not 0 <= self.negatives < 1:
            raise ValueError(f"negatives are a share of the samples, from 0 to below 1, not {self.negatives:g}")
        if self.negatives and self.targets == "one":
            raise ValueError(
                "negatives are asked as questions about every target are: set targets to every, or to both"
            )
        if self.volumes and (self.targets == "every" or self.components == "each"):
            raise ValueError(
                "a sample of a volume is about one label of it: set targets to one or both, components to all or largest"
            )
        if self.targets != "one" and self.components == "largest":
            raise ValueError("the largest component is not every target: set components to each, or to all")
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
    measured: RegionProps | None
    """Properties of its one target; None where it has several or none."""
    stated_split: str | None
    region: Mapping[str, Any] = field(default_factory=dict)
    """Its one target as a region of a manifest, where questions about every target are asked."""
    unfit: str = ""
    """Why it cannot be asked about by itself."""
    image_key: str = ""
    """As of its source sample."""
    crowd: bool = False
    """As of its source sample."""
    exhaustive: frozenset[str] = frozenset()
    """As of its source sample."""
    volume: SourceVolume | None = None
    """As of its source sample."""

    @property
    def props(self) -> RegionProps:
        """The properties of its one target."""
        assert self.measured is not None, "a draft of several targets, or of none, has no properties"
        return self.measured

    @property
    def apart(self) -> bool:
        """True if it means several targets or none, as its source states."""
        return "regions" in self.line

    @property
    def category(self) -> str:
        """The category of its target; empty where none is stated."""
        return str(self.line.get("category", ""))


@dataclass(slots=True)
class Drafts:
    """The samples of a source before they are split and written."""

    drafts: list[Draft] = field(default_factory=list)
    rejected: list[BadSample] = field(default_factory=list)
    findings: list[SourceFinding] = field(default_factory=list)
    sources: int = 0
    """Source samples read, bad ones included."""


def make_drafts(source: Iterable[SourceSample | BadSample], work: Path, options: Options) -> Drafts:
    """Make drafts of the samples of a source; images and masks are written to the folder `work`."""
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
                category = sample.labels.get("category", "")
                built.rejected.append(BadSample(sample.where, str(error), sample.image_key, category))
    return built


def _drafts(sample: SourceSample, writer: ImageWriter, work: Path, options: Options, built: Drafts) -> Iterator[Draft]:
    """The drafts of one source sample; findings, and targets that are filtered out, are added to `built`."""
    written = writer.write(sample)
    if Path(sample.id).name != sample.id or sample.id.startswith("."):
        raise InputError("its id is not fit to be a file name")
    if sample.regions is not None:
        yield _of_regions(sample, sample.regions, written, options, built)
        return
    mask = sample.load_mask()
    findings = lint_source(sample, written.image, mask)
    refuse_mask(mask, written.image.size, sample.box)
    built.findings += findings
    for number, target in _targets(mask, options.components):
        reason = _unfit(target, options)
        where = sample.where if number is None else f"{sample.where}, component {number}"
        if reason and options.targets == "one":
            built.rejected.append(BadSample(where, reason))
            continue
        name = sample.id if number is None else f"{sample.id}-{number}"
        if (work / "masks" / f"{name}.png").exists():
            raise InputError(f"its sample would be called {name!r}, and there is one of that name")
        (work / "masks" / f"{name}.png").write_bytes(png_bytes(target))
        region = region_words(target, options)
        line = _line(sample, written, name, {"mask": f"masks/{name}.png", **region})
        if options.targets != "one":
            region["mask"] = encode_rle(target)
        yield replace(
            _draft_of(sample, written, line, where), measured=region_props(written.image.pixels, target), region=region,
            unfit=reason or "",
        )  # fmt: skip


def _of_regions(
    sample: SourceSample, stated: Sequence[SourceRegion], written: WrittenImage, options: Options, built: Drafts
) -> Draft:
    """The draft of a source sample that keeps several targets apart, or has none."""
    regions, union = [], np.zeros(written.image.size, bool)
    for one in stated:
        mask = one.load_mask()
        alone = replace(
            sample, regions=None, box=one.box, points=one.points, mask_file=one.mask_file, question=None, think=None
        )
        built.findings += lint_source(alone, written.image, mask)
        refuse_mask(mask, written.image.size, one.box)
        label = {"label": one.label} if one.label else {}
        regions.append({"mask": encode_rle(mask), **region_words(mask, options), **label})
        union |= mask
    reason = _unfit(union, options) if stated else None
    draft = _draft_of(sample, written, _line(sample, written, sample.id, {"regions": regions}), sample.where)
    return replace(draft, unfit=reason or "")


def region_words(mask: Bools, options: Options) -> dict[str, Any]:
    """The words of a manifest that a mask gives: its box and its key points."""
    points: Sequence[Point] = RULES[options.points](mask)
    return {"bbox_2d": list(mask_box(mask)), "point_2d": [list(point) for point in points]}


def _line(sample: SourceSample, written: WrittenImage, name: str, target: Mapping[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {
        "id": name,
        "image": written.name,
        "question": sample.question,
        **target,
        "size": list(written.image.size),
        **{_RENAMED.get(key, key): value for key, value in sample.labels.items() if key not in _OWN},
    }
    if "volume" in sample.labels:
        line["source_volume"] = pseudonym(f"{sample.group}|{sample.labels['volume']}")
    if sample.think:
        line["think"] = sample.think
    if written.image.window:
        line["window_used"] = written.image.window
    if sample.spacing:
        line["spacing"] = list(sample.spacing)
    return line


def _draft_of(sample: SourceSample, written: WrittenImage, line: dict[str, Any], where: str) -> Draft:
    return Draft(
        line=line, where=where, owners={**groups_of(sample.labels), "source": sample.group},
        fingerprint=written.fingerprint, measured=None, stated_split=sample.split, image_key=sample.image_key,
        crowd=sample.crowd, exhaustive=frozenset(sample.exhaustive), volume=sample.volume,
    )  # fmt: skip


_OWN = (
    "id", "image", "mask", "question", "bbox_2d", "point_2d", "regions", "exhaustive", "size", "split", "think", "spacing",
    *GROUPS,
)  # fmt: skip
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
