"""The words of a ``grpo`` section that change how a policy learns: what they do in a run, and which exclude one another."""

import json

import pytest
from click.testing import CliRunner

from medground.cli.reward import reward
from medground.errors import InputError, RecipeError
from medground.recipe import check, resolve

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from medground.training.build import build  # noqa: E402
from medground.training.grpo.prediction import sampled_shares, saved_shares  # noqa: E402
from medground.training.method import TrainingState  # noqa: E402
from medground.training.run import train  # noqa: E402

DULL = ["rewards.bbox_iou=null", "rewards.mask_dice=null", "rewards.format_seg=null", "rewards.format_think=1"]
TWO = {"letters": 1, "format_seg": 0.5}


def go_on():
    """Never stop."""


def gradients(trials, **settings):
    """The gradient of one update, before its optimizer step."""
    training = build(resolve(trials(**settings)))
    batch = training.method.rollouts.draw(1, 0, go_on)
    training.engine.step = lambda rate: 1.0
    training.method.update(batch, lambda number: 0.0, go_on)
    return {name: value.grad.clone() for name, value in training.engine.live.items() if value.grad is not None}


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        (["loss=sapo", "epsilon=0.2"], "grpo.epsilon: 0.2 has no effect on grpo.loss: sapo", "grpo.epsilon=null"),
        (["loss=sapo", "epsilon_high=0.3"], "grpo.epsilon_high: 0.3 has no effect", "grpo.epsilon_high=null"),
        (["loss=sapo", "dual_clip=3"], "grpo.dual_clip: 3 has no effect on grpo.loss: sapo", "grpo.dual_clip=null"),
        (["loss=cispo", "dual_clip=3"], "grpo.dual_clip: 3 has no effect on grpo.loss: cispo", "grpo.dual_clip=null"),
        (["advantage_estimator=gdpo", "scale_rewards=batch"], "which has a scale of its own", "=by_estimator"),
        (["advantage_estimator=rloo", "scale_rewards=none"], "grpo.advantage_estimator: rloo", "=by_estimator"),
        (["overlong_buffer=33"], "33 is more than grpo.max_completion_length: 32", "overlong_buffer=32 or less"),
    ],
)
def test_words_that_cannot_have_an_effect_together_are_refused(words, says, hint):
    overrides = [f"grpo.{word}" for word in words]
    with pytest.raises(RecipeError, match=says) as refused:
        check(resolve("train/toy", *overrides))
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    "words",
    [
        ["loss=sapo", "advantage_estimator=gdpo", "overlong_buffer=8", "entropy_bonus=0.01"],
        ["loss=grpo", "epsilon=0.1", "dual_clip=3", "scale_rewards=none", "overlong_buffer=32"],
        ["advantage_estimator=rloo", "aggregation=sequence_sum"],
        ["advantage_estimator=reinforce_plus_plus", "beta=0.01", "kl_estimator=k2"],
    ],
)
def test_words_that_go_together_are_taken(words):
    check(resolve("train/toy", *[f"grpo.{word}" for word in words]))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["gdpo", "rloo", "reinforce_plus_plus"])
def test_the_estimator_of_a_recipe_gives_the_advantages(trials, estimator):
    training = build(resolve(trials(rewards=TWO, advantage_estimator=estimator)))
    batch = training.method.rollouts.draw(1, 0, go_on)
    usual = build(resolve(trials(rewards=TWO))).method.rollouts.draw(1, 0, go_on)
    assert torch.equal(batch.rewards, usual.rewards)
    assert not torch.allclose(batch.advantages, usual.advantages, atol=1e-3)
    if estimator == "rloo":
        means = batch.rewards.mean(dim=1, keepdim=True)
        torch.testing.assert_close(batch.advantages, (batch.rewards - means) * 3 / 2)
    metrics = training.method.step(TrainingState(), go_on).metrics
    given = [metrics[f"reward/{label}/advantage_share"] for label in TWO]
    assert sum(given) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["grpo", "dapo", "sapo"])
def test_micro_batches_give_the_same_gradient_with_an_entropy_bonus(trials, loss):
    whole = gradients(trials, loss=loss, entropy_bonus=0.2)
    parts = gradients(trials, loss=loss, entropy_bonus=0.2, micro_batch_size=1)
    without = gradients(trials, loss=loss)
    assert set(parts) == set(whole) == set(without)
    size = max(float(value.abs().max()) for value in whole.values())
    assert all(float((parts[name] - whole[name]).abs().max()) <= 1e-5 * size for name in whole)
    assert any(float((without[name] - whole[name]).abs().max()) > 1e-3 * size for name in whole)


@pytest.mark.slow
def test_groups_of_equal_rewards_have_the_gradient_of_the_entropy_bonus(trials):
    settings = {"rewards": {"letters": {"dull": 1000, "weight": 1}}, "loss": "dapo"}
    found = gradients(trials, **settings, entropy_bonus=0.2)
    assert sum(float(value.abs().sum()) for value in found.values()) > 0
    assert gradients(trials, **settings) == {}


