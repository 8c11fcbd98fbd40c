"""What follows from the seed and the step alone: learning rates, data order, sampling seeds. Nothing here has state."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from medground.errors import RecipeError
from medground.recipe.schema import LearningRateSchedule, TrainingConfig

LENGTH = ("max_steps", "num_train_epochs")
"""The settings that say how long a run is."""


def learning_rate(update: int, updates: int, config: TrainingConfig) -> float:
    """Return the rate of one optimizer update, counted from 0: a linear warm-up, then constant, linear or cosine to 0.

    >>> linear = TrainingConfig(learning_rate=1.0, schedule=LearningRateSchedule.linear)
    >>> [learning_rate(update, 4, linear) for update in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    >>> [learning_rate(update, 4, TrainingConfig(learning_rate=1.0, warmup_ratio=0.5)) for update in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """
    peak, warmup = config.learning_rate, math.ceil(config.warmup_ratio * updates)
    if update < warmup:
        return peak * (update + 1) / warmup
    done = (update - warmup) / max(1, updates - warmup)
    if config.schedule is LearningRateSchedule.linear:
        return peak * (1 - done)
    if config.schedule is LearningRateSchedule.cosine:
        return peak * (1 + math.cos(math.pi * done)) / 2
    return peak


def depends_on_length(config: TrainingConfig) -> bool:
    """Return True if learning rates depend on how many updates there are, so that a longer run differs from its first on."""
    return config.schedule is not LearningRateSchedule.constant or config.warmup_ratio > 0


def sample_indices(start: int, count: int, *, samples: int, batch: int, seed: int) -> list[int]:
    """Return positions `start` to ``start + count`` of the endless stream of sample indices.

    Every epoch is a permutation of its own, cut to whole batches, so that the samples of a step follow from the number of
    samples that were drawn before it.

    >>> indices = sample_indices(0, 4, samples=5, batch=2, seed=0)
    >>> len(set(indices))
    4
    """
    length = epoch_length(samples, batch)
    orders: dict[int, Sequence[int]] = {}
    indices = []
    for position in range(start, start + count):
        epoch, index = divmod(position, length)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng([seed, epoch]).permutation(samples).tolist()
        indices.append(orders[epoch][index])
    return indices


def epoch_length(samples: int, batch: int) -> int:
    """Return the samples drawn per epoch: the last incomplete batch is left out.

    Raises:
        RecipeError: if there are fewer samples than one batch takes.
    """
    if samples < batch:
        raise RecipeError(
            f"train_batch_size is {batch}, and the data holds {samples} samples",
            hint=f"set train_batch_size to {samples} or less" if samples else "check data.path and data.split",
        )
    return samples - samples % batch


def training_horizon(samples: int, config: TrainingConfig) -> tuple[int, int]:
    """Return the samples of an epoch and the steps of the whole run.

    >>> training_horizon(10, TrainingConfig(train_batch_size=4, num_train_epochs=2))
    (8, 4)
    >>> training_horizon(10, TrainingConfig(train_batch_size=4, num_train_epochs=2, max_steps=3))
    (8, 3)
    """
    epoch = epoch_length(samples, config.train_batch_size)
    if config.max_steps is not None:
        return epoch, config.max_steps
    return epoch, config.num_train_epochs * (epoch // config.train_batch_size)


def sampling_seed(seed: int, step: int, sample: str, attempt: int = 0) -> int:
    """Return the seed of a group: of the run, the step, the sample; its completions add their index to it."""
    text = f"{seed}|{step}|{sample}|{attempt}"
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=6).digest())
