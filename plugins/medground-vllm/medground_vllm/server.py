"""A ``vllm serve`` process of one's own: questions go out over HTTP, weights by a transfer."""

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from PIL import Image as Pillow

from medground.errors import RecipeError, RunError
from medground.protocols import Engine, SamplerPrompt, Serving
from medground.servers import checked_url, remote_host
from medground.types import Image, Messages, Sampling
from medground_vllm import api
from medground_vllm.rollout import Answer, Cache, Route, Written

HOW = "VLLM_SERVER_DEV_MODE=1 vllm serve CHECKPOINT --logprobs-mode processed_logprobs"


class Http:
    """The server's routes, JSON both ways.

    Args:
        base_url: such as ``http://127.0.0.1:8000``.
        timeout: of one call, s.
        allow_upload: whether images may leave this machine.

    Raises:
        RecipeError: as `medground.servers.checked_url`.
    """

    def __init__(self, base_url: str, *, timeout: float, allow_upload: bool) -> None:
        self.base_url = checked_url(base_url, allow_upload=allow_upload, argument="rollout.allow_upload")
        self.timeout = timeout
        # What is on this machine is not asked through a proxy.
        handlers = [] if remote_host(base_url) else [urllib.request.ProxyHandler({})]
        self._opener = urllib.request.build_opener(*handlers)

    def __repr__(self) -> str:
        return f"Http({self.base_url!r})"

    def get(self, path: str) -> Any:
        """Get JSON."""
        return self._ask(urllib.request.Request(f"{self.base_url}/{path}"))

    def post(self, path: str, body: Any = None) -> Any:
        """Post JSON, return what comes back."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return self._ask(urllib.request.Request(f"{self.base_url}/{path}", data or b"", headers, method="POST"))

    def _ask(self, request: urllib.request.Request) -> Any:
        path = urlsplit(request.full_url).path
        try:
            with self._opener.open(request, timeout=self.timeout) as answer:
                reply = answer.read()
                return json.loads(reply) if reply else None
        except urllib.error.HTTPError as error:
            with error:
                reply = error.read(500).decode(errors="replace")
            raise RunError(
                f"the vLLM server answers {error.code} to {path}: {reply}", hint=f"start it with {HOW}"
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(
                f"the vLLM server at {self.base_url} fails at {path}: {error}", hint="see its log"
            ) from error


class Transfer(Protocol):
    """See `medground_vllm.transfer`."""

    route: Route

    def __call__(self, weights: Iterator[tuple[str, Any]], version: str, rank: int) -> None:
        """Send all weights and name them; called on every rank, rank 0 sends."""

    def close(self) -> None:
        """Clean up."""


class Server:
    """See `medground_vllm.rollout.Sampler`. It keeps its memory: sleeping would gain the trainer's device nothing.

    Args:
        http: its routes.
        transfer: how weights get there.
        concurrency: questions under way at a time.
    """

    def __init__(self, http: Http, transfer: Transfer, *, concurrency: int) -> None:
        self.http, self.transfer, self.concurrency = http, transfer, concurrency
        self.route: Route = transfer.route

    def __repr__(self) -> str:
        return f"Server({self.http!r}, {type(self.transfer).__name__})"

    def open(self, serving: Serving, engine: Engine) -> None:
        """See `Sampler.open`.

        Raises:
            RecipeError: if the server's log-probabilities are not those of the distribution it samples from.
        """
        self.serving, self.engine = serving, engine
        self.model = self.http.get("v1/models")["data"][0]["id"]
        mode = self.http.get("server_info?config_format=json")["vllm_config"]["model_config"]["logprobs_mode"]
        if mode != "processed_logprobs":
            raise RecipeError(f"the vLLM server reports {mode}, which leave the temperature out", hint=f"start: {HOW}")

    def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        """See `Sampler.wake`."""

    def sleep(self) -> None:
        """See `Sampler.sleep`."""

    def push(self, weights: Iterator[tuple[str, Any]], version: str) -> None:
        """See `Sampler.push`."""
        self.transfer(weights, version, self.engine.rank)
        self._together()

    def reset(self, cache: Cache) -> None:
        """See `Sampler.reset`."""
        if self.engine.rank == 0:
            reply = self.http.post(f"reset_{cache}_cache")
            if reply is not None and not reply.get("success", True):
                raise RunError("the vLLM server did not forget the prompts of older weights")
        self._together()

    def generate(
        self, prompts: Sequence[SamplerPrompt], batch: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Answer]:
        """See `Sampler.generate`."""
        before = self._version()
        wanted = api.words(self.serving, sampling)

        def ask(prompt: SamplerPrompt, messages: Messages, seed: int) -> tuple[Sequence[int], list[Written]]:
            return self._ask(prompt, messages, {**wanted, "seed": seed})

        with ThreadPoolExecutor(self.concurrency) as pool:
            answers = list(pool.map(ask, prompts, batch, seeds))
        versions = frozenset({before, self._version()})  # the route does not say it per completion
        return [Answer(ids, written, versions) for ids, written in answers]

    def close(self) -> None:
        """See `Sampler.close`; the server goes on."""
        self.transfer.close()

    def _together(self) -> None:
        """Wait for every rank: none asks before all weights are there and the caches empty."""
        self.engine.all_reduce({"arrived": 1.0})

    def _version(self) -> str:
        return str(self.http.get("weight_info")["weight_version"])

    def _ask(
        self, prompt: SamplerPrompt, messages: Messages, wanted: dict[str, Any]
    ) -> tuple[Sequence[int], list[Written]]:
        reply = self.http.post(
            "v1/chat/completions",
            {
                "model": self.model,
                "messages": _wire(messages, prompt.image),
                "logprobs": True,
                "top_logprobs": 0,
                "return_token_ids": True,
                **wanted,
            },
        )
        choices = sorted(reply["choices"], key=lambda choice: choice["index"])
        return reply["prompt_token_ids"], [
            Written(choice["token_ids"], [token["logprob"] for token in choice["logprobs"]["content"]])
            for choice in choices
        ]


def _wire(messages: Messages, image: Image) -> list[dict[str, Any]]:
    """Return the conversation as the route takes it, with the image as the model is to see it."""
    return [
        {
            "role": turn["role"],
            "content": turn["content"]
            if isinstance(turn["content"], str)
            else [{"type": "image_url", "image_url": {"url": _data_url(image)}} if part["type"] == "image" else part
                  for part in turn["content"]],
        }
        for turn in messages
    ]  # fmt: skip


def _data_url(image: Image) -> str:
    file = io.BytesIO()
    Pillow.fromarray(image).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
