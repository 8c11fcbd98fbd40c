"""A GRPO step: skipping, splitting and masking change nothing they should not, and the metrics are right."""

import dataclasses
import math

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from medground.errors import RecipeError  # noqa: E402
from medground.pipeline.pipeline import Pipeline  # noqa: E402
from medground.pipeline.rollouts import RolloutPipeline  # noqa: E402
from medground.recipe import resolve  # noqa: E402
from medground.registry import find  # noqa: E402
from medground.rewards.rubric import rubric  # noqa: E402
from medground.training.build import build  # noqa: E402
from medground.training.grpo.loss import Objective, objective_of  # noqa: E402
from medground.training.grpo.metrics import update_metrics  # noqa: E402
from medground.training.grpo.rollouts import OwnSampler, Rollouts  # noqa: E402
from medground.training.grpo.step import GrpoTrainer  # noqa: E402
from medground.training.local_engine import LocalEngine  # noqa: E402
from medground.training.memory import state_bytes  # noqa: E402
from medground.training.method import TrainingState  # noqa: E402
from medground.training.probe import state_of  # noqa: E402


def parts(recipe):
    """Return a method that is ready to step, and its parameters by name."""
    made = build(resolve(recipe))
    return made, made.engine.masters


def drawn(made, step=1):
    return made.method.rollouts.draw(step, 0, go_on)


def go_on():
    """Never stop."""


def updated(made, batch):
    """Return the parameters after one update on a batch, and the sums of the update."""
    sums = made.method.update(batch, lambda update: 1e-3, go_on)
    return {name: each.detach().clone() for name, each in made.engine.masters.items()}, sums


@pytest.mark.slow
def test_skipping_groups_without_signal_leaves_the_step_bitwise_equal(trials):
    """Their forward pass is left out, and the parameters are bitwise the same."""
    found = []
    for skip in (True, False):
        made, _ = parts(trials(train_batch_size=3, mini_batch_size=3))
        batch = drawn(made)
        advantages = batch.advantages.clone()
        advantages[1] = 0.0
        constant = torch.tensor([False, skip, False])
        batch = dataclasses.replace(batch, advantages=advantages, constant=constant)
        assert advantages[0].abs().max() > 0.1
        found.append(updated(made, batch))
    assert (found[0][1].images, found[1][1].images) == (2, 3)
    for name, value in found[0][0].items():
        assert torch.equal(value, found[1][0][name]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "at_once", "images"), [(True, None, 2), (True, 2, 2), (False, None, 6), (False, 2, 6)]
)
def test_images_and_tokens_are_counted_once_per_computation(trials, share, at_once, images):
    """Two groups of three: one image each, whatever the passes, or one for every completion."""
    made, _ = parts(trials(reasoner={"share": share}, micro_batch_size=at_once))
    batch = dataclasses.replace(drawn(made), constant=torch.tensor([False, False]))
    batch.advantages[:] = torch.tensor([1.0, 0.0, -1.0])
    seen = []
    made.reasoner.model.model.visual.register_forward_pre_hook(
        lambda _, given, named: seen.append(len(named["grid_thw"] if "grid_thw" in named else given[1])),
        with_kwargs=True,
    )
    _, sums = updated(made, batch)
    assert sums.images == sum(seen) == images
    prompts = [len(made.reasoner.encode(messages)) for messages in batch.messages]
    written = sum(len(each.completion.token_ids) for group in batch.groups for each in group.rollouts)
    assert sums.tokens_computed == images // 2 * sum(prompts) + written
    assert update_metrics(sums, kl=False)["images_trained"] == images


def test_a_batch_of_constant_rewards_has_zero_gradient(trials):
    made, before = parts(trials())
    before = {name: each.detach().clone() for name, each in before.items()}
    batch = drawn(made)
    batch = dataclasses.replace(
        batch, advantages=torch.zeros_like(batch.advantages), constant=torch.tensor([True, True])
    )
    after, sums = updated(made, batch)
    assert (sums.grad_norm, sums.loss, sums.images, sums.updates) == (0.0, 0.0, 0, 1)
    for name, value in before.items():  # a step with gradient zero is weight decay alone
        torch.testing.assert_close(after[name], value * (1 - 1e-3 * 0.01), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "loss", ["grpo", "dapo", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("dr_grpo", "gspo", "cispo"))]
)
def test_micro_batches_give_the_gradients_of_whole_groups(trials, loss):
    """Through the model: gradients agree to 1e-5 of the largest at any micro-batch size."""
    norms, gradients = [], []
    for size in (None, 2, 1):
        made, _ = parts(trials(loss=loss, micro_batch_size=size, beta=0.02))
        batch = drawn(made)
        made.engine.step = lambda rate: 1.0  # leaves the gradients to be seen
        sums = made.method.update(batch, lambda update: 1e-3, go_on)
        norms.append(sums.loss)
        gradients.append({name: each.grad.clone() for name, each in made.engine.live.items() if each.grad is not None})
    for other, gradient in zip(norms[1:], gradients[1:], strict=True):
        assert other == pytest.approx(norms[0], abs=1e-6)
        for name, value in gradients[0].items():
            scale = max(float(value.abs().max()), 1e-4)
            assert float((gradient[name] - value).abs().max()) / scale <= 1e-5, name


