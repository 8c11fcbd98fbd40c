"""Intervals cover the truth, p-values are uniform without a difference, corrections agree with hand calculations."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medground.evaluation.statistics import Estimate, _resampled, _student, compare, estimate, holm, sign_flip


def clustered(rng, clusters):
    """Scores in [0, 1] of 1 to 4 samples per cluster, alike within it; their true mean is 0.3."""
    sizes = rng.integers(1, 5, clusters)
    centres = rng.beta(0.6, 1.4, clusters)
    return np.repeat(centres, sizes), np.repeat(np.arange(clusters), sizes).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [12, 40])
def test_the_interval_covers_the_truth_as_often_as_it_says(clusters):
    rng, covered, times = np.random.default_rng(7), 0, 400
    for turn in range(times):
        values, of = clustered(rng, clusters)
        (estimates,) = estimate(values[:, None], of, n_boot=400, seed=turn)
        covered += estimates.low <= 0.3 <= estimates.high
    assert 0.92 <= covered / times <= 0.98


@pytest.mark.slow
def test_samples_taken_one_by_one_would_not_cover():
    """The same data, each sample its own cluster: what an interval that ignores clusters claims."""
    rng, covered, times = np.random.default_rng(7), 0, 200
    for turn in range(times):
        values, _ = clustered(rng, 40)
        (estimates,) = estimate(values[:, None], list(range(len(values))), n_boot=400, seed=turn)
        covered += estimates.low <= 0.3 <= estimates.high
    assert covered / times < 0.88


def test_the_mean_is_that_of_samples_and_gaps_are_left_out():
    values = np.array([[1.0, np.nan], [0.0, np.nan], [0.5, 4.0]])
    first, second = estimate(values, ["a", "a", "b"])
    assert (first.mean, first.n, first.clusters) == (0.5, 3, 2)
    assert second == Estimate(4.0, None, None, 1, 1)
    assert estimate(np.full((2, 1), np.nan), ["a", "b"]) == [None]
    assert estimate(np.zeros((0, 2)), []) == [None, None]


def test_an_interval_is_a_function_of_the_numbers_and_the_seed():
    values, of = clustered(np.random.default_rng(0), 20)
    again = [estimate(values[:, None], of, seed=seed)[0] for seed in (3, 3, 4)]
    assert again[0] == again[1] != again[2]
    assert again[0].low < again[0].mean < again[0].high
    wide, narrow = (estimate(values[:, None], of, level=level)[0] for level in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_blocks_change_no_interval(monkeypatch):
    values, of = clustered(np.random.default_rng(0), 20)
    whole = estimate(values[:, None], of)
    monkeypatch.setattr("medground.evaluation.statistics._BLOCK", 64)
    assert estimate(values[:, None], of) == whole


def test_sign_flips_are_listed_for_few_clusters():
    differences = np.array([0.3, -0.1, 0.25, 0.0, 0.4])
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=5)]
    assert sign_flip(differences) == np.mean([total >= abs(differences.sum()) - 1e-9 for total in sums])
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([1.0] * 5) == 2 / 32


def test_drawn_flips_agree_with_listed_ones(monkeypatch):
    differences = np.random.default_rng(1).normal(0.3, 1, 12)
    exact = sign_flip(differences)
    monkeypatch.setattr("medground.evaluation.statistics._LISTED", 0)
    assert sign_flip(differences) == pytest.approx(exact, abs=0.02)
    assert sign_flip(np.ones(60)) == pytest.approx(1 / 10_001)


@pytest.mark.slow
def test_p_values_are_uniform_where_nothing_differs():
    rng, estimates = np.random.default_rng(5), []
    for turn in range(400):
        values, of = clustered(rng, 16)
        noise = np.repeat(rng.normal(0, 0.1, 16), np.bincount(of)) + rng.normal(0, 0.05, len(of))
        estimates.append(compare(values + noise, values, of, n_boot=20, seed=turn).p)
    assert np.mean(np.array(estimates) <= 0.05) == pytest.approx(0.05, abs=0.025)
    assert np.mean(np.array(estimates) <= 0.5) == pytest.approx(0.5, abs=0.07)


def test_a_real_difference_has_a_small_p_value():
    rng = np.random.default_rng(2)
    values, of = clustered(rng, 30)
    estimates = compare(values + 0.1 + rng.normal(0, 0.02, len(of)), values, of)
    assert estimates.p < 0.001
    assert estimates.difference.low < 0.1 < estimates.difference.high
    assert estimates.mean - estimates.other == pytest.approx(estimates.difference.mean)
    assert (estimates.n, estimates.clusters) == (len(of), 30)
    assert compare([np.nan], [1.0], ["a"]) is None


def test_holm_by_hand():
    # 0.01 x 4, 0.02 x 3, 0.03 x 2, and 0.04 x 1 may not fall below what came before it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_only_raises_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[i] for i in order] == sorted(corrected)
    assert min(corrected) == pytest.approx(min(1, len(p_values) * min(p_values)))


def skewed(clusters=14, seed=4):
    """Scores with a long tail above, 1 to 3 of a cluster."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, clusters)
    return np.repeat(rng.lognormal(0, 1.2, clusters), sizes), np.repeat(np.arange(clusters), sizes)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_interval_is_the_published_formula_of_the_draws(mirrored, level):
    """Efron 1987, with Student's quantiles and sqrt(n / (n - 1)) of Hesterberg 2015, written once more as loops."""
    values, of = skewed()
    values = -values if mirrored else values
    (result,) = estimate(values[:, None], of.tolist(), n_boot=3000, level=level, seed=9)
    names = sorted(set(of))
    sums = np.array([values[of == name].sum() for name in names])
    counts = np.array([float((of == name).sum()) for name in names])
    draws = _resampled(sums[:, None], counts[:, None], 3000, 9)[:, 0]
    n, mean = len(names), values.mean()
    bias = stats.norm.ppf((draws < mean).mean())
    left_out = np.array([values[of != name].mean() for name in names])
    pulls = left_out.mean() - left_out
    acceleration = (pulls**3).sum() / (6 * (pulls**2).sum() ** 1.5)
    assert abs(bias) > 0.05 and abs(acceleration) > 0.05, "both corrections are at work"
    for edge, share in ((result.low, (1 - level) / 2), (result.high, (1 + level) / 2)):
        wide = bias + stats.t.ppf(share, n - 1) * (n / (n - 1)) ** 0.5
        expected = np.quantile(draws, stats.norm.cdf(bias + wide / (1 - acceleration * wide)))
        assert edge == pytest.approx(expected, rel=2e-3)


