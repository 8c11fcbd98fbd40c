"""How sure answers are: agreement, what stands for a sample, what is right, and what the report says of it."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

import medground
from medground.cli.eval import _text
from medground.errors import RecipeError
from medground.evaluation.conditions import WORDED, conditions_of, wordings_of
from medground.evaluation.confidence import confidence_summary, places, representative, right, stated, with_agreement
from medground.evaluation.confidence_report import verdict
from medground.evaluation.evaluate import evaluate
from medground.evaluation.metrics import measure
from medground.evaluation.results import Resampling
from medground.evaluation.results_file import answer_record, sample_record
from medground.geometry import Box, ellipse
from medground.recipe.schema import EvaluateConfig
from medground.types import Completion, Fault, Grounding, Mask, Query, Region, Rollout, Sample, Target

SIZE = (64, 64)
A, B, C = Box(0, 0, 10, 10), Box(30, 0, 40, 20), Box(0, 40, 20, 60)
HOW = Resampling(n_boot=200)


def sample(truths, name="s"):
    query = Query(image=np.zeros((*SIZE, 3), np.uint8), question="where?", id=name)
    return Sample(query=query, target=Target(regions=tuple(Region(box=box) for box in truths)))


def answer(boxes, truths=(A,), fault=None, confidence=None):
    regions = tuple(Region(box=box, confidence=confidence) for box in boxes)
    grounding, completion = Grounding(regions=regions, fault=fault), Completion(text="", frame=None)
    rollout = Rollout(sample=sample(truths), completion=completion, grounding=grounding)
    return answer_record(completion, grounding, {}, measure(rollout, prompts=()), "")


def record(answers, truths=(A,), name="s", cluster="one"):
    return sample_record("answer", sample(truths, name), cluster, with_agreement(answers), asked_question="where?")


def agreements(*answers):
    return [one.agreement for one in with_agreement(answers)]


def test_an_answer_agrees_as_far_as_the_others_are_like_it():
    half = Box(0, 0, 10, 5)
    assert agreements(answer([A]), answer([A]), answer([half])) == [0.75, 0.75, 0.5]
    assert agreements(answer([]), answer([]), answer([A])) == [0.5, 0.5, 0.0]
    assert agreements(answer([A, B]), answer([B])) == [pytest.approx(2 / 3)] * 2
    assert agreements(answer([A])) == [None]


def test_a_fault_agrees_with_none_not_even_with_another():
    broken = answer([], fault=Fault.BAD_JSON)
    assert agreements(broken, broken, answer([]), answer([])) == [0, 0, pytest.approx(1 / 3), pytest.approx(1 / 3)]


def test_the_answer_that_agrees_most_stands_for_its_sample():
    one = record([answer([C]), answer([A]), answer([A])])
    assert representative(one).box == list(A)
    assert representative(record([answer([C])])).box == list(C)
    outage = replace(answer([]), fault=Fault.TRANSPORT)
    assert representative(record([outage])) is None


@pytest.mark.parametrize(
    ("boxes", "truths", "fault", "is_right"),
    [
        ([A], [A], None, True),
        ([Box(0, 0, 10, 5)], [A], None, True),
        ([Box(0, 0, 10, 4)], [A], None, False),
        ([], [A], None, False),
        ([], [], None, True),
        ([A], [], None, False),
        ([], [], Fault.BAD_JSON, False),
        ([A], [A, B, C], None, True),
        ([A], [A, B, C, Box(50, 50, 60, 60)], None, False),
    ],
)
def test_an_answer_is_right_from_an_iou_of_a_half_on(boxes, truths, fault, is_right):
    """One of three targets agrees by 2·1/(1 + 3), one of four by 2·1/(1 + 4)."""
    one = record([answer(boxes, truths, fault)], truths)
    assert right(one, one.answers[0]) is is_right


def test_masks_decide_where_they_are_measured():
    one = record([answer([A])])
    assert not right(one, replace(one.answers[0], values={"mask_iou": 0.49}))
    assert right(one, replace(one.answers[0], values={"mask_iou": 0.5}))


def test_the_tight_box_of_its_mask_stands_for_a_point():
    region = Region(points=((5.0, 5.0),), mask=Mask(data=ellipse(A, SIZE)))
    grounding = Grounding(regions=(region,))
    rollout = Rollout(sample=sample([A]), completion=Completion(text="", frame=None), grounding=grounding)
    one = answer_record(None, grounding, {"joint": region.mask}, measure(rollout), "")
    assert places(one) == [Region(box=A)]


def test_the_least_sure_region_speaks_for_an_answer():
    sure, unsure = (answer([A], confidence=value).regions[0] for value in (0.9, 0.4))
    assert stated([sure, unsure]) == 0.4
    assert stated([sure, replace(unsure, confidence=None)]) == 0.9
    assert stated([]) == 1.0


def summary(rows, **config):
    """Of (confidence, right?, cluster)."""
    records = [
        record([answer([A if hit else C], confidence=sure)], name=str(index), cluster=str(cluster))
        for index, (sure, hit, cluster) in enumerate(rows)
    ]
    return confidence_summary(records, EvaluateConfig(**config), HOW)


def test_confidence_is_summarized_as_by_hand():
    got = summary([(0.95, True, 0), (0.85, False, 1), (0.65, True, 2), (0.25, False, 3)])
    assert (got.source, got.n, got.right) == ("stated", 4, 0.5)
    assert got.auroc.mean == 0.75
    assert got.auroc.low <= 0.75 <= got.auroc.high
    assert got.error == pytest.approx((0.05 + 0.85 + 0.35 + 0.25) / 4)
    assert got.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert got.curve == [(0.25, 0.0), (0.5, 0.5), (0.75, pytest.approx(1 / 3)), (1.0, 0.5)]
    assert [(row.low, row.right) for row in got.bins] == [(0.2, 0), (0.6, 1), (0.8, 0), (0.9, 1)]


def test_where_nothing_is_said_of_confidence_there_is_no_summary():
    assert summary([(None, True, 0), (None, False, 1)]) is None


def test_a_threshold_is_chosen_on_some_clusters_and_measured_on_the_others():
    rows = [(0.9 if index % 4 else 0.2, bool(index % 4), index) for index in range(400)]
    result = summary(rows).selective
    assert result.selection.threshold == 0.9
    assert result.selection.clusters + result.clusters == 400
    assert result.wrong.mean == 0
    assert 0.6 < result.given.mean < 0.9
    assert result.given.n == result.samples
    assert "0.900 or more may be given" in verdict(result)


def test_where_no_threshold_passes_nothing_is_given_and_it_says_so():
    result = summary([(0.9, bool(index % 2), index) for index in range(100)]).selective
    assert result.selection.threshold is None
    assert (result.given.mean, result.wrong) == (0, None)
    assert "no answer is to be given" in verdict(result)


def test_the_clusters_are_parted_not_their_samples():
    rows = [(0.9, True, index // 10) for index in range(200)]
    result = summary(rows, calibration=0.25).selective
    assert (result.selection.clusters, result.selection.samples, result.selection.largest) == (5, 50, 10)
    assert (result.clusters, result.samples) == (15, 150)


def test_a_question_has_several_wordings_its_own_paraphrase_first():
    answers = conditions_of(None)
    assert [condition.name for condition in wordings_of(4, answers)] == list(WORDED[:3])
    assert wordings_of(None, answers) == []
    plain = sample([A])
    own = replace(plain, labels={"paraphrase": "what {is} it?"})
    asked = [condition.query(one, None).question for one in (plain, own) for condition in wordings_of(5, answers)]
    assert len(set(asked)) == 5
    assert all("where?" in question for question in asked[:4])
    assert asked[4] == "what {is} it?"
    assert asked[5:] == asked[:3]


def test_wordings_are_compared_with_the_answers():
    with pytest.raises(RecipeError, match="compares with the answers"):
        wordings_of(3, conditions_of(["oracle_box"]))


@dataclass(frozen=True)
class Fickle:
    """A reasoner that boxes the truth, in one of three wordings of a question only half of it; each seed in another way."""

    def generate(self, batch, sampling):
        from medground.frames import pixels
        from medground.types import image_of, text_of

        def text(messages, index):
            x2 = 40 if "colleague" not in text_of(messages) else 30
            x2 -= index if image_of(messages).mean() > 100 else 0
            return f'<think>a</think><answer>{{"bbox": [20, 20, {x2}, 40]}}</answer>'

        return [
            [
                Completion(text=text(messages, index), frame=pixels(image_of(messages).shape[:2]))
                for index in range(sampling.num_generations)
            ]
            for messages in batch
        ]


def drawn(count):
    box = Box(20, 20, 40, 40)
    for index in range(count):
        image = np.full((*SIZE, 3), 60 if index % 2 else 160, np.uint8)
        image[0, 0] = index
        region = Region(box=box, points=((25.0, 25.0), (35.0, 35.0)), mask=Mask(data=ellipse(box, SIZE)))
        yield Sample(query=Query(image=image, question="where?", id=str(index)), target=Target(regions=(region,)))


@pytest.mark.slow
def test_several_answers_and_wordings_are_asked_measured_and_reported(tmp_path):
    ground = medground.load("infer/toy", reasoner=Fickle(), prompt_interface="bbox", segmenter="ellipse")
    settings = ["sampling.temperature=1", "evaluate.samples=3", "evaluate.paraphrases=3", "evaluate.n_boot=50"]
    result = evaluate(ground, *settings, data=list(drawn(8)), out=tmp_path / "out")
    assert {len(one.answers) for one in result.records} == {3}
    bright, dark = (one for one in result.records[:2])
    assert [one.agreement for one in dark.answers] == [1, 1, 1]
    assert [one.agreement for one in bright.answers] == pytest.approx(
        [(19 + 18) / 40, (19 / 20 + 18 / 19) / 2, 0.9 / 2 + 18 / 38]
    )
    worded = result.summary.wordings["iou"]
    assert worded.wordings == 3
    assert worded.mean.mean == pytest.approx(np.mean([one.values["iou"] for one in result.records]))
    halves = [one.values["iou"] for one in result.records if one.condition == "wording_3"]
    assert worded.worst.mean == pytest.approx(np.mean(halves))
    assert worded.worst.mean < worded.mean.mean
    assert result.summary.confidence.source == "agreement"
    assert "no answer is to be given" in _text(result.summary, tmp_path)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Confidence, and which answers to give" in page
    assert "no answer is to be given" in page
    assert "Every question is asked in 3 wordings" in page


def test_one_answer_at_a_time_shows_no_confidence_and_no_wordings(tmp_path):
    ground = medground.load("infer/toy", reasoner=Fickle(), prompt_interface="bbox", segmenter="ellipse")
    result = evaluate(ground, "evaluate.n_boot=50", data=list(drawn(3)), out=tmp_path / "out")
    assert result.summary.confidence is None
    assert result.summary.wordings is None
    assert "Confidence" not in (tmp_path / "out" / "report.html").read_text()


def test_the_same_answer_again_is_refused():
    with pytest.raises(RecipeError, match="same answer again"):
        evaluate("infer/toy", "evaluate.samples=3", "sampling.temperature=0", data=list(drawn(2)))
