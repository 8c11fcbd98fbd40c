"""Intervals and tests for samples that come in clusters: several masks of one image, several images of one patient.

Samples of a cluster are not independent, so clusters are what is resampled and what is flipped. A mean stays the mean
over samples: a cluster weighs as many samples as it holds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medground.geometry import Floats

Array = TypeVar("Array", bound=NDArray[Any])

N_FLIPS = 10_000
"""Sign flips drawn where they are too many to be listed."""
_LISTED = 13
"""Up to so many clusters all sign flips are listed, and the p-value is exact."""
_BLOCK = 1 << 22
"""Numbers of resampling held at a time."""

INTERVAL = "cluster bootstrap of the mean over samples: bias-corrected and accelerated, expanded for few clusters"
TEST = "sign-flip permutation of clusters, two-sided; Holm-corrected over the comparisons of its table"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over samples and how well it is known."""

    mean: float
    low: float | None
    """None where fewer than two clusters say something."""
    high: float | None
    n: int
    """Samples."""
    clusters: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Two means over the same samples."""

    n: int
    clusters: int
    mean: float
    other: float
    difference: Estimate
    """mean - other."""
    differ: int
    """Samples whose two values are not the same."""
    p: float
    """Of the hypothesis that a cluster is as likely to be better as to be worse by the same amount."""


def estimate(
    values: ArrayLike, clusters: Sequence[object], *, n_boot: int = 2000, level: float = 0.95, seed: int = 0
) -> list[Estimate | None]:
    """Return the mean of every column of values ``[N, M]`` with its interval; NaN is no value, a column without any is None.

    Args:
        values: N samples of M metrics.
        clusters: which cluster each sample belongs to, any labels.
        n_boot: resamples.
        level: of the interval, such as 0.95.
        seed: the interval is a function of the numbers and this.
    """
    table = np.asarray(values, np.float64)
    if not len(table):
        return [None] * table.shape[1]
    sums, counts = _by_cluster(table, clusters)
    draws = _resampled(sums, counts, n_boot, seed)
    estimates: list[Estimate | None] = []
    for column in range(table.shape[1]):
        top, below = sums[:, column], counts[:, column]
        nonempty = below > 0
        if not nonempty.any():
            estimates.append(None)
            continue
        mean = float(top.sum() / below.sum())
        low, high = _bca(mean, draws[:, column], top[nonempty], below[nonempty], level)
        estimates.append(Estimate(mean, low, high, int(below.sum()), int(nonempty.sum())))
    return estimates


def compare(
    values: ArrayLike,
    others: ArrayLike,
    clusters: Sequence[object],
    *,
    n_boot: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference | None:
    """Compare two columns ``[N]`` about the same samples, where both have a value; None where none has both.

    The p-value is that of the sum over clusters of a cluster's differences, under flips of the clusters' signs: exact
    up to 13 clusters, else from 10,000 flips, the observed one counted among them.
    """
    a, b = np.asarray(values, np.float64), np.asarray(others, np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return None
    a, b, labels = a[both], b[both], [cluster for cluster, there in zip(clusters, both, strict=True) if there]
    (difference,) = estimate((a - b)[:, None], labels, n_boot=n_boot, level=level, seed=seed)
    assert difference is not None
    sums, _ = _by_cluster((a - b)[:, None], labels)
    return Difference(
        n=len(a),
        clusters=len(sums),
        mean=float(a.mean()),
        other=float(b.mean()),
        difference=difference,
        differ=int((a != b).sum()),
        p=sign_flip(sums[:, 0], seed=seed),
    )


def sign_flip(sums: ArrayLike, *, seed: int = 0, flips: int = N_FLIPS) -> float:
    """Return the two-sided p-value of numbers being symmetric about 0: how often flipped signs give as large a sum.

    >>> sign_flip([1.0, 1.0, 1.0])
    0.25
    """
    given = np.asarray(sums, np.float64)
    numbers = given[given != 0]  # a zero changes no sum
    bar = abs(float(numbers.sum())) * (1 - 1e-12)  # so that rounding makes no tie a loss
    if len(numbers) <= _LISTED:
        signs = (np.arange(1 << len(numbers))[:, None] >> np.arange(len(numbers))) & 1
        return float((np.abs((2.0 * signs - 1) @ numbers) >= bar).mean())
    rng, reached = np.random.default_rng(seed), 1

    def flipped(rows: int) -> NDArray[np.bool_]:
        signs = rng.integers(0, 2, (rows, len(numbers)), dtype=np.int8)
        return np.asarray(np.abs((2.0 * signs - 1) @ numbers) >= bar)

    reached += int(np.concatenate(_in_blocks(flipped, flips, len(numbers))).sum())
    return reached / (flips + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return P-values corrected for being several (Holm 1979): below a level with any false alarm at most that likely.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def _by_cluster(table: Floats, clusters: Sequence[object]) -> tuple[Floats, Floats]:
    """Return [C, M] sums and counts of what is there."""
    codes = {cluster: code for code, cluster in enumerate(dict.fromkeys(clusters))}
    rows = np.array([codes[cluster] for cluster in clusters], int)
    there = np.isfinite(table)
    sums, counts = np.zeros((len(codes), table.shape[1])), np.zeros((len(codes), table.shape[1]))
    np.add.at(sums, rows, np.where(there, table, 0.0))
    np.add.at(counts, rows, there.astype(np.float64))
    return sums, counts


def _resampled(sums: Floats, counts: Floats, n_boot: int, seed: int) -> Floats:
    """Return [n_boot, M] means over as many clusters drawn with replacement; NaN where a draw holds no value."""
    rng, size = np.random.default_rng(seed), len(sums)

    def means(rows: int) -> Floats:
        weights = rng.multinomial(size, np.full(size, 1 / size), size=rows).astype(np.float64)
        below = weights @ counts
        return np.asarray(np.divide(weights @ sums, below, out=np.full(below.shape, np.nan), where=below > 0))

    return np.concatenate(_in_blocks(means, n_boot, size))


def _in_blocks(work: Callable[[int], Array], rows: int, width: int) -> list[Array]:
    return [work(count) for count in blocks(rows, width)]


def blocks(rows: int, width: int) -> list[int]:
    """Return how many of so many rows of numbers are computed at a time."""
    at_once = max(1, _BLOCK // max(1, width))
    return [min(at_once, rows - start) for start in range(0, rows, at_once)]


def _bca(mean: float, drawn: Floats, sums: Floats, counts: Floats, level: float) -> tuple[float | None, float | None]:
    """Return the interval of Efron (1987): percentiles moved by the draws' bias and by how the error grows with the mean.

    Resampling n clusters spreads like sqrt((n-1)/n) of what it should, and knows the spread from n clusters only; as
    Hesterberg (2015) proposes, the normal quantiles are therefore widened to sqrt(n/(n-1)) of Student's.
    """
    drawn = drawn[np.isfinite(drawn)]
    if len(sums) < 2 or not len(drawn):
        return None, None
    if drawn.min() == drawn.max():
        return mean, mean
    normal = NormalDist()
    slack = 1e-12 * max(1.0, abs(mean))
    below = float((drawn < mean - slack).mean() + (np.abs(drawn - mean) <= slack).mean() / 2)
    bias = normal.inv_cdf(min(max(below, 1 / len(drawn)), 1 - 1 / len(drawn)))
    without = (sums.sum() - sums) / (counts.sum() - counts)
    pull = without.mean() - without
    spread = float((pull**2).sum())
    skew = float((pull**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0

    def edge(share: float) -> float:
        shifted = bias + _student(normal.inv_cdf(share), len(sums) - 1) * (len(sums) / (len(sums) - 1)) ** 0.5
        return float(np.quantile(drawn, normal.cdf(bias + shifted / max(1 - skew * shifted, 1e-3))))

    return edge((1 - level) / 2), edge((1 + level) / 2)


def _student(z: float, freedom: int) -> float:
    """Return the quantile of Student's t where the normal one is z, by the expansion of Cornish and Fisher."""
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
