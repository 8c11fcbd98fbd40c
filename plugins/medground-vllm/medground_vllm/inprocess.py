"""vLLM in the training process: no server, no copy of the weights over a wire."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from PIL import Image as Pillow

from medground.errors import RecipeError
from medground.protocols import Engine, SamplerPrompt, Serving
from medground.types import Messages, Sampling
from medground_vllm import api
from medground_vllm.rollout import Answer, Cache, Route, Written


class InProcess:
    """See `medground_vllm.rollout.Sampler`.

    Args:
        max_model_len: the most tokens of a prompt and its completion together.
        sleep: give memory back during the update, where the platform can.
        arguments: others of vLLM's ``LLM``.
    """

    route: Route = "reload"

    def __init__(self, *, max_model_len: int, sleep: bool, **arguments: Any) -> None:
        api.require()
        self.max_model_len, self.arguments = max_model_len, arguments
        self.sleeps = sleep and api.can_sleep()
        self.asleep = False
        self.llm: Any = None

    def __repr__(self) -> str:
        return f"InProcess(max_model_len={self.max_model_len}, sleeps={self.sleeps})"

    def open(self, serving: Serving, engine: Engine) -> None:
        """See `Sampler.open`."""
        self.serving, self.guest = serving, api.is_guest()
        self.llm = api.start(
            serving,
            world_size=engine.world_size,
            max_model_len=self.max_model_len,
            enable_sleep_mode=self.sleeps,
            **self.arguments,
        )

    def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        """See `Sampler.wake`."""
        if self.asleep:
            api.wake(self.llm, part)
            self.asleep = part == "weights"  # the cache still is

    def push(self, weights: Iterator[tuple[str, Any]], version: str) -> None:
        """See `Sampler.push`."""
        api.reload(self.llm, weights, version)

    def reset(self, cache: Cache) -> None:
        """See `Sampler.reset`."""
        api.reset(self.llm, cache)

    def generate(
        self, prompts: Sequence[SamplerPrompt], batch: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Answer]:
        """See `Sampler.generate`.

        Raises:
            RecipeError: if the longest prompt with its completion would not fit.
        """
        needed = max(len(prompt.ids) for prompt in prompts) + sampling.max_completion_length
        if needed > self.max_model_len:
            raise RecipeError(
                f"a prompt and its completion can take {needed} tokens, vLLM was given {self.max_model_len}",
                hint=f"set rollout.max_model_len={needed} or more",
            )
        given = [
            {"prompt": prompt.text, "multi_modal_data": {"image": Pillow.fromarray(prompt.image)}} for prompt in prompts
        ]
        outputs = api.generate(self.llm, given, api.words(self.serving, sampling), seeds)
        return [
            Answer(ids, [Written(own, logp) for own, logp, _ in group], frozenset().union(*(v for *_, v in group)))
            for ids, group in outputs
        ]

    def sleep(self) -> None:
        """See `Sampler.sleep`."""
        if self.sleeps and not self.asleep:
            api.sleep(self.llm)
            self.asleep = True

    def close(self) -> None:
        """See `Sampler.close`; in a process group that is not its own, vLLM stays until the process ends."""
        if self.llm is None:
            return
        if self.guest:
            api.leave(self.llm)
        else:
            api.close(self.llm)
            self.llm = None
