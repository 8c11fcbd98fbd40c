"""Statements about where a target lies in its picture, checked against its mask."""

import re
from collections.abc import Callable, Mapping

from medground.data.region_props import RegionProps


def untrue(text: str, props: RegionProps) -> list[str]:
    """Return the phrases of position in a text that are clearly wrong: the target lies wholly on the other side.

    Only phrases about the picture itself count, for example "in the upper left part of the picture" or "on the right side of
    the image": "the left kidney" and "the patient's left" say nothing about the picture.
    """
    phrases = []
    for phrase in _ABOUT_THE_PICTURE.finditer(text.lower()):
        for side in re.findall(r"left|right|upper|top|lower|bottom", phrase[0]):
            if WHOLLY_ELSEWHERE[side](props):
                phrases.append(phrase[0])
                break
    return phrases


_SIDE = r"(?:left|right|upper|top|lower|bottom)"
_ABOUT_THE_PICTURE = re.compile(
    rf"\b{_SIDE}(?:[ -]{_SIDE})?(?:[ -](?:hand|side|half|part|quarter|quadrant|edge|third|corner|portion))*"
    rf" (?:of|in) (?:the|this) (?:picture|image|frame|photograph|view|field of view)\b"
)
WHOLLY_ELSEWHERE: Mapping[str, Callable[[RegionProps], bool]] = {
    "left": lambda props: props.box.x1 >= 0.5,
    "right": lambda props: props.box.x2 <= 0.5,
    "upper": lambda props: props.box.y1 >= 0.5,
    "top": lambda props: props.box.y1 >= 0.5,
    "lower": lambda props: props.box.y2 <= 0.5,
    "bottom": lambda props: props.box.y2 <= 0.5,
}
"""Word of a side -> True if nothing of the target lies there."""
