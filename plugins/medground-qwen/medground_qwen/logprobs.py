"""Log-probabilities of given tokens without ever holding the logits of all positions."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def token_logprobs(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    tokens: Tensor,
    *,
    temperature: float = 1.0,
    forbidden: Tensor | None = None,
    chunk: int = 1024,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return log-probability and entropy at T positions.

    Logits are made for `chunk` positions at a time and made again in the backward pass, so that memory does not grow with T
    times the vocabulary. Softmax and logarithm are in float32.

    Args:
        head: hidden [n, H] -> logits [n, V]; called as a module, so that sharded engines see it used.
        hidden: [T, H], the state that predicts each token.
        tokens: [T] int64.
        temperature: logits are divided by it once; 0 (greedy) counts as 1.
        forbidden: [K] int64 token ids that are never sampled and so have no probability.
        chunk: positions at a time.
        entropy_gradient: give entropies a gradient, for a bonus on them.

    Returns:
        log-probabilities [T] float32 with gradient, and entropies [T] float32, without unless asked for.
    """
    scale = temperature or 1.0

    def part(states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(states).float() / scale
        if forbidden is not None:
            logits = logits.index_fill(-1, forbidden, -torch.inf)
        logp = torch.log_softmax(logits, dim=-1)
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            entropy = -(logp.exp() * logp.masked_fill(logp.isinf(), 0.0)).sum(dim=-1)
        return logp.gather(-1, wanted.unsqueeze(-1)).squeeze(-1), entropy

    parts = [
        checkpoint(part, states, wanted, use_reentrant=False) if torch.is_grad_enabled() else part(states, wanted)
        for states, wanted in zip(hidden.split(chunk), tokens.split(chunk), strict=True)
    ]
    logps, entropies = zip(*parts, strict=True)
    return torch.cat(logps), torch.cat(entropies)