def test_masked_overlong_completions_count_in_the_baseline_only(trials):
    """If all of them are masked the loss is 0 and nothing is NaN."""
    made, _ = parts(trials(mask_truncated=True))
    batch = drawn(made)
    reasons = {rollout.completion.finish_reason for group in batch.groups for rollout in group.rollouts}
    assert reasons == {"length"}  # random weights rarely end within six tokens
    assert batch.advantages.abs().max() > 0.1
    after, sums = updated(made, batch)
    assert (sums.loss, sums.grad_norm) == (0.0, 0.0)
    assert all(bool(value.isfinite().all()) for value in after.values())
    group = batch.groups[0]
    ended = dataclasses.replace(group.rollouts[0].completion, finish_reason="stop")
    group.rollouts[0] = dataclasses.replace(group.rollouts[0], completion=ended)
    (minibatch,) = batch.minibatches(made.method.config, made.method.objective)
    assert minibatch.normalizer == 1.0
    assert updated(made, batch)[1].grad_norm > 0


@pytest.mark.slow
def test_ratios_of_later_updates_refer_to_the_sampling_policy(trials):
    """Two mini-batches, twice over: four updates, and ratios that left 1 are clipped against the sampling policy."""
    made, _ = parts(trials(mini_batch_size=1, num_iterations=2, epsilon=1e-6))
    batch = drawn(made)
    assert made.method.updates_per_step == 4
    _, sums = updated(made, batch)
    assert sums.updates == 4
    # First iteration: the first mini-batch at ratio 1 exactly, the second clipped nearly everywhere.
    assert 0 < sums.clipped_low + sums.clipped_high < sums.tokens
    single, _ = parts(trials(epsilon=1e-6))
    sums = updated(single, drawn(single))[1]
    assert sums.clipped_low + sums.clipped_high == 0


def test_known_log_probabilities_need_no_forward_pass(trials):
    """One update per batch: every group is computed once, with gradient, and no more."""
    calls = []
    made, _ = parts(trials())
    made.reasoner.policy.register_forward_hook(lambda module, given, out: calls.append(out[0].requires_grad))
    updated(made, drawn(made))
    assert calls == [True, True]


def test_a_frozen_vision_tower_does_not_change(trials):
    made, _ = parts(trials(reasoner={"train_vision": False}))
    tower = {name: each for name, each in made.reasoner.policy.named_parameters() if "visual" in name}
    before = {name: each.detach().clone() for name, each in tower.items()}
    updated(made, drawn(made))
    assert tower
    assert all(each.grad is None and torch.equal(each, before[name]) for name, each in tower.items())


@pytest.mark.slow
def test_the_reference_of_a_lora_run_is_the_base_model(trials):
    made, _ = parts(trials(reasoner={"lora_rank": 2}, beta=0.1, learning_rate=0.1))
    assert all("lora" in name for name in made.engine.masters)
    state = TrainingState()
    first = made.method.step(state, go_on)
    state.step, state.drawn = 1, first.drawn
    second = made.method.step(state, go_on)
    assert first.metrics["kl"] == 0.0
    assert second.metrics["kl"] > 1e-6


def test_metrics_have_the_names_of_trl(trials):
    made, _ = parts(trials())
    result = made.method.step(TrainingState(), go_on)
    names = {
        "reward", "reward_std", "reward/letters/mean", "reward/letters/std", "frac_reward_zero_std", "loss", "grad_norm",
        "learning_rate", "entropy", "completions/mean_length", "completions/min_length", "completions/max_length",
        "completions/clipped_ratio", "completions/mean_terminated_length", "clip_ratio/low_mean", "clip_ratio/high_mean",
        "clip_ratio/region_mean", "sampling/sampling_logp_difference/mean", "epoch",
    }  # fmt: skip
    assert names <= set(result.metrics)
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.metrics["sampling/sampling_logp_difference/max"] < 1e-4
    assert len(result.rows) == 6
    assert result.metrics["reward"] == pytest.approx(sum(row["reward"] for row in result.rows) / 6)


