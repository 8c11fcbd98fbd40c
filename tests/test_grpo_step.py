"""What each update of a GRPO step is given: old log-probabilities, the reference, the rows of a micro-batch, the seeds."""

import dataclasses
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from medground.errors import RecipeError  # noqa: E402
from medground.pipeline.pipeline import Pipeline  # noqa: E402
from medground.pipeline.rollouts import Group, RolloutPipeline  # noqa: E402
from medground.recipe import resolve  # noqa: E402
from medground.recipe.schema import GrpoConfig  # noqa: E402
from medground.rewards.rubric import rubric  # noqa: E402
from medground.training.build import build  # noqa: E402
from medground.training.grpo import rollouts as rollouts_module  # noqa: E402
from medground.training.grpo import step as step_module  # noqa: E402
from medground.training.grpo.batch import Batch  # noqa: E402
from medground.training.grpo.loss import Objective  # noqa: E402
from medground.training.grpo.metrics import pictures  # noqa: E402
from medground.training.grpo.rollouts import Rollouts  # noqa: E402
from medground.training.method import TrainingState  # noqa: E402
from medground.training.plan import training_samples  # noqa: E402
from medground.training.schedule import sample_indices, sampling_seed  # noqa: E402
from medground.types import Completion, Grounding, Mask, Query, Rollout, Sample, Target  # noqa: E402


def go_on():
    """Never stop."""


def built(recipe):
    return build(resolve(recipe))


def rollout(tokens, *, logprobs=True, reason="stop"):
    sample = Sample(query=Query(image=np.zeros((2, 2, 3), np.uint8), question="?", id="s"), target=Target(regions=()))
    ids = None if tokens is None else np.arange(tokens)
    given = -np.arange(tokens, dtype=np.float32) if logprobs and tokens is not None else None
    completion = Completion(text="", frame=None, token_ids=ids, logprobs=given, finish_reason=reason)
    return Rollout(sample=sample, completion=completion, grounding=Grounding())


def batch_of(*groups, constant=None, usable=None, messages=None, images=None):
    """A batch of groups of completions; advantage 10 * group + index."""
    count, size = len(groups), len(groups[0])
    advantages = torch.tensor([[10.0 * row + column for column in range(size)] for row in range(count)])
    return Batch(
        groups=[Group(sample=members[0].sample, rollouts=list(members), scores=[]) for members in groups],
        images=images or list(range(count)),
        questions=list(range(count)),
        messages=[[{"role": "user", "content": str(index)}] for index in range(count)] if messages is None else messages,
        dummy_prompt=[],
        usable=usable or [True] * count,
        rewards=advantages,
        advantages=advantages.double(),
        contributions={},
        constant=torch.tensor(constant or [False] * count),
        drawn=count,
        unresampled=0,
    )  # fmt: skip


def cut(batch, objective=None, **settings):
    config = GrpoConfig(num_generations=len(batch.groups[0].rollouts), **settings)
    return batch.minibatches(config, objective or Objective())


def test_a_micro_batch_holds_the_rows_of_its_own_completions():
    batch = batch_of([rollout(2), rollout(4), rollout(3)], [rollout(1), rollout(1), rollout(5)])
    first, second = cut(batch, mini_batch_size=1, micro_batch_size=2)
    rows = [(micro.group, micro.rows.start, micro.advantages.tolist()) for micro in first.micro_batches]
    assert rows == [(0, 0, [0.0, 1.0]), (0, 2, [2.0])]
    assert [(micro.group, micro.advantages.tolist()) for micro in second.micro_batches] == [(1, [10, 11]), (1, [12])]
    whole, rest = first.micro_batches
    assert whole.loss_mask.tolist() == [[True, True, False, False], [True] * 4]
    assert rest.loss_mask.tolist() == [[True] * 3], "cut to its own longest completion"
    assert rest.sampler_logps.tolist() == [[0, -1, -2]]
    assert whole.sampler_logps[1].tolist() == [0, -1, -2, -3] and whole.sampler_logps[0, 2:].isnan().all()
    assert (first.normalizer, second.normalizer) == (3.0, 3.0)
    assert whole.messages == batch.messages[0] and second.micro_batches[0].messages == batch.messages[1]
    (at_once,) = cut(batch, mini_batch_size=2)
    assert [micro.rows.stop for micro in at_once.micro_batches] == [3, 3] and at_once.normalizer == 6.0
    assert len(cut(batch_of(*[[rollout(1), rollout(1)]] * 5), mini_batch_size=2)) == 3


