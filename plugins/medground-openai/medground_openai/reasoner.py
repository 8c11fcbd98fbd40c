"""The reasoner: a model behind a server that speaks the OpenAI API."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any, get_args

import numpy as np

from medground.errors import RecipeError, did_you_mean
from medground.frames import Frame, Kind, Order, fixed_point
from medground.geometry import Size
from medground.servers import checked_url, key_from, remote_host
from medground.types import Completion, Messages, Sampling, image_of, text_of
from medground_openai import calibration, wire
from medground_openai.client import Client, NotAnswered, without_key
from medground_openai.parallel import run_parallel

log = logging.getLogger(__name__)

LEAST_PIXELS = 56 * 56
"""px²: smaller images are enlarged, because several processors do so themselves."""

_announced: set[str] = set()
"""Addresses whose upload was logged in this process."""
Job = tuple[int, tuple[int, ...]]
"""Index of a conversation in the batch, and the completions of it that one request asks for."""


class OpenAIReasoner:
    """Any vision-language model behind an OpenAI-compatible server; see `medground.protocols.Reasoner`.

    Images are resized here and sent as data URLs of pixels alone. Where the server fails, the completion carries the
    fault ``transport`` or ``timeout`` with its cause, and no text. Token counts, and the cost where prices are given,
    are in ``Completion.usage`` (of a request for several completions: in its first).

    Args:
        base_url: the server, for example ``https://host/v1``.
        model: the model's name there.
        api_key_env: the environment variable that holds the key: OPENAI_API_KEY, OPENROUTER_API_KEY or a name that
            starts with MEDGROUND_. No key is sent if None.
        frame: what the model's numbers count: ``pixel`` of the image as sent, ``permille`` or ``unit``; None finds
            it with eight small requests at the first use, and stops where they are inconclusive.
        order: ``xy``, or ``yx`` where it writes y first; where `frame` is None, found too.
        dialect: its native way of marking regions, for prompt interfaces with ``style: native``; see `docs/prompts.md`.
        allow_upload: consent to send images and questions to a server that is not on this machine, which a recipe file
            cannot give; MEDGROUND_ALLOW_UPLOAD=host in the environment is another way to give it.
        max_image_side: images are shrunk to this longest side, px.
        side_multiple: both sides sent are multiples of this, px, so that a processor with such a grid resizes nothing.
        image_format: ``png``, or ``jpeg`` (quality 95), which is smaller and not exact.
        concurrency: requests at a time.
        timeout: seconds for one attempt.
        deadline: seconds for one request with its retries.
        retries: attempts after the first.
        length_field: the request field for the completion length: ``max_tokens``, or ``max_completion_tokens``.
        body: more request fields as the server documents them; null leaves one of ours out (temperature, seed, n).
        price_prompt: price of a million prompt tokens, in your currency.
        price_completion: price of a million completion tokens.
    """

    def __init__(
        self,
        *,
        base_url: str = "http://127.0.0.1:8000/v1",
        model: str = "",
        api_key_env: str | None = None,
        frame: Kind | None = None,
        order: Order = "xy",
        dialect: str | None = None,
        allow_upload: bool = False,
        max_image_side: int = 1008,
        side_multiple: int = 28,
        image_format: wire.Format = "png",
        concurrency: int = 8,
        timeout: float = 120.0,
        deadline: float = 600.0,
        retries: int = 5,
        length_field: str = "max_tokens",
        body: Mapping[str, Any] | None = None,
        price_prompt: float | None = None,
        price_completion: float | None = None,
    ) -> None:
        self.base_url = checked_url(base_url, allow_upload=allow_upload, argument="reasoner.allow_upload")
        self.model = model
        _known("frame", frame, (None, *get_args(Kind)))
        _known("order", order, get_args(Order))
        _known("image_format", image_format, get_args(wire.Format))
        _known("length_field", length_field, ("max_tokens", "max_completion_tokens"))
        positive = {"max_image_side": max_image_side, "side_multiple": side_multiple, "concurrency": concurrency}
        for name, value in {**positive, "timeout": timeout, "deadline": deadline, "retries": retries + 1}.items():
            if not value > 0:
                raise RecipeError(f"{name} of reasoner openai is too small: {value - (name == 'retries')}")
        if not model:
            raise RecipeError("reasoner openai needs the name of a model", hint="set reasoner.model")
        key_from(api_key_env)
        self.order: Order = order
        self.dialect = dialect
        self.max_image_side, self.side_multiple, self.image_format = max_image_side, side_multiple, image_format
        self.concurrency, self.length_field, self.body = concurrency, length_field, dict(body or {})
        self.price_prompt, self.price_completion = price_prompt, price_completion
        self.client = Client(
            url=f"{self.base_url}/chat/completions",
            api_key_env=api_key_env,
            timeout=timeout,
            deadline=deadline,
            retries=retries,
        )
        self._declared = frame
        self._several = "n" not in self.body
        self._announce()

    def __repr__(self) -> str:
        return f"OpenAIReasoner(base_url={self.base_url!r}, model={self.model!r}, frame={self._declared!r})"

    def frame(self, size: Size) -> Frame:
        """See `Reasoner.frame`. Where no frame was declared, the first call asks the server about known images.

        Raises:
            RunError: if its answers do not agree on one frame.
        """
        kind, order = self._calibrated
        return Frame(kind, self.seen(size), order)

    def seen(self, size: Size) -> Size:
        """Return the (H, W) at which an original of `size` is sent."""
        shrink = min(1.0, self.max_image_side / max(size))
        height, width = (max(1, round(side * shrink)) for side in size)
        limit = max(self.max_image_side, 2 * self.side_multiple, 112) ** 2  # less leaves no size between both limits
        return fixed_point((height, width), factor=self.side_multiple, min_pixels=LEAST_PIXELS, max_pixels=limit)

    def generate(self, batch: Sequence[Messages], sampling: Sampling) -> list[list[Completion]]:
        """See `Reasoner.generate`. Completion i is drawn with the conversation's seed + i.

        One request asks for G completions, so that the image is sent once; a server that gives fewer, or refuses, gets
        a request for each from then on.
        """
        if not batch:
            return []
        return self._generate(batch, sampling, [self.frame(_size(messages)) for messages in batch])

    def _generate(
        self, batch: Sequence[Messages], sampling: Sampling, frames: Sequence[Frame]
    ) -> list[list[Completion]]:
        count = sampling.num_generations

        @cache
        def url(index: int) -> str:
            return wire.data_url(image_of(batch[index]), frames[index].size, self.image_format)

        def ask(job: Job) -> dict[tuple[int, int], Completion]:
            row, indices = job
            answered = self._ask(batch[row], url(row), frames[row], sampling, indices)
            return {(row, index): completion for index, completion in answered.items()}

        requests = [tuple(range(count))] if self._several else [(index,) for index in range(count)]
        jobs = [(row, indices) for row in range(len(batch)) for indices in requests]
        completions: dict[tuple[int, int], Completion] = {}
        for answered in run_parallel(ask, jobs, self.concurrency):
            completions |= answered
        keys = [(row, index) for row in range(len(batch)) for index in range(count)]
        missing = [(row, (index,)) for row, index in keys if (row, index) not in completions]
        for answered in run_parallel(ask, missing, self.concurrency):
            completions |= answered
            if any(completion.fault is None for completion in answered.values()):
                self._several = False  # alone it is answered, so it was the number that was refused
        return [[completions[row, index] for index in range(count)] for row in range(len(batch))]

    def _ask(
        self, messages: Messages, url: str, frame: Frame, sampling: Sampling, indices: tuple[int, ...]
    ) -> dict[int, Completion]:
        """Return the completions of one request by index; of several, those the server did not give are absent."""
        count = len(indices)
        fields = {
            "model": self.model,
            "messages": wire.chat(messages, url),
            "temperature": sampling.temperature,
            self.length_field: sampling.max_completion_length,
            "seed": seed_of(sampling.seed, messages) + indices[0],
            **({"n": count} if count > 1 else {}),
        }
        body = {key: value for key, value in {**fields, **self.body}.items() if value is not None}
        try:
            answers = self.client.post(body, lambda status, data: wire.read(status, data, count))
        except NotAnswered as error:
            if count > 1 and error.status in (400, 422):
                return {}
            lost = Completion(text="", frame=frame, fault=error.fault, cause=error.cause)
            return dict.fromkeys(indices, lost)
        usage, key = self._usage(answers.usage), key_from(self.client.api_key_env)
        return {
            indices[number]: Completion(
                text=without_key(answer.text, key),
                frame=frame,
                finish_reason=answer.finish_reason,
                usage=usage if number == min(answers.choices) else {},
            )
            for number, answer in answers.choices.items()
        }

    def _usage(self, tokens: Mapping[str, int]) -> dict[str, float]:
        prices = {"prompt_tokens": self.price_prompt, "completion_tokens": self.price_completion}
        if not all(name in tokens and price is not None for name, price in prices.items()):
            return dict(tokens)
        return {**tokens, "cost": sum(tokens[name] * (price or 0.0) / 1e6 for name, price in prices.items())}

    @cached_property
    def _calibrated(self) -> tuple[Kind, Order]:
        if self._declared is not None:
            return self._declared, self.order
        side = self.max_image_side
        images = calibration.targets([self.seen((round(0.75 * side), side)), self.seen((side // 2, round(0.4 * side)))])
        frames = [Frame("pixel", image.size) for image in images]
        sampling = Sampling(temperature=0.0, max_completion_length=2048)
        answers = [group[0] for group in self._generate([image.messages for image in images], sampling, frames)]
        kind, order = calibration.conclude(images, answers)
        log.warning(
            "%s answers in %s, %s (found with test images; reasoner.frame=%s reasoner.order=%s keeps it)",
            self.model,
            kind,
            order,
            kind,
            order,
        )
        return kind, order

    def _announce(self) -> None:
        """Log once in this process what leaves this machine."""
        if remote_host(self.base_url) and self.base_url not in _announced:
            _announced.add(self.base_url)
            log.warning(
                "every image's pixels (%s, at most %d px a side) and every question go to %s%s; file names and "
                "metadata do not",
                self.image_format.upper(),
                self.max_image_side,
                self.base_url,
                "" if self.base_url.startswith("https:") else ", unencrypted",
            )


def seed_of(seed: int, messages: Messages) -> int:
    """Return a seed below 2^30 for one conversation, from the run's seed and the conversation's content."""
    digest = hashlib.blake2b(f"{seed}|{text_of(messages)}|".encode(errors="surrogatepass"), digest_size=4)
    digest.update(np.ascontiguousarray(image_of(messages)).data)
    return int.from_bytes(digest.digest()) >> 2


def _size(messages: Messages) -> Size:
    height, width = image_of(messages).shape[:2]
    return height, width


def _known(argument: str, value: Any, options: Sequence[Any]) -> None:
    if value not in options:
        words = [option for option in options if option]
        raise RecipeError(f"{argument} {value!r} is unknown to reasoner openai", hint=did_you_mean(str(value), words))
