"""What can be said of a line of the manifest without opening a file."""

import json
import math
from typing import Any

from medground_data.question_templates import names_in
from medground_data.vocabulary import VIEWS

from medground.data.lint.findings import Line
from medground.data.splits import SPLITS
from medground.errors import did_you_mean
from medground.geometry import Box

MODALITIES = frozenset(VIEWS) | {"pet", "spect", "histology", "angiography", "drawing", "photograph", "dsa", "cbct"}
"""Known modalities, lower case."""
_FEWEST_WORDS = 3


def read_line(text: str, number: int) -> Line:
    """Parse a line; what is no JSON object becomes a line without words and with a finding."""
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        words = None
    line = Line(number=number, words=words if isinstance(words, dict) else {}, id=f"line {number}")
    if not isinstance(words, dict):
        line.found("not_json", "it is not a JSON object")
        return line
    if isinstance(words.get("id"), str | int) and str(words["id"]):
        line.id = str(words["id"])
    return line


def check_line(line: Line) -> None:
    """Check the words of a line by themselves."""
    words = line.words
    if not isinstance(words.get("image"), str):
        line.found("missing_word", "it names no image")
    if words.get("mask") is None and words.get("bbox_2d") is None:
        line.found("missing_word", "it has neither a mask nor a bbox_2d")
    _check_numbers(line)
    _check_question(line)
    split = words.get("split")
    if split is not None and split not in SPLITS:
        line.found("bad_split", f"its split is {split!r}")
    modality = line.label("modality")
    if modality and modality.lower() not in MODALITIES:
        line.found("unknown_modality", f"its modality is {modality!r}; {did_you_mean(modality, sorted(MODALITIES))}")


def _check_numbers(line: Line) -> None:
    box, points = line.words.get("bbox_2d"), line.words.get("point_2d")
    if box is not None:
        if not _numbers(box, 4):
            line.found("bad_number", f"its bbox_2d is {box!r}")
        else:
            line.box = Box(*map(float, box))
            _check_box(line, line.box)
    if points is not None:
        if not isinstance(points, list) or not all(_numbers(point, 2) for point in points):
            line.found("bad_number", f"its point_2d is {points!r}")
        else:
            line.points = tuple((float(x), float(y)) for x, y in points)
            if len(set(line.points)) < len(line.points):
                line.found("equal_points", f"its points are the same: {points!r}")


def _check_box(line: Line, box: Box) -> None:
    if box.width < 0 or box.height < 0:
        line.found("inverted_box", f"its box {list(box)} has its corners reversed")
    elif box.width < 1 or box.height < 1:
        line.found("degenerate_box", f"its box {list(box)} is {box.width:g} x {box.height:g} px")


def _numbers(values: Any, count: int) -> bool:
    good = isinstance(values, list) and len(values) == count
    return good and all(type(each) in (int, float) and math.isfinite(each) for each in values)


def _check_question(line: Line) -> None:
    question = line.words.get("question")
    if not isinstance(question, str) or not question.strip():
        line.found("empty_question", "it has no question")
        return
    if len(question.split()) < _FEWEST_WORDS:
        line.found("short_question", f"its question is {question!r}")
    category = line.label("category")
    if category and (named := names_in(question, category)):
        line.found("question_names_target", f"its question says {named[0]!r}, and its target is {category!r}")
