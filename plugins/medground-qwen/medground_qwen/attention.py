"""Attention over a group that shares its prompt: one sequence ``[prompt | c_1 | ... | c_G]`` instead of G rows.

Legend: B batch (1), H heads, P prompt tokens, G completions, C tokens of the longest, D head size, N = P + G·C.

The prompt attends to itself causally; every completion attends to the prompt and, causally, to itself, never to its
siblings. All other layers are position-wise, so the image and the prompt are computed once per group. The idea for text
is PrefixGrouper's (arXiv 2506.05433).
"""

import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def use_shared_attention(text_config: Any) -> None:
    """Make a text model's attention understand ``shared_prompt=P, shared_group=G`` and ``packed=lengths``.

    Without them it is as before.

    Raises:
        ValueError: if the model has dropout in its attention or sliding windows, which sharing does not model.
    """
    if getattr(text_config, "attention_dropout", 0.0):
        raise ValueError("a shared prompt needs attention_dropout 0")
    if any(kind != "full_attention" for kind in getattr(text_config, "layer_types", None) or ()):
        raise ValueError("a shared prompt needs full attention in every layer, this model has sliding windows")
    base = text_config._attn_implementation
    if base.startswith("medground_shared_"):
        return
    name = f"medground_shared_{base}"
    AttentionInterface.register(name, _Shared(base))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    text_config._attn_implementation = name


class _Shared:
    """The attention function of one base implementation, with the shared case on top."""

    def __init__(self, base: str) -> None:
        self.base = base

    def __call__(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        shared_prompt: int | None = None,
        shared_group: int = 1,
        packed: tuple[int, ...] | None = None,
        **rest: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if packed is not None:
            return packed_attention(query, key, value, packed, scaling), None
        if shared_prompt is None:
            return self._plain(module)(module, query, key, value, attention_mask, scaling=scaling, **rest)
        return shared_attention(query, key, value, shared_prompt, shared_group, scaling), None

    def _plain(self, module: torch.nn.Module) -> Any:
        """Return the base attention; ``eager`` is in no table of transformers: every model's own module has it."""
        registered = ALL_ATTENTION_FUNCTIONS.get(self.base)
        return registered or sys.modules[type(module).__module__].eager_attention_forward


def shared_attention(
    query: Tensor, key: Tensor, value: Tensor, prompt: int, group: int, scaling: float | None
) -> Tensor:
    """Return attention of one group, ``[1, H, N, D]`` queries and ``[1, Hk, N, D]`` keys and values, as ``[1, N, H, D]``."""
    own = scaled_dot_product_attention(
        query[:, :, :prompt],
        key[:, :, :prompt],
        value[:, :, :prompt],
        is_causal=True,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    tokens = (query.shape[2] - prompt) // group
    if tokens == 0:
        return own.transpose(1, 2).contiguous()
    suffix = scaled_dot_product_attention(
        _fold(query, prompt, group),
        torch.cat([_spread(key, prompt, group), _fold(key, prompt, group)], dim=2),
        torch.cat([_spread(value, prompt, group), _fold(value, prompt, group)], dim=2),
        attn_mask=_lower_right(tokens, prompt + tokens, query.device),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    heads, size = suffix.shape[1], suffix.shape[3]
    suffix = suffix.transpose(0, 1).reshape(1, heads, group * tokens, size)
    return torch.cat([own, suffix], dim=2).transpose(1, 2).contiguous()


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scaling: float | None
) -> Tensor:
    """Return causal attention of concatenated sequences that do not see each other, as ``[1, N, H, D]``."""
    parts = [
        scaled_dot_product_attention(*own, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
        for own in zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


def _lower_right(queries: int, keys: int, device: torch.device) -> Tensor:
    """Return the keys that each of the last `queries` tokens sees, [queries, keys]."""
    if device.type == "cpu":
        # What causal_lower_right becomes there anyway; as a plain tensor, torch's dispatch modes (its FLOP counter) take it.
        return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return causal_lower_right(queries, keys)


def _fold(states: Tensor, prompt: int, group: int) -> Tensor:
    """Return the completions' states [1, H, G·C, D] with the group as batch, [G, H, C, D]."""
    _, heads, length, size = states.shape
    return states[0, :, prompt:].reshape(heads, group, (length - prompt) // group, size).transpose(0, 1)


def _spread(states: Tensor, prompt: int, group: int) -> Tensor:
    """Return the prompt's states [1, H, P, D] seen from every completion, [G, H, P, D], without a copy."""
    return states[:, :, :prompt].expand(group, -1, -1, -1)
