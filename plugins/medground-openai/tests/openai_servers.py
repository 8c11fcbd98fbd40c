"""HTTP servers on loopback with scripted answers, a clock that tests advance, and parts of requests and answers."""

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
from PIL import Image as Pillow

KEY = "canary-3f9c-do-not-show"


@dataclass
class Clock:
    """A clock that only `advance` and `sleep` move, in seconds."""

    now: float = 0.0
    waits: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@dataclass
class Stub:
    """The requests a server received, and its answers: ``behave(handler, request)`` writes each of them."""

    behave: Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]
    url: str = ""
    received: list[dict[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    """Line, headers and body of every request."""


def question(request: dict[str, Any]) -> str:
    """Return the text of a request."""
    return " ".join(part["text"] for turn in request["messages"] for part in turn["content"] if part["type"] == "text")


def image(request: dict[str, Any]) -> str:
    """Return the data URL of the image in a request."""
    return next(
        part["image_url"]["url"] for turn in request["messages"] for part in turn["content"] if "image_url" in part
    )


def choice(text: str | None, index: int = 0, reason: Any = "stop", **message: Any) -> dict[str, Any]:
    return {"index": index, "finish_reason": reason, "message": {"role": "assistant", "content": text, **message}}


def reply(handler: BaseHTTPRequestHandler, body: Any, status: int = 200, **headers: str) -> None:
    """Send a complete, well-formed HTTP answer; underscores in header names stand for hyphens."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    given = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    for name, text in {"Content-Length": str(len(data)), **given}.items():
        handler.send_header(name, text)
    handler.end_headers()
    handler.wfile.write(data)


def answer(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """Answer as vLLM: n choices, choice i with seed + i; each text repeats its question, which shows a mix-up."""
    drawn = [request["seed"] + index if request["temperature"] else 0 for index in range(request.get("n", 1))]
    digest = sum(image(request).encode()) % 10_007
    choices = [choice(f"{question(request)[-40:]}|{digest}|{seed}", index) for index, seed in enumerate(drawn)]
    usage = {"prompt_tokens": 100, "completion_tokens": 7 * len(choices), "total_tokens": 100 + 7 * len(choices)}
    reply(handler, {"id": "chatcmpl-1", "object": "chat.completion", "choices": choices, "usage": usage})


def conversation(text: str = "Where is the shadow?", size: tuple[int, int] = (48, 64), seed: int = 0) -> Any:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    return [{"role": "user", "content": [{"type": "image", "image": pixels}, {"type": "text", "text": text}]}]


def number(request: dict[str, Any]) -> int:
    """Return the number in "question 17"."""
    return int(re.findall(r"question (\d+)", question(request))[0])


def decoded(request):
    head, _, data = image(request).partition(",")
    return head, Pillow.open(io.BytesIO(base64.b64decode(data)))


def seeing(frame_of, noise=0.0, wrap="{}"):
    """Return a behaviour that locates the red rectangle and answers in the frame of `frame_of(size)`."""
    draw = np.random.default_rng(0)

    def behave(handler, request):
        pixels = np.asarray(decoded(request)[1]).astype(int)
        rows, columns = np.nonzero(pixels[..., 0] - pixels[..., 1] > 100)
        size = pixels.shape[:2]
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        frame = frame_of(size)
        shaken = np.array(box) + noise * draw.normal(size=4) * np.tile(size[::-1], 2)
        numbers = frame.from_pixels(shaken, size)
        stated = [round(float(n), 3 if frame.kind == "unit" else 0) for n in numbers]
        reply(handler, {"choices": [choice(wrap.format(json.dumps({"bbox": stated})))]})

    return behave


def blind(handler, request):
    numbers = np.random.default_rng(len(image(request))).integers(0, 1000, 4).tolist()
    reply(handler, {"choices": [choice(json.dumps({"bbox": numbers}))]})