def drifted(batch, by):
    """The batch as a sampler would have given it whose log-probabilities are lower by so much, on every second token."""

    def moved(rollout):
        logprobs = rollout.completion.logprobs.copy()
        logprobs[::2] -= by
        return dataclasses.replace(rollout, completion=dataclasses.replace(rollout.completion, logprobs=logprobs))

    groups = [dataclasses.replace(group, rollouts=[moved(each) for each in group.rollouts]) for group in batch.groups]
    return dataclasses.replace(batch, groups=groups)


def corrected(trials, by, **settings):
    """The gradient of the output head after one update on such a batch, and the metrics of the update."""
    made, _ = parts(trials(learning_rate=0.0, max_grad_norm=0.0, **settings))
    batch = drifted(drawn(made), by)
    kept = {}
    made.engine.optimizer.register_step_pre_hook(
        lambda *_: kept.update({name: each.grad.clone() for name, each in made.engine.masters.items()})
    )
    sums = made.method.update(batch, lambda update: 0.0, go_on)
    return kept, update_metrics(sums, kl=False), made.method._mismatch_warnings(sums)


@pytest.mark.slow
def test_a_sampler_with_other_log_probabilities_is_measured_corrected_and_reported(trials):
    """A weight of 3 on every second token: capped at 2 it is 2, masked it is 0, uncorrected it is as if it were 1."""
    by = math.log(3)
    plain, metrics, told = corrected(trials, by)
    ratio = metrics["sampling/importance_sampling_ratio/mean"]
    lengths = metrics["sampling/sampling_logp_difference/mean"] / by  # the share of tokens that were moved
    assert 0.5 <= lengths <= 0.7
    assert ratio == pytest.approx(1 + 2 * lengths, rel=1e-4)
    assert metrics["sampling/importance_sampling_ratio/max"] == pytest.approx(3, rel=1e-4)
    assert metrics["sampling/importance_sampling_ratio/min"] == pytest.approx(1, rel=1e-4)
    assert metrics["sampling/corrected_ratio"] == 0
    assert len(told) == 1
    assert "grpo.mismatch_alarm=0.05" in told[0]
    whole, metrics, _ = corrected(trials, by, correction="truncate", correction_cap=5.0)
    capped, half, _ = corrected(trials, by, correction="truncate", correction_cap=2.0)
    masked, third, _ = corrected(trials, by, correction="mask", correction_cap=2.0)
    assert (metrics["sampling/corrected_ratio"], half["sampling/corrected_ratio"]) == (0, pytest.approx(lengths))
    assert third["sampling/corrected_ratio"] == pytest.approx(lengths)
    for name, gradient in plain.items():  # with a on the moved tokens and b on the others, these are a + b, 3a + b, ...
        moved = gradient - masked[name]
        scale = gradient.abs().max()
        assert (whole[name] - (3 * moved + masked[name])).abs().max() <= 1e-4 * scale, name
        assert (capped[name] - (2 * moved + masked[name])).abs().max() <= 1e-4 * scale, name


