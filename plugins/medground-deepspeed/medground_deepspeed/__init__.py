"""DeepSpeed as the training engine: ZeRO 1, 2 and 3 on as many processes as there are devices."""

from typing import TYPE_CHECKING, Any

from medground.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from medground_deepspeed.engine import ZeroEngine


def deepspeed(
    *,
    stage: int = 2,
    processes: int | None = None,
    offload_optimizer: bool = False,
    shared_memory: bool = True,
    timeout_minutes: float = 60.0,
    config: dict[str, Any] | None = None,
) -> "ZeroEngine":
    """DeepSpeed's ZeRO, over all the processes that were started together.

    Args:
        stage: what ranks share among them: 1 the optimizer's state, 2 the gradients too, 3 the parameters too.
        processes: how many ``medground train`` starts on this machine; with torchrun or DeepSpeed's launcher, None.
        offload_optimizer: keep the optimizer's state in the memory of the host and step there.
        shared_memory: on CPUs, let ranks of one machine talk through an operator that DeepSpeed compiles at its first use,
            which takes a minute or two; without it, or without a compiler, they talk through gloo.
        timeout_minutes: how long a rank waits for the others before it gives up.
        config: further settings in DeepSpeed's own words, laid over ours.
    """
    from medground_deepspeed.engine import ZeroEngine

    return ZeroEngine(
        stage=stage,
        processes=processes,
        offload_optimizer=offload_optimizer,
        shared_memory=shared_memory,
        timeout_minutes=timeout_minutes,
        config=config,
    )


@hookimpl
def register_engines(register: Register) -> None:
    """Offer the engine."""
    register("deepspeed", deepspeed)


@hookimpl
def self_check() -> None:
    """Take one step of ZeRO 2 on a linear layer, in one process."""
    import torch

    engine = deepspeed(stage=2, processes=1, shared_memory=False)
    layer = torch.nn.Linear(4, 1)
    module = engine.prepare(layer, lambda parameters: torch.optim.AdamW(parameters, lr=0.1), max_grad_norm=1.0)
    engine.backward(module(torch.ones(1, 4, device=layer.weight.device)).sum())
    assert engine.step(0.1) > 0
    engine.shutdown()
