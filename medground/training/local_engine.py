"""The engine of one process: parameters where they are, AdamW in float32, everything needed to continue in one file."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medground.training import engine_state


class LocalEngine:
    """See `medground.protocols.Engine`.

    Parameters that are not float32 get a float32 copy that the optimizer works on: at usual learning rates an update is
    smaller than the spacing of bfloat16 numbers and would be lost.
    """

    rank = 0
    world_size = 1
    lockstep = False
    zero_stage = 0
    offload = False

    def __repr__(self) -> str:
        return "LocalEngine()"

    def prepare(
        self,
        policy: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        *,
        max_grad_norm: float,
    ) -> nn.Module:
        """See `Engine.prepare`."""
        self.policy = policy
        self.live = engine_state.trained_parameters(policy)
        self.masters = {
            name: live if live.dtype == torch.float32 else nn.Parameter(live.detach().float())
            for name, live in self.live.items()
        }
        self.max_grad_norm = max_grad_norm if max_grad_norm > 0 else math.inf
        self.optimizer = optimizer(self.masters.values())
        return policy

    def backward(self, loss: Tensor) -> None:
        """See `Engine.backward`."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> float:
        """See `Engine.step`."""
        untouched = all(parameter.grad is None for parameter in self.live.values())
        for name, master in self.masters.items():
            grad = self.live[name].grad
            if untouched:
                # Only groups without a signal: their gradient is zero, and the optimizer steps with it.
                master.grad = torch.zeros_like(master)
            elif grad is not None:
                master.grad = grad.float()
        norm = float(nn.utils.clip_grad_norm_(self.masters.values(), self.max_grad_norm))
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            self._publish()
        self.discard()
        return norm

    def discard(self) -> None:
        """See `Engine.discard`."""
        for parameter in (*self.live.values(), *self.masters.values()):
            parameter.grad = None

    def all_reduce(self, sums: Mapping[str, float]) -> dict[str, float]:
        """See `Engine.all_reduce`."""
        return dict(sums)

    def gather(self, value: Any) -> list[Any]:
        """See `Engine.gather`."""
        return [value]

    def full_parameters(self) -> AbstractContextManager[None]:
        """See `Engine.full_parameters`."""
        return nullcontext()

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Engine.named_weights`."""
        yield from ((name, value.detach()) for name, value in self.policy.state_dict().items())

    def save(self, folder: Path) -> None:
        """See `Engine.save`."""
        parameters = [(f"{engine_state.PARAMETER}/{name}", master) for name, master in self.masters.items()]
        states = [
            (f"{key}/{name}", value)
            for name, master in self.masters.items()
            for key, value in self.optimizer.state.get(master, {}).items()
        ]
        engine_state.write(folder, parameters + states)

    def load(self, folder: Path) -> None:
        """See `Engine.load`."""
        for key, name, value in engine_state.read(folder, self.masters):
            master = self.masters[name]
            if key == engine_state.PARAMETER:
                with torch.no_grad():
                    master.copy_(value)
            else:  # AdamW keeps its step counter on the CPU, its moments beside the parameter
                self.optimizer.state[master][key] = value.to(master.device) if value.dim() else value
        self._publish()

    def shutdown(self) -> None:
        """See `Engine.shutdown`; no-op with one process."""

    @torch.no_grad()
    def _publish(self) -> None:
        for name, live in self.live.items():
            if live is not self.masters[name]:
                live.copy_(self.masters[name])
