"""The next token of every completion: from states in buffers of fixed size, or from a cache of transformers that grows.

With fixed buffers every token is the same computation at the same addresses. On CUDA it is captured once as a graph and
played for each token, since launching the kernels of one token takes the host far longer than the device takes to run them.

Legend: B rows, Hk heads of keys, L tokens that the buffers have room for, D head size, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from medground_qwen.attention import takes_groups
from medground_qwen.calls import cache_name

ROOM = 512
"""Tokens by which full buffers grow: attention reads all of a buffer, what is empty too."""


def decoding_of(model: Any, cache: Any, mask: Tensor, position: Tensor, copies: int, *, turned: bool, most: int) -> Any:
    """Return what decodes after a pass over prompts: `FixedDecoding` where every layer attends to all tokens before it.

    Args:
        model: a causal language model of transformers.
        cache: of the pass.
        mask: [N, P] int64, 0 where a shorter prompt is padded on the left.
        position: [N] the rotary position of each prompt's last token.
        copies: completions of each prompt.
        turned: whether positions have three axes.
        most: the most tokens that will be decoded.
    """
    plain = takes_groups(model.config) and all(type(layer) is DynamicLayer for layer in cache.layers)
    rows = torch.arange(len(mask), device=mask.device).repeat_interleave(copies)
    given = model, cache, mask[rows], position[rows], rows
    return FixedDecoding(*given, turned=turned, most=most) if plain else GrowingDecoding(*given, turned=turned)


class GrowingDecoding:
    """Decoding with the cache of the prompts' pass, which each token makes longer. Arguments: see `decoding_of`."""

    def __init__(self, model: Any, cache: Any, mask: Tensor, position: Tensor, rows: Tensor, *, turned: bool) -> None:
        self.model, self.cache, self.mask, self.position, self.turned = model, cache, mask, position, turned
        # Every kind of layer can be reordered; only layers of plain attention can be repeated.
        self.cache.reorder_cache(rows)

    def keep(self, rows: Tensor) -> None:
        """Keep some rows [k] int64 alone."""
        self.cache.reorder_cache(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]

    def logits(self, chosen: Tensor) -> Tensor:
        """Return [B, V] of the token after `chosen` [B] int64."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        self.position = self.position + 1
        return _pass(self.model, self.cache, chosen.unsqueeze(1), self.mask, self.position, turned=self.turned)


class FixedDecoding:
    """Decoding with buffers of fixed size. Arguments: see `decoding_of`; the cache is emptied.

    What a graph reads and writes stays where it is; before a token, the host changes it in place.
    """

    def __init__(
        self, model: Any, cache: Any, mask: Tensor, position: Tensor, rows: Tensor, *, turned: bool, most: int
    ) -> None:
        self.model, self.turned = model, turned
        self.length = mask.shape[1]
        self.longest = self.length + most
        hidden = torch.zeros_like(mask, dtype=cache.layers[0].keys.dtype).masked_fill(mask == 0, -torch.inf)
        self.slot = torch.zeros(1, dtype=torch.int64, device=mask.device)
        self.layers: list[FixedStates] = []
        self._lay(cache.layers, rows, hidden, position)

    def keep(self, rows: Tensor) -> None:
        """Keep some rows [k] int64 alone."""
        self._lay(self.layers, rows, self.mask[rows, 0, 0, : self.length], self.position[rows])

    def logits(self, chosen: Tensor) -> Tensor:
        """Return [B, V] of the token after `chosen` [B] int64; the next call may overwrite it."""
        if self.length == self.mask.shape[-1]:
            self.keep(torch.arange(len(chosen), device=chosen.device))
        self.ids.copy_(chosen.unsqueeze(1))
        self.position += 1
        self.slot.fill_(self.length)
        self.mask[..., self.length] = 0
        self.length += 1
        if self.fresh and chosen.device.type == "cuda":
            self.play = captured(self.forward)
        self.fresh = False
        return self.forward() if self.play is None else self.play()

    def forward(self) -> Tensor:
        """Return [B, V]; computing it again changes nothing."""
        return _pass(self.model, self.cache, self.ids, self.mask, self.position, turned=self.turned)

    def _lay(self, layers: list[Any], rows: Tensor, hidden: Tensor, position: Tensor) -> None:
        """Put some rows of the states into new buffers with room for more tokens; the old ones are let go one by one.

        Args:
            layers: with keys and values [B, Hk, at least length, D].
            rows: [k] int64.
            hidden: [k, length] what is added to scores: 0 or -inf.
            position: [k].
        """
        self.play: Callable[[], Tensor] | None = None
        self.fresh = True
        room = min(self.longest, self.length + ROOM)
        room += -room % 16  # kernels want masks of such lengths
        self.ids, self.position = rows.new_zeros(len(rows), 1), position.clone()
        self.mask = torch.nn.functional.pad(hidden, (0, room - self.length), value=-torch.inf)[
            :, None, None
        ].contiguous()
        fixed = []
        for layer in layers:
            states = []
            for name in ("keys", "values"):
                old = getattr(layer, name)
                setattr(layer, name, None)
                buffer = old.new_zeros(len(rows), old.shape[1], room, old.shape[3])
                buffer[:, :, : self.length] = old[rows, :, : self.length]
                states.append(buffer)
            fixed.append(FixedStates(states[0], states[1], self.slot))
        self.layers, self.cache = fixed, Cache(layers=fixed)


class FixedStates(CacheLayerMixin):
    """Keys and values of full attention in buffers.

    Args:
        keys: [B, Hk, L, D].
        values: [B, Hk, L, D].
        slot: [1] int64, where the next token's go.
    """

    is_compileable = is_sliding = False
    keys: Any
    values: Any

    def __init__(self, keys: Tensor, values: Tensor, slot: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.slot, self.is_initialized = keys, values, slot, True

    def lazy_initialization(self, *_: Any) -> None:
        """See `CacheLayerMixin`; no-op."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the states of one token and return the buffers."""
        self.keys.index_copy_(2, self.slot, key_states)
        self.values.index_copy_(2, self.slot, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Fail: a number that the host knows would be the same at every token of a graph."""
        raise NotImplementedError("masks and positions are given with each token")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Fail, as `get_seq_length`."""
        raise NotImplementedError("masks and positions are given with each token")

    def get_max_length(self) -> int:
        """Return the tokens that the buffers have room for."""
        return int(self.keys.shape[2])

    get_max_cache_shape = get_max_length
    """The name until transformers 5.23."""


def captured(step: Callable[[], Tensor]) -> Callable[[], Tensor] | None:
    """Return what plays `step`, computed on CUDA, as a graph; None if it asks the device for a value.

    Args:
        step: what always computes the same from and to the same memory.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), HostReads() as reads:  # a first run, too: libraries make their workspaces in it
        step()
    torch.cuda.current_stream().wait_stream(stream)
    if reads.names:
        return None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = step()

    def play() -> Tensor:
        graph.replay()
        return output

    return play


class HostReads(TorchDispatchMode):
    """Enter to note what is computed that a graph cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        """Operations whose result or its size the host waits for, copies between devices, what is not torch's own."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchDispatchMode`."""
        output = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, output)) if isinstance(leaf, Tensor)]
        copies = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        devices = {tensor.device.type for tensor in tensors if copies or tensor.dim()}
        waits = torch.Tag.data_dependent_output in function.tags or (
            torch.Tag.dynamic_output_shape in function.tags and _sized_by_values(function, tensors)
        )
        if waits or len(devices) > 1 or function.namespace not in ("aten", "prim", "prims"):
            self.names.append(str(function))
        return output


def _sized_by_values(function: Any, tensors: list[Tensor]) -> bool:
    """Whether a result's size depends on values: indexing does it with a mask alone."""
    return function is not torch.ops.aten.index.Tensor or any(tensor.dtype == torch.bool for tensor in tensors[1:])


def _pass(model: Any, cache: Any, ids: Tensor, mask: Tensor, position: Tensor, *, turned: bool) -> Tensor:
    """Return the logits [B, V] after one more token [B, 1] of each row."""
    positions = position.view(1, -1, 1).expand(3, -1, 1) if turned else position.unsqueeze(1)
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, cache_name(model): cache}
    logits: Tensor = model(use_cache=True, **given).logits[:, -1]
    return logits
