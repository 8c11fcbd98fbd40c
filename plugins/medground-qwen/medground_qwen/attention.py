"""Attention of completions after a prompt, and of packed samples.

A pass over completions has fewer queries than keys. transformers masks it with a dense matrix, for which CUDA has no flash
kernel and every key is repeated over the heads of its group. Where nothing but the causal order is to be masked, the
attention here needs no matrix: the last query sees every key, each earlier one a key fewer.

Legend: B rows, H heads, Hk heads of keys, Q queries, N keys, D head size.
"""

import sys
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PREFIX = "medground_"


def use_own_attention(text_config: Any) -> None:
    """Make a text model's attention understand ``packed=lengths`` and, with sdpa, completions without a mask.

    All else is as before.

    Raises:
        ValueError: if the model has dropout in its attention.
    """
    if getattr(text_config, "attention_dropout", 0.0):
        raise ValueError("training needs attention_dropout 0")
    base = text_config._attn_implementation
    if base.startswith(PREFIX):
        return
    AttentionInterface.register(PREFIX + base, _Attention(base))
    mask = ALL_MASK_ATTENTION_FUNCTIONS[base]
    AttentionMaskInterface.register(PREFIX + base, _SuffixMask(mask) if base == "sdpa" else mask)
    text_config._attn_implementation = PREFIX + base


class _SuffixMask:
    """The mask of sdpa; one without columns where the causal order of the last tokens is all there is to mask.

    Not None: what that means, causal or not, each model decides for itself.
    """

    def __init__(self, base: Any) -> None:
        self.base = base

    def __call__(self, **given: Any) -> Tensor | None:
        plain = given["mask_function"] is causal_mask_function and given["attention_mask"] is None
        unmasked = plain and given.get("allow_is_causal_skip", True) and given.get("local_size") is None
        if unmasked and 1 < given["q_length"] < given["kv_length"]:
            return torch.empty(1, 1, given["q_length"], 0, dtype=torch.bool, device=given.get("device"))
        mask: Tensor | None = self.base(**given)
        return mask


class _Attention:
    """The attention function of one base implementation, with the cases of its own on top."""

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
        packed: tuple[int, ...] | None = None,
        **rest: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if packed is not None:
            return packed_attention(query, key, value, packed, scaling), None
        if attention_mask is not None and attention_mask.dim() == 4 and attention_mask.shape[-1] == 0:
            return suffix_attention(query, key, value, scaling), None
        output: tuple[Tensor, Tensor | None] = self._plain(module)(
            module, query, key, value, attention_mask, scaling=scaling, **rest
        )
        return output

    def _plain(self, module: torch.nn.Module) -> Any:
        """Return the base attention; ``eager`` is in no table of transformers: every model's own module has it."""
        registered = ALL_ATTENTION_FUNCTIONS.get(self.base)
        return registered or sys.modules[type(module).__module__].eager_attention_forward


def suffix_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Return causal attention of the last Q of N tokens as ``[B, Q, H, D]``.

    Args:
        query: [B, H, Q, D].
        key: [B, Hk, N, D].
        value: [B, Hk, N, D].
        scaling: of the scores; 1/sqrt(D) if None.
    """
    own = _lower_right if query.device.type == "cuda" else _shared_heads
    return own(query, key, value, scaling).transpose(1, 2).contiguous()


def _lower_right(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Return [B, H, Q, D] by the kernels of CUDA, which know the order and share keys."""
    order = causal_lower_right(query.shape[2], key.shape[2])
    shared = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, order, scale=scaling, enable_gqa=shared)


def _shared_heads(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Return [B, H, Q, D] where no kernel does either: the heads that share a key are rows of their own, over views of it."""
    (rows, heads, queries, size), (_, key_heads, keys, _) = query.shape, key.shape
    own = query.reshape(rows * key_heads, heads // key_heads, queries, size)
    key, value = (states.reshape(len(own), 1, keys, -1).expand(-1, own.shape[1], -1, -1) for states in (key, value))
    order = _order(queries, keys, query.dtype, query.device)
    return scaled_dot_product_attention(own, key, value, order, scale=scaling).reshape(rows, heads, queries, -1)


@lru_cache(maxsize=2)
def _order(queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return [Q, N] what is added to scores, 0 or -inf; all layers of a pass hold the same tensor until its backward."""
    order = torch.full((queries, keys), -torch.inf, dtype=dtype, device=device)
    return order.triu(keys - queries + 1)


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scaling: float | None
) -> Tensor:
    """Return causal attention of concatenated sequences that do not see each other, as ``[1, N, H, D]``."""
    parts = [
        scaled_dot_product_attention(*own, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])
        for own in zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()
