"""Write a conversation as a chat completion request, and read the answer strictly."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image as Pillow

from medground.geometry import Size
from medground.types import Image, Messages
from medground_openai.client import NotAnswered

Format = Literal["png", "jpeg"]
THINKING = ("reasoning_content", "reasoning")
"""Fields of a message that hold thinking apart from the content."""
OPEN, CLOSE = "<think>", "</think>"
TOKENS = ("prompt_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice."""

    text: str
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Answers:
    """The answer to one request: choices by index, and the tokens it cost where the server says."""

    choices: dict[int, Answer]
    usage: dict[str, int]


def data_url(image: Image, size: Size, encoding: Format) -> str:
    """Return an image resized to `size` (H, W) as a data URL of its pixels alone, PNG or JPEG of quality 95."""
    picture = Pillow.fromarray(np.ascontiguousarray(image))
    if size != (image.shape[0], image.shape[1]):
        picture = picture.resize((size[1], size[0]), Pillow.Resampling.BICUBIC)
    buffer = io.BytesIO()
    if encoding == "png":
        picture.save(buffer, "PNG", compress_level=1)
    else:
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return f"data:image/{encoding};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def chat(messages: Messages, url: str) -> list[dict[str, Any]]:
    """Return a conversation in the form of the request, its one image as `url`."""
    return [{"role": turn["role"], "content": _content(turn["content"], url)} for turn in messages]


def _content(content: Any, url: str) -> Any:
    if isinstance(content, str):
        return content
    return [
        {"type": "image_url", "image_url": {"url": url}}
        if part["type"] == "image"
        else {"type": "text", "text": part["text"]}
        for part in content
    ]


def read(status: int, body: bytes, count: int) -> Answers:
    """Return the choices in a server's answer to a request for `count`.

    A refusal, that of a content filter included, is an answer of the model: its text is the refusal, often empty. Choices
    that are incomplete or do not say why they end are no answer. Thinking that the server gives in a field of its own, or
    whose opening tag the chat template wrote, is put between ``<think>`` and ``</think>`` before the rest.

    Raises:
        NotAnswered: naming what is wrong.
    """
    if status != 200:  # only a prompt refused by the content filter comes this far
        return Answers({index: Answer("", "stop") for index in range(count)}, {})
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise NotAnswered("the answer is not JSON") from None
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices:
        raise NotAnswered("the answer holds no choices")
    if len(choices) > count:
        raise NotAnswered(f"the answer holds {len(choices)} choices, {count} were asked for")
    by_index: dict[int, Answer] = {}
    for choice in choices:
        index = choice.get("index", 0 if len(choices) == 1 else None) if isinstance(choice, dict) else None
        if not isinstance(index, int) or isinstance(index, bool) or index not in range(count) or index in by_index:
            raise NotAnswered("the choices are not numbered as asked")
        by_index[index] = _answer(choice)
    return Answers(by_index, _usage(answer.get("usage")))


def _answer(choice: Mapping[str, Any]) -> Answer:
    message, reason = choice.get("message"), choice.get("finish_reason")
    if reason not in ("stop", "length", "content_filter"):
        raise NotAnswered(f"a choice ends for {_short(reason)}, not for stop, length or content_filter")
    text = message.get("content") if isinstance(message, dict) else None
    if text is None and isinstance(message, dict):
        refusal = message.get("refusal")
        text = refusal if isinstance(refusal, str) else None if reason == "stop" else ""
    thinking = _thinking(message) if isinstance(message, dict) else None
    if text is None and thinking is not None and reason == "length":
        text = ""
    if not isinstance(message, dict) or not isinstance(text, str):
        raise NotAnswered("a choice holds no text")
    return Answer(_with_thinking(text, thinking, whole=reason == "stop"), "length" if reason == "length" else "stop")


def _thinking(message: Mapping[str, Any]) -> str | None:
    """Return the thinking that a server keeps apart from the content, as vLLM, SGLang, DeepSeek and OpenRouter do."""
    fields = (message.get(name) for name in THINKING)
    return next((field for field in fields if isinstance(field, str) and field), None)


def _with_thinking(text: str, thinking: str | None, *, whole: bool) -> str:
    """Return a text that opens its thinking and, unless it ended in the middle of it, closes it, each once."""
    before, closing, after = text.partition(CLOSE)
    if thinking is not None and OPEN not in before:
        inside = thinking.replace(OPEN, "").replace(CLOSE, "")
        return f"{OPEN}{inside}{CLOSE}{after.lstrip() if closing else text}" if text or whole else f"{OPEN}{inside}"
    return f"{OPEN}{text}" if closing and OPEN not in before else text


def _usage(usage: Any) -> dict[str, int]:
    """Return the token counts that the server reports; what is no count is left out."""
    if not isinstance(usage, dict):
        return {}
    counts = {name: usage.get(name) for name in TOKENS}
    return {name: n for name, n in counts.items() if isinstance(n, int) and not isinstance(n, bool) and n >= 0}


def _short(value: Any) -> str:
    return "no stated reason" if value is None else repr(value)[:40]
