"""Saved answers, to be scored again with another segmenter or by other rules, without their reasoner.

A file of them holds the lines of an evaluation (``samples.jsonl``; its condition ``answer`` is taken), of a run
(``manifest.jsonl``), or ``{"prediction": str}`` lines, optionally with ``id``, ``frame``, ``finish_reason`` (``length`` where
the text was cut off) and ``ground_truth``.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from medground.data.source_samples import BadSample
from medground.errors import InputError
from medground.evaluation.results_file import SAMPLES, AnswerRecord
from medground.evaluation.scoring import frame_of, read_line
from medground.geometry import Size
from medground.protocols import PromptInterface
from medground.types import Completion, Fault, Sample

WITHOUT_TEXT = (Fault.TRANSPORT, Fault.TIMEOUT, Fault.UNUSABLE_INPUT)


class Predictions:
    """Saved completions, by sample.

    Args:
        path: a file of lines, or the folder of an evaluation.

    Raises:
        InputError: if it cannot be read, or a line holds no prediction.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / SAMPLES if path.is_dir() else path
        self.named: dict[str, list[Mapping[str, Any]]] = {}
        self.ordered: list[Mapping[str, Any]] = []
        for number, line in _objects(self.path):
            if line.get("condition", "answer") != "answer":
                continue
            if isinstance(line.get("id"), str):
                self.named.setdefault(line["id"], []).append(line)
            else:
                self.ordered.append(line)
            _check(line, number)
        if self.named and self.ordered:
            raise InputError(
                f"{self.path.name} names some of its samples and not others", hint='give every line an "id"'
            )

    def match(self, ids: Sequence[str]) -> None:
        """Stop where these are not the samples that were answered.

        Raises:
            InputError: naming a sample without an answer, or the two counts.
        """
        if self.named:
            if missing := [name for name in ids if name not in self.named]:
                raise InputError(
                    f"{self.path.name} has no answer for {len(missing)} of {len(ids)} samples, the first: {missing[0]}",
                    hint="give the data it was made with, or fewer samples by evaluate.limit",
                )
        elif len(self.ordered) != len(ids):
            raise InputError(
                f"{self.path.name} holds {len(self.ordered)} answers without ids and the data {len(ids)} samples",
                hint='give every line an "id"',
            )

    def of(self, index: int, name: str, size: Size) -> list[Completion]:
        """Return the saved completions of one sample, an image of `size` (H, W)."""
        lines = self.named[name] if self.named else [self.ordered[index]]
        return [completion for line in lines for completion in _completions(line, size)]


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the predictions {path} cannot be read: {error}") from error
    for number, raw in enumerate(text.split("\n"), start=1):
        if not raw.strip():
            continue
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path.name} line {number} is not JSON") from error
        if not isinstance(line, dict):
            raise InputError(f"{path.name} line {number} is not a JSON object")
        yield number, line


def _check(line: Mapping[str, Any], number: int) -> None:
    try:
        _completions(line, (1, 1))
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"line {number} of the predictions cannot be read: {error}") from error


def _completions(line: Mapping[str, Any], size: Size) -> list[Completion]:
    if "answers" in line:
        return [AnswerRecord.from_dict(answer).completion for answer in line["answers"]]
    text = line["prediction"] if "prediction" in line else line.get("text")
    lost = Fault(line["fault"]) if line.get("fault") in WITHOUT_TEXT else None
    if text is None and lost is not None:
        text = ""
    if not isinstance(text, str):
        raise InputError('a prediction is a text under "prediction"')
    reason = line.get("finish_reason", "stop")
    if reason not in ("stop", "length"):
        raise InputError(f'finish_reason must be "stop" or "length", not {reason!r}')
    return [Completion(text=text, frame=frame_of(line.get("frame"), size), finish_reason=reason, fault=lost)]


class LineSamples(Sequence[Sample]):
    """The samples of ``{"prediction", "ground_truth"}`` lines, where the lines are all the data there is.

    Args:
        path: the file; images and masks that a line names lie in its folder.
        interface: reads the predictions.
    """

    bad: Sequence[BadSample] = ()

    def __init__(self, path: Path, interface: PromptInterface) -> None:
        self._root, self._interface = path.parent, interface
        self._raw = [raw for raw in path.read_bytes().split(b"\n") if raw.strip()]
        named = [json.loads(raw).get("id") for raw in self._raw]
        self.ids = [str(name or f"line {number}") for number, name in enumerate(named, start=1)]

    def __len__(self) -> int:
        return len(self._raw)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        line = read_line(self._raw[index], index + 1, self._root, self._interface)
        if line.rollout is None:
            raise InputError(line.error or "a line without an answer")
        return line.rollout.sample
