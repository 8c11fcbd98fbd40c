"""One image, its questions, their completions: a tree whose trunk is computed once.

Prompts about one image begin alike: with the words of the chat template, the image, and what the questions have in common.
The trunk is these tokens; a question's states go on from the trunk's, its completions branch off the question's.

Legend: N prompts, P tokens of the longest, V vocabulary, D head size.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad as padded
from transformers import DynamicCache

from medground_qwen.attention import any_length
from medground_qwen.calls import cache_name
from medground_qwen.families import picture_ids
from medground_qwen.prompts import Prompt, left_padded
from medground_qwen.states import LinearStates, PromptStates, cached_checkpoints, is_dummy


@dataclass(frozen=True, slots=True, eq=False)
class Trunk:
    """What prompts about one image begin with, after its pass."""

    length: int
    """Tokens, those of the image among them."""
    states: PromptStates


@dataclass(frozen=True, slots=True, eq=False)
class Prefilled:
    """N prompts of unequal length after their pass."""

    logits: Tensor
    """[N, V] of the first token after each."""
    cache: Any
    """A cache of transformers with a row for each prompt, shorter ones padded on the left."""
    mask: Tensor
    """[N, P]: 1 where a prompt's tokens are."""
    last: Tensor
    """[N] the last position of each."""


def trunk_length(prompts: Sequence[Prompt], pictures: Collection[int]) -> int:
    """Return how many tokens all prompts begin with, never a whole prompt; 0 if they cannot share their image.

    Args:
        prompts: of one model.
        pictures: ids of the tokens that stand for an image: all of them must be in the trunk.
    """
    first, *others = prompts
    if not first.layout.image_alone or not all(same_image(first, other) for other in others):
        return 0
    shortest = min(map(len, prompts)) - 1
    alike = torch.ones(shortest, dtype=torch.bool, device=first.ids.device)
    for other in others:
        for own, its in zip(_columns(first), _columns(other), strict=True):
            alike &= (own[..., :shortest] == its[..., :shortest]).reshape(-1, shortest).all(dim=0)
    length = int(alike.long().cumprod(dim=0).sum())
    marks = torch.tensor(sorted(pictures), device=first.ids.device)
    for prompt in prompts:
        kinds = any(bool(column[length:].any()) for column in prompt.per_token.values())
        if kinds or bool(torch.isin(prompt.ids[length:], marks).any()):
            return 0
    return length


def pass_over(net: Any, states: PromptStates, **given: Any) -> Any:
    """Return the output of a pass that fills `states`, checkpointed layers included."""
    with cached_checkpoints(net), any_length():
        out = net(**{cache_name(net): states}, use_cache=False, **given)
    states.check_filled()
    return out


def trunk_of(net: Any, text_config: Any, prompt: Prompt, length: int) -> Trunk:
    """Return the first `length` tokens of a prompt and its image after their pass through `net`."""
    states = PromptStates.of(text_config)
    pass_over(net, states, **_beginning(prompt, length))
    return Trunk(length, states)


def prompt_pass(net: Any, text_config: Any, prompt: Prompt, trunk: Trunk | None = None, **given: Any) -> Any:
    """Return the output of `net` over a prompt, or over what of it comes after its trunk, and its states."""
    if trunk is None:
        states = PromptStates.of(text_config)
        return pass_over(net, states, **_beginning(prompt, len(prompt)), **given), states
    states = trunk.states.go_on()
    rest = {"input_ids": prompt.ids[None, trunk.length :]}
    if prompt.positions is not None:
        rest["position_ids"] = prompt.positions[:, None, trunk.length :]
    return pass_over(net, states, **rest, **text_kinds(net, prompt, rest["input_ids"]), **given), states


def text_kinds(net: Any, prompt: Prompt, ids: Tensor) -> dict[str, Tensor]:
    """Return what Molmo2 wants to know of text tokens in training mode: that they are none of an image."""
    wanted = "mm_token_type_ids" in prompt.per_token and net.training
    return {"mm_token_type_ids": torch.zeros_like(ids)} if wanted else {}


