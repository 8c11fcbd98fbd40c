"""The policy as a module: a group in, log-probabilities out. The only module an engine wraps.

Legend: G completions, C tokens of the longest, P prompt tokens, H hidden size, T generated tokens in all.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from medground_qwen.attention import any_length, takes_groups
from medground_qwen.families import picture_ids
from medground_qwen.logprobs import token_logprobs
from medground_qwen.prompts import Prompt, joined_images
from medground_qwen.states import ComputedPrompt
from medground_qwen.tree import Trunk, pass_over, prompt_pass, text_kinds, trunk_length, trunk_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupBatch:
    """One query with G completions of it, on the model's device; image and prompt are computed once for all of them."""

    prompt: Prompt
    ids: Tensor
    """[G, C] int64, right-padded."""
    mask: Tensor
    """[G, C] bool: generated tokens, the end token included."""
    computed: ComputedPrompt | None = None
    """The prompt after its pass, where that is done already: see `Policy.prompt_once`."""
    counted: bool = True
    """Whether the prompt is counted with these completions: with the first of several parts only."""
    trunk: Trunk | None = None
    """What the prompt has in common with others about its image, where that is computed already: see `Policy.image_once`."""
    bears_trunk: bool = True
    """Whether image and trunk are counted with this group: with the first of those that share them only."""

    @property
    def prompt_lengths(self) -> tuple[int, ...]:
        """Tokens of the prompt, those of the image included; less those, or none, where they are counted elsewhere."""
        elsewhere = 0 if self.trunk is None or self.bears_trunk else self.trunk.length
        return (len(self.prompt) - elsewhere,) if self.counted else ()

    @property
    def whole_prompt_lengths(self) -> tuple[int, ...]:
        """Tokens of the prompt, wherever they are computed and counted."""
        return (len(self.prompt),)

    @property
    def images(self) -> int:
        """Images that are encoded for these completions and for no others."""
        return int(self.counted and self.bears_trunk)

    def part(self, start: int, stop: int) -> "GroupBatch":
        """Return the completions start to stop as a group of their own, cut to their longest: exact at any size."""
        mask = self.mask[start:stop]
        longest = max(1, int(mask.sum(dim=1).max()))
        counted = self.counted and (self.computed is None or start == 0)
        return replace(self, ids=self.ids[start:stop, :longest], mask=mask[:, :longest], counted=counted)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowBatch:
    """N queries with one completion each, on the model's device: what supervised training computes together."""

    prompts: list[Prompt]
    ids: Tensor
    """[N, C] int64, right-padded."""
    mask: Tensor
    """[N, C] bool."""
    packed: bool = False
    """Computed as one sequence without padding, in which no query sees another."""

    @property
    def prompt_lengths(self) -> tuple[int, ...]:
        """Tokens of each prompt, those of its image included."""
        return tuple(len(prompt) for prompt in self.prompts)

    def part(self, start: int, stop: int) -> "RowBatch":
        """Return rows start to stop, cut to their longest."""
        mask = self.mask[start:stop]
        longest = max(1, int(mask.sum(dim=1).max()))
        ids = self.ids[start:stop, :longest]
        return RowBatch(prompts=self.prompts[start:stop], ids=ids, mask=mask[:, :longest], packed=self.packed)


def rows_of(
    prompts: Sequence[Prompt], completions: Sequence[Sequence[int]], pad: int, packed: bool = False
) -> RowBatch:
    """Return one completion's token ids beside each prompt."""
    together = group_of(prompts[0], completions, pad)
    return RowBatch(prompts=list(prompts), ids=together.ids, mask=together.mask, packed=packed)


def group_of(prompt: Prompt, completions: Sequence[Sequence[int]], pad: int) -> GroupBatch:
    """Return completions' token ids as they were sampled, never tokenised again, beside their prompt."""
    longest = max((len(ids) for ids in completions), default=1) or 1
    rows = [[*ids, *[pad] * (longest - len(ids))] for ids in completions]
    ids = torch.tensor(rows, dtype=torch.int64, device=prompt.ids.device)
    lengths = torch.tensor([len(ids) for ids in completions], device=prompt.ids.device)
    mask = torch.arange(longest, device=ids.device) < lengths.unsqueeze(1)
    return GroupBatch(prompt=prompt, ids=ids, mask=mask)