def test_completions_without_tokens_or_probabilities_have_a_place():
    (minibatch,) = cut(batch_of([rollout(None), rollout(2, logprobs=False)]), mini_batch_size=4)
    (micro,) = minibatch.micro_batches
    assert micro.loss_mask.tolist() == [[False, False], [True, True]] and micro.sampler_logps.isnan().all()
    assert minibatch.normalizer == 1.0
    (nothing,) = cut(batch_of([rollout(None), rollout(0)]), mini_batch_size=4)
    assert list(nothing.micro_batches) == [] and nothing.normalizer == 1.0


def test_what_has_no_gradient_is_left_out_and_still_counts():
    """A constant group is skipped where no KL term moves it; an unusable one, and one of another rank, always is."""
    members = [rollout(2), rollout(3)]
    batch = batch_of(members, members, members, constant=[True, False, False], usable=[True, True, False])
    (plain,) = cut(batch, mini_batch_size=3)
    assert [micro.group for micro in plain.micro_batches] == [1] and plain.normalizer == 4.0
    (pulled,) = cut(batch, Objective(beta=0.1), mini_batch_size=3)
    assert [micro.group for micro in pulled.micro_batches] == [0, 1] and pulled.normalizer == 4.0
    own = dataclasses.replace(batch, messages=[None, *batch.messages[1:]])
    (shared,) = cut(own, Objective(beta=0.1), mini_batch_size=3)
    assert [micro.group for micro in shared.micro_batches] == [1] and shared.normalizer == 4.0


def test_completions_cut_at_the_limit_can_be_kept_out_of_the_loss():
    batch = batch_of([rollout(2, reason="length"), rollout(3)])
    (kept,) = cut(batch, mini_batch_size=1)
    assert kept.micro_batches[0].loss_mask.any(dim=1).tolist() == [True, True] and kept.normalizer == 2.0
    (masked,) = cut(batch, mini_batch_size=1, mask_truncated=True)
    assert masked.micro_batches[0].loss_mask.any(dim=1).tolist() == [False, True] and masked.normalizer == 1.0


@pytest.fixture
def losses(monkeypatch):
    """What `policy_loss` is called with, and the log-probabilities it sees, by call."""
    calls, original = [], step_module.policy_loss

    def recorded(objective, logps, advantages, mask, **others):
        calls.append({"logps": logps.detach().clone(), "advantages": advantages, "mask": mask, **others})
        return original(objective, logps, advantages, mask, **others)

    monkeypatch.setattr(step_module, "policy_loss", recorded)
    return calls


def close(one, other, mask):
    return float((one - other)[mask].abs().max()) < 1e-5


@pytest.mark.slow
def test_every_pass_over_a_batch_refers_to_the_policy_that_sampled(trials, losses):
    """Two mini-batches, two passes: only the very first update may take its own log-probabilities for the old ones."""
    made = built(trials(mini_batch_size=1, num_iterations=2, learning_rate=1e-2))
    batch = made.method.rollouts.draw(1, 0, go_on)
    batch = dataclasses.replace(batch, constant=torch.tensor([False, False]))
    batch.advantages[:] = torch.tensor([1.0, 0.0, -1.0])
    made.method.update(batch, lambda update: 1e-2, go_on)
    first, second, again, last = losses
    assert first["old_logps"] is None
    for call, sampled in ((second, None), (again, first["logps"]), (last, second["old_logps"])):
        assert call["old_logps"] is not None and not call["old_logps"].requires_grad
        assert sampled is None or close(call["old_logps"], sampled, call["mask"])
        assert not close(call["old_logps"], call["logps"], call["mask"]), "the policy has moved on"
    drawn = [[each.completion.logprobs for each in group.rollouts] for group in batch.groups]
    for call, rows in ((second, drawn[1]), (again, drawn[0])):
        for row, logprobs in enumerate(rows):
            assert np.abs(call["old_logps"][row, : len(logprobs)].numpy() - logprobs).max() < 1e-4


