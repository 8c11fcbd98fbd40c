"""Saved answers, to be scored again with another segmenter or by other rules, without their reasoner.

A file of them holds the lines of an evaluation (``samples.jsonl``; its condition ``answer`` is taken), of a run
(``manifest.jsonl``), or ``{"prediction": str}`` lines, optionally with ``id``, ``frame``, ``finish_reason`` (``length`` where
the text was cut off) and ``ground_truth``.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from medground.data.json_text import read_json_lines, shown
from medground.data.source_samples import BadSample
from medground.errors import InputError
from medground.evaluation.results_file import SAMPLES, AnswerRecord
from medground.evaluation.scoring import frame_of, line_name, read_line
from medground.geometry import Size
from medground.protocols import PromptInterface
from medground.runs.jsonable import restore
from medground.types import Completion, Fault, Sample

logger = logging.getLogger(__name__)
WITHOUT_TEXT = (Fault.TRANSPORT, Fault.TIMEOUT, Fault.UNUSABLE_INPUT)


class Predictions:
    """Saved completions, by sample. They meet samples by id alone; lines without ids are named by their numbers.

    Args:
        path: a file of lines, or the folder of an evaluation.

    Raises:
        InputError: if it cannot be read, or a line holds no prediction.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / SAMPLES if path.is_dir() else path
        self.lines: dict[str, list[Mapping[str, Any]]] = {}
        with_id = []
        for line in read_json_lines(self.path):
            if line.problem or not isinstance(line.value, dict):
                raise InputError(f"{self.path.name} line {line.number} is {line.problem or 'not a JSON object'}")
            if line.value.get("condition", "answer") != "answer":
                continue
            _check(line.value, line.number)
            self.lines.setdefault(line_name(line), []).append(line.value)
            with_id.append(line.value.get("id") not in (None, ""))
        self.with_ids = any(with_id)
        """True if the lines state ids."""
        if self.with_ids and not all(with_id):
            raise InputError(
                f"{self.path.name} names some of its samples and not others", hint='give every line an "id"'
            )

    def match(self, ids: Sequence[str]) -> None:
        """Stop where these are not the samples that were answered; log how many answers are about others.

        Raises:
            InputError: naming a sample without an answer, or one with more answers than another.
        """
        if missing := [name for name in ids if name not in self.lines]:
            if not self.with_ids:
                raise InputError(
                    f"{self.path.name} holds answers without ids, and they meet samples by id alone",
                    hint='give every line the "id" of its sample',
                )
            raise InputError(
                f"{self.path.name} has no answer for {len(missing)} of {len(ids)} samples, the first: {missing[0]}",
                hint="give the data it was made with, or fewer samples by evaluate.limit",
            )
        measured = set(ids)
        if others := [name for name in self.lines if name not in measured]:
            logger.warning(
                "%s answers %d samples that are not measured, the first: %s", self.path.name, len(others), others[0]
            )
        counts = {name: number for name in ids if (number := self._number_of_answers(name))}
        if len(set(counts.values())) > 1:
            fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            raise InputError(
                f"{self.path.name} has {counts[most]} answers for sample {most} and {counts[fewest]} for {fewest}",
                hint="give every sample the same number of answers; a line may be there twice",
            )

    def _number_of_answers(self, name: str) -> int:
        """Return how many answers a sample has, 0 for one that no model could be asked."""
        answers = [answer for line in self.lines[name] for answer in line.get("answers", [line])]
        return 0 if any(answer.get("fault") == Fault.UNUSABLE_INPUT for answer in answers) else len(answers)

    def of(self, name: str, size: Size) -> list[Completion]:
        """Return the saved completions of one sample, an image of `size` (H, W)."""
        return [completion for line in self.lines[name] for completion in _completions(line, size)]


def _check(line: Mapping[str, Any], number: int) -> None:
    try:
        _completions(line, (1, 1))
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"line {number} of the predictions cannot be read: {error}") from error


def _completions(line: Mapping[str, Any], size: Size) -> list[Completion]:
    if "answers" in line:
        return [restore(AnswerRecord, answer).completion for answer in line["answers"]]
    text = line["prediction"] if "prediction" in line else line.get("text")
    lost = Fault(line["fault"]) if line.get("fault") in WITHOUT_TEXT else None
    if text is None and lost is not None:
        text = ""
    if not isinstance(text, str):
        raise InputError('a prediction is a text under "prediction"')
    reason = line.get("finish_reason", "stop")
    if reason not in ("stop", "length"):
        raise InputError(f'finish_reason must be "stop" or "length", not {shown(reason)}')
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
        self._lines = list(read_json_lines(path))
        self.ids = [line_name(line) for line in self._lines]

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        line = read_line(self._lines[index], self._root, self._interface)
        if line.rollout is None:
            raise InputError(line.error or "a line without an answer")
        return line.rollout.sample
