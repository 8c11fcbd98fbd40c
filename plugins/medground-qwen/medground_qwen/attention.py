"""Attention of completions after a prompt, in a pass of their own or in the prompt's, and of packed samples.

A pass over completions has fewer queries than keys. transformers masks it with a dense matrix, for which CUDA has no flash
kernel and every key is repeated over the heads of its group. Where nothing but the causal order is to be masked, the
attention here needs no matrix: the last query sees every key, each earlier one a key fewer.

Legend: B rows, H heads, Hk heads of keys, Q queries, N keys, D head size, P prompt tokens, G completions, C tokens of each.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
GROUPED = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"})
"""``model_type`` of models that hand ``grouped`` on to their layers."""


@contextmanager
def any_length() -> Iterator[None]:
    """Enter to have attention computed without cuDNN, which torch prefers on Hopper.

    It plans for up to a second each number of queries and keys that it has not seen, and hardly two prompts are of one length.
    """
    allowed = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(allowed)


def use_own_attention(text_config: Any) -> None:
    """Make a text model's attention know ``packed=lengths`` and ``grouped=(G, C)``; with sdpa, completions without a mask.

    All else is as before, but without cuDNN: see `any_length`.

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


def takes_groups(config: Any) -> bool:
    """Whether a model computes a group as one sequence, with ``grouped=(G, C)``: all its layers attend to all before them."""
    text_config = config.get_text_config()
    own = str(text_config._attn_implementation).startswith(PREFIX)
    layers = getattr(text_config, "layer_types", None) or ()
    return own and config.model_type in GROUPED and all(layer == "full_attention" for layer in layers)


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
        grouped: tuple[int, int] | None = None,
        **rest: Any,
    ) -> tuple[Tensor, Tensor | None]:
        with any_length():
            if packed is not None:
                return packed_attention(query, key, value, packed, scaling), None
            if grouped is not None:
                return grouped_attention(query, key, value, grouped, scaling), None
            table = attention_mask if attention_mask is not None and attention_mask.dim() == 4 else None
            if table is not None and table.shape[-1] == 0:
                return suffix_attention(query, key, value, scaling), None
            if table is not None and query.shape[2] == 1 and self.base != "eager":  # flash kernels take no table
                return token_attention(query, key, value, table, scaling), None
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


def token_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """Return attention of one token to what a mask shows, as ``[B, 1, H, D]``: heads that share a key are its queries.

    Args:
        query: [B, H, 1, D].
        key: [B, Hk, N, D].
        value: [B, Hk, N, D].
        mask: [B, 1, 1, N], bool or added to scores.
        scaling: of the scores; 1/sqrt(D) if None.
    """
    own = query.reshape(len(query), key.shape[1], -1, query.shape[3])
    return scaled_dot_product_attention(own, key, value, mask, scale=scaling).reshape(len(query), 1, query.shape[1], -1)


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, group: tuple[int, int], scaling: float | None
) -> Tensor:
    """Return causal attention of one sequence [prompt | c_1 | ... | c_G], completions apart from one another.

    Args:
        query: [1, H, P + G·C, D].
        key: [1, Hk, P + G·C, D].
        value: [1, Hk, P + G·C, D].
        group: G completions and C, the tokens of each.
        scaling: of the scores; 1/sqrt(D) if None.

    Returns:
        [1, P + G·C, H, D].
    """
    count, longest = group
    length = query.shape[2] - count * longest
    (prompt, own), *states = (_prompt_and_rows(whole, length, count) for whole in (query, key, value))
    own_keys, own_values = (torch.cat([first.expand(count, -1, -1, -1), rows], dim=2) for first, rows in states)
    (keys, _), (values, _) = states
    shared = query.shape[1] != key.shape[1]
    first = scaled_dot_product_attention(prompt, keys, values, is_causal=True, scale=scaling, enable_gqa=shared)
    rest = suffix_attention(own, own_keys, own_values, scaling)
    return torch.cat([first.transpose(1, 2), rest.reshape(1, count * longest, *rest.shape[2:])], dim=1)


def _prompt_and_rows(states: Tensor, length: int, count: int) -> tuple[Tensor, Tensor]:
    """Return the prompt's states [1, H, P, D] and those of the completions [G, H, C, D]."""
    prompt, rows = states[:, :, :length], states[0, :, length:]
    return prompt, rows.unflatten(1, (count, -1)).transpose(0, 1)


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
