"""Count FLOPs by part, images, tokens, and the peak of allocated memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


@dataclass(slots=True)
class Flops:
    """Floating-point operations of the forward and backward pass, two per multiply-add, in three parts."""

    linear: int = 0
    """Matrix products and convolutions of language model and vision tower."""
    attention: int = 0
    """Scores and sums over every key of the rectangle that the kernel is given."""
    visible: int = 0
    """The same over the keys a query may see: what causal attention needs."""
    head: int = 0
    """The vocabulary projection, as executed: recomputation in the backward pass included."""

    def body(self, *, visible: bool = False) -> int:
        """All but the head."""
        return self.linear + (self.visible if visible else self.attention)


class FlopCount(FlopCounterMode):
    """torch's FLOP counter with its blind spots filled and recomputation left out.

    - In-place ``addmm_``, which TRL's fused head accumulates its gradients with, is unknown to torch 2.15 and counts as 0
      there; it is counted here.
    - The backward pass of fused attention recomputes the scores; torch counts five products, here four.
    - torch counts attention over the whole rectangle; here also over the visible keys, read off the actual mask.

    Args:
        vocabulary: rows of the head.
        hidden: its columns; a product with both sides is the head's.
    """

    def __init__(self, vocabulary: int, hidden: int) -> None:
        self.flops = Flops()
        self.sides = {vocabulary, hidden}
        formulas: dict[Any, Callable[..., int]] = {
            aten.mm: lambda a, b, **_: self._product(a, b),
            aten.addmm: lambda _, a, b, **__: self._product(a, b),
            aten.addmm_: lambda _, a, b, **__: self._product(a, b),
        }
        fused = "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention"
        for name in fused:
            formulas[getattr(aten, name)] = _raw(self._forward)
            formulas[getattr(aten, f"{name}_backward")] = _raw(self._backward)
        super().__init__(display=False, custom_mapping=formulas)

    def __exit__(self, *error: Any) -> Any:
        out = super().__exit__(*error)
        rest = self.get_total_flops() - self.flops.linear - self.flops.attention - self.flops.head
        self.flops.linear += rest  # convolutions and batched products, which torch counts rightly
        return out

    def _product(self, a: torch.Size, b: torch.Size) -> int:
        count = 2 * a[0] * a[1] * b[1]
        if self.sides <= {a[0], a[1], b[1]}:
            self.flops.head += count
        else:
            self.flops.linear += count
        return count

    def _forward(self, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> int:
        return self._attention(2, query, key, rest, named)

    def _backward(self, grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> int:
        return self._attention(4, query, key, [given for given in rest if not isinstance(given, Tensor)], named)

    def _attention(self, products: int, query: Tensor, key: Tensor, rest: Any, named: dict[str, Any]) -> int:
        batch, heads, queries, size = query.shape
        keys = key.shape[2]
        causal = named.get("is_causal", next((given for given in rest if isinstance(given, bool)), False))
        mask = named.get("attn_mask")
        pairs = batch * queries * keys
        seen = pairs
        if mask is not None:
            allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
            one = allowed.reshape((1,) * (4 - allowed.dim()) + allowed.shape)[:, :1]
            seen = int(one.sum()) * pairs // one.numel()
        elif causal:
            seen = batch * (queries * (queries + 1) // 2)
        count = 2 * products * heads * size * pairs
        self.flops.attention += count
        self.flops.visible += 2 * products * heads * size * seen
        return count


def _raw(formula: Callable[..., int]) -> Callable[..., int]:
    def given(*args: Any, out_val: Any = None, **named: Any) -> int:
        return formula(*args, **named)

    given._get_raw = True  # type: ignore[attr-defined]  # torch then hands over tensors instead of shapes
    return given


@dataclass(slots=True)
class Seen:
    """What went through the model."""

    images: int = 0
    tokens: int = 0
    """Through the first layer of the language model."""
    prefilled: int = 0
    """Of these, in passes of more than one token a row: not decoding."""


@contextmanager
def watched(model: Any) -> Iterator[Seen]:
    """Count images at the vision tower and tokens at the first layer of the language model."""
    seen = Seen()

    def tower(_: Any, args: Any, named: dict[str, Any]) -> None:
        grid = named.get("grid_thw", args[1] if len(args) > 1 else None)
        seen.images += len(grid)

    def layer(_: Any, args: Any, named: dict[str, Any]) -> None:
        rows, tokens = (args[0] if args else named["hidden_states"]).shape[:2]
        seen.tokens += rows * tokens
        seen.prefilled += rows * tokens if tokens > 1 else 0

    hooks = [
        model.model.visual.register_forward_pre_hook(tower, with_kwargs=True),
        model.model.language_model.layers[0].register_forward_pre_hook(layer, with_kwargs=True),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def peak_memory(work: Callable[[], Any]) -> int:
    """The most bytes that `work` held at a time, above what was held before: from the allocator's own events, CPU."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    held = peak = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