def test_a_step_draws_the_completions_with_the_highest_the_median_and_the_lowest_reward(trials):
    made = built(trials())
    batch = made.method.rollouts.draw(1, 0, go_on)
    totals = {}
    for group in batch.groups:
        for index, score in enumerate(group.scores):
            name = f"{group.sample.query.id}#{index}"
            group.scores[index] = dataclasses.replace(score, total=float(len(totals)) if totals else None)
            totals[name] = group.scores[index].total
    names = list(totals)[1:][::-1]
    drawn = pictures(batch)
    assert [name for name, _ in drawn] == [names[0], names[len(names) // 2], names[-1]]
    assert drawn[0][1]().mode == "RGB"


def test_policy_and_reference_are_compared_at_the_temperature_of_the_samples(trials, losses):
    """The reference is the policy before its first update, so that the first KL is 0 at any temperature."""
    made = built(trials(temperature=0.5, beta=0.1, mini_batch_size=2))
    result = made.method.step(TrainingState(), go_on)
    assert result.metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    for call in losses:
        assert close(call["ref_logps"], call["logps"], call["mask"])
        given = ~call["sampler_logps"].isnan() & call["mask"]
        assert given.any() and close(call["sampler_logps"], call["logps"], given), "the sampler's temperature, too"


def test_a_pass_of_a_part_of_a_group_is_given_its_own_rows(trials, losses):
    """Groups of three in passes of two and one: the sampler's log-probabilities are those of the completions computed."""
    made = built(trials(micro_batch_size=2))
    batch = dataclasses.replace(made.method.rollouts.draw(1, 0, go_on), constant=torch.tensor([False, False]))
    batch.advantages[:] = torch.tensor([1.0, 0.25, -1.0])
    encoded, original = [], made.method.encode
    made.method.encode = lambda batch, micro: encoded.append(micro.group) or original(batch, micro)
    stats = made.method.update(batch, lambda update: 0.0, go_on)
    assert encoded == [0, 1], "each group's prompt is encoded once"
    assert [call["advantages"].tolist() for call in losses] == [[1.0, 0.25], [-1.0]] * 2
    for call in losses:
        assert close(call["sampler_logps"], call["logps"], call["mask"])
    assert stats.mismatch / stats.compared < 1e-5
    assert stats.updates == 1 and stats.loss == pytest.approx(-(1 + 0.25 - 1) / 3, abs=1e-6)


def test_groups_that_are_drawn_again_have_seeds_of_their_own(trials):
    """Every attempt asks for the stream's next samples, with a seed of run, step, sample and attempt."""
    made = built(trials(rewards={"letters": {"dull": 6, "weight": 1}}, resample_constant=2))
    drawing, asked = made.method.rollouts, []
    original = drawing.source.generate

    def generate(messages, sampling, seeds):
        asked.append((len(messages), list(seeds)))
        return original(messages, sampling, seeds)

    drawing.source.generate = generate
    batch = drawing.draw(3, 0, go_on)
    order = sample_indices(0, 4, samples=len(drawing.samples), batch=2, seed=drawing.seed)
    names = [drawing.samples[index].query.id for index in order]
    expected = [
        (2, [sampling_seed(drawing.seed, 3, name, attempt) for name in names[2 * attempt : 2 * attempt + 2]])
        for attempt in (0, 1)
    ]
    assert asked == expected and batch.drawn == 4
    assert [group.sample.query.id for group in batch.groups] == names[2:]
    assert batch.dummy_prompt is batch.messages[0]


def test_a_loss_that_is_not_finite_changes_nothing(trials):
    made = built(trials())
    stepped = []
    made.engine.step = lambda rate: stepped.append(rate) or math.inf
    with pytest.raises(step_module.NotFinite, match="gradient norm is inf"):
        made.method.optimizer_step(0.5, step_module.StepStats())
    assert stepped == [0.5]
    with pytest.raises(step_module.NotFinite, match="the loss is nan"):
        made.method.backward(torch.tensor(math.nan, requires_grad=True))


class Writer:
    """A rollout source whose texts follow from the seeds."""

    def __init__(self):
        self.calls = []

    def generate(self, batch, sampling, seeds):
        self.calls.append(len(batch))
        return [
            [
                Completion(text=format((seed + index) * 7919, "x")[-9:], frame=None)
                for index in range(sampling.num_generations)
            ]
            for seed in seeds
        ]


class Ranks:
    """Engines of processes that stand for threads here."""

    def __init__(self, count):
        self.count, self.barrier, self.slots = count, threading.Barrier(count, timeout=60), [None] * count

    def engine(self, rank):
        def gather(mine):
            self.slots[rank] = mine
            self.barrier.wait()
            everyone = list(self.slots)
            self.barrier.wait()
            return everyone

        return SimpleNamespace(rank=rank, world_size=self.count, gather=gather)


def draws(recipe, ranks):
    """The batch of step 2 on every rank, with the calls of its source."""
    group, samples = Ranks(ranks), training_samples(recipe)
    writers = [Writer() for _ in range(ranks)]

    def draw(rank):
        pipeline = RolloutPipeline(Pipeline.from_recipe(recipe), rubric(recipe))
        rollouts = Rollouts(pipeline, samples, recipe.config.grpo, 5, writers[rank], group.engine(rank))
        return rollouts.draw(2, 4, go_on)

    with ThreadPoolExecutor(ranks) as pool:
        return list(zip(pool.map(draw, range(ranks)), writers, strict=True))


@pytest.mark.parametrize("batch_size", [4, 1])
def test_ranks_share_out_the_groups_of_a_batch_and_know_all_scores(trials, batch_size):
    """Texts, rewards and advantages are those of one process; only the owner of a group has its conversation and pixels."""
    recipe = resolve(trials(train_batch_size=batch_size, mini_batch_size=1))
    ((alone, _),) = draws(recipe, 1)
    for rank, (batch, writer) in enumerate(draws(recipe, 3)):
        texts = [[each.completion.text for each in group.rollouts] for group in batch.groups]
        assert texts == [[each.completion.text for each in group.rollouts] for group in alone.groups]
        assert torch.equal(batch.rewards, alone.rewards) and torch.equal(batch.advantages, alone.advantages)
        own = [index % 3 == rank for index in range(batch_size)]
        assert [messages is not None for messages in batch.messages] == own
        assert [group.sample.query.image.shape != (1, 1, 3) for group in batch.groups] == own
        ids = [group.sample.query.id for group in batch.groups]
        assert ids == [group.sample.query.id for group in alone.groups]
        assert sum(writer.calls) == sum(own)
        assert batch.dummy_prompt, "a rank without a group has a conversation for its dummy passes"
        assert not any(own) or batch.dummy_prompt is next(filter(None, batch.messages))


def test_a_step_is_sampled_in_calls_of_at_most_256_completions(trials, monkeypatch):
    """Between two calls a run can be stopped; ranks call equally often."""
    monkeypatch.setattr(rollouts_module, "AT_ONCE", 7)
    recipe = resolve(trials(train_batch_size=5, mini_batch_size=1))
    ((_, writer),) = draws(recipe, 1)
    assert writer.calls == [2, 2, 1], "two groups of three completions at once"
    assert [writer.calls for _, writer in draws(recipe, 2)] == [[2, 1], [2, 0]]


def test_masks_of_other_ranks_shrink_to_a_pixel_that_says_whether_they_are_empty():
    full, empty = np.zeros((6, 6), bool), np.zeros((6, 6), bool)
    full[2, 3] = True
    shrunk = [rollouts_module._one_pixel(Mask(data=data, score=0.5)) for data in (full, empty)]
    assert [mask.data.tolist() for mask in shrunk] == [[[True]], [[False]]] and shrunk[0].score == 0.5
    assert rollouts_module._one_pixel(None) is None


def test_the_rate_of_an_update_counts_all_updates_of_the_run(trials):
    """Four steps of three updates: linear decay from 12 loses one with every update."""
    made = built(trials(train_batch_size=3, mini_batch_size=1, learning_rate=12.0, schedule="linear", warmup_ratio=0.0))
    assert (made.method.planned, made.method.updates_per_step) == (4, 3)
    rates = [made.method._learning_rates(step)(update) for step in range(4) for update in range(3)]
    assert rates == pytest.approx(range(12, 0, -1))


def test_a_step_draws_by_its_own_number_and_position(trials):
    made = built(trials())
    original, asked = made.method.rollouts.draw, []

    def draw(step, start, check_stop):
        asked.append((step, start))
        return original(step, start, check_stop)

    made.method.rollouts.draw = draw
    made.method.step(TrainingState(step=3, drawn=6), go_on)
    assert asked == [(4, 6)]


def test_a_step_whose_loss_is_no_number_is_skipped_by_name(trials):
    made = built(trials(reasoner={"bad": [1]}))
    before = {name: value.detach().clone() for name, value in made.engine.masters.items()}
    result = made.method.step(TrainingState(), go_on)
    assert result.skipped == "the loss is nan" and result.incident is not None
    assert all(torch.equal(value, before[name]) for name, value in made.engine.masters.items())


@pytest.mark.slow
def test_what_ranks_computed_is_added_up(trials, monkeypatch):
    """Two ranks that did the same: their losses are a sum, their updates the same ones."""
    made = built(trials())
    batch = dataclasses.replace(made.method.rollouts.draw(1, 0, go_on), constant=torch.tensor([False, False]))
    batch.advantages[:] = torch.tensor([1.0, 0.5, 0.25])
    alone = made.method.update(batch, lambda update: 0.0, go_on)
    monkeypatch.setattr(type(made.engine), "world_size", 2)
    monkeypatch.setattr(made.engine, "gather", lambda stats: [stats, stats])
    both = made.method.update(batch, lambda update: 0.0, go_on)
    assert alone.loss and both.loss == pytest.approx(2 * alone.loss)
    assert (both.updates, both.tokens_computed) == (alone.updates, 2 * alone.tokens_computed)


@pytest.mark.parametrize("settings", [{"num_generations": 1}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_completions_that_cannot_differ_are_refused(settings):
    config = GrpoConfig(**{"num_generations": 2, "temperature": 1.0, **settings})
    with pytest.raises(RecipeError, match="several sampled completions"):
        Rollouts(None, [], config, 0, Writer(), Ranks(1).engine(0))
