"""The five ways to read a completion. Each takes text and gives a `Reading`; none raises on any text."""

import re
from collections.abc import Callable, Mapping

from medground.types import Fault
from medground_prompts.reading import (
    MAX_CHARS,
    Reading,
    between,
    bounded_object,
    released_object,
    think_block,
    unfenced,
)
from medground_prompts.schema import Style

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
RELEASED_KEYS = {"bbox": 4, "points_1": 2, "points_2": 2}


def lenient(text: str, *, think: bool, style: Style) -> Reading:
    """One answer block outside the think block; either quotes, a code fence and any white space are fine.

    Text around the blocks and their order do not matter; two answer blocks do.
    """
    block, level = think_block(text)
    span = between(text, "<think>", "</think>")
    rest = text if span is None else text[: span[0] - len("<think>")] + "\n" + text[span[1] + len("</think>") :]
    answer = between(rest, "<answer>", "</answer>")
    if answer is None:
        return Reading(block, level, fault=Fault.NO_ANSWER, level=0.0)
    if between(rest, "<answer>", "</answer>", answer[1]):
        return Reading(block, level, fault=Fault.TWO_ANSWERS, level=0.2)
    content = unfenced(rest[slice(*answer)])
    raw = bounded_object(content)
    if raw is None and "'" in content:
        raw = bounded_object(content.replace("'", '"'))
    if raw is None:
        return Reading(block, level, fault=Fault.BAD_JSON, level=0.2)
    return Reading(block, level, raw)


def strict(text: str, *, think: bool, style: Style) -> Reading:
    """Exactly what the prompt asks for: one think block, one answer block right after it, the quotes of `style`."""
    expected = TAGS if think else TAGS[2:]
    block, level = think_block(text)
    if think and (text.count("<think>") != 1 or text.count("</think>") != 1):
        block, level = None, 0.0
    seam = text.find("</think><answer>") if think else text.find("<answer>") - len("</think>")
    if (
        any(text.count(tag) != (tag in expected) for tag in TAGS)
        or not text.startswith(expected[0])
        or not text.endswith("</answer>")
        or (think and seam < 0)
    ):
        two = text.count("<answer>") > 1 or text.count("</answer>") > 1
        return Reading(block, level, fault=Fault.TWO_ANSWERS if two else Fault.NO_ANSWER, level=0.0)
    content = text[text.find("<answer>") + len("<answer>") : -len("</answer>")]
    if style == "single_quoted":
        content = "" if '"' in content else content.replace("'", '"')
    raw = bounded_object(content)
    if raw is None:
        return Reading(block, level, fault=Fault.BAD_JSON, level=0.2)
    return Reading(block, level, raw)


def released_train(text: str, *, think: bool, style: Style) -> Reading:
    """The released training reward's reader in its soft and hard modes: first block of each, anywhere, any order."""
    block, level = think_block(text)
    answer = between(text, "<answer>", "</answer>")
    if answer is None:
        return Reading(block, level, fault=Fault.NO_ANSWER, level=0.0)
    raw = released_object(text[slice(*answer)].strip().replace("'", '"'))
    if raw is None:
        return Reading(block, level, fault=Fault.BAD_JSON, level=0.2)
    return Reading(block, level, raw)


_SEAM = re.compile(r"</think>\s*<answer>")


def released_base(text: str, *, think: bool, style: Style) -> Reading:
    """The released training reward's reader in its base mode: levels 0 or 1, the first braces anywhere, as they stand.

    The think level wants the whole text to be a think block, white space and an answer block; the answer level wants
    the three keys with lists of 4, 2 and 2 of anything.
    """
    whole = (
        text.startswith("<think>")
        and text.endswith("</answer>")
        and _SEAM.search(text, len("<think>"), len(text) - len("</answer>")) is not None
    )
    block, level = think_block(text)[0], float(whole)
    braces = _first_braces(text)
    if braces is None:
        return Reading(block, level, fault=Fault.NO_ANSWER, level=0.0)
    raw = released_object(braces)
    if raw is None:
        return Reading(block, level, fault=Fault.BAD_JSON, level=0.0)
    right = all(isinstance(raw.get(key), list) and len(raw[key]) == count for key, count in RELEASED_KEYS.items())
    return Reading(block, level, raw, level=float(right))


def _first_braces(text: str) -> str | None:
    """The leftmost ``{`` with at least one character before the next ``}``, up to and with that one."""
    begin = text.find("{")
    while begin >= 0:
        end = text.find("}", begin)
        if end < 0:
            return None
        if end > begin + 1:
            return text[begin : end + 1]
        begin = text.find("{", end)
    return None


_OPENING = re.compile(r"<answer>\s*\{")
_CLOSING = re.compile(r"\}\s*</answer>")


def released_eval(text: str, *, think: bool, style: Style) -> Reading:
    """The released evaluation's reader: an answer block that is braces, of which the first complete object counts."""
    block, level = think_block(text) if think else ("", 0.0)
    opening = _OPENING.search(text)
    closing = _CLOSING.search(text, opening.end()) if opening else None
    if opening is None or closing is None:
        return Reading(block, level, fault=Fault.NO_ANSWER, level=0.0)
    content = text[opening.end() - 1 : closing.start() + 1]
    raw = released_object(content.replace("'", '"'), partial=True)
    if raw is None:
        return Reading(block, level, fault=Fault.BAD_JSON, level=0.2)
    return Reading(block, level, raw)


PARSERS: Mapping[str, Callable[..., Reading]] = {
    "lenient": lenient,
    "strict": strict,
    "released_train": released_train,
    "released_base": released_base,
    "released_eval": released_eval,
}


def read(text: str, *, parser: str, think: bool, style: Style) -> Reading:
    """What `parser` makes of `text`; a text longer than `MAX_CHARS` is refused unread, whatever the parser."""
    if len(text) > MAX_CHARS:
        return Reading(None, 0.0, fault=Fault.TOO_LONG, level=0.0)
    return PARSERS[parser](text, think=think, style=style)