def test_the_interval_agrees_with_that_of_scipy_where_clusters_are_many():
    values = np.random.default_rng(3).lognormal(0, 1, 300)
    (result,) = estimate(values[:, None], list(range(300)), n_boot=4000, seed=1)
    scipy = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=4000, rng=np.random.default_rng(2))
    plain = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(2))
    width = result.high - result.low
    for edge, theirs, percentile in zip(
        (result.low, result.high), scipy.confidence_interval, plain.confidence_interval, strict=True
    ):
        assert abs(edge - theirs) < 0.05 * width
        assert abs(edge - theirs) < abs(edge - percentile), "nearer than to an interval without the corrections"


def test_resamples_are_means_of_clusters_drawn_as_often_as_there_are():
    """Two clusters, 0 of one sample and 1 of three: a draw holds both of one, or one of each."""
    draws = _resampled(np.array([[0.0], [3.0]]), np.array([[1.0], [3.0]]), 4000, 0)[:, 0]
    values, shares = np.unique(draws, return_counts=True)
    assert values.tolist() == [0.0, 0.75, 1.0]
    assert shares / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    alone = _resampled(np.array([[0.0], [3.0]]), np.array([[0.0], [3.0]]), 4000, 0)[:, 0]
    assert np.isnan(alone).mean() == pytest.approx(0.25, abs=0.03) and set(alone[~np.isnan(alone)]) == {1.0}


@pytest.mark.parametrize("freedom", [4, 9, 30])
def test_the_quantiles_of_student(freedom):
    for share in (0.025, 0.1, 0.5, 0.9, 0.975):
        assert _student(stats.norm.ppf(share), freedom) == pytest.approx(stats.t.ppf(share, freedom), abs=0.01)


def test_intervals_without_spread_or_without_a_second_cluster():
    same = np.full((6, 1), 0.25)
    assert estimate(same, list("aabbcc"))[0] == Estimate(0.25, 0.25, 0.25, 6, 3)
    assert estimate(same, list("aaaaaa"))[0] == Estimate(0.25, None, None, 6, 1)
    rounded = estimate(np.full((9, 1), 0.1), list("abbccccdd"))[0]
    assert (rounded.low, rounded.high) == pytest.approx((0.1, 0.1), abs=1e-12), "draws differ by rounding alone"
    (two,) = estimate(np.array([[0.0], [1.0]]), ["a", "b"])
    assert (two.mean, two.clusters, two.low, two.high) == (0.5, 2, 0.0, 1.0)


def test_a_comparison_by_hand():
    """Where one of the two is missing the sample counts in neither mean."""
    result = compare([1.0, 0.5, np.nan, 0.2], [0.0, 0.5, 1.0, 0.8], ["a", "a", "b", "c"])
    assert (result.n, result.clusters, result.differ) == (3, 2, 2)
    assert (result.mean, result.other) == pytest.approx((1.7 / 3, 1.3 / 3))
    assert result.difference.mean == pytest.approx(0.4 / 3)
    assert result.p == 1.0, "sums of 1 and -0.6: of the four signs all give at least 0.4"
    assert sign_flip([1.0, -0.6, 0.1]) == 0.75 and sign_flip([1.0, 0.6, -0.1]) == 0.5
