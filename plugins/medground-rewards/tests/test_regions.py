"""Terms on sets of regions: what they pay for none, one and many, and what no game earns."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from medground_rewards.abstention import Abstention
from medground_rewards.examples import rollout, several
from medground_rewards.regions import TERMS, Confidence, RegionsF1, RegionsMaskF1

from medground.errors import RecipeError
from medground.geometry import box_iou, ellipse
from medground.testing import check_reward
from medground.types import Fault, Mask

A, B, C = (0, 0, 10, 10), (30, 0, 40, 20), (0, 40, 20, 60)
SET_TERMS = [RegionsMaskF1 if term.needs_mask else RegionsF1 for term in TERMS.values()]


def faulty(case, fault=Fault.BAD_JSON):
    return replace(case, grounding=replace(case.grounding, fault=fault))


@pytest.mark.parametrize(("factory", "by"), list(zip(SET_TERMS, TERMS, strict=True)))
def test_every_version_of_a_term_passes_the_conformance_kit(factory, by):
    check_reward(factory, by=by)


@pytest.mark.parametrize("by", [name for name, term in TERMS.items() if not term.needs_mask])
def test_the_confidence_term_passes_the_conformance_kit_by_every_term(by):
    check_reward(Confidence, by=by)


@pytest.mark.parametrize(("factory", "by"), [(RegionsF1, "mask_iou"), (RegionsMaskF1, "bbox_iou"), (Confidence, "iou")])
def test_a_term_of_another_kind_is_refused(factory, by):
    with pytest.raises(RecipeError, match="cannot be scored"):
        factory(by=by)


coordinate = st.one_of(st.integers(-5, 64).map(float), st.sampled_from([np.nan, np.inf, 1e200, -1e308, 5e-324]))
some_box = st.none() | st.tuples(coordinate, coordinate, coordinate, coordinate)
some_points = st.lists(st.tuples(coordinate, coordinate), max_size=3)


@pytest.mark.slow
@given(some_box, some_points, st.booleans(), st.sampled_from([None, Fault.BAD_BOX]))
def test_for_one_region_every_version_is_the_term_itself(box, pair, masked, fault):
    truth = np.zeros((64, 64), bool)
    truth[10:50, 10:40] = True
    said = ellipse(rollout().grounding.regions[0].box, (64, 64)) if masked else None
    case = rollout(box=box, points=pair, mask=said, mask_truth=truth)
    case = replace(case, grounding=replace(case.grounding, fault=fault))
    for factory, (by, term) in zip(SET_TERMS, TERMS.items(), strict=True):
        assert factory(by=by)(case).value == term(case).value


@pytest.mark.parametrize(("factory", "by"), list(zip(SET_TERMS, TERMS, strict=True)))
def test_where_the_term_abstains_so_does_its_version(factory, by):
    case = rollout(truth=(10, 10, 10, 50), points_truth=((5, 5),), mask=np.ones((64, 64)))
    assert TERMS[by](case).value is None
    assert factory(by=by)(case).value is None
    two = replace(case.sample.target, regions=case.sample.target.regions * 2)
    assert factory(by=by)(replace(case, sample=replace(case.sample, target=two))).value is None


@pytest.mark.parametrize(
    ("answered", "truths", "value"),
    [
        ([A, B, C], [C, A, B], 1.0),
        ([A], [A, B, C], 2 / 4),
        ([A, B, C], [A], 2 / 4),
        ([A] * 4, [A], 2 / 5),
        ([A, A], [A, B], 2 / 4),
        ([(0, 0, 60, 60)], [A, B, C], 2 * (400 / 3600) / 4),
        ([(0, 0, 5, 10), (0, 0, 10, 10)], [A, (0, 0, 5, 10)], 1.0),
        ([], [A], 0.0),
        ([A], [], 0.0),
        ([], [], 1.0),
    ],
)
def test_sets_of_boxes_earn_twice_their_shared_iou_over_their_number(answered, truths, value):
    assert RegionsF1()(several(answered, truths)).value == pytest.approx(value)


def test_an_answer_that_cannot_be_read_is_no_abstention():
    assert RegionsF1()(faulty(several([], []))).value == 0.0
    assert RegionsF1()(faulty(several([], [A, B]))).value == 0.0
    assert Abstention()(faulty(several([], []))).value == 0.0
    assert Abstention()(faulty(several([], [A]))).value is None
    assert Confidence()(faulty(several([], [A]))).value is None


def test_a_box_and_points_of_different_regions_are_not_both_paid():
    """One answered region with the box of the first target and the points of the second is near one of them only."""
    one, other = (rollout(truth=box, points_truth=pair).sample.target.regions[0] for box, pair in
                  (((0, 0, 20, 20), ((5, 5), (15, 15))), ((40, 40, 60, 60), ((45, 45), (55, 55)))))  # fmt: skip
    case = rollout()
    mixed = replace(one, points=other.points), replace(other, points=one.points)
    case = replace(
        case,
        sample=replace(case.sample, target=replace(case.sample.target, regions=(one, other))),
        grounding=replace(case.grounding, regions=mixed),
    )
    assert RegionsF1()(case).value == 1.0
    assert RegionsF1(by="points_align")(case).value == 0.0


def test_boxes_that_touch_no_target_are_matched_with_the_nearest():
    beside = [(30, 21, 40, 41), (0, 11, 10, 21)]
    alone = [TERMS["bbox_align"](several([box], [truth])).value for box, truth in zip(beside, (B, A), strict=True)]
    assert min(alone) > 0
    for answered in (beside, beside[::-1]):
        assert RegionsF1(by="bbox_align")(several(answered, [A, B])).value == pytest.approx(sum(alone) / 2)


def masked(case):
    def filled(regions):
        return tuple(replace(region, mask=Mask(data=ellipse(region.box, (64, 64)))) for region in regions)

    target = replace(case.sample.target, regions=filled(case.sample.target.regions))
    grounding = replace(case.grounding, regions=filled(case.grounding.regions))
    return replace(case, sample=replace(case.sample, target=target), grounding=grounding)


def test_masks_are_compared_region_by_region_not_as_their_unions():
    halves = masked(several([(0, 0, 20, 10), (0, 10, 20, 20)], [(0, 0, 20, 20)]))
    shared = (halves.grounding.regions[0].mask.data & halves.sample.target.mask).sum()
    sizes = halves.grounding.regions[0].mask.data.sum() + halves.sample.target.mask.sum()
    assert RegionsMaskF1()(halves).value == pytest.approx(2 * (2 * shared / sizes) / 3)
    assert RegionsMaskF1()(masked(several([B, A], [A, B]))).value == 1.0
    assert RegionsMaskF1()(masked(several([], [A, B]))).value == 0.0
    unmasked = several([A, B], [A, B])
    assert RegionsMaskF1()(unmasked).value is None


boxes_of = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 20), st.integers(1, 20)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    max_size=4,
)


def best_by_trial(answered, truths):
    """The highest 2·Σ IoU / (n + m) over all one-to-one matchings."""
    if not answered and not truths:
        return 1.0
    few, many = sorted((answered, truths), key=len)
    sums = [
        sum(float(box_iou(a, b)) for a, b in zip(few, chosen, strict=True))
        for chosen in itertools.permutations(many, len(few))
    ]
    return 2 * max(sums) / (len(answered) + len(truths))


@pytest.mark.slow
@given(boxes_of, boxes_of)
def test_no_matching_earns_more_and_the_truth_earns_all(answered, truths):
    value = RegionsF1()(several(answered, truths)).value
    assert 0.0 <= value <= best_by_trial(answered, truths) + 1e-12
    assert RegionsF1()(several(truths, truths)).value == 1.0


@given(boxes_of, boxes_of.filter(bool))
def test_a_region_twice_never_earns_more_than_once(answered, truths):
    once = RegionsF1()(several(truths, truths)).value
    assert RegionsF1()(several([*truths, *answered, truths[0]], truths)).value < once


@given(st.floats(0, 1), boxes_of.filter(bool), boxes_of)
def test_confidence_is_finite_and_in_range(sure, answered, truths):
    value = Confidence()(several(answered, truths, [sure] * len(answered))).value
    assert -1.0 <= value <= 1.0


@pytest.mark.parametrize("hits", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_the_best_confidence_is_the_overlap_one_can_expect(hits):
    """Of 100 answers so many are perfect and the others are nowhere: no stated confidence earns more than that share."""

    def expected(stated):
        right, wrong = (Confidence()(several([box], [A], [stated])).value for box in (A, C))
        return hits * right + (1 - hits) * wrong

    steps = [k / 20 for k in range(21)]
    best = max(steps, key=expected)
    assert best == pytest.approx(hits)
    assert expected(best) == pytest.approx(hits**2)
    assert expected(best) >= expected(None)


@pytest.mark.parametrize("stated", [0.0, 0.4, 1.0, None])
def test_a_wrong_answer_never_earns_by_its_confidence_and_a_better_one_never_less(stated):
    earned = [Confidence()(several([(k, 0, 10 + k, 10)], [A], [stated])).value for k in range(11)]
    assert earned == sorted(earned, reverse=True)
    assert earned[-1] <= 0.0


@pytest.mark.parametrize("unusable", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_confidence_that_is_none_counts_as_certain(unusable):
    assert (
        Confidence()(several([A], [A, B], [unusable])).value == Confidence()(several([A], [A, B], [1.0])).value == 0.5
    )


def test_pointing_as_such_and_abstaining_as_such_earn_nothing():
    assert Abstention()(several([], [])).value == 1.0
    assert Abstention()(several([A, B], [])).value == 0.0
    assert Abstention()(several([], [A])).value == 0.0
    assert Abstention()(several([B], [A])).value is None
