"""The reasoner as an OpenAI-compatible endpoint."""

import json
import re
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from medground_serve.settings import Refusal
from medground_serve.waiting import until_gone
from medground_serve.worker import Worker

_DATA_URL = re.compile(r"data:image/(?:png|jpeg);base64,")


class ImageUrl(BaseModel):
    """Where an image is: a data URL, the only kind that is read."""

    url: str


class Part(BaseModel):
    """A part of a turn."""

    type: Literal["text", "image_url"]
    text: str = Field("", max_length=100_000)
    image_url: ImageUrl | None = None


class Turn(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Part]


class ChatRequest(BaseModel):
    """A conversation with one image, and how completions are drawn. Other fields are ignored."""

    messages: list[Turn] = Field(min_length=1, max_length=64)
    n: int = Field(1, ge=1, le=64)
    temperature: float = Field(1.0, ge=0, le=2)
    max_tokens: int = Field(2048, ge=1, le=32_768)
    max_completion_tokens: int | None = Field(None, ge=1, le=32_768)
    seed: int = Field(0, ge=0, lt=2**63)
    stream: Literal[False] = False


def add(app: FastAPI, worker: Worker) -> None:
    """Add the route to an application."""

    @app.post("/v1/chat/completions")
    async def completions(request: Request, body: ChatRequest) -> JSONResponse:
        """Complete a conversation about one image by the reasoner alone, as OpenAI's chat completions do."""
        turns = [{"role": turn.role, "content": _parts(turn.content)} for turn in body.messages]
        sampling = {
            "num_generations": body.n,
            "temperature": body.temperature,
            "max_completion_length": body.max_completion_tokens or body.max_tokens,
            "seed": body.seed,
        }
        answer = worker.ask({"do": "chat", "turns": turns, "sampling": sampling})
        result = json.loads(await until_gone(request, answer))
        return JSONResponse({"id": "chatcmpl-medground", "created": 0, **result})


def _parts(content: str | list[Part]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [_part(part) for part in content]


def _part(part: Part) -> dict[str, Any]:
    if part.type == "text":
        return {"type": "text", "text": part.text}
    url = "" if part.image_url is None else part.image_url.url
    if (start := _DATA_URL.match(url)) is None:
        raise Refusal(
            422, "the image is not a data URL of PNG or JPEG", "send data:image/png;base64,...: no address is read"
        )
    return {"type": "image", "data": url[start.end() :]}
