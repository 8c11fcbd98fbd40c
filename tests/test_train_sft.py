"""Supervised training learns the ideal answer, with the loop, checkpoints and command of GRPO."""

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from click.testing import CliRunner  # noqa: E402

import medground  # noqa: E402
from medground.cli import medground as command  # noqa: E402
from medground.data.open_dataset import open_dataset  # noqa: E402
from medground.errors import InputError, Interrupted, RecipeError  # noqa: E402
from medground.geometry import Box, Point  # noqa: E402
from medground.recipe import resolve  # noqa: E402
from medground.runs.checkpoint import Checkpoints  # noqa: E402
from medground.runs.folder import read_events  # noqa: E402
from medground.training.build import build  # noqa: E402
from medground.training.method import TrainingState  # noqa: E402
from medground.training.run import train  # noqa: E402
from medground.types import Completion, Region, Target  # noqa: E402


def test_the_target_is_the_ideal_answer_in_the_models_own_frame(trials):
    made = build(resolve(trials("sft")))
    sample = made.samples[0]
    text, ids = made.method.target(sample)
    frame = made.reasoner.frame(sample.query.size)
    read = made.pipeline.prompt_interface.parse(Completion(text=text, frame=frame), sample.query.size)
    assert read.fault is None
    assert read.region.box == pytest.approx(sample.target.region.box, abs=0.5)
    assert frame.kind == "permille"
    assert made.reasoner.processor.tokenizer.decode(ids, skip_special_tokens=True) == text
    assert ids[-1] == made.reasoner.processor.tokenizer.eos_token_id


def test_a_reasoning_trace_is_part_of_the_target_where_the_data_has_one(trials, tiny, tmp_path):
    lines = [json.loads(line) for line in (tiny / "data" / "manifest.jsonl").read_text().splitlines()]
    for name in ("images", "masks"):
        (tmp_path / name).symlink_to(tiny / "data" / name)
    (tmp_path / "manifest.jsonl").write_text("")
    manifest = tiny / "data" / "traced.jsonl"
    manifest.write_text("".join(json.dumps({**line, "think": f"because {i}"}) + "\n" for i, line in enumerate(lines)))
    samples = open_dataset(manifest)
    made = build(resolve(trials("sft")))
    assert "<think>because 1</think>" in made.method.target(samples[1])[0]


@pytest.mark.parametrize(("box", "fault"), [((20, 30, 10, 40), "inverted_box"), ((20, 30, 900, 40), "out_of_frame")])
def test_an_answer_that_would_be_read_as_a_fault_is_not_taught(trials, box, fault):
    made = build(resolve(trials("sft")))
    sample = made.samples[0]
    target = Target(regions=(Region(box=Box(*box), points=(Point(3, 4), Point(5, 6))),))
    with pytest.raises(InputError, match=f"'{sample.query.id}' cannot be a target: .* would be read as {fault}"):
        made.method.target(replace(sample, target=target))


@pytest.mark.slow
def test_the_loss_is_the_mean_over_target_tokens(trials):
    made = build(resolve(trials("sft")))
    result = made.method.step(TrainingState(), lambda: None)
    from medground.training.schedule import sample_indices

    fresh = build(resolve(trials("sft")))
    total, tokens = 0.0, 0
    for index in sample_indices(0, 2, samples=len(fresh.samples), batch=2, seed=0):
        sample = fresh.samples[index]
        ids = fresh.method.target(sample)[1]
        logp, _ = fresh.reasoner.policy(
            fresh.reasoner.group(fresh.pipeline.prompt_interface.render(sample.query), [ids]), 1.0
        )
        total, tokens = total - float(logp.detach().sum()), tokens + len(ids)
    assert result.metrics["loss"] == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.slow
def test_packing_gives_the_same_loss_and_gradients_as_padding(trials):
    """Loss and gradients agree to 1e-5 at any number of samples in a sequence; token counts are equal."""
    found = []
    for settings in ({}, {"packing": True}, {"packing": True, "max_length": 190}):
        made = build(resolve(trials("sft", train_batch_size=4, max_grad_norm=0.0, **settings)))
        kept, passes = {}, []
        made.engine.optimizer.register_step_pre_hook(
            lambda *_, made=made, kept=kept: kept.update(
                {name: each.grad.clone() for name, each in made.engine.masters.items()}
            )
        )
        made.reasoner.policy.register_forward_hook(lambda *_, passes=passes: passes.append(None))
        result = made.method.step(TrainingState(), lambda: None)
        found.append((result.metrics["loss"], result.tokens, kept, len(passes)))
    plain, packed, cut = found
    assert (plain[3], packed[3]) == (1, 1)
    assert cut[3] > 1
    for other in (packed, cut):
        assert other[0] == pytest.approx(plain[0], rel=1e-5)
        assert other[1] == plain[1]
        for name, gradient in plain[2].items():
            scale = gradient.abs().max().clamp(min=1e-6)
            assert (other[2][name] - gradient).abs().max() <= 1e-5 * scale, name


