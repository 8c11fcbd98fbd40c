"""The results of an evaluation: one record per condition and sample, in a JSON lines file that survives a kill.

Nothing in it names a file or a patient: a cluster is a hash.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medground.data.json_text import read_json_lines
from medground.data.size_bins import area_fraction, size_name
from medground.data.splits import GROUPS
from medground.errors import InputError
from medground.evaluation.metrics import MaskPrompt, Measurement
from medground.frames import Frame, FrameDict
from medground.images.rle import decode_rle, encode_rle, rle_area
from medground.runs.files import JsonLines
from medground.runs.jsonable import plain, restore
from medground.segmenters.batching import image_key
from medground.types import Completion, Fault, Grounding, Mask, Region, Sample

SAMPLES = "samples.jsonl"
_PRIVATE = frozenset({*GROUPS, "think"})
"""Labels that are not repeated in results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """One single thing of a mask as written."""

    rle: dict[str, Any]
    """Run lengths, see `medground.images.rle`."""
    score: float | None
    """The segmenter's own estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRecord:
    """A mask as written."""

    rle: dict[str, Any]
    """Run lengths, see `medground.images.rle`."""
    score: float | None
    """The segmenter's own estimate."""
    presence: float | None = None
    """How sure it is that what it was asked for is in the image; None where it does not say."""
    instances: list[InstanceRecord] = field(default_factory=list)
    """The single things, where it tells them apart."""

    @property
    def absent(self) -> bool:
        """Whether the segmenter says that what it was asked for is not there."""
        return self.presence is not None and rle_area(self.rle) == 0

    def mask(self) -> Mask:
        """Return the mask as it was."""
        return Mask(
            data=decode_rle(self.rle),
            score=_number(self.score),
            presence=self.presence,
            instances=tuple(Mask(data=decode_rle(one.rle), score=_number(one.score)) for one in self.instances),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionRecord:
    """One of several regions of an answer or a truth as written."""

    box: list[float] | None
    """XYXY, pixels of the original image."""
    points: list[list[float]]
    label: str = ""
    confidence: float | None = None
    mask: MaskRecord | None = None
    """Its own mask, where there are several regions; that of a region alone is the answer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """One measured answer as written."""

    text: str | None = None
    """The completion; None where the regions came from no reasoner."""
    frame: FrameDict | None = None
    finish_reason: Literal["stop", "length"] = "stop"
    lost: Fault | None = None
    """Why there is no text."""
    usage: dict[str, float] = field(default_factory=dict)
    """What the server says the answer took."""
    think: str | None = None
    raw: dict[str, Any] | None = None
    """The answer object as the model wrote it, where the released evaluation reads it."""
    fault: Fault | None
    cause: str
    box: list[float] | None
    """Of an answer with exactly one region: XYXY, pixels of the original image."""
    points: list[list[float]]
    """The same."""
    regions: list[RegionRecord] = field(default_factory=list)
    """Every region."""
    masks: dict[MaskPrompt, MaskRecord]
    """The union of the regions' masks, by what prompted them."""
    values: dict[str, float | None]
    """Metric -> value, see `medground.evaluation.metrics.Measurement`."""
    undefined: list[str]
    excluded: list[str]
    details: dict[str, dict[str, str]]
    agreement: float | None = None
    """How alike the other answers to the same question are, in [0, 1]; None where it is alone."""

    @property
    def abstains(self) -> bool:
        """Whether it is the answer that nothing fits."""
        return self.fault is None and not self.regions and self.box is None and not self.points

    @property
    def completion(self) -> Completion:
        """The completion as it was."""
        return Completion(
            text=self.text or "",
            frame=self.frame and Frame.from_dict(self.frame),
            finish_reason=self.finish_reason,
            fault=self.lost,
            cause=self.cause if self.lost else "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRecord:
    """The truth as written."""

    box: list[float] | None
    """Of a target of exactly one region."""
    points: list[list[float]]
    regions: list[RegionRecord] = field(default_factory=list)
    """Every region, without its mask; none where the target is absent."""
    share: float
    """Of the image that the target covers."""
    area: int | None
    """Pixels of the mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRecord:
    """One sample under one condition: a line of ``samples.jsonl``."""

    condition: str
    id: str
    question: str
    asked_question: str | None = None
    """The question the reasoner was given, where it differs."""
    size: list[int]
    """[H, W]."""
    labels: dict[str, str]
    cluster: str
    target: TargetRecord
    values: dict[str, float]
    """Metric -> mean over the answers that have it."""
    answers: list[AnswerRecord]


def cluster_of(sample: Sample, label: str | None = None) -> tuple[str, str]:
    """Return the kind of a sample's cluster and its name, which is a hash.

    Args:
        sample: the sample.
        label: the label that decides; None takes the first of `medground.data.splits.GROUPS`, else the image.

    Raises:
        InputError: if the sample lacks the label that decides.
    """
    labels = sample.labels
    if label is not None and label not in labels:
        raise InputError(f"sample {sample.query.id!r} has no label {label!r}", hint="fix evaluate.cluster")
    kind = label or next((name for name in GROUPS if labels.get(name)), "image")
    name = image_key(sample.query.image) if kind == "image" else f"{labels.get('dataset', '')}|{labels[kind]}"
    digest = hashlib.blake2b(f"{kind}|{name}".encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return kind, f"{kind}-{digest}"


def sample_record(
    condition: str, sample: Sample, cluster: str, answers: Sequence[AnswerRecord], *, asked_question: str
) -> SampleRecord:
    """Return the record of one sample under one condition."""
    query, region, mask = sample.query, sample.target.region, sample.target.mask
    labels = {key: value for key, value in sample.labels.items() if key not in _PRIVATE}
    share = area_fraction(sample)
    return SampleRecord(
        condition=condition,
        id=query.id,
        question=query.question,
        asked_question=None if asked_question == query.question else asked_question,
        size=list(query.size),
        labels={**labels, "size": size_name(share if sample.target.regions else None)},
        cluster=cluster,
        target=TargetRecord(
            box=plain(list(region.box)) if region and region.box else None,
            points=plain([list(point) for point in region.points]) if region else [],
            regions=[_region_record(replace(one, mask=None)) for one in sample.target.regions],
            share=share,
            area=None if mask is None else int(mask.sum()),
        ),
        values=mean_values(answers),
        answers=list(answers),
    )


def mean_values(measured: Sequence[AnswerRecord] | Sequence[SampleRecord]) -> dict[str, float]:
    """Return per metric the mean over the answers, or over the samples, that have it."""
    columns: dict[str, list[float]] = {}
    for record in measured:
        for name, value in record.values.items():
            columns.setdefault(name, []).extend(() if value is None else (value,))
    return {name: float(np.mean(values)) for name, values in columns.items() if values}


def answer_record(
    completion: Completion | None,
    grounding: Grounding,
    masks: Mapping[MaskPrompt, Mask],
    measurement: Measurement,
    cause: str,
) -> AnswerRecord:
    """Return the record of one measured answer; without a completion the regions came from no reasoner."""
    region = grounding.region
    written: dict[str, Any] = {}
    if completion is not None:
        written = {
            "text": completion.text,
            "frame": completion.frame and completion.frame.to_dict(),
            "finish_reason": completion.finish_reason,
            "lost": completion.fault,
            "usage": dict(completion.usage),
            "think": grounding.think,
            "raw": plain(grounding.raw),
        }
    return AnswerRecord(
        **written,
        fault=measurement.fault,
        cause=cause or (completion.cause if completion else ""),
        box=plain(list(region.box)) if region and region.box else None,
        points=plain([list(point) for point in region.points]) if region else [],
        regions=[
            _region_record(one if len(grounding.regions) > 1 else replace(one, mask=None)) for one in grounding.regions
        ],
        masks={name: _mask_record(mask) for name, mask in masks.items()},
        values=plain(measurement.values),
        undefined=sorted(measurement.undefined),
        excluded=sorted(measurement.excluded),
        details=plain(measurement.details),
    )


def _region_record(region: Region) -> RegionRecord:
    mask = region.mask
    return RegionRecord(
        box=plain(list(region.box)) if region.box else None,
        points=plain([list(point) for point in region.points]),
        label=region.label,
        confidence=plain(region.confidence),
        mask=None if mask is None else _mask_record(mask),
    )


def _mask_record(mask: Mask) -> MaskRecord:
    return MaskRecord(
        rle=encode_rle(mask.data),
        score=plain(mask.score),
        presence=plain(mask.presence),
        instances=[InstanceRecord(rle=encode_rle(one.data), score=plain(one.score)) for one in mask.instances],
    )


def _number(score: float | None) -> float:
    return math.nan if score is None else score


class ResultsFile:
    """The records of an evaluation, kept in memory and in ``samples.jsonl``.

    Args:
        folder: holds the file, of which a last line torn by a kill is dropped; None keeps the records in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / SAMPLES
        self.records: dict[tuple[str, str], SampleRecord] = {}
        if self.path is not None and self.path.exists():
            self.records = {(record.condition, record.id): record for record in read_records(self.path)}
            self.rewrite(list(self.records))

    def add(self, records: Sequence[SampleRecord]) -> None:
        """Append records."""
        self.records.update({(record.condition, record.id): record for record in records})
        if self.path is not None:
            lines = JsonLines(self.path)
            lines.append(*map(plain, records))
            lines.close()

    def rewrite(self, order: Sequence[tuple[str, str]]) -> None:
        """Keep the records of `order`, (condition, id), in that order."""
        self.records = {key: self.records[key] for key in order}
        if self.path is not None:
            JsonLines(self.path).rewrite(map(plain, self.records.values()))

    def of(self, condition: str) -> list[SampleRecord]:
        """Return the records of one condition, in order."""
        return [record for (name, _), record in self.records.items() if name == condition]


def read_records(path: Path) -> Iterator[SampleRecord]:
    """Yield the records of a ``samples.jsonl``; a last line torn by a kill is left out.

    Raises:
        InputError: if it cannot be read, or holds something else.
    """
    for line in read_json_lines(path, own=True):
        if line.problem:
            raise InputError(f"{path} line {line.number} is {line.problem}")
        try:
            record: SampleRecord = restore(SampleRecord, line.value)
        except ValueError as error:
            raise InputError(f"{path} line {line.number} is not a line of an evaluation") from error
        yield record
