"""What an evaluation writes down: one JSON line per arm and sample, with every answer that was given.

A line is ``{"arm", "id", "question", "asked" (where it differs), "size", "labels", "cluster", "target", "values", "answers"}``;
``values`` holds the mean of every metric over the answers, and each answer its text, frame, fault, prompt, masks and own
values. Nothing in it names a file or a patient: a cluster is a hash.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medground.data.size_bins import share_of, size_name
from medground.errors import InputError
from medground.evaluation.metrics import MaskPrompt, Measurement
from medground.frames import Frame
from medground.images.rle import encode_rle
from medground.runs.jsonable import plain
from medground.segmenters.batching import image_key
from medground.types import Completion, Fault, Grounding, Mask, Sample

SAMPLES = "samples.jsonl"
CLUSTERS = ("patient", "volume", "group")
"""Labels that say what belongs together, the strongest first; an image is the last resort."""
_PRIVATE = frozenset({"patient", "volume", "group", "think"})
"""Labels that are not repeated in results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of one sample, measured."""

    completion: Completion | None
    """None where the prompt came from no reasoner."""
    grounding: Grounding
    masks: Mapping[MaskPrompt, Mask]
    measured: Measurement
    cause: str = ""


def cluster_of(sample: Sample, label: str | None = None) -> tuple[str, str]:
    """(what it is, a name that tells nothing): the cluster of a sample.

    Args:
        sample: the sample.
        label: the label that decides; None takes the patient, else the volume, else the group, else the image.

    Raises:
        InputError: if the sample lacks the label that decides.
    """
    labels = sample.labels
    if label is not None and label not in labels:
        raise InputError(f"sample {sample.query.id!r} has no label {label!r}", hint="mend evaluate.cluster")
    kind = label or next((name for name in CLUSTERS if labels.get(name)), "image")
    name = image_key(sample.query.image) if kind == "image" else f"{labels.get('dataset', '')}|{labels[kind]}"
    digest = hashlib.blake2b(f"{kind}|{name}".encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return kind, f"{kind}-{digest}"


def record(
    arm: str, sample: Sample, cluster: str, answers: Sequence[Answer], *, asked: str | None = None
) -> dict[str, Any]:
    """The line of one sample under one arm."""
    query, target = sample.query, sample.target
    labels = {key: value for key, value in sample.labels.items() if key not in _PRIVATE}
    share = share_of(sample)
    return {
        "arm": arm,
        "id": query.id,
        "question": query.question,
        **({} if asked is None or asked == query.question else {"asked": asked}),
        "size": list(query.size),
        "labels": {**labels, "size": size_name(share)},
        "cluster": cluster,
        "target": {
            "box": plain(list(target.box)),
            "points": plain([list(point) for point in target.points]),
            "share": share,
            "area": None if target.mask is None else int(target.mask.sum()),
        },
        "values": _means(answers),
        "answers": [_answer(answer) for answer in answers],
    }


def _means(answers: Sequence[Answer]) -> dict[str, float]:
    """Per metric the mean over the answers that have it."""
    names = dict.fromkeys(name for answer in answers for name in answer.measured.values)
    found = {}
    for name in names:
        values = [value for each in answers if (value := each.measured.values.get(name)) is not None]
        if values:
            found[name] = float(np.mean(values))
    return found


def _answer(answer: Answer) -> dict[str, Any]:
    completion, grounding, measured = answer.completion, answer.grounding, answer.measured
    prompt = grounding.prompt
    said: dict[str, Any] = {}
    if completion is not None:
        frame = completion.frame
        said = {
            "text": completion.text,
            "frame": frame and {"kind": frame.kind, "size": list(frame.size), "order": frame.order},
            "finish_reason": completion.finish_reason,
            "lost": completion.fault,
            "usage": dict(completion.usage),
            "think": grounding.think,
            "raw": None if grounding.raw is None else plain(grounding.raw),
        }
    return {
        **said,
        "fault": measured.fault,
        "cause": answer.cause or (completion.cause if completion else ""),
        "box": plain(list(prompt.box)) if prompt and prompt.box else None,
        "points": plain([list(point) for point in prompt.points]) if prompt else [],
        "masks": {name: {"rle": encode_rle(mask.data), "score": plain(mask.score)} for name, mask in answer.masks.items()},
        "values": plain(dict(measured.values)),
        "undefined": sorted(measured.undefined),
        "excluded": sorted(measured.excluded),
        "details": plain(dict(measured.details)),
    }  # fmt: skip


def completion_of(answer: Mapping[str, Any]) -> Completion:
    """The completion of a written answer, as it was."""
    frame = answer["frame"]
    return Completion(
        text=answer["text"],
        frame=frame and Frame(frame["kind"], tuple(frame["size"]), frame["order"]),
        finish_reason=answer["finish_reason"],
        fault=answer["lost"] and Fault(answer["lost"]),
        cause=answer["cause"] if answer["lost"] else "",
    )


class Journal:
    """The lines of an evaluation, in a file that survives a kill: what is whole is kept, a torn line is dropped.

    Args:
        folder: where ``samples.jsonl`` lies; None keeps the lines in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / SAMPLES
        self.lines: dict[tuple[str, str], dict[str, Any]] = {}
        if self.path is not None and self.path.exists():
            self.lines = {(line["arm"], line["id"]): line for line in read_lines(self.path)}
            self.rewrite(list(self.lines))

    def add(self, lines: Sequence[dict[str, Any]]) -> None:
        """Append lines, and forget none of them."""
        self.lines.update({(line["arm"], line["id"]): line for line in lines})
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(_written(line) for line in lines))

    def rewrite(self, order: Sequence[tuple[str, str]]) -> None:
        """Leave the lines of `order`, in that order."""
        self.lines = {key: self.lines[key] for key in order}
        if self.path is not None:
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(map(_written, self.lines.values())), encoding="utf-8")
            temporary.replace(self.path)

    def of(self, arm: str) -> list[dict[str, Any]]:
        """The lines of one arm, in order."""
        return [line for (name, _), line in self.lines.items() if name == arm]


def _written(line: Mapping[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a ``samples.jsonl``; a last one torn by a kill is left out.

    Raises:
        InputError: if it cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    whole = text[: text.rfind("\n") + 1]
    for number, raw in enumerate(whole.splitlines(), start=1):
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} line {number} is not JSON") from error
        if not isinstance(line, dict) or not {"arm", "id", "answers"} <= line.keys():
            raise InputError(f"{path} line {number} is no line of an evaluation")
        yield line
