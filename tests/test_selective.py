"""Selective prediction: the promise holds on simulated clusters, and curves and areas are those worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from selective import KINDS, simulate

from medground.evaluation.selective import STAKES, aurc, auroc, choose_threshold, evidence, risk_coverage


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[:3], ids=lambda kind: kind.name)
def test_few_thresholds_are_too_risky_and_many_answers_are_given(kind):
    outcome = simulate(kind, 60, risk=0.1, delta=0.1, seed=1, population=100_000)
    assert outcome.above <= 0.12
    assert outcome.coverage > 0.4


def test_without_evidence_nothing_is_given():
    sure = np.linspace(0, 1, 600)
    wrong = np.arange(600) % 3 == 0
    assert choose_threshold(sure, wrong, range(600)).threshold is None
    assert choose_threshold(sure, wrong, range(600), risk=0.5).threshold is not None
    assert choose_threshold([], [], []).threshold is None
    assert choose_threshold([0.9], [False], ["one"]).threshold is None


def test_a_threshold_parts_right_from_wrong_and_ignores_labels_and_order():
    rng = np.random.default_rng(0)
    sure = rng.uniform(size=800)
    wrong = sure < 0.5
    chosen = choose_threshold(sure, wrong, range(800), risk=0.05)
    assert 0.45 < chosen.threshold < 0.6
    assert (chosen.samples, chosen.clusters, chosen.largest) == (800, 800, 1)
    assert choose_threshold(sure, wrong, range(800), risk=0.3).threshold < chosen.threshold


def test_copies_of_a_sample_in_its_cluster_are_no_evidence():
    """25 clusters, each answer there 40 times: as a thousand samples they would pass, as 25 they do not."""
    sure, clusters = np.repeat(np.linspace(0.5, 1, 25), 40), np.repeat(np.arange(25), 40)
    wrong = np.zeros(1000, bool)
    assert choose_threshold(sure, wrong, clusters).threshold is None
    assert choose_threshold(sure, wrong, range(1000)).threshold is not None


@pytest.mark.parametrize("size", [1, 5])
def test_bets_on_a_true_hypothesis_seldom_reach_ten(size):
    """Whole clusters are wrong with probability 0.1 = risk: the mean gain is 0."""
    rng = np.random.default_rng(size)
    stakes = np.array([[1.0, *np.array(STAKES) / 0.9]])
    gains = 0.1 - (rng.uniform(size=(2000, 1, 200)) < 0.1)
    reached = [evidence(one, stakes)[0] >= np.log(10) for one in gains]
    assert np.mean(reached) <= 0.1
    assert np.mean(reached) > 0.01


def test_bets_grow_as_the_product_of_what_they_pay():
    gains = np.array([[0.1, -0.4, 0.1]])
    stakes = np.array([[1.0, 0.5]])
    worth = [
        0.5 * np.prod(1 + gains[0, :end]) + 0.5 * np.prod(1 + 0.5 * gains[0, :end]) for end in range(1, 4)
    ]  # fmt: skip
    assert evidence(gains, stakes)[0] == pytest.approx(np.log(max(worth)))


def test_for_single_samples_the_test_is_the_binomial_one():
    """80 test clusters without an error: 0.9^80 is below 0.1, 0.9^20 = 0.12 is not."""
    for count, passes in ((100, True), (25, False)):
        chosen = choose_threshold(np.full(count, 0.8), np.zeros(count, bool), range(count))
        assert (chosen.threshold == 0.8) is passes
        assert bool(binom.cdf(0, round(0.8 * count), 0.1) <= 0.1) is passes


def test_five_errors_of_a_hundred_always_pass_the_binomial_test_and_not_always_the_bets():
    """At most five of the hundred test samples are wrong: 0.058. Bets are for clusters of more than a sample."""
    wrong = np.zeros(125, bool)
    wrong[:5] = True
    sure, twice = np.full(125, 0.8), np.tile(np.arange(125), 2)
    once = [choose_threshold(sure, wrong, range(125), seed=seed).threshold for seed in range(6)]
    bets = [choose_threshold(np.tile(sure, 2), np.tile(wrong, 2), twice, seed=seed).threshold for seed in range(6)]
    assert once == [0.8] * 6
    assert None in bets


def test_the_risk_coverage_curve_and_its_area_are_as_by_hand():
    sure, wrong = [0.9, 0.8, 0.8, 0.2], [False, True, False, True]
    covered, risks = risk_coverage(sure, wrong)
    assert covered.tolist() == [0.25, 0.75, 1.0]
    assert risks.tolist() == [0.0, pytest.approx(1 / 3), 0.5]
    assert aurc(sure, wrong) == pytest.approx((0 + 0.5 / 2 + 1 / 3 + 2 / 4) / 4)


answers = st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9]), st.booleans()), min_size=1, max_size=12)


@given(answers)
def test_the_auroc_counts_pairs(rows):
    sure, right = (np.array(column) for column in zip(*rows, strict=True))
    pairs = [(a, b) for a, hit in rows if hit for b, other in rows if not other]
    value = auroc(sure, right, np.ones((1, len(rows))))[0]
    if not pairs:
        assert np.isnan(value)
    else:
        assert value == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]))


@given(answers, st.integers(0, 11))
def test_a_weight_of_two_is_an_answer_twice(rows, index):
    index %= len(rows)
    sure, right = (np.array(column) for column in zip(*rows, strict=True))
    weights = np.ones(len(rows))
    weights[index] = 2
    more = [*rows, rows[index]]
    again = auroc(*(np.array(column) for column in zip(*more, strict=True)), np.ones((1, len(more))))[0]
    assert auroc(sure, right, weights[None])[0] == pytest.approx(again, nan_ok=True)


@pytest.mark.slow
@given(answers)
def test_the_area_is_that_under_the_mean_curve_over_orders_of_ties(rows):
    sure, wrong = (np.array(column) for column in zip(*rows, strict=True))
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(300):
        order = np.lexsort((rng.uniform(size=len(rows)), -sure))
        areas.append((wrong[order].cumsum() / np.arange(1, len(rows) + 1)).mean())
    assert aurc(sure, wrong) == pytest.approx(np.mean(areas), abs=0.08)
