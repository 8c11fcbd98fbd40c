"""The policy's weights as a released checkpoint has them: its names, and LoRA merged into what it adapts."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

PREFIX = "model."
"""The policy module keeps the model in its attribute ``model``."""
BASE, DOWN, UP = ".base_layer.weight", ".lora_A.", ".lora_B."
"""The three parts of an adapted weight, as peft names them."""


def checkpoint_weights(policy: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Rename and merge a stream of the policy's full tensors; each is held only until the rest of its adapter has come.

    An adapted weight becomes ``W + scale * B @ A``, computed in float32 and rounded once to the dtype of W.

    Args:
        policy: knows the scale of each adapter; its own tensors are not read.
        weights: (name in the policy, full tensor), every parameter of the policy; a tensor may be gone once the next is
            drawn, as one that was gathered from several processes is.

    Raises:
        ValueError: if an adapter is not one plain LoRA, or not whole.
    """
    scales = {
        name.removeprefix(PREFIX): _scale(name, module.scaling)
        for name, module in policy.named_modules()
        if hasattr(module, "lora_A")
    }
    waiting: dict[str, dict[str, Tensor]] = {}
    for full, tensor in weights:
        name = full.removeprefix(PREFIX)
        kind = next((known for known in (BASE, DOWN, UP) if known in name), None)
        if kind is None:
            if ".lora_" in name:
                raise ValueError(f"{name} is more than a plain LoRA, which cannot be merged here")
            yield name.replace(".base_layer.", "."), tensor
            continue
        module = name.partition(kind)[0]
        tensors = waiting.setdefault(module, {})
        tensors[kind] = tensor.clone()
        if len(tensors) == 3:
            yield f"{module}.weight", _merged(waiting.pop(module), scales[module])
    if waiting:
        raise ValueError(f"the adapter of {next(iter(waiting))} is not whole")


def _scale(name: str, scaling: dict[str, float]) -> float:
    if len(scaling) != 1:
        raise ValueError(f"{name} carries {len(scaling)} adapters, only one can be merged")
    return next(iter(scaling.values()))


@torch.no_grad()
def _merged(tensors: dict[str, Tensor], scale: float) -> Tensor:
    base = tensors[BASE]
    return (base.float() + scale * (tensors[UP].float() @ tensors[DOWN].float())).to(base.dtype)