@pytest.mark.slow
def test_the_entropy_bonus_raises_the_entropy(trials):
    recipe = trials(
        rewards={"letters": {"dull": 1000, "weight": 1}},
        entropy_bonus=1.0,
        learning_rate=3e-3,
        max_steps=6,
        temperature=0.5,
    )
    training, state = build(resolve(recipe)), TrainingState()
    entropies = []
    for _ in range(6):
        result = training.method.step(state, go_on)
        state.advance(result)
        entropies.append(result.metrics["entropy"])
    assert entropies[-1] > entropies[0]


def test_a_policy_without_gradients_of_entropies_is_refused(trials, monkeypatch):
    from medground_qwen.policy import Policy

    begin = Policy.__init__

    def plain(self, *arguments, **settings):
        begin(self, *arguments, **settings)
        del self.entropy_gradient

    monkeypatch.setattr(Policy, "__init__", plain)
    with pytest.raises(RecipeError, match="gives entropies without gradient") as refused:
        build(resolve(trials(entropy_bonus=0.1)))
    assert refused.value.hint == "set grpo.entropy_bonus=0"


@pytest.mark.slow
def test_completions_near_the_limit_lose_reward(trials):
    training = build(resolve(trials(overlong_buffer=6, max_completion_length=6)))
    batch = training.method.rollouts.draw(1, 0, go_on)
    for group in batch.groups:
        for rollout, score in zip(group.rollouts, group.scores, strict=True):
            punished = score.terms["overlong"].value
            assert punished == pytest.approx(-len(rollout.completion.token_ids) / 6)
            assert score.total == pytest.approx(score.terms["letters"].value + punished)
    assert "overlong" in batch.contributions
    with pytest.raises(RecipeError, match="two terms have one label: 'overlong'"):
        build(resolve(trials(rewards={"overlong": {"name": "letters", "weight": 1}}, overlong_buffer=6)))


@pytest.mark.slow
def test_drawn_and_saved_completions_say_which_term_decides(trials, tmp_path):
    recipe = trials(rewards=TWO | {"bbox_iou": 0}, max_steps=2)
    drawn = sampled_shares(resolve(recipe), 100)
    assert (drawn.groups, drawn.completions) == (8, 24), "all questions there are"
    assert list(drawn.shares) == ["letters", "format_seg"], "the largest first, and no term that only observes"
    assert drawn.first == "letters"
    run = train(recipe, out=tmp_path / "run")
    saved = saved_shares(resolve(recipe), run.folder)
    assert (saved.groups, saved.completions) == (4, 12)
    assert saved_shares(resolve(recipe), run.folder, after=1).groups == 2
    events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    last = next(event for event in events if event["event"] == "step" and event["step"] == 2)
    of_last = saved_shares(resolve(recipe), run.folder, after=1).shares
    assert of_last["letters"] == pytest.approx(last["reward/letters/advantage_share"], abs=1e-6)
    flipped = saved_shares(resolve(recipe, "rewards.letters=0.001", "rewards.bbox_iou=1"), run.folder)
    assert set(flipped.shares) == {"letters", "format_seg", "bbox_iou"}
    with pytest.raises(InputError, match="not scored by the term 'bbox_align'"):
        saved_shares(resolve(recipe, "rewards.bbox_align=1"), run.folder)
    with pytest.raises(InputError, match="not the folder of a training run"):
        saved_shares(resolve(recipe), tmp_path)
    with pytest.raises(RecipeError, match="no grpo section"):
        saved_shares(resolve({"rewards": {"bbox_iou": 1}}), run.folder)


@pytest.mark.slow
def test_the_card_shows_which_term_decides(tmp_path):
    from medground_toy import phantoms

    phantoms.write(
        tmp_path / "drawn", phantoms.samples(4, seed=0, size=(64, 64), families=("plain",), convention="core")
    )
    options = [f"data.path={tmp_path / 'drawn'}", "grpo.num_generations=4"]
    page = CliRunner().invoke(reward, ["audit", "train/toy", *options, "--sample", "2", "--out", str(tmp_path)])
    assert page.exit_code == 0, page.output
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["advantage"]["groups"] == 2
    first = next(iter(card["advantage"]["shares"]))
    assert first == "bbox_iou"
    assert f"{first} decides the advantage" in page.stderr
    assert f"| {first} | {card['terms'][first]['weight']:g} |" in (tmp_path / "card.md").read_text()
    dull = CliRunner().invoke(reward, ["audit", "train/toy", *options, "--sample", "1", *DULL])
    assert "no term decides an advantage" in dull.stderr
    both = CliRunner().invoke(reward, ["audit", "train/toy", "--sample", "2", "--completions", "runs/x"])
    assert (both.exit_code, "two sources" in both.stderr) == (2, True)
