"""Selective prediction: which answers to give, so that few of the given ones are wrong.

An answer is given where its confidence reaches a threshold. The threshold is chosen on calibration samples so that, with
probability 1 - delta over sets of them, the share of wrong answers among the given ones is at most `risk` (learn then test,
arXiv:2110.01052). Samples come in clusters, which are drawn independently of one another and whose samples are not.

The share of wrong answers among the given ones is E[w] / E[a], where a cluster holds a given answers of which w are wrong. It
is above `risk` just where E[risk·a - w] < 0, a mean over clusters of numbers that are bounded: so it can be tested whatever
the dependence within a cluster is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medground.geometry import Floats

LEARNING = 0.2
"""The share of the calibration clusters on which thresholds are proposed and ordered; they are tested on the rest."""
STEPS = 20
"""So many thresholds are proposed: that which 5 % of the learning samples reach, 10 %, and so on."""
STAKES = (0.2, 0.4, 0.6, 0.8, 0.99)
"""Shares of the largest stake that cannot lose more than all, of the bets against a hypothesis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A threshold, and what it was chosen from."""

    threshold: float | None
    """An answer is given where its confidence is at least this; None: no threshold passed, and no answer is given."""
    risk: float
    """The most wrong answers among the given ones, a share."""
    delta: float
    """How likely, over calibration sets, that share may be larger."""
    samples: int
    """That were calibrated on."""
    clusters: int
    largest: int
    """Samples of the largest cluster: the threshold holds for clusters up to this size."""


def choose_threshold(
    confidence: ArrayLike,
    wrong: ArrayLike,
    clusters: Sequence[object],
    *,
    risk: float = 0.1,
    delta: float = 0.1,
    seed: int = 0,
) -> Selection:
    """Choose the lowest threshold that passes a test of the share of wrong answers among the given ones.

    A fifth of the clusters propose thresholds: those that 5, 10, ... 100 % of their samples reach. The first to be tested is
    that with the most evidence there, then the lower ones in order, each at level `delta` on the other clusters, until one
    does not pass (fixed-sequence testing: the first hypothesis that is true is rejected with probability `delta` at most, and
    none after one that is not rejected). The test is `evidence`; where every cluster is one sample it is the exact binomial
    test, as in arXiv:1705.08500.

    Args:
        confidence: [N] of the answers.
        wrong: [N] whether they are wrong.
        clusters: which cluster each belongs to, any labels. A new cluster is taken to be no larger than the largest of them.
        risk: the most wrong answers among the given ones, a share in (0, 1).
        delta: the probability that it may be exceeded.
        seed: draws the clusters that propose, and the order of the others.

    >>> sure = np.linspace(0, 1, 400)
    >>> choose_threshold(sure, sure < 0.5, range(400)).threshold is not None
    True
    >>> print(choose_threshold(sure, sure < 2, range(400)).threshold)
    None
    """
    sure, errs = np.asarray(confidence, np.float64), np.asarray(wrong, bool)
    codes = np.unique([str(cluster) for cluster in clusters], return_inverse=True)[1] if len(sure) else np.zeros(0, int)
    count = int(codes.max()) + 1 if len(codes) else 0
    sizes = np.bincount(codes, minlength=count)
    largest = int(sizes.max()) if count else 0
    order = np.random.default_rng(seed).permutation(count)
    proposing = order[: max(1, round(LEARNING * count))] if count > 1 else order
    testing = order[len(proposing) :]
    threshold = None
    if len(testing):
        own = np.isin(codes, proposing)
        shares = 1 - np.arange(1, STEPS + 1) / STEPS
        proposed = np.unique(np.quantile(sure[own], shares, method="lower"))[::-1]
        given, errors = _counts(sure, errs, codes, proposed, count)
        gains = (risk * given - errors) / largest
        stakes = _stakes(gains[:, proposing], risk)
        start = int(np.argmax(_log_wealth(gains[:, proposing], stakes)[:, -1]))
        passes = evidence(gains[start:, testing], stakes[start:]) >= np.log(1 / delta)
        if largest == 1:
            passes = _exact(errors[start:, testing].sum(axis=1), given[start:, testing].sum(axis=1), risk) <= delta
        steps = int(np.argmin(np.append(passes, False)))
        threshold = float(proposed[start + steps - 1]) if steps else None
    return Selection(threshold=threshold, risk=risk, delta=delta, samples=len(sure), clusters=count, largest=largest)


def evidence(gains: Floats, stakes: Floats) -> Floats:
    """Return [T] the logarithm of the most that bets against "the mean gain is not positive" were ever worth.

    A bet pays 1 + stake·gain per cluster, one after another; where the mean gain is not positive, no stake that is fixed before
    and no mixture of stakes is expected to grow, so that the worth, 1 at the start, ever reaches 1/delta with probability
    delta at most (Ville's inequality; arXiv:2010.09686).

    Args:
        gains: [T, C] of T hypotheses and C independent clusters, in the order of the bets.
        stakes: [T, S] how much each bet is worth; half of the money is on the first of them.
    """
    return np.asarray(np.maximum(_log_wealth(gains, stakes).max(axis=1), 0.0), np.float64)


def _stakes(gains: Floats, risk: float) -> Floats:
    """Return [T, S] stakes: first that which would have grown most on the given gains, then all of them."""
    every = np.array(STAKES) / (1 - risk)  # a gain is risk - 1 at the least
    grown = np.log1p(every[:, None, None] * gains).sum(axis=-1)
    best = every[grown.argmax(axis=0)]
    return np.column_stack([best, np.broadcast_to(every, (len(gains), len(every)))])


def _log_wealth(gains: Floats, stakes: Floats) -> Floats:
    """Return [T, C] the logarithm of the worth after each cluster: half on the first stake, half shared by the others."""
    shares = np.array([0.5, *[0.5 / (stakes.shape[1] - 1)] * (stakes.shape[1] - 1)])
    paths = np.log1p(stakes[:, :, None] * gains[:, None, :]).cumsum(axis=-1) + np.log(shares)[:, None]
    return np.asarray(np.logaddexp.reduce(paths, axis=1), np.float64)


def _exact(errors: Floats, given: Floats, risk: float) -> Floats:
    """Return how likely so few errors are among so many answers if each is wrong with probability `risk`."""
    from scipy.stats import binom

    return np.asarray(binom.cdf(errors, given, risk), np.float64)


def _counts(
    sure: Floats, errs: NDArray[np.bool_], codes: NDArray[np.int_], thresholds: Floats, count: int
) -> tuple[Floats, Floats]:
    """Return [T, C] the given answers of each cluster at each threshold, and the wrong ones of them."""
    given, errors = np.zeros((2, len(thresholds), count))
    for index, threshold in enumerate(thresholds):
        there = sure >= threshold
        given[index] = np.bincount(codes[there], minlength=count)
        errors[index] = np.bincount(codes[there & errs], minlength=count)
    return given, errors


def risk_coverage(confidence: ArrayLike, wrong: ArrayLike) -> tuple[Floats, Floats]:
    """Return ([K] coverage, [K] share of wrong answers) for every threshold that is one of the confidences, highest first.

    >>> [step.tolist() for step in risk_coverage([0.9, 0.5, 0.5], [False, True, False])]
    [[0.3333333333333333, 1.0], [0.0, 0.3333333333333333]]
    """
    sure, errs = np.asarray(confidence, np.float64), np.asarray(wrong, np.float64)
    order = np.argsort(-sure, kind="stable")
    counts, errors = np.arange(1, len(sure) + 1), errs[order].cumsum()
    ends = np.flatnonzero(np.append(np.diff(sure[order]) != 0, True)) if len(sure) else np.zeros(0, int)
    return counts[ends] / len(sure), errors[ends] / counts[ends]


def aurc(confidence: ArrayLike, wrong: ArrayLike) -> float:
    """Return the area under the risk-coverage curve: the mean over k of the share of wrong answers among the k surest.

    Answers of one confidence count as if in every order: each of their places has their share of wrong ones.

    >>> round(aurc([0.9, 0.6, 0.3], [False, False, True]), 4)  # (0 + 0 + 1/3) / 3
    0.1111
    """
    sure, errs = np.asarray(confidence, np.float64), np.asarray(wrong, np.float64)
    values, codes, counts = np.unique(-sure, return_inverse=True, return_counts=True)
    shares = np.bincount(codes, weights=errs, minlength=len(values)) / counts
    return float((shares[np.sort(codes)].cumsum() / np.arange(1, len(sure) + 1)).mean())


def auroc(confidence: ArrayLike, right: ArrayLike, weights: ArrayLike) -> Floats:
    """Return [B] how often a right answer is surer than a wrong one, ties counted half; NaN where one of the kinds is missing.

    Args:
        confidence: [N].
        right: [N] bool.
        weights: [B, N] how often each answer counts.

    >>> float(auroc([0.9, 0.4, 0.4], [True, True, False], [[1, 1, 1]])[0])
    0.75
    """
    values, codes = np.unique(np.asarray(confidence, np.float64), return_inverse=True)
    hits, times = np.asarray(right, bool), np.asarray(weights, np.float64)
    member = (codes[:, None] == np.arange(len(values))).astype(np.float64)
    good, bad = (times * hits) @ member, (times * ~hits) @ member
    below = bad.cumsum(axis=1) - bad
    pairs = good.sum(axis=1) * bad.sum(axis=1)
    won = (good * (below + bad / 2)).sum(axis=1)
    return np.asarray(np.divide(won, pairs, out=np.full(len(times), np.nan), where=pairs > 0), np.float64)
