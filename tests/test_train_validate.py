"""Validation is greedy, uses held-out samples, does not change training and chooses the result."""

import json
import os
import re

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from click.testing import CliRunner  # noqa: E402

import medground  # noqa: E402
from medground.cli import medground as command  # noqa: E402
from medground.errors import InputError, Interrupted, RecipeError, RunError  # noqa: E402
from medground.recipe import resolve  # noqa: E402
from medground.runs.checkpoint import Checkpoints  # noqa: E402
from medground.runs.folder import read_events, read_metadata, read_table  # noqa: E402
from medground.training.build import build  # noqa: E402
from medground.training.method import TrainingState  # noqa: E402
from medground.training.run import train  # noqa: E402
from medground.types import Sampling  # noqa: E402


@pytest.fixture(scope="module")
def split(tiny, tmp_path_factory):
    """Write the phantoms of `tiny` with splits: five for training, two for validation, one for testing."""
    lines = [json.loads(line) for line in (tiny / "data" / "manifest.jsonl").read_text().splitlines()]
    splits = ["train"] * 5 + ["val"] * 2 + ["test"]
    path = tiny / "data" / "split.jsonl"
    path.write_text(
        "".join(json.dumps({**line, "split": each}) + "\n" for line, each in zip(lines, splits, strict=True))
    )
    return path


@pytest.fixture
def recipe(trials, split):
    """``recipe(kind, validate, **settings)``: a small run that validates."""

    def make(kind="grpo", validate=(), **settings):
        made = trials(kind, **settings)
        made["data"] = {"path": str(split), "split": "train"}
        made["validate"] = {"every": 2, **dict(validate)}
        made["sampling"] = {"max_completion_length": 6}
        return made

    return make


def plain(folder, event):
    """Return events without their times."""
    return [
        {key: value for key, value in line.items() if not key.endswith("_time")} for line in read_events(folder, event)
    ]


@pytest.mark.slow
def test_validation_is_recorded_and_does_not_change_training(recipe, tmp_path):
    made = recipe(validate={"metric": "iou", "before_training": True})
    train(made, out=tmp_path / "run")
    lines = read_events(tmp_path / "run", "validate")
    assert [line["step"] for line in lines] == [0, 2, 4]
    for line in lines:
        assert line["samples"] == line["eval/iou/n"] == 2
        assert 0 <= line["eval/iou"] <= 1
        faults = sum(value for key, value in line.items() if key.startswith("eval/faults/"))
        assert line["eval/grounded_ratio"] == 1 - faults / 2
    rows = read_table(tmp_path / "run", 4, "validation")
    assert len(rows) == 2
    assert {"box", "points", "fault", "completion", "eval/iou"} <= set(rows[0])
    assert all((tmp_path / "run" / row["overlay"]).is_file() for row in rows)
    train({**made, "validate": {"every": 0}}, out=tmp_path / "without")
    assert plain(tmp_path / "run", "step") == plain(tmp_path / "without", "step")


@pytest.mark.slow
def test_validation_scores_greedy_answers_of_the_newest_weights(recipe, tmp_path):
    train(recipe("sft", learning_rate=1e-2), out=tmp_path / "run")
    graph = medground.load(tmp_path / "run")
    made = build(resolve(recipe("sft")))
    for row, sample in zip(read_table(tmp_path / "run", 4, "validation"), made.validation.samples, strict=True):
        sampling = Sampling(num_generations=1, temperature=0.0, max_completion_length=6)
        ((answer,),) = graph.reasoner.generate([graph.prompt_interface.render(sample.query)], sampling)
        assert row["completion"] == answer.text


class Scripted:
    """A real validation whose values are replaced, so that the best checkpoint is not the last."""

    def __init__(self, made, values):
        self.made, self.values = made, values

    def __call__(self, pause, engine):
        from dataclasses import replace

        found = self.made(pause, engine)
        return replace(found, value=self.values.pop(0))

    def __getattr__(self, name):
        return getattr(self.made, name)


@pytest.fixture
def scripted(monkeypatch):
    """Make the validations of the test return the listed values in turn."""
    from medground.training import build

    def script(*values):
        left, validation = list(values), build.validation
        monkeypatch.setattr(build, "validation", lambda *given: Scripted(validation(*given), left))

    return script


