"""What recipes name: vLLM in this process, and vLLM on a server."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from medground_vllm.rollout import VllmRollout


def vllm(
    *,
    gpu_memory_utilization: float = 0.3,
    max_model_len: int = 8192,
    enforce_eager: bool = False,
    sleep: bool = True,
) -> "VllmRollout":
    """vLLM in every training process, on its device, fed with the policy's weights in memory.

    Args:
        gpu_memory_utilization: the share of the device's memory that vLLM may use while it is awake.
        max_model_len: the most tokens of a prompt and its completion together.
        enforce_eager: do without captured graphs: starts sooner, writes more slowly.
        sleep: give weights and cache memory back during the update, where the platform can.
    """
    from medground_vllm.inprocess import InProcess
    from medground_vllm.rollout import VllmRollout

    return VllmRollout(
        InProcess(
            gpu_memory_utilization=gpu_memory_utilization,
            max_model_len=max_model_len,
            enforce_eager=enforce_eager,
            sleep=sleep,
        )
    )


def vllm_server(
    *,
    base_url: str = "http://127.0.0.1:8000",
    transfer: Literal["disk", "nccl"] = "disk",
    folder: str | None = None,
    master_address: str = "127.0.0.1",
    master_port: int = 29600,
    concurrency: int = 64,
    timeout: float = 600.0,
    allow_upload: bool = False,
) -> "VllmRollout":
    """A ``vllm serve`` process that is this run's alone, fed with the policy's weights.

    It has to be started with ``VLLM_SERVER_DEV_MODE=1`` in its environment and ``--logprobs-mode processed_logprobs``; for
    `transfer` ``nccl`` with ``--weight-transfer-config '{"backend": "nccl"}'`` too. Whoever reaches its port can replace
    its weights: bind it to loopback or a closed network.

    Args:
        base_url: where it listens.
        transfer: ``disk``, through a folder both sides see; or ``nccl``, from device to device.
        folder: for ``disk``; must exist under the same path on both sides.
        master_address: for ``nccl``, of this side, as the server reaches it.
        master_port: for ``nccl``, free on this side.
        concurrency: questions under way at a time.
        timeout: of one question or one transfer, s.
        allow_upload: consent to send images and questions to a server that is not on this machine, which a recipe file
            cannot give; MEDGROUND_ALLOW_UPLOAD=host in the environment is another way to give it.
    """
    from medground_vllm.rollout import VllmRollout
    from medground_vllm.server import Http, Server
    from medground_vllm.transfer import Disk, Nccl

    http = Http(base_url, timeout=timeout, allow_upload=allow_upload)
    means = Disk(http, folder) if transfer == "disk" else Nccl(http, master_address, master_port)
    return VllmRollout(Server(http, means, concurrency=concurrency))
