"""The five ways to read a completion. Each takes text and gives a `Reading`; none raises on any text.

Ours refuse what is longer than any honest answer; the released ones take any length, as the release did.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any

from medground.types import Fault
from medground_prompts.dialects import Dialect
from medground_prompts.reading import (
    MAX_ANSWER,
    MAX_CHARS,
    QUOTED,
    Reading,
    between,
    block_at,
    bounded_value,
    json_quotes,
    released_object,
    think_block,
    unfenced,
)
from medground_prompts.schema import ChoiceSchema, ListSchema, Schema, Style

AnySchema = Schema | ListSchema | ChoiceSchema
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
RELEASED_KEYS = {"bbox": 4, "points_1": 2, "points_2": 2}


def lenient(text: str, *, think: bool, style: Style, schema: AnySchema) -> Reading:
    """Read one answer block outside the think block; either quotes, a code fence and any white space are fine.

    Text around the blocks and their order do not matter; two answer blocks do.
    """
    span = between(text, "think")
    block, level = block_at(text, span)
    answers = _answers(text, span)
    if not answers:
        return Reading(block, level, fault=Fault.NO_ANSWER, level=0.0)
    if len(answers) > 1:
        return Reading(block, level, fault=Fault.TWO_ANSWERS, level=0.2)
    return _bounded(block, level, unfenced(text[slice(*answers[0])]), partial(_either_quotes, schema=schema))


def _answers(text: str, think: tuple[int, int] | None) -> list[tuple[int, int]]:
    """Return the contents of the answer blocks outside the first think block, two of them at most."""
    parts = [(0, len(text))] if think is None else [(0, think[0]), (think[1], len(text))]
    spans: list[tuple[int, int]] = []
    for start, stop in parts:
        while len(spans) < 2 and (span := between(text, "answer", start, stop)):
            spans.append(span)
            start = span[1]
    return spans


def _either_quotes(content: str, *, schema: AnySchema) -> Any:
    raw = bounded_value(content, schema.kind, schema.brackets)
    if raw is not None or "'" not in content:
        return raw
    # Objects hold no text of their own, so every quote is one of a key.
    requoted = content.replace("'", '"') if schema.kind is dict else json_quotes(content)
    return bounded_value(requoted, schema.kind, schema.brackets)


def _finish(think: str | None, level: float, raw: Any) -> Reading:
    """Return the reading of an answer block; one that does not hold what was asked for is level 0.2."""
    return Reading(think, level, raw, *((Fault.BAD_JSON, 0.2) if raw is None else ()))


def _bounded(think: str | None, level: float, content: str, decode: Callable[[str], Any]) -> Reading:
    """Return the same of a block's content, refused undecoded where it is too long."""
    if len(content) > MAX_ANSWER:
        return Reading(think, level, fault=Fault.TOO_LONG, level=0.2)
    return _finish(think, level, decode(content))


_TAG = re.compile(r"</?(?:think|answer)>")


def strict(text: str, *, think: bool, style: Style, schema: AnySchema) -> Reading:
    """Read exactly what the prompt asks for: one think block, one answer block right after it, the quotes of `style`.

    A text of any other form has no answer, or two.
    """
    tags = list(islice(_TAG.finditer(text), len(TAGS) + 1))
    names = [tag[0] for tag in tags]
    block, level = think_block(text) if names[:2] == ["<think>", "</think>"] else (None, 0.0)
    exact = names == list(TAGS if think else TAGS[2:]) and tags[0].start() == 0 and tags[-1].end() == len(text)
    if not exact or (think and tags[1].end() != tags[2].start()):
        fault = Fault.TWO_ANSWERS if names.count("<answer>") > 1 else Fault.NO_ANSWER
        return Reading(block, level, fault=fault, level=0.0)
    content = text[tags[-2].end() : tags[-1].start()]
    if style == "single_quoted":
        content = _single_quotes(content, schema)
    return _bounded(block, level, content, lambda text: bounded_value(text, schema.kind, schema.brackets))