def chosen(folder):
    return re.search(r"checkpoint: \./checkpoints/(step-\d+)/model", (folder / "recipe.yaml").read_text())[1]


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_and_is_the_result(recipe, tmp_path, scripted):
    scripted(0.1, 0.9, 0.3, 0.9, 0.2)
    out = tmp_path / "run"
    done = train(recipe(validate={"every": 1, "metric": "iou"}, max_steps=5, save_every=1), out=out)
    checkpoints = Checkpoints(done.folder / "checkpoints")
    assert checkpoints.steps() == [5, 4, 2], "of equals the earliest"
    assert chosen(out) == "step-00000002"
    assert [line["step"] for line in read_events(out, "result")] == [2]
    assert "the highest iou on split val is the result" in read_metadata(out).checkpoint_rule
    again = train(recipe(validate={"every": 1, "metric": "iou"}, max_steps=5, save_every=1), out=out, resume=True)
    assert again.before == 5
    assert chosen(out) == "step-00000002"
    assert len(read_events(out, "result")) == 1
    weights = medground.load(out).reasoner.model.state_dict()
    from safetensors.torch import load_file

    kept = load_file(checkpoints.path(2) / "model" / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in kept.items())


@pytest.mark.slow
def test_a_new_best_step_is_saved_between_regular_checkpoints(recipe, tmp_path, scripted):
    scripted(0.5, 0.1)
    train(recipe(validate={"metric": "iou"}, max_steps=4, save_every=100), out=tmp_path / "run")
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [4, 2]
    assert chosen(tmp_path / "run") == "step-00000002"


def test_the_smallest_distance_is_the_best_checkpoint(recipe):
    made = build(resolve({**recipe(validate={"metric": "hd95_px"}), "segmenter": "ellipse"}))
    assert made.validation.best([(0, 1.0), (2, 9.0), (4, 3.0), (6, 3.0), (8, None)]) == 4
    found = made.validation(lambda: None, made.engine)
    assert found.metrics["eval/hd95_px/n"] == 2
    assert found.value == found.metrics["eval/hd95_px"]


@pytest.mark.parametrize("metric", ["dice_joint", "dice_box", "boundary_f", "iou_compat"])
def test_every_metric_can_choose_the_checkpoint(recipe, metric):
    made = build(resolve({**recipe(validate={"metric": metric}), "segmenter": "ellipse"}))
    assert made.validation(lambda: None, made.engine).value == 0.0, "a random model answers nothing, which counts 0"


@pytest.mark.slow
def test_a_resumed_run_records_the_same_validations(recipe, tmp_path):
    made = recipe(validate={"every": 1, "metric": "iou", "before_training": True}, save_every=2)
    train(made, out=tmp_path / "whole")
    done = []
    with pytest.raises(Interrupted):
        train(made, out=tmp_path / "run", stopped=lambda: 3 in done, report=lambda step, metrics: done.append(step))
    train(made, out=tmp_path / "run", resume=True)
    for event in ("step", "validate", "result"):
        assert plain(tmp_path / "run", event) == plain(tmp_path / "whole", event)


@pytest.mark.slow
def test_a_run_can_stop_inside_a_validation(recipe, tmp_path, monkeypatch):
    from medground.training import validation

    monkeypatch.setattr(validation, "AT_ONCE", 1)
    made = recipe(validate={"metric": "iou"}, save_every=100)
    train(made, out=tmp_path / "whole")
    answered = []
    answer = validation.Validation._rollouts
    monkeypatch.setattr(validation.Validation, "_rollouts", lambda self, part: answered.append(1) or answer(self, part))
    with pytest.raises(Interrupted, match="stopped after step 2 of 4"):
        train(made, out=tmp_path / "run", stopped=lambda: len(answered) == 1)
    assert read_events(tmp_path / "run", "validate") == []
    train(made, out=tmp_path / "run", resume=True)
    for event in ("step", "validate", "result"):
        assert plain(tmp_path / "run", event) == plain(tmp_path / "whole", event)


