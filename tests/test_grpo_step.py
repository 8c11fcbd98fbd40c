"""What each update of a GRPO step is given: old log-probabilities, the reference, the rows of a micro-batch, the seeds."""

import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from medground.pipeline.rollouts import Group  # noqa: E402
from medground.recipe import resolve  # noqa: E402
from medground.recipe.schema import GrpoConfig  # noqa: E402
from medground.training.build import build  # noqa: E402
from medground.training.grpo import step as step_module  # noqa: E402
from medground.training.grpo.batch import Batch  # noqa: E402
from medground.training.grpo.loss import Objective  # noqa: E402
from medground.training.method import TrainingState  # noqa: E402
from medground.training.schedule import sample_indices, sampling_seed  # noqa: E402
from medground.types import Completion, Grounding, Query, Rollout, Sample, Target  # noqa: E402


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


def batch_of(*groups, constant=None, usable=None, messages=None):
    """A batch of groups of completions; advantage 10 * group + index."""
    count, size = len(groups), len(groups[0])
    advantages = torch.tensor([[10.0 * row + column for column in range(size)] for row in range(count)])
    return Batch(
        groups=[Group(sample=members[0].sample, rollouts=list(members), scores=[]) for members in groups],
        messages=[[{"role": "user", "content": str(index)}] for index in range(count)] if messages is None else messages,
        dummy_prompt=[],
        usable=usable or [True] * count,
        rewards=advantages,
        advantages=advantages.double(),
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
    stats = made.method.update(batch, lambda update: 0.0, go_on)
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


def test_a_loss_that_is_not_finite_changes_nothing(trials):
    made = built(trials())
    stepped = []
    made.engine.step = lambda rate: stepped.append(rate) or math.inf
    with pytest.raises(step_module.NotFinite, match="gradient norm is inf"):
        made.method.optimizer_step(0.5, step_module.StepStats())
    assert stepped == [0.5]
    with pytest.raises(step_module.NotFinite, match="the loss is nan"):
        made.method.backward(torch.tensor(math.nan, requires_grad=True))