class Policy(nn.Module):
    """Log-probabilities of completions under a vision-language model.

    Args:
        model: a causal language model of transformers with images.
        forbidden: [K] int64 ids that are never sampled.
        chunk: positions whose logits are held at a time.
    """

    def __init__(self, model: Any, *, forbidden: Tensor, chunk: int = 1024) -> None:
        super().__init__()
        self.model = model
        self.chunk = chunk
        self.entropy_gradient = False
        self.register_buffer("forbidden", forbidden, persistent=False)

    @property
    def unsharded(self) -> list[nn.Parameter]:
        """The output head: used once per chunk. Engines that shard parameters do not shard it."""
        return list(self.model.get_output_embeddings().parameters())

    def forward(self, group: GroupBatch | RowBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return log-probabilities [G, C] float32, 0 past each end, and entropies [G, C]."""
        if isinstance(group, RowBatch):
            hidden = self._packed(group) if group.packed else self._rows(group)
        elif group.computed is None and group.trunk is None and takes_groups(self.model.config):
            hidden = self._together(group)
        else:
            hidden = self._completions(group, group.computed or self._prompt(group))
        logp, entropy = token_logprobs(
            self.model.get_output_embeddings(),
            hidden[group.mask],
            group.ids[group.mask],
            temperature=temperature,
            forbidden=self.forbidden,
            chunk=self.chunk,
            entropy_gradient=self.entropy_gradient,
        )
        blank = logp.new_zeros(group.mask.shape)
        return blank.masked_scatter(group.mask, logp), blank.masked_scatter(group.mask, entropy)

    @contextmanager
    def prompt_once(self, group: GroupBatch | RowBatch) -> Iterator[GroupBatch | RowBatch]:
        """Enter to have a group's prompt computed once for all its parts, each of which then runs backward alone.

        The gradients that the parts leave at the prompt's states go through the prompt in one backward pass on leaving,
        so the whole is exact at any size of the parts. Rows of different queries are given back as they are.
        """
        if isinstance(group, RowBatch):
            yield group
            return
        computed, leaves = self._prompt(group).cut()
        yield replace(group, computed=computed)
        leaves.backward()

    @contextmanager
    def image_once(self, groups: Sequence[GroupBatch | RowBatch]) -> Iterator[Sequence[GroupBatch | RowBatch]]:
        """Enter to have what several groups' prompts begin with, their image in it, computed once for all of them.

        Each group then runs forward and backward alone. The gradients that they leave at the trunk's states go through it in
        one backward pass on leaving. Groups that cannot share their image are given back as they are.
        """
        shared = [group for group in groups if isinstance(group, GroupBatch)]
        length = 0
        if len(shared) == len(groups) > 1:
            length = trunk_length([group.prompt for group in shared], picture_ids(self.model.config))
        if not length:
            yield groups
            return
        trunk = trunk_of(self.model.model, self.model.config.get_text_config(), shared[0].prompt, length)
        leaves = trunk.states.cut()
        yield [replace(group, trunk=trunk, bears_trunk=group is shared[0]) for group in shared]
        leaves.backward()

    def _prompt(self, group: GroupBatch) -> ComputedPrompt:
        """Compute a prompt once, or what of it comes after its trunk."""
        config = self.model.config.get_text_config()
        out, states = prompt_pass(self.model.model, config, group.prompt, group.trunk)
        return ComputedPrompt(out.last_hidden_state[:, -1:], states)

    def _completions(self, group: GroupBatch, computed: ComputedPrompt) -> Tensor:
        """Return the states [G, C, H] that predict each token of completions, which see the prompt and themselves."""
        prompt, (count, longest) = group.prompt, group.ids.shape
        given = text_kinds(self.model.model, prompt, group.ids)
        if prompt.positions is not None:
            given["position_ids"] = _positions_after(prompt, longest).expand(-1, count, -1)
        # No mask: padding is on the right, where nothing attends to it.
        out = pass_over(self.model.model, computed.states.branch(count), input_ids=group.ids, **given)
        return torch.cat([computed.last.expand(count, -1, -1), out.last_hidden_state[:, :-1]], dim=1)

    def _together(self, group: GroupBatch) -> Tensor:
        """Return the same states from one sequence [prompt | c_1 | ... | c_G]: half as many, larger kernels."""
        prompt, (count, longest) = group.prompt, group.ids.shape
        length, width = len(prompt), len(prompt) + count * longest
        given = {key: _to(width, values).unsqueeze(0) for key, values in prompt.per_token.items()} | prompt.image
        if prompt.positions is not None:
            own = _positions_after(prompt, longest).repeat(1, 1, count)
            given["position_ids"] = torch.cat([prompt.positions.unsqueeze(1), own], dim=2)
        ids = torch.cat([prompt.ids, group.ids.flatten()]).unsqueeze(0)
        with any_length():
            out = self.model.model(input_ids=ids, use_cache=False, grouped=(count, longest), **given)
        last, rows = out.last_hidden_state[:, length - 1 : length], out.last_hidden_state[0, length:]
        return torch.cat([last.expand(count, -1, -1), rows.unflatten(0, (count, longest))[:, :-1]], dim=1)

    def _rows(self, batch: RowBatch) -> Tensor:
        """Return the same states for rows of different prompts, each row its prompt and its completion, padded on the right."""
        count, longest = batch.ids.shape
        lengths = torch.tensor(batch.prompt_lengths, device=batch.ids.device)
        width = int(lengths.max()) + longest
        ids = [torch.cat([prompt.ids, own]) for prompt, own in zip(batch.prompts, batch.ids, strict=True)]
        given: dict[str, Any] = {
            key: torch.stack(
                [_to(width, prompt.per_token[key], prompt.layout.fill.get(key, 0)) for prompt in batch.prompts]
            )
            for key in batch.prompts[0].per_token
        } | joined_images(batch.prompts)
        if batch.prompts[0].positions is not None:
            rows = [_row_positions(prompt, longest) for prompt in batch.prompts]
            given["position_ids"] = torch.stack([_to(width, row) for row in rows], dim=1)
        ends = (lengths + batch.mask.sum(dim=1)).unsqueeze(1)
        out = self.model.model(
            input_ids=torch.stack([_to(width, row) for row in ids]),
            attention_mask=(torch.arange(width, device=ends.device) < ends).long(),
            use_cache=False,
            **given,
        )
        places = (lengths - 1).unsqueeze(1) + torch.arange(longest, device=ends.device)
        hidden: Tensor = out.last_hidden_state
        return hidden[torch.arange(count, device=ends.device).unsqueeze(1), places]

    def _packed(self, batch: RowBatch) -> Tensor:
        """Return the same states from one sequence [prompt_1 | c_1 | prompt_2 | c_2 | ...]; positions start anew in each."""
        prompts, counts = batch.prompts, batch.mask.sum(dim=1).tolist()
        pairs = list(zip(prompts, counts, strict=True))
        own = [ids[:count] for ids, count in zip(batch.ids, counts, strict=True)]
        lengths = tuple(len(prompt) + count for prompt, count in pairs)
        given = {
            key: torch.cat([_to(len(prompt) + count, prompt.per_token[key]) for prompt, count in pairs]).unsqueeze(0)
            for key in prompts[0].per_token
        } | joined_images(prompts)
        out = self.model.model(
            input_ids=torch.cat([part for prompt, ids in zip(prompts, own, strict=True) for part in (prompt.ids, ids)])[
                None
            ],
            position_ids=torch.cat([_row_positions(prompt, count) for prompt, count in pairs], dim=1).unsqueeze(1),
            use_cache=False,
            packed=lengths,
            **given,
        )
        starts = torch.tensor([0, *lengths[:-1]]).cumsum(0) + torch.tensor(batch.prompt_lengths) - 1
        places = starts.unsqueeze(1) + torch.arange(batch.ids.shape[1])
        hidden: Tensor = out.last_hidden_state[0]
        return hidden[places.clamp(max=len(hidden) - 1).to(hidden.device)]


def _to(width: int, values: Tensor, fill: int = 0) -> Tensor:
    """Return the last axis padded on the right."""
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]), value=fill)


def _positions_after(prompt: Prompt, count: int) -> Tensor:
    """Return [3, 1, count]: a completion starts one past the prompt's largest position, in all axes."""
    if prompt.positions is None:
        raise ValueError("a model that counts tokens is given no positions")
    start = int(prompt.positions.max()) + 1
    return torch.arange(start, start + count, device=prompt.ids.device).expand(3, 1, -1)


def _row_positions(prompt: Prompt, count: int) -> Tensor:
    """Return [3, P + count]: those of a prompt and of a completion after it."""
    own = _positions_after(prompt, count)[:, 0]
    return own if prompt.positions is None else torch.cat([prompt.positions, own], dim=1)
