"""What we use of vLLM's own interface: the only module that names it. Written for 0.32 and 0.33.

- Weights: ``collective_rpc("reload_weights", weights_iterator=...)`` in process (it reloads layer by layer, so packed and
  quantised layouts are right too); ``reload_weights`` from a folder, or the four-phase transfer, on a server.
- Versions: ``update_weight_version``, and the spans in every `CompletionOutput`.
- Before 0.32 there were no version spans; after 0.33 nobody has looked.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from medground.errors import PluginError, RunError
from medground.protocols import Serving
from medground.types import Sampling

SUPPORTED = ((0, 32), (0, 34))
"""First version that will do, and the first that nobody has looked at."""


def require() -> Any:
    """Return the module ``vllm``, set up to run in this process and to keep standard output clean.

    Raises:
        ModuleNotFoundError: if it is not installed.
        PluginError: if it is of a version that this module does not know.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = (
        "0"  # weights are handed over as tensors, which no process boundary takes
    )
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    import vllm

    version = tuple(int(number) for number in vllm.__version__.split("+")[0].split(".")[:2])
    if not SUPPORTED[0] <= version < SUPPORTED[1]:
        raise PluginError(
            f"vLLM {vllm.__version__} is not one this plugin knows", hint="pip install 'vllm>=0.32,<0.34'"
        )
    return vllm


def can_sleep() -> bool:
    """Return True if this platform can give device memory back."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_sleep_mode_available())


def start(serving: Serving, *, world_size: int, **arguments: Any) -> Any:
    """Return an ``LLM`` of this process: one image per prompt, log-probabilities of the distribution that is sampled from."""
    if world_size > 1:
        arguments["distributed_executor_backend"] = "external_launcher"  # join the processes that torchrun started
    return require().LLM(
        model=serving.checkpoint,
        dtype=serving.dtype,
        limit_mm_per_prompt={"image": 1, "video": 0},
        logprobs_mode="processed_logprobs",
        generation_config="vllm",  # the checkpoint's top-k and penalties are not part of the policy
        trust_remote_code=False,
        **arguments,
    )


def reload(llm: Any, weights: "Iterator[tuple[str, Any]]", version: str) -> None:
    """Replace all weights by a stream of full tensors."""
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
    llm.update_weight_version(version)


def reset(llm: Any, cache: str) -> None:
    """Forget what one cache holds, on the scheduler's side and the workers'."""
    if cache == "prefix":
        if not llm.reset_prefix_cache():
            raise RunError("vLLM did not forget the prompts of older weights")
    elif cache == "mm":
        llm.llm_engine.reset_mm_cache()
    else:
        llm.llm_engine.reset_encoder_cache()


def words(serving: Serving, sampling: Sampling) -> dict[str, Any]:
    """Return the sampling settings under the names that `SamplingParams` and the server's routes share."""
    return {
        "n": sampling.num_generations,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_completion_length,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "ignore_eos": True,  # the ends are listed: the policy's, not vLLM's
        "stop_token_ids": sorted(serving.end),
        "bad_words": sorted({word for word in serving.forbidden.values() if word}),
    }


def generate(
    llm: Any, prompts: Sequence[dict[str, Any]], wanted: dict[str, Any], seeds: Sequence[int]
) -> list[tuple[Sequence[int], list[tuple[Sequence[int], Sequence[float], set[str]]]]]:
    """Return per prompt its ids as vLLM read them, and of each completion ids, log-probabilities and weight versions."""
    params = [
        require().SamplingParams(seed=seed, logprobs=0, flat_logprobs=True, detokenize=False, **wanted)
        for seed in seeds
    ]
    done = llm.generate(list(prompts), params, use_tqdm=False)
    return [
        (
            request.prompt_token_ids,
            [
                (output.token_ids, output.logprobs.logprobs, {span.version for span in output.weight_versions})
                for output in sorted(request.outputs, key=lambda output: output.index)
            ],
        )
        for request in done
    ]


def sleep(llm: Any) -> None:
    """Give weights and cache memory back; buffers are kept on the host."""
    llm.sleep(level=2)


def wake(llm: Any, part: str) -> None:
    """Take memory back for ``weights`` or ``kv_cache``; what the weights were is gone."""
    llm.wake_up(tags=[part])


def is_guest() -> bool:
    """Return True if a process group is there before vLLM: it joins it, and destroys it when it is shut down or forgotten."""
    from torch import distributed

    return bool(distributed.is_available() and distributed.is_initialized())


def close(llm: Any) -> None:
    """Shut the engine down, and its process group with it."""
    llm.llm_engine.engine_core.shutdown()


def leave(llm: Any) -> None:
    """Have the engine end with the process, without its own shutting down."""
    finalizer = getattr(llm.llm_engine.engine_core, "_finalizer", None)
    if finalizer is not None:
        finalizer.detach()


def sender(base_url: str, address: str, port: int, *, workers: int, rank: int, source: Any, timeout: float) -> Any:
    """Return the trainer's end of a server's NCCL transfer: ``send_weights()`` starts, updates and finishes.

    Args:
        base_url: of the server.
        address: this side's, as the workers reach it.
        port: free on this side.
        workers: how many the server has.
        rank: of this process; 0 sends, the others only take part in gathering.
        source: iterable of (name, tensor), made by `stream`.
        timeout: of one call to the server, s.
    """
    require()
    from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    about = NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=workers + 1, rank=rank)
    client = HTTPVLLMWeightSyncClient(base_url, timeout=timeout)
    return WeightTransferTrainerFactory.trainer_init(about, client=client, source=source)


def stream(first: Sequence[tuple[str, Any]]) -> Any:
    """Return a `WeightSource` that sends `first`, and from then on whatever its attribute ``now`` is set to."""
    require()
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class Stream(WeightSource):
        now: Iterable[tuple[str, Any]] = first
        known = tuple(ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in first)

        def metadata(self) -> list[Any]:
            return list(self.known)

        def __iter__(self) -> Iterator[tuple[str, Any]]:
            return iter(self.now)

    return Stream()


def self_check() -> None:
    """Make the parameters that rollouts are drawn with; starting an engine takes too long and may need a device."""
    serving = Serving(checkpoint="", dtype="float32", end=frozenset({0}), forbidden={1: "a"}, vision_trains=False)
    wanted = words(serving, Sampling())
    require().SamplingParams(seed=0, logprobs=0, flat_logprobs=True, detokenize=False, **wanted)
