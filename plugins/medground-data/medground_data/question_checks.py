"""Checks of a question that a model wrote, against what is measured of its target."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from medground.data.category_names import names_in
from medground.data.region_props import RegionProps
from medground.data.statements import WHOLLY_ELSEWHERE

FEWEST, MOST = 4, 60
"""Words of a question."""
_MARKS = re.compile(
    r"\b(?:outlin\w*|contour\w*|yellow line|bounding box|boxe?s?|highlight\w*|marked|marking|annotat\w*|segment(?:ed|ation)"
    r"|coordinates?|pixels?|mask(?:ed)?|numbered|overlay)\b"
)
_NUMBERS = re.compile(r"\d{2,}\s*[,;x]\s*\d{2,}|\d+\s*%")
_OPPOSITE = 0.08
"""Measured this much brighter or darker than its surroundings (of the whole range), a target is not the opposite."""
_OPPOSITES: Mapping[str, Callable[[RegionProps], bool]] = {
    "bright": lambda props: props.contrast < -_OPPOSITE,
    "brighter": lambda props: props.contrast < -_OPPOSITE,
    "dark": lambda props: props.contrast > _OPPOSITE,
    "darker": lambda props: props.contrast > _OPPOSITE,
    "tiny": lambda props: props.area > 0.12,
    "small": lambda props: props.area > 0.25,
    "large": lambda props: props.area < 0.004,
    "huge": lambda props: props.area < 0.05,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The codes of what is wrong with a written question; none where it may be used."""

    faults: tuple[str, ...]

    @property
    def good(self) -> bool:
        """True if it may be used."""
        return not self.faults


def judge(question: str, think: str, category: str, props: RegionProps) -> Verdict:
    """Check a question and its reasoning.

    ``empty``, ``length`` (of 4 to 60 words), ``no_question_mark``, ``leak`` (names the target or says a synonym),
    ``mentions_marks`` (speaks of the outline, which is not in the image that will be asked about), ``numbers``
    (coordinates), ``contradicts_box``, ``contradicts_looks``; of the reasoning ``think_empty``, ``think_marks`` and
    ``think_contradicts_box``. The reasoning may name the target.
    """
    words = len(question.split())
    checks = {
        "empty": not question.strip(),
        "length": bool(question.strip()) and not FEWEST <= words <= MOST,
        "no_question_mark": bool(question.strip()) and "?" not in question,
        "leak": bool(names_in(question, category)),
        "mentions_marks": bool(_MARKS.search(question.lower())),
        "numbers": bool(_NUMBERS.search(question)),
        "contradicts_box": contradicts(question, props),
        "contradicts_looks": _opposed(question, props),
        "think_empty": not think.strip(),
        "think_marks": bool(_MARKS.search(think.lower())),
        "think_contradicts_box": contradicts(think, props),
    }
    return Verdict(tuple(code for code, wrong in checks.items() if wrong))


def contradicts(text: str, props: RegionProps) -> bool:
    """Return True if a text whose left and right are those of the picture puts a target on a side where nothing of it lies.

    A text that names both sides compares, and is not judged by that pair.
    """
    words = set(re.findall(r"[a-z]+", text.lower()))
    if {"left", "right"} <= words:
        words -= {"left", "right"}
    if words & {"upper", "top"} and words & {"lower", "bottom"}:
        words -= {"upper", "top", "lower", "bottom"}
    return any(word in words and wrong(props) for word, wrong in WHOLLY_ELSEWHERE.items())


def _opposed(text: str, props: RegionProps) -> bool:
    words = set(re.findall(r"[a-z]+", text.lower()))
    return any(word in words and wrong(props) for word, wrong in _OPPOSITES.items())
