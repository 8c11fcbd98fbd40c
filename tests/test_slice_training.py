"""Training on volumes whose slice the reasoner chooses: two exchanges in one update, and who is credited for what."""

import dataclasses
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from medground_toy.volumes import write_questions

from medground.errors import RecipeError
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.rollouts import Group, RolloutPipeline
from medground.pipeline.slices import SliceQuery, SliceTruth, slice_pipeline
from medground.recipe import find_problems, resolve
from medground.rewards.rubric import Score, rubric
from medground.rewards.term import Failure, TermScore
from medground.training.plan import training_samples
from medground.types import Completion, Fault, Grounding, Region, Rollout, image_of, text_of

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("nibabel", reason="needs nibabel")

from medground.training.grpo.loss import Objective  # noqa: E402
from medground.training.grpo.metrics import batch_metrics, completion_rows  # noqa: E402
from medground.training.grpo.volume_rollouts import VolumeRollouts, credited, slice_rubric  # noqa: E402

NOTHING = '<answer>{"slice": null}</answer>'


def go_on():
    """Never stop."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four volumes of 32 x 32 x 8 voxels with a target each."""
    folder = tmp_path_factory.mktemp("volumes")
    write_questions(folder, 4, 5, size=32, slices=8)
    return folder


@pytest.fixture
def recipe(data):
    """``recipe(*overrides)``: two questions a step, four completions a group; the masks of boxes are paid."""

    def resolved(*overrides):
        return resolve(
            {
                "reasoner": "toy", "prompt_interface": {"name": "bbox", "think": False}, "segmenter": "box_fill",
                "prompt": "box", "data": {"path": str(data)}, "rewards": {"mask_dice": 1, "format_seg": 0.25},
                "volume": {"slice": "ask", "tiles": 4, "slice_rewards": ["format_seg"]},
                "grpo": {
                    "num_generations": 4, "train_batch_size": 2, "mini_batch_size": 1, "scale_rewards": "none",
                    "max_completion_length": 64,
                },
            },
            *overrides,
        )  # fmt: skip

    return resolved


def rollout(number, fault=None):
    regions = () if number is None else (Region(label=str(number)),)
    return Rollout(
        sample=None, completion=Completion(text="", frame=None), grounding=Grounding(regions=regions, fault=fault)
    )


def group(numbers, totals):
    scores = [Score(total, {"own": TermScore(total, 1.0)}) for total in totals]
    return Group(sample=None, rollouts=[rollout(number) for number in numbers], scores=scores)


TRUTH = SliceTruth(np.array([0, 0, 0, 9, 20, 0, 0, 0]), 2.5)


def test_a_slice_earns_the_mean_of_what_is_earned_on_it_if_it_shows_the_target():
    first = group([3, 3, 4, 6, None], [0.25, 0.0, 0.25, 0.25, 0.0])
    second = {3: group([None] * 4, [1, 0, 0.5, 0.5]), 4: group([None] * 4, [1, 1, 1, 0]), 6: group([None] * 4, [1] * 4)}
    scores = credited(first, TRUTH, second).scores
    assert [score.total for score in scores] == [0.75, 0.5, 1.0, 0.25, 0.0]
    assert [score.terms["second_exchange"].value for score in scores] == [0.5, 0.5, 0.75, 0.0, 0.0]
    assert [score.terms["own"].value for score in scores] == [0.25, 0.0, 0.25, 0.25, 0.0]


def test_a_second_exchange_that_cannot_be_scored_leaves_those_who_chose_it_without_a_reward():
    broken = group([None] * 2, [1, None])
    failure = Failure("raised", "term 'own' raised OSError")
    broken.scores[1] = dataclasses.replace(broken.scores[1], failures=(failure,))
    scores = credited(group([3, 4], [0, 0]), TRUTH, {3: broken, 4: group([None] * 2, [1, 1])}).scores
    assert [score.total for score in scores] == [None, 1.0] and scores[0].failures == (failure,)


def test_a_completion_that_no_term_scored_stays_without_a_score():
    first = group([None, 4], [0, 0])
    first.scores[0] = Score(None, {}, (Failure(Fault.TIMEOUT, "a server"),))
    scores = credited(first, TRUTH, {4: group([None] * 2, [1, 1])}).scores
    assert scores[0] is first.scores[0] and scores[1].total == 1.0


def test_a_slice_is_measured_in_mm_from_the_largest_and_from_the_nearest():
    assert TRUTH.largest == 4 and [TRUTH.shows(index) for index in (2, 3, 4, 5)] == [False, True, True, False]
    assert TRUTH.distances(7) == {"slice_error_mm": 7.5, "slice_off_mm": 7.5}
    assert TRUTH.distances(3) == {"slice_error_mm": 2.5, "slice_off_mm": 0.0}
    assert TRUTH.distances(None) is None and SliceTruth(np.zeros(3, int), 1.0).distances(1) is None