@pytest.mark.slow
def test_sft_learns_and_resumes_as_the_uninterrupted_run(trials, tmp_path):
    recipe = trials("sft", max_steps=12, train_batch_size=4, learning_rate=3e-3, save_every=5)
    train(recipe, out=tmp_path / "whole")
    losses = [line["loss"] for line in read_events(tmp_path / "whole")]
    assert losses[-1] < 0.6 * losses[0]
    done = []
    with pytest.raises(Interrupted):
        train(recipe, out=tmp_path / "run", stopped=lambda: 7 in done, report=lambda step, metrics: done.append(step))
    train(recipe, out=tmp_path / "run", resume=True)
    assert [line["loss"] for line in read_events(tmp_path / "run")] == losses
    states = [
        (Checkpoints(tmp_path / name / "checkpoints").newest() / "engine.safetensors").read_bytes()
        for name in ("run", "whole")
    ]
    assert states[0] == states[1]
    assert medground.load(tmp_path / "run").reasoner is not None


@pytest.mark.slow
def test_a_step_with_a_nonfinite_loss_is_skipped(trials, tmp_path):
    for where in ("loss", "gradient"):
        recipe = trials("sft", reasoner={"bad": [2], "where": where})
        assert train(recipe, out=tmp_path / where).skipped == 1
        kept = json.loads((tmp_path / where / "incidents" / "step-00000002.json").read_text())
        assert where in kept["reason"]
        assert len(kept["targets"]) == 2


@pytest.mark.slow
def test_each_unusable_setting_is_refused_in_one_sentence(trials, tmp_path):
    with pytest.raises(RecipeError, match="has neither a grpo nor an sft section"):
        train("infer/toy", out=tmp_path / "run")
    both = trials("sft") | {"grpo": {}}
    with pytest.raises(RecipeError, match="has both a grpo and an sft section"):
        train(both, out=tmp_path / "run")
    twin = trials("sft") | {"reasoner": "toy"}
    with pytest.raises(RecipeError, match="the reasoner 'toy' has no policy"):
        train(twin, out=tmp_path / "run")
    with pytest.raises(RecipeError, match="train_batch_size is 99, and the data holds 8 samples"):
        train(trials("sft", train_batch_size=99), out=tmp_path / "run")
    with pytest.raises(RecipeError, match=r"sft\.max_length=9"):
        train(trials("sft", max_length=9), out=tmp_path / "run1")
    with pytest.raises(InputError, match="does not exist"):
        train(trials("sft") | {"data": {"path": "none"}}, out=tmp_path / "run2")


@pytest.mark.slow
def test_a_dry_run_prints_a_plan_and_writes_nothing(trials, tmp_path, monkeypatch):
    recipe = trials("sft", max_steps=50)
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    plan = json.loads(CliRunner().invoke(command, ["train", str(file), "--dry-run", "--json"]).stdout)
    assert (plan["method"], plan["steps"], plan["samples"]) == ("sft", 50, 8)
    assert plan["tokens"] == pytest.approx(50 * plan["tokens_per_step"])
    assert plan["parameters_trained"] == plan["parameters"] > 100_000
    assert plan["seconds"] > 0
    assert plan["peak_memory_bytes"] > 1e8
    told = CliRunner().invoke(command, ["train", str(file), "--dry-run"]).stdout
    assert "assuming" in told
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.slow
@pytest.mark.lane
def test_the_train_command_prints_the_path_of_the_reasoner(trials, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(trials("sft", max_steps=1)), encoding="utf-8")
    done = CliRunner().invoke(command, ["train", str(file), "--out", str(tmp_path / "run"), "--json"])
    assert json.loads(done.stdout) == {"folder": str(tmp_path / "run"), "steps": 1, "skipped": 0, "before": 0}
    again = CliRunner().invoke(command, ["train", str(tmp_path / "run"), "--resume"])
    assert "was finished already: all 1 steps are done" in again.stderr
    missing = CliRunner().invoke(command, ["train", str(file)])
    assert isinstance(missing.exception, RecipeError)
