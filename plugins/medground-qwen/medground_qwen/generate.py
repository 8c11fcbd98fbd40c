"""Sampling groups: each query's prompt is computed once, and an image once for all questions about it.

The completions of all queries are decoded together, one forward pass per token; shorter prompts are padded on the left.

Every completion draws from a stream of its own, seeded by the caller, so it does not depend on what else is in the batch
(up to the last bits of the logits, which depend on the shapes a batch is computed in).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medground_qwen.attention import any_length
from medground_qwen.decoding import decoding_of
from medground_qwen.prompts import Prompt
from medground_qwen.tree import prefilled


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sampled completion."""

    ids: list[int]
    """The end token included, where there is one."""
    logprobs: list[float]
    """Under the distribution that was sampled from; of the plain softmax when greedy."""
    stopped: bool
    """False when it ran into the length limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The token ids that steer sampling."""

    end: frozenset[int]
    pad: int
    forbidden: Tensor
    """[K] int64, never sampled: image and other vision tokens, which would break the next forward pass."""


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Prompt],
    seeds: Sequence[Sequence[int]],
    tokens: Tokens,
    *,
    temperature: float,
    max_tokens: int,
    listen: Callable[[Sequence[int]], None] | None = None,
) -> list[list[Sampled]]:
    """Sample ``len(seeds[i])`` completions for prompt i; every prompt has the same number of seeds.

    Args:
        model: a causal language model of transformers with images.
        prompts: N encoded conversations on the model's device.
        seeds: [N][G], one per completion.
        tokens: end, padding and forbidden ids.
        temperature: 0 is greedy.
        max_tokens: the most tokens per completion.
        listen: called after each step with the tokens of the first completion so far; what it raises ends the sampling.
    """
    group = len(seeds[0])
    with any_length():
        start = prefilled(model, prompts, tokens.pad)
    logits, rows = start.logits.repeat_interleave(group, 0), list(range(len(prompts) * group))
    turned = prompts[0].positions is not None
    decoding = decoding_of(model, start.cache, start.mask, start.last, group, turned=turned, most=max_tokens)
    del start
    draws = _uniforms([seed for group_seeds in seeds for seed in group_seeds], max_tokens) if temperature else None
    done: list[Sampled | None] = [None] * len(rows)
    ids: list[list[int]] = [[] for _ in rows]
    logprobs: list[list[float]] = [[] for _ in rows]
    for step in range(max_tokens):
        chosen, logp = _choose(logits, tokens.forbidden, temperature, draws, rows, step)
        for row, token, value in zip(rows, chosen.tolist(), logp.tolist(), strict=True):
            if done[row] is None:
                ids[row].append(token)
                logprobs[row].append(value)
                if token in tokens.end:
                    done[row] = Sampled(ids[row], logprobs[row], True)
        if listen is not None:
            listen(ids[0])
        alive = [index for index, row in enumerate(rows) if done[row] is None]
        if not alive or step + 1 == max_tokens:
            break
        if 2 * len(alive) <= len(rows):  # finished rows leave the cache once they are half of it
            indices = torch.tensor(alive, device=chosen.device)
            decoding.keep(indices)
            chosen, rows = chosen[indices], [rows[index] for index in alive]
        with any_length():
            logits = decoding.logits(chosen)
    flat = [sampled or Sampled(ids[row], logprobs[row], False) for row, sampled in enumerate(done)]
    return [flat[start : start + group] for start in range(0, len(flat), group)]


def _uniforms(seeds: Sequence[int], count: int) -> np.ndarray[Any, Any]:
    """Return [rows, count] numbers in [0, 1), each row a stream of its own."""
    return np.stack([np.random.Generator(np.random.Philox(seed)).random(count) for seed in seeds])


def _choose(
    logits: Tensor,
    forbidden: Tensor,
    temperature: float,
    draws: np.ndarray[Any, Any] | None,
    rows: Sequence[int],
    step: int,
) -> tuple[Tensor, Tensor]:
    """Return the next token of each row and its log-probability."""
    scaled = logits.float().index_fill(-1, forbidden, -torch.inf) / (temperature or 1.0)
    logp = torch.log_softmax(scaled, dim=-1)
    if draws is None:
        chosen = logp.argmax(dim=-1)
    else:
        # The inverse of the cumulative distribution in float64: one uniform decides, whatever the batch.
        total = logp.double().exp().cumsum(dim=-1)
        uniform = torch.from_numpy(draws[list(rows), step]).to(total.device).unsqueeze(1) * total[:, -1:]
        chosen = torch.searchsorted(total, uniform, right=True).squeeze(1)
    return chosen, logp.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