@pytest.mark.slow
def test_correction_changes_nothing_where_the_trained_model_samples(trials):
    """Importance weights are 1 up to rounding, and no alarm is logged."""
    plain, _, _ = corrected(trials, 0.0)
    same, metrics, told = corrected(trials, 0.0, correction="truncate")
    assert told == []
    assert metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-4)
    for name, gradient in plain.items():
        assert (same[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max().clamp(min=1e-6), name


@pytest.mark.slow
def test_the_default_engine_and_rollout_can_be_named(trials):
    """``engine=local`` and ``rollout=hf`` are what a recipe without them trains with."""
    plain, named = parts(trials())[0], parts(trials() | {"engine": "local", "rollout": "hf"})[0]
    assert type(named.engine) is type(plain.engine) is LocalEngine
    assert type(named.method.source) is type(plain.method.source) is OwnSampler
    assert {entry.module for entry in (find("engine", "local"), find("rollout", "hf"))} == {
        "medground.training.builtin"
    }
    result, other = named.method.step(TrainingState(), go_on), plain.method.step(TrainingState(), go_on)
    assert result.metrics == other.metrics


@pytest.mark.slow
def test_groups_of_equal_rewards_are_resampled(trials):
    """The first six scores are equal: both groups are drawn again, and one epoch goes faster."""
    rewards = {"letters": {"dull": 6, "weight": 1}}
    made, _ = parts(trials(rewards=rewards, resample_constant=2))
    batch = drawn(made)
    assert (batch.drawn, batch.unresampled) == (4, 2)
    assert not batch.constant.any()
    kept, _ = parts(trials(rewards=rewards))
    batch = drawn(kept)
    assert (batch.drawn, batch.unresampled, batch.constant.tolist()) == (2, 2, [True, True])


@pytest.mark.slow
def test_a_group_with_an_unscored_completion_is_left_out(trials):
    made, _ = parts(trials(rewards={"letters": {"bad": [2], "weight": 1}}))
    batch = drawn(made)
    assert batch.usable == [False, True]
    assert batch.rewards[0].isnan().all()
    assert not batch.advantages[0].any()
    result = parts(trials(rewards={"letters": {"bad": [2], "weight": 1}}))[0].method.step(TrainingState(), go_on)
    assert result.metrics["frac_groups_left_out"] == 0.5
    assert result.metrics["failures/nan"] == 1
    assert result.skipped is None
    assert result.incident is not None


@pytest.mark.slow
def test_samples_and_seeds_depend_on_the_step_alone(trials):
    """A repeated step gives the same texts; another seed or step gives others."""
    texts = [
        [[rollout.completion.text for rollout in group.rollouts] for group in drawn(parts(recipe)[0], step).groups]
        for recipe, step in ((trials(), 1), (trials(), 1), (trials(), 2), (trials() | {"seed": 1}, 1))
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert texts[0] != texts[3]


def test_losses_use_their_published_numbers_unless_the_recipe_sets_others():
    def objective(**settings):
        return objective_of(resolve({"grpo": settings}).config.grpo)

    assert objective() == Objective(max_length=2048)
    assert objective(loss="gspo").epsilon == 3e-4
    assert objective(loss="gspo", epsilon=0.1).epsilon == 0.1
    assert objective(loss="dapo", aggregation="sequence_mean").aggregation == "sequence"
    assert objective(loss="dr_grpo").aggregation == "constant"
    released = objective_of(resolve("train/medreasoner_soft", "reasoner.checkpoint=x", "data.path=x").config.grpo)
    assert released == Objective(epsilon_high=0.2, dual_clip=3.0, beta=0.01, estimator="k3", max_length=2048)


def test_groups_without_several_sampled_completions_are_refused(trials):
    recipe = resolve(trials(num_generations=1))
    with pytest.raises(RecipeError, match="several sampled completions"):
        Rollouts(
            RolloutPipeline(Pipeline.from_recipe(recipe), rubric(recipe)),
            [],
            recipe.config.grpo,
            0,
            OwnSampler(),
            LocalEngine(),
        )
    made, _ = parts(trials(max_prompt_length=5))
    with pytest.raises(RecipeError, match="max_prompt_length=5"):
        updated(made, drawn(made))
    assert isinstance(made.engine, LocalEngine)
    assert isinstance(made.method, GrpoTrainer)


@pytest.mark.slow
def test_grpo_learns_to_write_a_rewarded_token(trials):
    """The share of the rewarded token rises above 0.9 from about one in four hundred."""
    rewards = {"token": {"token": 65, "weight": 1}}
    recipe = trials(
        rewards=rewards, num_generations=16, max_completion_length=4, max_steps=60, learning_rate=1e-2, loss="dapo"
    )
    made, _ = parts(recipe)
    state, share = TrainingState(), []
    while state.step < 60 and (not share or share[-1] < 0.9):
        result = made.method.step(state, go_on)
        state.step, state.drawn = state.step + 1, state.drawn + result.drawn
        share.append(result.metrics["reward"])
    assert share[0] < 0.1
    assert share[-1] >= 0.9


@pytest.mark.slow
def test_estimated_memory_equals_the_size_of_the_tensors(trials):
    """Per process: weights, gradients, the optimiser's moments and, where weights are not float32, their masters."""
    for settings in ({}, {"lora_rank": 2, "train_vision": False}):
        made, masters = parts(trials(reasoner=settings))
        engine = made.engine
        made.method.update(drawn(made), lambda update: 1e-3, go_on)
        moments = sum(
            value.nbytes for state in engine.optimizer.state.values() for value in state.values() if value.dim()
        )
        found = state_of(made)
        assert found.optimizer == moments > 0
        assert found.weights == sum(each.nbytes for each in made.reasoner.policy.parameters())
        assert found.gradients == sum(each.nbytes for each in masters.values())
        assert found.device == found.weights + found.gradients + found.optimizer
    shared = [state_bytes(1000, 600, ranks=4, zero_stage=stage).device for stage in (0, 1, 2, 3)]
    assert shared == [2000 + 1200 + 7200, 2000 + 1200 + 1800, 2000 + 300 + 1800, 500 + 300 + 1800]
    assert state_bytes(1000, 600, ranks=4, zero_stage=2, offload=True).host == 1800
