"""Metrics of none, one and many regions: worked by hand, and shown only where there are such."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import medground
from medground.evaluation import instances
from medground.evaluation.conditions import CONDITIONS
from medground.evaluation.instances import agreement
from medground.evaluation.metrics import DEFINITIONS, measure
from medground.evaluation.pictures import pictures
from medground.evaluation.results import Resampling
from medground.evaluation.results_file import answer_record, sample_record
from medground.evaluation.summary import summarize
from medground.frames import pixels
from medground.geometry import Box, ellipse
from medground.types import Completion, Fault, Grounding, Mask, Query, Region, Rollout, Sample, Target, image_of

SIZE = (64, 64)
A, B, C = Box(0, 0, 10, 10), Box(30, 0, 40, 20), Box(0, 40, 20, 60)


def regions(boxes, masked=True):
    return tuple(
        Region(box=box, mask=Mask(data=ellipse(box, SIZE)) if masked else None) for box in (Box(*box) for box in boxes)
    )


def rollout(boxes, truths, fault=None, masked=True, outage=None):
    query = Query(image=np.zeros((*SIZE, 3), np.uint8), question="where?", id="s")
    return Rollout(
        sample=Sample(query=query, target=Target(regions=regions(truths, masked))),
        completion=Completion(text="", frame=None),
        grounding=Grounding(regions=regions(boxes, masked), fault=fault),
        fault=outage,
    )


def values(*case, **more):
    return measure(rollout(*case, **more)).values


# answered, true, precision, recall, F1 (IoU 0.5), F1 (IoU 0.25), matched IoU, count error
HALF = Box(0, 0, 10, 4)
CASES = {
    "all right, in another order": ([C, A, B], [A, B, C], 1, 1, 1, 1, 1, 0),
    "one of three": ([B], [A, B, C], 1, 1 / 3, 1 / 2, 1 / 2, 1 / 3, 2),
    "one too many": ([A, B, C], [A, B], 2 / 3, 1, 4 / 5, 4 / 5, 1, 1),
    "one twice": ([A, A], [A, B], 1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 0),
    "one too small": ([HALF, B], [A, B], 1 / 2, 1 / 2, 1 / 2, 1, 0.7, 0),
    "nothing of two": ([], [A, B], 0, 0, 0, 0, 0, 2),
    "something of nothing": ([A, B], [], 0, 0, 0, 0, None, 2),
    "nothing of nothing": ([], [], 1, 1, 1, 1, None, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_instances_are_counted_as_by_hand(case):
    answered, truths, precision, recall, f1, f1_25, matched, error = CASES[case]
    got = values(answered, truths)
    assert got["instance_precision_50"] == pytest.approx(precision)
    assert got["instance_recall_50"] == pytest.approx(recall)
    assert got["instance_f1_50"] == pytest.approx(f1)
    assert got["instance_f1_25"] == pytest.approx(f1_25)
    assert got.get("matched_iou") == (None if matched is None else pytest.approx(matched))
    assert got["count_error"] == error


def test_an_iou_of_a_half_is_a_hit_and_hits_come_before_overlap():
    """The pairs with the highest sum of IoU, 1 and 0.01, hold one hit; the others, 0.5 each, hold two."""
    answered = [Box(0, 0, 100, 10), Box(49, 0, 99, 10)]
    truths = [Box(0, 0, 100, 10), Box(0, 0, 50, 10)]
    assert values(answered, truths, masked=False)["instance_f1_50"] == 1
    assert values(answered, truths, masked=False)["matched_iou"] == pytest.approx((1 + 1 / 99) / 2)


def test_presence_is_measured_on_each_kind_of_target_alone():
    assert values([], [])["no_target_accuracy"] == 1
    assert values([A], [])["no_target_accuracy"] == 0
    assert "target_miss" not in values([], [])
    assert values([], [A])["target_miss"] == 1
    assert values([B], [A])["target_miss"] == 0
    assert "no_target_accuracy" not in values([], [A])


def test_a_failure_is_the_worst_answer():
    absent, present = values([], [], Fault.BAD_JSON), values([], [A, B], Fault.BAD_JSON)
    assert absent["no_target_accuracy"] == absent["instance_f1_50"] == absent["union_dice"] == 0
    assert absent["count_error"] == 1
    assert present["target_miss"] == 1
    assert present["matched_iou"] == present["instance_recall_25"] == present["union_dice"] == 0
    assert present["count_error"] == 2
    partly = values([A], [A], Fault.OUT_OF_FRAME)
    assert partly["instance_f1_50"] == 0
    assert partly["target_miss"] == 1


def test_what_is_not_the_models_doing_is_left_out():
    lost = values([], [A], outage=Fault.TRANSPORT)
    assert not set(lost) & set(instances.DEFINITIONS)
    unsegmented = values([A], [A], masked=True, outage=Fault.SEGMENTER)
    assert unsegmented["instance_f1_50"] == 1
    assert "union_dice" not in unsegmented


def test_the_dice_of_unions_counts_absent_targets():
    assert values([A, B], [A, B])["union_dice"] == 1
    assert values([A], [A, B])["union_dice"] == values([A], [A, B])["dice_joint"] < 1
    assert values([], [])["union_dice"] == 1
    assert values([A], [])["union_dice"] == 0
    assert values([], [A])["union_dice"] == 0


def test_a_mask_stands_for_a_box_that_is_not_there():
    case = rollout([A, B], [A, B])
    pointed = tuple(replace(region, box=None) for region in case.grounding.regions)
    case = replace(case, grounding=replace(case.grounding, regions=pointed))
    assert measure(case, provides=("points",)).values["instance_f1_50"] == 1
    bare = tuple(replace(region, mask=None) for region in pointed)
    case = replace(case, grounding=replace(case.grounding, regions=bare))
    assert "instance_f1_50" not in measure(case, provides=("points",), prompts=()).values


def test_several_regions_and_none_about_one_target_stay_in_the_means():
    """The best of n regions counts a share of n; it was no value once, and left the mean."""
    assert values([A, B], [A])["iou"] == 0.5
    assert values([], [A])["iou"] == 0
    assert 0 < values([A, B], [A])["dice_ellipse"] < 1
    assert values([A, B], [A, B])["dice_ellipse"] == 1


boxes_of = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20), st.integers(1, 20)).map(
        lambda b: Box(b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    max_size=4,
)


@pytest.mark.slow
@given(boxes_of, boxes_of)
def test_metrics_are_in_range_and_the_finer_level_hits_no_more(answered, truths):
    got = values(answered, truths, masked=False)
    assert all(
        0 <= value <= 1 for name, value in got.items() if name in instances.DEFINITIONS and name != "count_error"
    )
    for name in ("precision", "recall", "f1"):
        assert got[f"instance_{name}_50"] <= got[f"instance_{name}_25"]
    swapped = values(truths, answered, masked=False)
    assert got["instance_precision_50"] == swapped["instance_recall_50"]


@given(boxes_of, boxes_of)
def test_agreement_is_symmetric_and_whole_with_oneself(one, other):
    ours, theirs = regions(one, False), regions(other, False)
    assert agreement(ours, theirs) == pytest.approx(agreement(theirs, ours))
    assert agreement(ours, ours) == 1
    assert 0 <= agreement(ours, theirs) <= 1


def record(name, boxes, truths, fault=None):
    case = rollout(boxes, truths, fault)
    sample = replace(case.sample, query=replace(case.sample.query, id=name))
    answer = answer_record(case.completion, case.grounding, {}, measure(case), "")
    return sample_record("answer", sample, f"image-{name}", [answer], asked_question="where?")


def shown(*cases):
    records = [record(str(index), *case) for index, case in enumerate(cases)]
    return summarize(records, CONDITIONS["answer"], Resampling(n_boot=50), crossed=False, answers=None).metrics


def test_a_set_of_one_target_each_shows_none_of_these_metrics():
    assert not set(shown(([A], [A]), ([B], [A]))) & set(instances.DEFINITIONS)


def test_several_targets_show_instances_but_no_presence():
    metrics = shown(([A], [A]), ([B], [A, B]))
    assert set(instances.INSTANCES) <= set(metrics)
    assert not set(instances.ABSENCE) & set(metrics)
    assert metrics["instance_f1_50"].mean == pytest.approx((1 + 2 / 3) / 2)


def test_absent_targets_show_presence_with_an_interval_over_those_they_are_about():
    metrics = shown(([], []), ([A], []), ([], [A]), ([A], [A]), ([A], [A]))
    assert (metrics["no_target_accuracy"].mean, metrics["no_target_accuracy"].n) == (0.5, 2)
    assert (metrics["target_miss"].mean, metrics["target_miss"].n) == (pytest.approx(1 / 3), 3)
    assert (metrics["iou"].mean, metrics["iou"].n) == (pytest.approx(2 / 3), 3)
    assert metrics["union_dice"].n == 5
    assert metrics["no_target_accuracy"].low is not None


def test_every_metric_has_a_definition():
    assert set(instances.DEFINITIONS) < set(DEFINITIONS)
    assert set(values([], [])) | set(values([A], [A, B])) >= set(instances.DEFINITIONS)


class Ideal:
    """A reasoner that is right about every picture but those it has no memory of: there nothing fits."""

    def __init__(self, known):
        self.known = known

    def generate(self, batch, sampling):
        interface = medground.build("prompt_interface", "regions", points=False, instructions=False)
        targets = [self.known.get(int(image_of(messages)[0, 0, 0]), Target(regions=())) for messages in batch]
        return [[Completion(text=interface.answer(target), frame=pixels(SIZE))] for target in targets]


@pytest.mark.slow
def test_an_evaluation_of_none_one_and_many_targets_is_summarized_and_reported(tmp_path):
    targets = [[], [A], [A, B, C], [], [B], [A, C]]
    samples = [
        replace(
            rollout([], boxes).sample,
            query=Query(image=np.full((*SIZE, 3), index, np.uint8), question="where?", id=str(index)),
        )
        for index, boxes in enumerate(targets)
    ]
    known = {index: sample.target for index, sample in enumerate(samples) if index != 4}
    interface = medground.build("prompt_interface", "regions", points=False, instructions=False)
    ground = medground.load("infer/toy", reasoner=Ideal(known), prompt_interface=interface, segmenter="ellipse")
    result = medground.evaluate(
        ground,
        "evaluate.n_boot=50",
        "evaluate.conditions=[answer,oracle_box,whole_box]",
        data=samples,
        out=tmp_path / "out",
    )
    means = {name: result.mean(name) for name in instances.DEFINITIONS}
    assert means["no_target_accuracy"] == 1
    assert means["target_miss"] == 0.25
    assert means["instance_f1_50"] == pytest.approx(5 / 6)
    assert means["matched_iou"] == pytest.approx(3 / 4)
    assert means["count_error"] == pytest.approx(1 / 6)
    assert means["union_dice"] == pytest.approx(5 / 6)
    assert result.mean("iou") == 0.5
    assert result.mean("union_dice", "oracle_box") == result.mean("no_target_accuracy", "oracle_box") == 1
    assert result.mean("no_target_accuracy", "whole_box") == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert DEFINITIONS["no_target_accuracy"] in page
    assert "The target of 2 samples is absent" in page and "no_target_accuracy is 1" in page
    sizes = {group.labels["size"]: group.samples for group in result.summary.conditions["answer"].groups["size"]}
    assert sizes["absent"] == 2 and "under 1 %" not in sizes


def test_a_perfect_segmenter_knows_of_several_targets_the_one_that_is_pointed_at():
    sample = rollout([], [A, B]).sample
    first = sample.target.regions[0]
    point = f"[{first.box.centre[0]:g}, {first.box.centre[1]:g}]"
    reasoner = medground.build("reasoner", "scripted", texts=[f'<answer>[{{"points": [{point}]}}]</answer>'])
    ground = medground.load(
        "infer/toy", "prompt=points", reasoner=reasoner,
        prompt_interface=medground.build("prompt_interface", "multi_point"), segmenter="region_growing",
    )  # fmt: skip
    result = medground.evaluate(ground, "evaluate.conditions=[answer,perfect_segmenter]", data=[sample])
    share = first.mask.data.sum() / sample.target.mask.sum()
    assert result.mean("union_dice", "perfect_segmenter") == pytest.approx(2 * share / (1 + share))


def test_a_page_shows_answers_about_absent_targets_the_wrong_ones_first():
    right, wrong, there = record("0", [], []), record("1", [A], []), record("2", [A], [A])
    sample = rollout([], []).sample
    shown = pictures([right, wrong, there], lambda name: sample, count=6, seed=0)
    [gallery] = [drawn for title, drawn in shown.galleries.items() if "Absent" in title]
    assert [(one.record.id, one.score) for one in gallery] == [
        ("1", "no_target_accuracy 0.000"), ("0", "no_target_accuracy 1.000"),
    ]  # fmt: skip
    assert [one.record.id for one in shown.lead] == ["2"]
    alone = pictures([wrong, right], lambda name: sample, count=6, seed=0)
    assert [(one.record.id, one.title) for one in alone.lead] == [("0", "Best"), ("1", "Worst")] and not alone.galleries
