"""The engine: see `medground.protocols.Engine`. All calls of DeepSpeed are here."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medground.errors import RecipeError
from medground.training import engine_state
from medground_deepspeed.connecting import connect, disconnect, lost_ranks
from medground_deepspeed.settings import settings

STEP = "step"
"""The optimizer's counter, one number for all parameters."""


class ZeroEngine:
    """ZeRO over all ranks; the arguments are those of `medground_deepspeed.deepspeed`.

    Losses come divided by the global denominator, and DeepSpeed averages gradients over ranks, so they are multiplied by
    the number of ranks: sums over ranks are what is wanted. The caller owns the boundary: gradients add up until `step`.
    """

    lockstep = True

    def __init__(
        self,
        *,
        stage: int,
        processes: int | None,
        offload_optimizer: bool,
        shared_memory: bool,
        timeout_minutes: float,
        config: Mapping[str, Any] | None,
    ) -> None:
        if stage not in (1, 2, 3):
            raise RecipeError(f"engine.stage is {stage!r}", hint="ZeRO has the stages 1, 2 and 3")
        self.zero_stage, self.offload, self.config = stage, offload_optimizer, dict(config or {})
        self.rank, self.world_size = connect(
            processes=processes, shared_memory=shared_memory, timeout_minutes=timeout_minutes
        )
        self._backwards = 0
        self._discarding = False

    def prepare(
        self,
        policy: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        *,
        max_grad_norm: float,
    ) -> nn.Module:
        """See `Engine.prepare`."""
        import deepspeed

        self.policy = policy
        self.live = engine_state.trained_parameters(policy)
        bf16 = any(parameter.dtype == torch.bfloat16 for parameter in policy.parameters())
        self.optimizer = optimizer(self.live.values())
        self.optimizer.step = _SkippableStep(self.optimizer.step, self)  # type: ignore[method-assign]
        exact = {name: value.clone() for name, value in policy.named_buffers() if value.dtype == torch.float32}
        config = settings(
            stage=self.zero_stage,
            bf16=bf16,
            clip=max_grad_norm,
            offload=self.offload,
            ranks=self.world_size,
            own=self.config,
        )
        with lost_ranks():
            self.engine, *_ = deepspeed.initialize(
                model=policy, optimizer=self.optimizer, config=config, dist_init_required=False
            )
        for name, value in policy.named_buffers():
            if name in exact:  # DeepSpeed rounds them too, and rotary frequencies must stay exact
                value.data = exact[name].to(value.device)
        self.zero = self.engine.optimizer
        for parameter in getattr(policy, "unsharded", ()) if self.zero_stage == 3 else ():
            if not parameter.ds_persist:
                parameter.ds_persist = True
                self.zero.persistent_parameters.append(parameter)
        return self.engine  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """See `Engine.backward`."""
        with lost_ranks():
            self.engine.backward(loss * self.world_size, scale_wrt_gas=False)
        self._backwards += 1

    def step(self, learning_rate: float) -> float:
        """See `Engine.step`; DeepSpeed itself leaves out the update where a gradient is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with lost_ranks():
            self.engine.step()
        self._backwards = 0
        return math.inf if self.zero.overflow else float(self.engine.get_global_grad_norm())

    def discard(self) -> None:
        """See `Engine.discard`: a step in which the optimizer does nothing, which clears what every stage holds."""
        if not self._backwards:
            return
        self._discarding = True
        try:
            self.step(0.0)
        finally:
            self._discarding = False

    def all_reduce(self, sums: Mapping[str, float]) -> dict[str, float]:
        """See `Engine.all_reduce`; in float64."""
        import torch.distributed as dist

        device = self._device()
        values = torch.tensor(list(sums.values()), dtype=torch.float64, device=device)
        with lost_ranks():
            dist.all_reduce(values)
        return dict(zip(sums, values.tolist(), strict=True))

    def gather(self, value: Any) -> list[Any]:
        """See `Engine.gather`."""
        import torch.distributed as dist

        values: list[Any] = [None] * self.world_size
        with lost_ranks():
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def full_parameters(self) -> Iterator[None]:
        """See `Engine.full_parameters`; under ZeRO 3 the hooks that gather module by module are removed meanwhile."""
        if self.zero_stage < 3:
            yield
            return
        import deepspeed
        from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

        sharing = self.zero.parameter_offload
        with deepspeed.zero.GatheredParameters(list(self.policy.parameters())):
            sharing._remove_module_hooks()
            sharing.forward_hooks, sharing.backward_hooks = [], []
            try:
                yield
            finally:
                FWD_MODULE_STACK.pop()  # setting up puts the root there again
                sharing.setup_zero_stage3_hooks()

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Engine.named_weights`; under ZeRO 3 gathered one by one."""
        import deepspeed

        parameters = dict(self.policy.named_parameters(remove_duplicate=False))
        for name, value in self.policy.state_dict().items():
            if name in parameters:
                with deepspeed.zero.GatheredParameters([parameters[name]], enabled=self.zero_stage == 3):
                    yield name, parameters[name].detach()
            else:
                yield name, value

    def save(self, folder: Path) -> None:
        """See `Engine.save`: gathered tensor by tensor, written by the first rank."""
        if self.rank == 0:
            engine_state.write(folder, self._state())
        else:
            for _ in self._state():
                pass

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every trained parameter and its optimizer state, whole, on every rank in the same order."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        for name, parameter in self.live.items():
            yield f"{engine_state.PARAMETER}/{name}", safe_get_full_fp32_param(parameter)
        states = list(self.optimizer.state.values())
        keys = [key for key, value in (states[0].items() if states else ()) if key != STEP and torch.is_tensor(value)]
        for name, parameter in self.live.items():
            for key in keys:
                yield f"{key}/{name}", safe_get_full_optimizer_state(parameter, key)
            if STEP in (states[0] if states else ()):
                yield f"{STEP}/{name}", torch.as_tensor(states[0][STEP]).clone()

    def load(self, folder: Path) -> None:
        """See `Engine.load`."""
        import deepspeed
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        allocated = False
        for key, name, value in engine_state.read(folder, self.live):
            parameter = self.live[name]
            if key == STEP:
                for state in self.optimizer.state.values():
                    state[STEP] = value.clone()
                continue
            value = value.to(self._device())
            if key == engine_state.PARAMETER:
                safe_set_full_fp32_param(parameter, value)
                with torch.no_grad(), deepspeed.zero.GatheredParameters([parameter], 0, enabled=self.zero_stage == 3):
                    parameter.data.copy_(value)
                continue
            if not allocated:
                self._allocate_moments()
                allocated = True
            safe_set_full_optimizer_state(parameter, value, key)

    def _allocate_moments(self) -> None:
        """Allocate moments of zero for every shard, as AdamW does at its first step, so that saved ones can be copied in."""
        shards = (
            self.zero.fp32_partitioned_groups_flat
            if self.zero_stage == 3
            else self.zero.single_partition_of_fp32_groups
        )
        for shard in shards:
            if not self.optimizer.state[shard]:
                self.optimizer.state[shard] = {
                    STEP: torch.zeros(()),
                    "exp_avg": torch.zeros_like(shard),
                    "exp_avg_sq": torch.zeros_like(shard),
                }
        if self.zero_stage < 3:
            self.zero._lazy_init_hp_params_optimizer_state()

    def shutdown(self) -> None:
        """See `Engine.shutdown`: in this order, with barriers between, ZeRO 3 does not abort on its way out."""
        import torch.distributed as dist

        with lost_ranks():
            dist.barrier()
            self.engine.destroy()
            disconnect()

    def _device(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class _SkippableStep:
    """The optimizer's step, skipped while its engine discards."""

    def __init__(self, step: Callable[..., Any], engine: ZeroEngine) -> None:
        self.step, self.engine = step, engine

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return None if self.engine._discarding else self.step(*args, **kwargs)
