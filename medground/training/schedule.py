"""What follows from the seed and the step alone: learning rates, data order, sampling seeds. Nothing here has state."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from itertools import chain

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


def sample_indices(
    start: int, count: int, *, samples: int, batch: int, seed: int, images: Sequence[int] | None = None
) -> list[int]:
    """Return positions `start` to ``start + count`` of the endless stream of sample indices.

    Every epoch is a permutation of its own, cut to whole batches, so that the samples of a step follow from the number of
    samples that were drawn before it. With `images`, a number for each sample's image, it is one of images, and the samples
    of each, permuted too, follow one another.

    >>> indices = sample_indices(0, 4, samples=5, batch=2, seed=0)
    >>> len(set(indices))
    4
    >>> [index // 3 for index in sample_indices(0, 6, samples=6, batch=2, seed=0, images=[0, 0, 0, 1, 1, 1])]
    [1, 1, 1, 0, 0, 0]
    """
    length = epoch_length(samples, batch)
    orders: dict[int, Sequence[int]] = {}
    indices = []
    for position in range(start, start + count):
        epoch, index = divmod(position, length)
        if epoch not in orders:
            order = np.random.default_rng([seed, epoch]).permutation(samples).tolist()
            orders[epoch] = order if images is None else [*chain(*by_image(order, images))]
        indices.append(orders[epoch][index])
    return indices


def rank_shares(images: Sequence[int], ranks: int) -> list[list[int]]:
    """Return the positions that each rank takes: all of an image's at one rank, which has the fewest so far.

    >>> rank_shares([7, 8, 9, 10, 11], 2)
    [[0, 2, 4], [1, 3]]
    >>> rank_shares([7, 7, 7, 8, 9, 8], 2)
    [[0, 1, 2], [3, 5, 4]]
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for run in by_image(range(len(images)), images):
        min(shares, key=len).extend(run)
    return shares


def by_image(order: Iterable[int], images: Sequence[int]) -> list[list[int]]:
    """Return the indices of each image, in the order in which the first of it comes, and of an image as they come."""
    runs: dict[int, list[int]] = {}
    for index in order:
        runs.setdefault(images[index], []).append(index)
    return list(runs.values())


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