def test_both_exchanges_of_a_volume_are_samples(recipe):
    samples = training_samples(recipe())
    assert samples.ids == [f"phantom-5-{number:04}_slice" for number in range(4)]
    question = samples.entries[1].read()
    first, largest = question.first(), question.slices.largest
    assert isinstance(first.query, SliceQuery) and first.target.region.label == str(largest)
    assert len(first.query.candidates) == 8 and "4 of the 8 axial slices" in first.query.layout
    second = question.second(largest)
    assert np.array_equal(second.query.image, question.volume.slice("axial", largest, window="soft_tissue").pixels)
    assert second.target.mask.sum() == question.truth[:, :, largest].sum() > 0
    bright = second.query.image.mean(axis=2)
    assert bright[second.target.mask].min() > np.median(bright[bright > 0]), "the mask lies on the spot"
    assert question.second(0).target.regions == ()
    supervised = recipe("grpo=null", "sft={train_batch_size: 2}")
    assert training_samples(supervised).ids[:2] == ["phantom-5-0000_slice", "phantom-5-0000_answer"]
    assert training_samples(supervised)[1].query.image.shape == (32, 32, 3)


class Answers:
    """A rollout source: every montage gets the first texts, every slice the second ones."""

    def __init__(self, first, second):
        self.first, self.second, self.asked = first, second, []

    def generate(self, batch, sampling, seeds):
        self.asked += list(zip(map(image_of, batch), seeds, strict=True))
        return [
            [Completion(text=text, frame=None, token_ids=np.arange(len(text), dtype=np.int32)) for text in texts]
            for texts in (
                self.first if "slices of one volume" in text_of(messages) else self.second for messages in batch
            )
        ]


class Ranks:
    """Engines of processes that stand for threads here."""

    def __init__(self, count):
        self.count, self.barrier, self.slots = count, threading.Barrier(count, timeout=60), [None] * count

    def engine(self, rank):
        def gather(own):
            self.slots[rank] = own
            self.barrier.wait()
            everyone = list(self.slots)
            self.barrier.wait()
            return everyone

        return SimpleNamespace(rank=rank, world_size=self.count, gather=gather)


def naming(*numbers):
    return ["no answer" if number is None else f'<answer>{{"slice": {number}}}</answer>' for number in numbers]


def draws(recipe, source, ranks=1):
    """The batch of a step on every rank."""
    engines, samples, terms = Ranks(ranks), training_samples(recipe), rubric(recipe).terms

    def draw(rank):
        pipeline = Pipeline.from_recipe(recipe)
        asking = RolloutPipeline(slice_pipeline(pipeline), slice_rubric(terms, recipe.config.volume.slice_rewards))
        answering = RolloutPipeline(pipeline, rubric(recipe))
        config = recipe.config.grpo
        return VolumeRollouts(asking, answering, samples, config, 7, source, engines.engine(rank)).draw(1, 0, go_on)

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(draw, range(ranks)))


@pytest.fixture
def truths(recipe):
    return {entry.source.id: entry.read().slices for entry in training_samples(recipe()).entries}


WHOLE = [f'<answer>{{"bbox": [0, 0, {side}, {side}]}}</answer>' for side in (32, 32, 32)] + ["nothing"]
"""Three boxes around the whole slice and a text that is no answer."""


def test_advantages_are_those_worked_by_hand(recipe, truths):
    """Slices 3, 3 and 0 and no answer: the first text's reward is 0.25 for its form and what slice 3 earns."""
    (batch,) = draws(recipe(), Answers(naming(3, 3, 0, None), WHOLE))
    assert [one.details[0]["exchange"] for one in batch.groups] == ["slice", "slice"] + ["answer"] * 4
    assert batch.questions == [0, 1, 0, 0, 1, 1] and batch.drawn == 2
    assert [one.sample.query.id[-7:] for one in batch.groups[2:]] == ["axial_3", "axial_0"] * 2
    for position in (0, 1):
        truth = truths[batch.groups[position].details[0]["volume"]]
        third, none = batch.groups[2 + 2 * position : 4 + 2 * position]
        area = int(third.sample.target.mask.sum()) if truth.shows(3) else 0
        dice = 2 * area / (32 * 32 + area)
        earned = (3 * (0.25 + dice) + 0) / 4 if area else 0.0
        rewards = [0.25 + earned, 0.25 + earned, 0.25, 0.0]
        assert batch.rewards[position].tolist() == pytest.approx(rewards)
        mean = sum(rewards) / 4
        assert batch.advantages[position].tolist() == pytest.approx([reward - mean for reward in rewards])
        assert not truth.shows(0) and none.sample.target.regions == ()
        own = [0.25 + dice] * 3 + [0.0]
        assert batch.advantages[2 + 2 * position].tolist() == pytest.approx([one - sum(own) / 4 for one in own])
    assert any(truth.shows(3) for truth in truths.values()), "else nothing is earned"
    shares = batch.contributions
    assert torch.allclose(sum(shares.values()), batch.advantages)
    assert float(shares["second_exchange"][:2].abs().sum()) > 0 and not shares["second_exchange"][2:].any()


