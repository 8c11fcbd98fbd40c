"""The states of a prompt, computed once with gradient and read by any number of completions.

`PromptStates` is given to a forward pass as its cache and remembers what each layer hands over. ``states.branch(n)`` is the
cache of n completions, ``states.go_on()`` that of more of the prompt, which remembers in its turn. Nothing is changed in
place, and a layer that is computed again gets the same again, so it is safe for autograd and for gradient checkpointing.
transformers' own caches are not: linear attention writes into a state that autograd still needs, and a checkpointed layer is
appended twice.

A branch remembers nothing. No loss needs the state after a completion's last token, so no backward pass would free its
graph, whose checkpoints hold the branch: a cycle through autograd, which Python cannot collect.

Legend: B rows, n completions, H heads, S tokens, D head size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, cache_utils
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionCacheLayerMixin
from transformers.modeling_layers import GradientCheckpointingLayer

DUMMY: Any = getattr(cache_utils, "DummyLayer", ())
"""A layer that reads another layer's keys; transformers before 5.18 has none."""


class AttentionStates(CacheLayerMixin):
    """Keys and values of full or sliding attention, and an indexer's keys where a model has them.

    Args:
        window: tokens that sliding attention sees; None for full attention.
        past: keys and values [B, H, S, D] before this pass.
        seen: tokens before this pass.
        indexed: an indexer's keys before this pass.
        positions: an indexer's positions before this pass.
        remembers: whether the states after this pass are wanted: a completion's are not.
    """

    is_compileable = False

    def __init__(
        self,
        window: int | None = None,
        past: tuple[Tensor, Tensor] | None = None,
        seen: int = 0,
        indexed: Tensor | None = None,
        positions: Tensor | None = None,
        remembers: bool = True,
    ) -> None:
        super().__init__()
        self.remembers = remembers
        self.sliding_window, self.past, self.seen = window, past, seen
        self.is_sliding, self.is_initialized = window is not None, past is not None
        self.own: tuple[Tensor, Tensor] | None = None
        self.filled, self.total = False, seen
        """Whether a pass has handed over its states, and the tokens after it."""
        self.indexed, self.own_indexed = indexed, None
        self.indexer_position_ids = positions

    def lazy_initialization(self, *_: Any) -> None:
        """See `CacheLayerMixin`; no-op."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return keys and values of past and new tokens; a prompt's are remembered at the first call of its pass."""
        self.filled, new = True, key_states.shape[-2]
        if self.past is not None:
            key_states = torch.cat([self.past[0], key_states], dim=-2)
            value_states = torch.cat([self.past[1], value_states], dim=-2)
        if self.remembers and self.own is None:
            start = 0 if self.sliding_window is None else max(0, key_states.shape[-2] - self.sliding_window + 1)
            self.own, self.total = (key_states[..., start:, :], value_states[..., start:, :]), self.seen + new
        return key_states, value_states

    def update_indexer(self, keys: Tensor) -> Tensor:
        """Return an indexer's keys of past and new tokens."""
        if self.indexed is not None:
            keys = torch.cat([self.indexed, keys], dim=1)
        if self.remembers and self.own_indexed is None:
            self.own_indexed = keys
        return keys

    def get_seq_length(self) -> int:
        """Return the tokens before this pass, however often a layer asks during it."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of keys and the position of the first."""
        past_length = 0 if self.past is None else self.past[0].shape[-2]
        return past_length + query_length, self.seen - past_length

    def get_max_length(self) -> int:
        """Return the window, -1 without one."""
        return -1 if self.sliding_window is None else self.sliding_window

    get_max_cache_shape = get_max_length
    """The name until transformers 5.23."""

    def branch(self, count: int, *, remembers: bool = False) -> "AttentionStates":
        """Return the states for `count` rows after each row."""
        return AttentionStates(
            self.sliding_window,
            None if self.own is None else (_copies(self.own[0], count), _copies(self.own[1], count)),
            self.total,
            None if self.own_indexed is None else _copies(self.own_indexed, count),
            None if self.indexer_position_ids is None else self.indexer_position_ids.repeat_interleave(count, 1),
            remembers,
        )

    def cut(self, leaf: "Leaves") -> None:
        """Put leaves in the place of the keys and values; an indexer's keys choose tokens and have no gradient."""
        if self.own is not None:
            self.own = (leaf(self.own[0]), leaf(self.own[1]))