def _single_quotes(content: str, schema: AnySchema) -> str:
    """Return JSON of an answer whose strings are all in single quotes; nothing of any other."""
    if schema.kind is dict:
        return "" if '"' in content else content.replace("'", '"')
    return "" if any(string[0].startswith('"') for string in QUOTED.finditer(content)) else json_quotes(content)


def released_train(text: str, *, think: bool, style: Style, schema: AnySchema) -> Reading:
    """Read as the released training reward does in its soft and hard modes: first block of each, anywhere, any order."""
    block, level = think_block(text)
    answer = between(text, "answer")
    if answer is None:
        return Reading(block, level, fault=Fault.NO_ANSWER, level=0.0)
    return _finish(block, level, released_object(text[slice(*answer)].strip().replace("'", '"')))


_SEAM = re.compile(r"</think>\s*<answer>")


def released_base(text: str, *, think: bool, style: Style, schema: AnySchema) -> Reading:
    """Read as the released training reward does in its base mode: levels 0 or 1, the first braces anywhere, as they stand.

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


_BRACES = re.compile(r"\{[^}]")


def _first_braces(text: str) -> str | None:
    """Return the leftmost ``{`` with at least one character before the next ``}``, up to and with that one."""
    opening = _BRACES.search(text)
    end = text.find("}", opening.end()) if opening else -1
    return text[opening.start() : end + 1] if opening and end >= 0 else None


_OPENING = re.compile(r"<answer>\s*\{")
_CLOSING = re.compile(r"\}\s*</answer>")


def released_eval(text: str, *, think: bool, style: Style, schema: AnySchema) -> Reading:
    """Read as the released evaluation does: an answer block that is braces, of which the first complete object counts."""
    block, level = think_block(text)
    opening = _OPENING.search(text)
    closing = _CLOSING.search(text, opening.end()) if opening else None
    if opening is None or closing is None:
        return Reading(block, level, fault=Fault.NO_ANSWER, level=0.0)
    content = text[opening.end() - 1 : closing.start() + 1]
    return _finish(block, level, released_object(content.replace("'", '"'), partial=True))


def read_native(text: str, dialect: Dialect) -> Reading:
    """Read regions as a model writes them in its own way: whatever follows its thinking, or is in the one answer block there.

    Thinking ends with the first ``</think>``, whether or not the text itself opens it: chat templates may have done so.
    """
    if len(text) > MAX_CHARS:
        return Reading(None, 0.0, fault=Fault.TOO_LONG, level=0.0)
    before, closing, rest = text.partition("</think>")
    think = before.partition("<think>")[2] if "<think>" in before else before
    block, level = (think.strip(), 1.0 if think.strip() else 0.2) if closing else (None, 0.0)
    rest = rest if closing else text
    if inside := between(rest, "answer"):
        if between(rest, "answer", inside[1]):
            return Reading(block, level, fault=Fault.TWO_ANSWERS, level=0.2)
        rest = rest[slice(*inside)]
    if len(rest) > MAX_ANSWER:
        return Reading(block, level, fault=Fault.TOO_LONG, level=0.2)
    entries = dialect.read(rest)
    if isinstance(entries, Fault):
        return Reading(block, level, fault=entries, level=0.0 if entries is Fault.NO_ANSWER else 0.2)
    return Reading(block, level, entries)


PARSERS: Mapping[str, Callable[..., Reading]] = {
    "lenient": lenient,
    "strict": strict,
    "released_train": released_train,
    "released_base": released_base,
    "released_eval": released_eval,
}


def read(text: str, *, parser: str, think: bool, style: Style, schema: AnySchema) -> Reading:
    """Return what `parser` makes of `text`; ours refuse one longer than `MAX_CHARS` unread."""
    if len(text) > MAX_CHARS and not parser.startswith("released_"):
        return Reading(None, 0.0, fault=Fault.TOO_LONG, level=0.0)
    return PARSERS[parser](text, think=think, style=style, schema=schema)
