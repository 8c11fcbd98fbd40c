"""The policy as a module: a group in, log-probabilities out. The only module an engine wraps.

Legend: G completions, C tokens of the longest, P prompt tokens, H hidden size, T generated tokens in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medground_qwen.logprobs import token_logprobs
from medground_qwen.prompts import Prompt, left_padded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupBatch:
    """One query with G completions of it, on the model's device."""

    prompt: Prompt
    ids: Tensor
    """[G, C] int64, right-padded."""
    mask: Tensor
    """[G, C] bool: generated tokens, the end token included."""

    def part(self, start: int, stop: int) -> "GroupBatch":
        """Completions start to stop as a group of their own, cut to their longest: exact at any size."""
        mask = self.mask[start:stop]
        longest = max(1, int(mask.sum(dim=1).max()))
        return GroupBatch(prompt=self.prompt, ids=self.ids[start:stop, :longest], mask=mask[:, :longest])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Several queries with one completion each, on the model's device."""

    prompts: list[Prompt]
    ids: Tensor
    """[S, C] int64, right-padded."""
    mask: Tensor
    """[S, C] bool: the tokens of each completion, the end token included."""
    pad: int


def group_of(prompt: Prompt, completions: Sequence[Sequence[int]], pad: int) -> GroupBatch:
    """Completions' token ids as they were sampled, never tokenised again, beside their prompt."""
    ids, mask = _right_padded(completions, pad, prompt.ids.device)
    return GroupBatch(prompt=prompt, ids=ids, mask=mask)


def rows_of(prompts: Sequence[Prompt], completions: Sequence[Sequence[int]], pad: int) -> Rows:
    """One completion's token ids beside each prompt."""
    ids, mask = _right_padded(completions, pad, prompts[0].ids.device)
    return Rows(prompts=list(prompts), ids=ids, mask=mask, pad=pad)


def _right_padded(completions: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max((len(ids) for ids in completions), default=1) or 1
    rows = [[*ids, *[pad] * (longest - len(ids))] for ids in completions]
    ids = torch.tensor(rows, dtype=torch.int64, device=device)
    lengths = torch.tensor([len(ids) for ids in completions], device=device)
    return ids, torch.arange(longest, device=device) < lengths.unsqueeze(1)


class Policy(nn.Module):
    """Log-probabilities of completions under a vision-language model.

    Args:
        model: a causal language model of transformers with images.
        share: compute image and prompt once per group; otherwise once per completion.
        forbidden: [K] int64 ids that are never sampled.
        chunk: positions whose logits are held at a time.
    """

    def __init__(self, model: Any, *, share: bool, forbidden: Tensor, chunk: int = 1024) -> None:
        super().__init__()
        self.model = model
        self.share = share
        self.chunk = chunk
        self.register_buffer("forbidden", forbidden, persistent=False)

    def forward(self, group: GroupBatch | Rows, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities [G, C] float32, 0 past each end, and entropies [G, C] without gradient; [S, C] of rows."""
        hidden = self._hidden(group)
        logp, entropy = token_logprobs(
            self.model.get_output_embeddings(),
            hidden[group.mask],
            group.ids[group.mask],
            temperature=temperature,
            forbidden=self.forbidden,
            chunk=self.chunk,
        )
        blank = logp.new_zeros(group.mask.shape)
        return blank.masked_scatter(group.mask, logp), blank.masked_scatter(group.mask, entropy)

    def _hidden(self, group: GroupBatch | Rows) -> Tensor:
        if isinstance(group, Rows):
            return self._rows(group)
        return self._shared(group) if self.share else self._repeated(group)

    def _shared(self, group: GroupBatch) -> Tensor:
        """The states [G, C, H] that predict each token, from one sequence [prompt | c_1 | ... | c_G]."""
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
        """The same states from G rows, each with its own copy of image and prompt."""
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

    def _rows(self, rows: Rows) -> Tensor:
        """The states [S, C, H] that predict each token, prompts padded on the left and completions on the right."""
        given, mask, last = left_padded(rows.prompts, rows.pad)
        count, longest = rows.ids.shape
        steps = last.unsqueeze(1) + 1 + torch.arange(longest, device=rows.ids.device)
        places = given.pop("position_ids")
        own = steps if places.dim() == 2 else steps.expand(places.shape[0], -1, -1)
        for key in rows.prompts[0].per_token:
            given[key] = torch.cat([given[key], given[key].new_zeros(count, longest)], dim=1)
        given["input_ids"] = torch.cat([given["input_ids"], rows.ids], dim=1)
        out = self.model.model(
            attention_mask=torch.cat([mask, rows.mask.to(mask.dtype)], dim=1),
            position_ids=torch.cat([places, own], dim=-1),
            use_cache=False,
            **given,
        )
        start = mask.shape[1] - 1
        return out.last_hidden_state[:, start : start + longest]


def _shared_positions(prompt: Prompt, count: int, longest: int) -> Tensor:
    """[3, 1, P + count·longest]: every completion starts anew one past the prompt's largest position, in all axes."""
    if prompt.positions is None:
        raise ValueError("a shared prompt needs multimodal rotary positions")
    start = int(prompt.positions.max()) + 1
    own = torch.arange(start, start + longest, device=prompt.ids.device).repeat(count)
    return torch.cat([prompt.positions, own.expand(3, -1)], dim=1).unsqueeze(1)


def _extended(values: Tensor, count: int) -> Tensor:
    return torch.cat([values, values.new_zeros(count)])