class LinearStates(LinearAttentionCacheLayerMixin):
    """Convolution and recurrent states of linear attention, gated delta nets and short convolutions.

    Args:
        number_of_states: of each kind.
        conv: index of the state -> convolution state before this pass.
        recurrent: the same for recurrent states.
        remembers: see `AttentionStates`.
    """

    def __init__(
        self,
        number_of_states: int = 1,
        conv: dict[int, Tensor] | None = None,
        recurrent: dict[int, Tensor] | None = None,
        remembers: bool = True,
    ) -> None:
        super().__init__(number_of_states)
        self.remembers = remembers
        self.record_past = True  # models then leave out the one-token step that changes the state in place
        self.own_conv: dict[int, Tensor] = {}
        self.own_recurrent: dict[int, Tensor] = {}
        self.filled = False
        """Whether a pass has handed over its states."""
        if conv is not None and recurrent is not None:
            self.conv_states.update(conv)
            self.recurrent_states.update(recurrent)
            self.has_previous_state.update(dict.fromkeys(conv, True))

    def lazy_initialization(self, **_: Any) -> None:
        """See `LinearAttentionCacheLayerMixin`; no-op."""

    def update_conv_state(
        self, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **_: Any
    ) -> Tensor:
        """Return the inputs of the convolution, past and new, at least as many as its kernel is wide."""
        size = conv_kernel_size or conv_states.shape[-1]
        past = self.conv_states.get(state_idx)
        whole = conv_states if past is None else torch.cat([past, conv_states], dim=-1)
        if whole.shape[-1] < size:
            whole = pad(whole, (size - whole.shape[-1], 0))
        self.filled = True
        if self.remembers:
            self.own_conv.setdefault(state_idx, whole[..., -size:])
        return whole

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **_: Any) -> Tensor:
        """Return the new state as it is; a prompt's first of a pass is remembered."""
        self.filled = True
        if self.remembers:
            self.own_recurrent.setdefault(state_idx, recurrent_states)
        return recurrent_states

    def branch(self, count: int, *, remembers: bool = False) -> "LinearStates":
        """Return the states for `count` rows after each row."""
        conv, recurrent = (
            {index: _copies(state, count) for index, state in states.items()}
            for states in (self.own_conv, self.own_recurrent)
        )
        return LinearStates(self.number_of_states, conv, recurrent, remembers)

    def cut(self, leaf: "Leaves") -> None:
        """Put leaves in the place of the states."""
        for states in (self.own_conv, self.own_recurrent):
            states.update({index: leaf(state) for index, state in states.items()})


class PromptStates(Cache):
    """The cache of one pass, and what the next passes need of it."""

    @classmethod
    def of(cls, text_config: Any) -> "PromptStates":
        """Return an empty one for a text model.

        Raises:
            ValueError: if a layer has attention and a linear state side by side, which cannot be branched yet.
        """
        return cls(layers=[_own(layer) for layer in DynamicCache(config=text_config).layers])

    def branch(self, count: int) -> "PromptStates":
        """Return the cache of `count` completions; any number of branches of a prompt may be taken and run backward."""
        return PromptStates(layers=[layer if is_dummy(layer) else layer.branch(count) for layer in self.layers])

    def go_on(self) -> "PromptStates":
        """Return the cache of one prompt that goes on after these tokens; it can be branched and cut as one from its start."""
        return PromptStates(
            layers=[layer if is_dummy(layer) else layer.branch(1, remembers=True) for layer in self.layers]
        )

    @property
    def is_initialized(self) -> bool:
        """Whether there are tokens before this pass."""
        return any(getattr(layer, "past", None) is not None for layer in self.layers)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Return the tokens before this pass."""
        return int(self.get_seq_length(layer_idx))

    def check_filled(self) -> None:
        """Stop if a layer was computed without this cache: then completions were computed without their prompt.

        Raises:
            RuntimeError: naming the layer.
        """
        for index, layer in enumerate(self.layers):
            if not is_dummy(layer) and not layer.filled:
                raise RuntimeError(f"layer {index} was computed without the cache that it was given")

    def cut(self) -> "Leaves":
        """Put leaves in the place of the states; they collect the gradient of any number of branches."""
        leaves = Leaves()
        for layer in self.layers:
            if not is_dummy(layer):
                layer.cut(leaves)
        return leaves


class Leaves:
    """States with their graph, and the leaves that stand in their place."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def __call__(self, state: Tensor) -> Tensor:
        """Return a leaf in the place of a state; a state without a graph stays itself."""
        if not state.requires_grad:
            return state
        leaf = state.detach().requires_grad_()
        self.pairs.append((state, leaf))
        return leaf

    def backward(self) -> None:
        """Send the gradients that the leaves have collected through the graph of the states."""
        collected = [(state, leaf.grad) for state, leaf in self.pairs if leaf.grad is not None]
        if collected:
            states, gradients = zip(*collected, strict=True)
            torch.autograd.backward(states, gradients)


@dataclass(frozen=True, slots=True, eq=False)
class ComputedPrompt:
    """A prompt after its pass."""

    last: Tensor
    """[1, 1, H]: the state of its last token, which predicts every first token."""
    states: PromptStates

    def cut(self) -> "tuple[ComputedPrompt, Leaves]":
        """Return the same over leaves, and the leaves."""
        leaves = self.states.cut()
        return ComputedPrompt(leaves(self.last), self.states), leaves


@contextmanager
def cached_checkpoints(model: Any) -> Iterator[None]:
    """Let checkpointed layers keep the cache they are given.

    transformers takes it away from them with one warning, and the tokens after the prompt are then computed without it.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer._can_checkpoint_with_cache = True
    try:
        yield
    finally:
        for layer in layers:
            del layer._can_checkpoint_with_cache


def _copies(states: Tensor, count: int) -> Tensor:
    """Return each row `count` times; a view where there is one row."""
    if states.shape[0] == 1:
        return states.expand(count, *states.shape[1:])
    return states.repeat_interleave(count, 0)


def is_dummy(layer: Any) -> bool:
    """Return True for a layer that reads another layer's keys and has no states of its own."""
    return isinstance(layer, DUMMY)


def _own(layer: Any) -> Any:
    if is_dummy(layer):
        return layer
    linear, attention = isinstance(layer, LinearAttentionCacheLayerMixin), isinstance(layer, CacheLayerMixin)
    if linear and attention:
        raise ValueError("a layer has attention and a linear state side by side, whose prompt cannot be shared")
    return LinearStates(layer.number_of_states) if linear else AttentionStates(getattr(layer, "sliding_window", None))
