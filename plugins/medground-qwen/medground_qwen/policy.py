"""The policy as a module: a group in, log-probabilities out. The only module an engine wraps.

Legend: G completions, C tokens of the longest, P prompt tokens, H hidden size, T generated tokens in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medground_qwen.logprobs import token_logprobs
from medground_qwen.prompts import Prompt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupBatch:
    """One query with G completions of it, on the model's device."""

    prompt: Prompt
    ids: Tensor
    """[G, C] int64, right-padded."""
    mask: Tensor
    """[G, C] bool: generated tokens, the end token included."""
    shared: bool = True
    """Whether image and prompt are computed once for all completions; otherwise once for each."""

    @property
    def prompt_lengths(self) -> tuple[int, ...]:
        """Tokens of the prompt, those of the image included, as often as it is computed."""
        return (len(self.prompt),) * (1 if self.shared else len(self.ids))

    def part(self, start: int, stop: int) -> "GroupBatch":
        """Return the completions start to stop as a group of their own, cut to their longest: exact at any size."""
        mask = self.mask[start:stop]
        longest = max(1, int(mask.sum(dim=1).max()))
        ids = self.ids[start:stop, :longest]
        return GroupBatch(prompt=self.prompt, ids=ids, mask=mask[:, :longest], shared=self.shared)


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


def group_of(prompt: Prompt, completions: Sequence[Sequence[int]], pad: int, *, shared: bool = True) -> GroupBatch:
    """Return completions' token ids as they were sampled, never tokenised again, beside their prompt."""
    longest = max((len(ids) for ids in completions), default=1) or 1
    rows = [[*ids, *[pad] * (longest - len(ids))] for ids in completions]
    ids = torch.tensor(rows, dtype=torch.int64, device=prompt.ids.device)
    lengths = torch.tensor([len(ids) for ids in completions], device=prompt.ids.device)
    mask = torch.arange(longest, device=ids.device) < lengths.unsqueeze(1)
    return GroupBatch(prompt=prompt, ids=ids, mask=mask, shared=shared)


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
        else:
            hidden = self._shared(group) if group.shared else self._repeated(group)
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

    def _shared(self, group: GroupBatch) -> Tensor:
        """Return the states [G, C, H] that predict each token, from one sequence [prompt | c_1 | ... | c_G]."""
        prompt, (count, longest) = group.prompt, group.ids.shape
        length = len(prompt)
        out = self.model.model(
            input_ids=torch.cat([prompt.ids, group.ids.flatten()]).unsqueeze(0),
            position_ids=_shared_positions(prompt, count, longest),
            **{key: _extended(value, count * longest).unsqueeze(0) for key, value in prompt.per_token.items()},
            **prompt.image,
            use_cache=False,
            shared_prompt=length,
            shared_group=count,
        )
        hidden = out.last_hidden_state[0]
        first = hidden[length - 1].expand(count, 1, -1)  # the prompt's last token predicts every first token
        rest = hidden[length:].view(count, longest, -1)[:, :-1]
        return torch.cat([first, rest], dim=1)

    def _repeated(self, group: GroupBatch) -> Tensor:
        """Return the same states from G rows, each with its own copy of image and prompt."""
        prompt, (count, longest) = group.prompt, group.ids.shape
        length = len(prompt)
        given: dict[str, Any] = {
            key: _extended(value, longest).expand(count, -1) for key, value in prompt.per_token.items()
        }
        for key, value in prompt.image.items():
            given[key] = value.repeat(count, *[1] * (value.dim() - 1))
        if prompt.positions is not None:
            row = _shared_positions(prompt, 1, longest)
            given["position_ids"] = row.expand(-1, count, -1)
        valid = torch.cat([group.mask.new_ones(count, length), group.mask], dim=1)
        out = self.model.model(
            input_ids=torch.cat([prompt.ids.expand(count, -1), group.ids], dim=1),
            attention_mask=valid.long(),
            use_cache=False,
            **given,
        )
        return out.last_hidden_state[:, length - 1 : length - 1 + longest]

    def _rows(self, batch: RowBatch) -> Tensor:
        """Return the same states for rows of different prompts, each row its prompt and its completion, padded on the right."""
        count, longest = batch.ids.shape
        lengths = torch.tensor(batch.prompt_lengths, device=batch.ids.device)
        width = int(lengths.max()) + longest
        ids = [torch.cat([prompt.ids, own]) for prompt, own in zip(batch.prompts, batch.ids, strict=True)]
        given: dict[str, Any] = {
            key: torch.stack([_to(width, prompt.per_token[key]) for prompt in batch.prompts])
            for key in batch.prompts[0].per_token
        }
        for key in batch.prompts[0].image:
            given[key] = torch.cat([prompt.image[key] for prompt in batch.prompts])
        if batch.prompts[0].positions is not None:
            rows = [_shared_positions(prompt, 1, longest)[:, 0] for prompt in batch.prompts]
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
            key: torch.cat([_extended(prompt.per_token[key], count) for prompt, count in pairs]).unsqueeze(0)
            for key in prompts[0].per_token
        }
        given |= {key: torch.cat([prompt.image[key] for prompt in prompts]) for key in prompts[0].image}
        out = self.model.model(
            input_ids=torch.cat([part for prompt, ids in zip(prompts, own, strict=True) for part in (prompt.ids, ids)])[
                None
            ],
            position_ids=torch.cat([_shared_positions(prompt, 1, count) for prompt, count in pairs], dim=2),
            use_cache=False,
            packed=lengths,
            **given,
        )
        starts = torch.tensor([0, *lengths[:-1]]).cumsum(0) + torch.tensor(batch.prompt_lengths) - 1
        places = starts.unsqueeze(1) + torch.arange(batch.ids.shape[1])
        hidden: Tensor = out.last_hidden_state[0]
        return hidden[places.clamp(max=len(hidden) - 1).to(hidden.device)]


def _to(width: int, values: Tensor) -> Tensor:
    """Return the last axis padded with zeros on the right."""
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]))


def _shared_positions(prompt: Prompt, count: int, longest: int) -> Tensor:
    """Return [3, 1, P + count·longest]: every completion starts anew one past the prompt's largest position, in all axes."""
    if prompt.positions is None:
        raise ValueError("a shared prompt needs multimodal rotary positions")
    start = int(prompt.positions.max()) + 1
    own = torch.arange(start, start + longest, device=prompt.ids.device).repeat(count)
    return torch.cat([prompt.positions, own.expand(3, -1)], dim=1).unsqueeze(1)


def _extended(values: Tensor, count: int) -> Tensor:
    return torch.cat([values, values.new_zeros(count)])
