"""A real HTTP server on loopback that behaves as told, and a clock that only moves when it is told to."""

import base64
import contextlib
import io
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from medground_openai.reasoner import OpenAIReasoner
from PIL import Image as Pillow

KEY = "canary-3f9c-do-not-show"


@dataclass
class Clock:
    """Seconds that pass only when `advance` or `sleep` is called."""

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
    """What it received, and how it answers: ``behave(handler, request)`` writes whatever it likes."""

    behave: Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]
    url: str = ""
    received: list[dict[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    """Of every request: its line, headers and body."""


def question(request: dict[str, Any]) -> str:
    """The text a request asks."""
    return " ".join(part["text"] for turn in request["messages"] for part in turn["content"] if part["type"] == "text")


def image(request: dict[str, Any]) -> str:
    """The data URL a request shows."""
    return next(
        part["image_url"]["url"] for turn in request["messages"] for part in turn["content"] if "image_url" in part
    )


def choice(text: str | None, index: int = 0, reason: Any = "stop", **message: Any) -> dict[str, Any]:
    return {"index": index, "finish_reason": reason, "message": {"role": "assistant", "content": text, **message}}


def reply(handler: BaseHTTPRequestHandler, body: Any, status: int = 200, **headers: str) -> None:
    """A whole, well-formed HTTP answer; underscores in header names stand for hyphens."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    given = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    for name, text in {"Content-Length": str(len(data)), **given}.items():
        handler.send_header(name, text)
    handler.end_headers()
    handler.wfile.write(data)


def answer(handler: BaseHTTPRequestHandler, request: dict[str, Any]) -> None:
    """As vLLM: n choices, choice i drawn with seed + i; the text says what was asked, so that no mix-up goes unseen."""
    drawn = [request["seed"] + index if request["temperature"] else 0 for index in range(request.get("n", 1))]
    digest = sum(image(request).encode()) % 10_007
    choices = [choice(f"{question(request)[-40:]}|{digest}|{seed}", index) for index, seed in enumerate(drawn)]
    usage = {"prompt_tokens": 100, "completion_tokens": 7 * len(choices), "total_tokens": 100 + 7 * len(choices)}
    reply(handler, {"id": "chatcmpl-1", "object": "chat.completion", "choices": choices, "usage": usage})


@pytest.fixture
def serve() -> Iterator[Callable[..., Stub]]:
    """``serve(behave)`` starts a stub; all of them end with the test."""
    servers = []

    def start(behave: Callable[..., None] = answer) -> Stub:
        stub = Stub(behave)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stub.raw.append(self.requestline.encode() + b"\n" + bytes(self.headers) + body)
                request = json.loads(body)
                stub.received.append({**request, "path": self.path, "key": self.headers.get("Authorization")})
                self.close_connection = True
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
                    stub.behave(self, request)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, address: Any) -> None:
                """A socket the behaviour closed itself."""

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        return stub

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock, monkeypatch) -> Callable[..., OpenAIReasoner]:
    """``make(stub, **arguments)``: the reasoner, with its key in the environment, on the test's clock."""
    monkeypatch.setenv("CANARY_KEY", KEY)

    def made(stub: Stub, **arguments: Any) -> OpenAIReasoner:
        given = {"model": "stub", "frame": "permille", "api_key_env": "CANARY_KEY", "side_multiple": 8, **arguments}
        reasoner = OpenAIReasoner(base_url=stub.url, **given)
        draw = random.Random(0).random
        reasoner.client = replace(reasoner.client, clock=clock, sleep=clock.sleep, draw=draw)
        return reasoner

    return made


def conversation(text: str = "Where is the shadow?", size: tuple[int, int] = (48, 64), seed: int = 0) -> Any:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    return [{"role": "user", "content": [{"type": "image", "image": pixels}, {"type": "text", "text": text}]}]


def number(request: dict[str, Any]) -> int:
    """The number in "question 17"."""
    return int(re.findall(r"question (\d+)", question(request))[0])


def decoded(request):
    head, _, data = image(request).partition(",")
    return head, Pillow.open(io.BytesIO(base64.b64decode(data)))


def seeing(frame_of, noise=0.0, wrap="{}"):
    """A server that finds the red rectangle and answers in a frame of its own."""
    draw = np.random.default_rng(0)

    def behave(handler, request):
        pixels = np.asarray(decoded(request)[1]).astype(int)
        rows, columns = np.nonzero(pixels[..., 0] - pixels[..., 1] > 100)
        size = pixels.shape[:2]
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        frame = frame_of(size)
        shaken = np.array(box) + noise * draw.normal(size=4) * np.tile(size[::-1], 2)
        numbers = frame.from_pixels(shaken, size)
        said = [round(float(n), 3 if frame.kind == "unit" else 0) for n in numbers]
        reply(handler, {"choices": [choice(wrap.format(json.dumps({"bbox": said})))]})

    return behave


def blind(handler, request):
    numbers = np.random.default_rng(len(image(request))).integers(0, 1000, 4).tolist()
    reply(handler, {"choices": [choice(json.dumps({"bbox": numbers}))]})