@pytest.mark.slow
def test_validation_on_training_samples_or_the_test_split_is_refused(recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"there is no metric 'dice_join' \(did you mean 'dice_joint'\?\)"):
        train(recipe(validate={"metric": "dice_join"}), out=tmp_path / "run")
    with pytest.raises(RecipeError, match="dice_joint needs a mask, and the recipe names no segmenter"):
        train(recipe(validate={"metric": "dice_joint"}), out=tmp_path / "run")
    with pytest.raises(RecipeError, match="chosen by the test split"):
        train(recipe(validate={"metric": "iou", "split": "test"}), out=tmp_path / "run")
    with pytest.raises(RecipeError, match="2 of the 2 validation samples are trained on"):
        made = recipe(validate={"metric": "iou"})
        train({**made, "data": {"path": made["data"]["path"]}}, out=tmp_path / "run")
    with pytest.raises(InputError, match="no sample is in the split 'vall'"):
        train(recipe(validate={"split": "vall"}), out=tmp_path / "run")


@pytest.mark.slow
def test_only_the_released_recipes_may_choose_by_the_test_split(recipe, tmp_path):
    """Also when the run is resumed from its folder, where the recipe has another name."""
    made = recipe(validate={"metric": "iou", "split": "test"}, max_steps=2)
    file = tmp_path / "medreasoner_mine.yaml"
    file.write_text(json.dumps(made))
    done = []
    with pytest.raises(Interrupted):
        train(str(file), out=tmp_path / "run", stopped=lambda: done, report=lambda step, metrics: done.append(step))
    assert train(tmp_path / "run", resume=True).steps == 2
    assert "on split test" in read_metadata(tmp_path / "run").checkpoint_rule


def test_recipe_check_refuses_an_unknown_metric(recipe, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(recipe(validate={"metric": "dise_joint"})))
    result = CliRunner().invoke(command, ["recipe", "check", str(file), "--json"], standalone_mode=False)
    assert "there is no metric 'dise_joint'" in result.output


@pytest.mark.slow
def test_a_run_resumes_from_another_working_directory(recipe, tiny, split, tmp_path, monkeypatch):
    """The run folder records relative paths as absolute ones."""
    made = recipe(max_steps=2)
    made["data"]["path"] = os.path.relpath(split, tiny)
    made["reasoner"]["checkpoint"] = "model"
    made["prompt_interface"]["template"] = "./template.txt"
    monkeypatch.chdir(tiny)
    done = []
    with pytest.raises(Interrupted):
        train(made, out=tmp_path / "run", stopped=lambda: done, report=lambda step, metrics: done.append(step))
    monkeypatch.chdir(tmp_path)
    assert train("run", resume=True).before == 1
    medground.load("run")


@pytest.mark.slow
def test_resuming_with_changed_data_is_refused(recipe, split, tmp_path):
    made = recipe(max_steps=2)
    own = split.with_name("own.jsonl")
    own.write_bytes(split.read_bytes())
    made["data"]["path"] = str(own)
    done = []
    with pytest.raises(Interrupted):
        train(made, out=tmp_path / "run", stopped=lambda: done, report=lambda step, metrics: done.append(step))
    lines = own.read_text().splitlines()
    own.write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    with pytest.raises(RunError, match="the order of the samples is not what it was when the run"):
        train(tmp_path / "run", resume=True)
    own.write_bytes(split.read_bytes())
    assert train(tmp_path / "run", resume=True).before == 1


@pytest.mark.slow
def test_a_run_records_its_processor_and_the_steps_a_term_was_constant(recipe, tmp_path):
    done = train(
        recipe(max_steps=2, rewards={"letters": 1, "idle": {"name": "letters", "letters": "", "weight": 0}}),
        out=tmp_path / "run",
    )
    made = build(resolve(recipe()))
    digest = made.reasoner.processor_digest()
    assert read_metadata(done.folder).processor_sha256 == digest
    assert medground.load(done.folder).reasoner.processor_digest() == digest, "saved and loaded again"
    made.reasoner.processor.image_processor.image_mean = [0.4] * 3
    assert made.reasoner.processor_digest() != digest
    assert [line["reward/idle/constant_steps"] for line in read_events(done.folder)] == [1, 2]


def test_state_of_older_checkpoints_loads():
    assert TrainingState(**{"step": 3}).validated == []