def prefilled(model: Any, prompts: Sequence[Prompt], pad: int) -> Prefilled:
    """Return prompts after their pass: together, or as trees where several are about one image.

    Args:
        model: a causal language model of transformers with images.
        prompts: on its device.
        pad: the id of a padding token.
    """
    trees = _trees(prompts, picture_ids(model.config))
    if len(trees) == len(prompts):
        inputs, mask, last = left_padded(prompts, pad)
        out = model(**inputs, attention_mask=mask, use_cache=True, logits_to_keep=1)
        return Prefilled(out.logits[:, -1], out[cache_name(model)], mask, last)
    text_config = model.config.get_text_config()
    computed: dict[int, tuple[Tensor, PromptStates]] = {}
    for indices, length in trees:
        trunk = trunk_of(model.model, text_config, prompts[indices[0]], length) if length else None
        for index in indices:
            out, states = prompt_pass(model, text_config, prompts[index], trunk, logits_to_keep=1)
            computed[index] = out.logits[:, -1], states
    lengths = [len(prompt) for prompt in prompts]
    ends = [len(one) - 1 if one.positions is None else int(one.positions.max()) for one in prompts]
    mask = torch.stack([padded(torch.ones_like(one.ids), (max(lengths) - len(one), 0)) for one in prompts])
    last = torch.tensor(ends, device=mask.device)
    logits, all_states = zip(*(computed[index] for index in range(len(prompts))), strict=True)
    return Prefilled(torch.cat(logits), _joined(all_states, max(lengths), text_config), mask, last)


def _trees(prompts: Sequence[Prompt], pictures: Collection[int]) -> list[tuple[list[int], int]]:
    """Return the prompts of each image and the length of their trunk; a prompt without one is alone, with length 0."""
    images: list[list[int]] = []
    for index, prompt in enumerate(prompts):
        own = next((indices for indices in images if same_image(prompts[indices[0]], prompt)), None)
        if own is None:
            images.append([index])
        else:
            own.append(index)
    trees: list[tuple[list[int], int]] = []
    for indices in images:
        length = trunk_length([prompts[index] for index in indices], pictures) if len(indices) > 1 else 0
        trees += [(indices, length)] if length else [([index], 0) for index in indices]
    return trees


def same_image(one: Prompt, other: Prompt) -> bool:
    """Return True if the vision tower is given the same for both."""
    return one.image.keys() == other.image.keys() and all(
        pixels is other.image[key] or torch.equal(pixels, other.image[key]) for key, pixels in one.image.items()
    )


def _columns(prompt: Prompt) -> list[Tensor]:
    """Return all that a prompt says of each of its tokens."""
    return [prompt.ids, *prompt.per_token.values(), *([] if prompt.positions is None else [prompt.positions])]


def _beginning(prompt: Prompt, length: int) -> dict[str, Tensor]:
    """Return the inputs for an image and the first `length` tokens of its prompt, in a batch of one."""
    given = {key: column[None, :length] for key, column in prompt.per_token.items()} | prompt.image
    if prompt.positions is not None:
        given["position_ids"] = prompt.positions[:, None, :length]
    return {"input_ids": prompt.ids[None, :length], **given}


def _joined(states: Sequence[PromptStates], longest: int, text_config: Any) -> DynamicCache:
    """Return a cache of transformers with a row for each prompt: keys padded on the left, linear states have no length."""
    cache = DynamicCache(config=text_config)
    for layer, *own in zip(cache.layers, *(prompt.layers for prompt in states), strict=True):
        if is_dummy(layer):
            continue
        if isinstance(own[0], LinearStates):
            for index in own[0].own_conv:
                conv = torch.cat([prompt.own_conv[index] for prompt in own])
                layer.update_conv_state(conv, state_idx=index, conv_kernel_size=conv.shape[-1])
            for index in own[0].own_recurrent:
                recurrent = torch.cat([prompt.own_recurrent[index] for prompt in own])
                layer.update_recurrent_state(recurrent, state_idx=index)
            continue
        layer.update(*(_rows([prompt.own[side] for prompt in own], -2) for side in (0, 1)))
        if layer.is_sliding:
            layer.cumulative_length = longest
        if own[0].own_indexed is not None:
            layer.update_indexer(_rows([prompt.own_indexed for prompt in own], 1))
        if own[0].indexer_position_ids is not None:
            layer.indexer_position_ids = _rows([prompt.indexer_position_ids for prompt in own], -1, along=1)
    return cache


def _rows(states: Sequence[Tensor], axis: int, along: int = 0) -> Tensor:
    """Return the states of several prompts one after the other `along` an axis, shorter ones padded on the left of `axis`."""
    width = max(state.shape[axis] for state in states)
    sides = [0, 0] * (-1 - axis if axis < 0 else states[0].dim() - 1 - axis)
    return torch.cat([padded(state, (*sides, width - state.shape[axis], 0)) for state in states], dim=along)
