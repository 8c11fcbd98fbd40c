"""What follows from the seed and the step alone: learning rates, data order, sampling seeds. Nothing here has state."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medground.errors import RecipeError


def learning_rate(
    update: int, *, updates: int, peak: float, schedule: str = "constant", warmup_ratio: float = 0.0
) -> float:
    """The rate of one optimiser update, counted from 0: a linear warm-up, then constant, linear or cosine to 0.

    >>> [learning_rate(u, updates=4, peak=1.0, schedule="linear") for u in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    >>> [learning_rate(u, updates=4, peak=1.0, warmup_ratio=0.5) for u in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """
    warmup = math.ceil(warmup_ratio * updates)
    if update < warmup:
        return peak * (update + 1) / warmup
    done = (update - warmup) / max(1, updates - warmup)
    if schedule == "linear":
        return peak * (1 - done)
    if schedule == "cosine":
        return peak * (1 + math.cos(math.pi * done)) / 2
    return peak


def drawn(start: int, count: int, *, samples: int, batch: int, seed: int) -> list[int]:
    """Positions `start` to ``start + count`` of the endless stream of sample indices.

    Every epoch is a permutation of its own, cut to whole batches, so that what a step sees follows from how many samples
    were drawn before it.

    >>> sorted(drawn(0, 4, samples=5, batch=2, seed=0)) == sorted(set(drawn(0, 4, samples=5, batch=2, seed=0)))
    True
    """
    length = epoch_length(samples, batch)
    orders: dict[int, Sequence[int]] = {}
    found = []
    for position in range(start, start + count):
        epoch, place = divmod(position, length)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng([seed, epoch]).permutation(samples).tolist()
        found.append(orders[epoch][place])
    return found


def epoch_length(samples: int, batch: int) -> int:
    """Samples drawn per epoch: the last incomplete batch is left out.

    Raises:
        RecipeError: if there are fewer samples than one batch takes.
    """
    if samples < batch:
        raise RecipeError(
            f"train_batch_size is {batch}, and the data holds {samples} samples",
            hint=f"set train_batch_size to {samples} or less" if samples else "check data.path and data.split",
        )
    return samples - samples % batch


def extent(samples: int, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Samples of an epoch and steps of the whole run, by a recipe's ``grpo`` or ``sft`` section.

    >>> extent(10, {"train_batch_size": 4, "num_train_epochs": 2, "max_steps": 3})[1]
    3
    """
    batch, most = settings["train_batch_size"], settings["max_steps"]
    epoch = epoch_length(samples, batch)
    return epoch, settings["num_train_epochs"] * (epoch // batch) if most is None else most


def sampling_seed(seed: int, step: int, sample: str, attempt: int = 0) -> int:
    """The seed of a group: of the run, the step, the sample; its completions add their index to it."""
    text = f"{seed}|{step}|{sample}|{attempt}"
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=6).digest())