def test_an_update_takes_both_exchanges_of_its_questions_and_each_image_once(recipe):
    source = Answers(naming(3, 4, 3, None), WHOLE)
    (batch,) = draws(recipe(), source)
    assert len(source.asked) == len(batch.groups) == 6, "one conversation a group"
    assert len({seed for _, seed in source.asked}) == 6
    assert batch.images == [0, 1, 2, 3, 4, 5]
    config = recipe().config.grpo
    updates = batch.minibatches(config, Objective())
    assert [[micro.group for micro in update.micro_batches] for update in updates] == [[0, 2, 3], [1, 4, 5]]
    assert [update.normalizer for update in updates] == [12.0, 12.0]
    for index, messages in enumerate(batch.messages):
        assert image_of(messages) is batch.groups[index].sample.query.image


def test_metrics_and_the_table_show_both_exchanges_apart(recipe, truths):
    (batch,) = draws(recipe(), Answers(naming(3, 3, 0, None), WHOLE))
    metrics = batch_metrics(batch, ["mask_dice", "format_seg", "second_exchange"])
    rows = completion_rows(batch)
    assert len(rows) == 24 and {row["exchange"] for row in rows} == {"slice", "answer"}
    errors = [row["slice_error_mm"] for row in rows[:8]]
    expected = [
        None if number is None else abs(truths[batch.groups[position].details[0]["volume"]].largest - number) * 3.2
        for position in (0, 1)
        for number in (3, 3, 0, None)
    ]
    assert errors == pytest.approx(expected, abs=1e-4)
    known = [error for error in expected if error is not None]
    assert metrics["slice/error_mm"] == pytest.approx(sum(known) / 6, abs=1e-4) and metrics["slice/measured"] == 6
    assert metrics["slice/named_ratio"] == 0.75 and metrics["slice/second_exchanges"] == 4
    assert metrics["slice/reward"] == pytest.approx(float(batch.rewards[:2].mean()))
    totals = [row["reward"] for row in rows[8:] if row["reward"] is not None]
    assert metrics["answer/reward"] == pytest.approx(np.mean(totals)) and len(totals) == 16
    assert metrics["reward/second_exchange/abstained_ratio"] == 0
    assert metrics["reward/mask_dice/mean"] == pytest.approx(
        np.mean([row["reward/mask_dice"] for row in rows if row.get("reward/mask_dice") is not None])
    )
    texts = {(row["volume"], row["slice"], row["exchange"]) for row in rows}
    for volume in truths:
        pairs = {(number, exchange) for name, number, exchange in texts if name == volume and number is not None}
        assert pairs in (set(), {(3, "slice"), (3, "answer"), (0, "slice"), (0, "answer")}), "both completions stay"


def test_ranks_share_out_volumes_and_know_the_same_rewards(recipe):
    (alone,) = draws(recipe(), Answers(naming(3, 4, 0, None), WHOLE))
    for rank, batch in enumerate(draws(recipe(), Answers(naming(3, 4, 0, None), WHOLE), ranks=2)):
        assert torch.equal(batch.rewards.nan_to_num(), alone.rewards.nan_to_num())
        assert torch.equal(batch.advantages, alone.advantages) and batch.questions == alone.questions
        own = [question == rank for question in batch.questions]
        assert [messages is not None for messages in batch.messages] == own
        assert [one.sample.query.image.shape != (1, 1, 3) for one in batch.groups] == own
        assert [one.details for one in batch.groups] == [one.details for one in alone.groups]


def test_where_no_slice_is_named_the_first_exchange_stands_alone(recipe):
    (batch,) = draws(recipe(), Answers([NOTHING, NOTHING, "no", "no"], WHOLE))
    assert len(batch.groups) == 2 and batch.rewards.tolist() == [[0.25, 0.25, 0.0, 0.0]] * 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["volume.slice_rewards=[bbox]"], "names no term of rewards: 'bbox'"),
        (["rewards.second_exchange=bbox_iou"], "the label is that"),
        (["grpo.resample_constant=1"], "not drawn again"),
        (["validate.every=5"], "not validated on volumes"),
    ],
)
def test_what_cannot_be_trained_on_volumes_is_refused(recipe, overrides, message):
    [problem] = find_problems(recipe(*overrides))
    assert re.search(message, problem.message) and problem.hint


def test_a_term_that_needs_a_mask_does_not_score_a_slice(recipe):
    with pytest.raises(RecipeError, match="needs a mask"):
        slice_rubric(rubric(recipe()).terms, ["mask_dice"])
