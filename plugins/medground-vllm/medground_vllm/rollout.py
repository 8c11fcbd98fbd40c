"""The rollout source: what vLLM writes, checked against what the trainer believes, as completions of its reasoner."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from medground.errors import RecipeError, RunError
from medground.protocols import Engine, SamplerPrompt, ServedReasoner, Serving, TrainableReasoner
from medground.types import Completion, Messages, Sampling

if TYPE_CHECKING:
    import torch

Cache = Literal["prefix", "mm", "encoder"]
Route = Literal["reload", "transfer"]


def stale(route: Route, *, vision_trains: bool) -> tuple[Cache, ...]:
    """Return the caches of vLLM that new weights invalidate, in the order to reset them.

    Keys and values of prompts always do. ``reload_weights`` makes the workers drop their own image caches without telling the
    scheduler, which then asks for what is gone: both have to forget. Other routes leave the image caches alone, so they are
    reset only when what fills them trains.

    >>> stale("reload", vision_trains=False)
    ('prefix', 'mm', 'encoder')
    >>> stale("transfer", vision_trains=True), stale("transfer", vision_trains=False)
    (('prefix', 'encoder'), ('prefix',))
    """
    if route == "reload":
        return ("prefix", "mm", "encoder")
    return ("prefix", "encoder") if vision_trains else ("prefix",)


@dataclass(frozen=True, slots=True)
class Written:
    """One completion as vLLM reports it."""

    ids: Sequence[int]
    logprobs: Sequence[float]


@dataclass(frozen=True, slots=True)
class Answer:
    """vLLM's answer to one conversation."""

    prompt_ids: Sequence[int]
    written: Sequence[Written]
    versions: frozenset[str]
    """Of the weights that wrote any of it."""


class Sampler(Protocol):
    """vLLM, wherever it runs."""

    route: Route

    def open(self, serving: Serving, engine: Engine) -> None:
        """Get ready to write in place of a policy whose weights an engine holds."""

    def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        """Take back what `sleep` gave away."""

    def push(self, weights: "Iterator[tuple[str, torch.Tensor]]", version: str) -> None:
        """Replace all weights, by checkpoint name, and call them `version`."""

    def reset(self, cache: Cache) -> None:
        """Forget what a cache holds."""

    def generate(
        self, prompts: Sequence[SamplerPrompt], batch: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Answer]:
        """Return one answer per conversation, of ``sampling.num_generations`` completions; the i-th drawn with seed + i."""

    def sleep(self) -> None:
        """Give device memory away, the weights with it."""

    def close(self) -> None:
        """Free everything."""


class VllmRollout:
    """See `medground.protocols.RolloutSource`.

    Args:
        sampler: vLLM, in this process or on a server.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.version: str | None = None
        """Of the weights that completions come from; None until the first `sync`, and in the update."""

    def __repr__(self) -> str:
        return f"VllmRollout({self.sampler!r})"

    def begin(self, reasoner: TrainableReasoner, engine: Engine) -> None:
        """See `RolloutSource.begin`."""
        if not isinstance(reasoner, ServedReasoner):
            raise RecipeError(
                f"vLLM cannot write in place of {type(reasoner).__name__}",
                hint="leave rollout out, so that the reasoner samples itself, or use one of plugin medground-qwen",
            )
        self.reasoner = reasoner
        self.serving = reasoner.serving()
        self.sampler.open(self.serving, engine)

    def sync(self, weights: "Iterator[tuple[str, torch.Tensor]]", version: int) -> None:
        """See `RolloutSource.sync`."""
        self.version = None
        self.sampler.wake("weights")
        # vLLM keeps a layer's tensors until it has all of them; one gathered from several processes does not live so long.
        copies = ((name, tensor.clone()) for name, tensor in self.reasoner.checkpoint_weights(weights))
        self.sampler.push(copies, str(version))
        self.sampler.wake("kv_cache")
        for cache in stale(self.sampler.route, vision_trains=self.serving.vision_trains):
            self.sampler.reset(cache)
        self.version = str(version)

    def generate(self, batch: Sequence[Messages], sampling: Sampling, seeds: Sequence[int]) -> list[list[Completion]]:
        """See `RolloutSource.generate`.

        Raises:
            RunError: if vLLM read a prompt otherwise than the trainer, or wrote with other weights than those given to it.
        """
        if self.version is None:
            raise RunError("vLLM has no weights to write with", hint="sync comes before generate")
        prompts = self.reasoner.sampler_prompts(batch)
        answers = self.sampler.generate(prompts, batch, sampling, seeds)
        return [
            self._completions(prompt, answer, sampling.num_generations)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]

    def sleep(self) -> None:
        """See `RolloutSource.sleep`."""
        self.version = None
        self.sampler.sleep()

    def close(self) -> None:
        """See `RolloutSource.close`."""
        self.version = None
        self.sampler.close()

    def _completions(self, prompt: SamplerPrompt, answer: Answer, count: int) -> list[Completion]:
        if list(answer.prompt_ids) != prompt.ids.tolist():
            raise RunError(
                f"vLLM read a prompt as {len(answer.prompt_ids)} tokens that the trainer reads as other {len(prompt.ids)}",
                hint="tokenizer, chat template and image limits must be those of the checkpoint on both sides",
            )
        if answer.versions != {self.version}:
            raise RunError(
                f"vLLM wrote with the weights {sorted(answer.versions)}, not with {self.version!r}",
                hint="nothing but this run may change its weights",
            )
        if len(answer.written) != count:
            raise RunError(f"vLLM wrote {len(answer.written)} completions of {count}")
        return [self._completion(prompt, written) for written in answer.written]

    def _completion(self, prompt: SamplerPrompt, written: Written) -> Completion:
        ids = list(written.ids)
        if len(written.logprobs) != len(ids) or not ids:
            raise RunError(f"vLLM gave {len(written.logprobs)} log-probabilities for {len(ids)} tokens")
        if odd := [token for token in ids if token in self.serving.forbidden]:
            name = self.serving.forbidden[odd[0]] or f"the unknown token {odd[0]}"
            raise RunError(f"vLLM wrote {name}, which breaks the next forward pass")
        return self.reasoner.completion(ids, written.logprobs, prompt.frame, stopped=ids[-1] in self.serving.end)
