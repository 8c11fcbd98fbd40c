"""An interrupted run resumes as the same run, and its records state only what was done."""

import errno
import json
import multiprocessing
import os
import random
import resource
import runpy
import shutil
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

import medground  # noqa: E402
from medground.errors import Interrupted, RunError  # noqa: E402
from medground.runs.checkpoint import Checkpoints, verify  # noqa: E402
from medground.runs.folder import read_events  # noqa: E402
from medground.training.run import train  # noqa: E402

CHILD = Path(__file__).with_name("alien") / "train_child.py"
SAVES = ("save.after_model", "save.before_manifest", "save.before_rename", "save.after_rename", "save.before_latest")
POINTS = (*SAVES, "prune.mid", "rollout.mid", "reward.mid", "update.mid", "log.write")


def steps(folder):
    """Return the events of every step without their times."""
    return [{key: value for key, value in line.items() if key != "step_time"} for line in read_events(folder)]


def tables(folder):
    """Return every completion of every step, from tables of any format."""
    found = {}
    for path in sorted((folder / "completions").iterdir()):
        if path.suffix == ".parquet":
            from pyarrow import parquet

            found[path.stem] = parquet.read_table(path).drop_columns("overlay").to_pylist()
        else:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.stem] = [{key: value for key, value in line.items() if key != "overlay"} for line in lines]
    return found


def weights(folder):
    """Return the trained parameters and optimizer state in the newest checkpoint, as bytes."""
    newest = Checkpoints(folder / "checkpoints").newest()
    return (newest / "engine.safetensors").read_bytes()


def validations(folder):
    return [
        {key: value for key, value in line.items() if key != "validate_time"}
        for line in read_events(folder, "validate")
    ]


def assert_same(resumed, whole):
    assert steps(resumed) == steps(whole)
    assert validations(resumed) == validations(whole)
    assert tables(resumed) == tables(whole)
    assert weights(resumed) == weights(whole)


def stop_after(step):
    """``stopped`` and ``report`` of a run that is asked to stop once a step is done."""
    done = []
    return {"stopped": lambda: step in done, "report": lambda number, metrics: done.append(number)}


def interrupted(recipe, out, step):
    with pytest.raises(Interrupted, match=f"stopped after step {step} of"):
        train(recipe, out=out, **stop_after(step))


HARD = {"mini_batch_size": 1, "beta": 0.01, "resample_constant": 1, "schedule": "cosine"}
"""Two updates a step with old log-probabilities, a reference, resampling, a schedule: all that a resume must bring back."""


@pytest.mark.slow
def test_a_run_writes_a_folder_that_loads_as_a_recipe(trials, tmp_path):
    done = train(trials(save_every=2), out=tmp_path / "run")
    assert (done.steps, done.skipped, done.before) == (4, 0, 0)
    assert [line["step"] for line in read_events(done.folder)] == [1, 2, 3, 4]
    about = json.loads((done.folder / "run.json").read_text())
    assert about["plugins"]["reward.letters"] == "medground-trials 1.0"
    assert about["planned_steps"] == 4
    assert len(about["prompt_sha256"]) == len(about["data_sha256"]) == 64
    assert (done.folder / "recipe.source.yaml").is_file()
    assert list((done.folder / "overlays").iterdir())
    rows = tables(done.folder)["completions_00004"]
    assert {"step", "sample", "completion", "reward/letters", "reward", "advantage", "box", "points", "fault"} <= set(
        rows[0]
    )
    moved = tmp_path / "moved"
    shutil.move(done.folder, moved)
    loaded = medground.load(moved).reasoner.model.state_dict()
    start = medground.load(trials()).reasoner.model.state_dict()
    assert any(not torch.equal(loaded[name], start[name]) for name in start)
    newest = Checkpoints(moved / "checkpoints").path(4)
    from safetensors.torch import load_file

    trained = load_file(newest / "engine.safetensors")
    for name, value in loaded.items():
        if f"parameter/model.{name}" in trained:
            assert torch.equal(value, trained[f"parameter/model.{name}"]), name


@pytest.mark.slow
@pytest.mark.lane
def test_a_lora_run_loads_as_a_recipe(trials, tmp_path):
    recipe = trials(max_steps=1, learning_rate=0.1, reasoner={"lora_rank": 2})
    done = train(recipe, out=tmp_path / "run")
    text = (done.folder / "recipe.yaml").read_text()
    assert "adapter: ./checkpoints/step-00000001/model" in text
    adapted = medground.load(done.folder).reasoner.model.state_dict()
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in adapted.items())
    assert not (done.folder / "checkpoints" / "step-00000001" / "model" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("position", [1, 3])
def test_a_resumed_run_equals_the_uninterrupted_one(trials, tmp_path, caplog, position):
    recipe = trials(**HARD)
    train(recipe, out=tmp_path / "whole")
    interrupted(recipe, tmp_path / "run", position)
    caplog.set_level("INFO", "medground")
    done = train(recipe, out=tmp_path / "run", resume=True)
    assert done.before == position
    assert f"continuing after step {position}" in caplog.messages
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.soak
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_resuming_at_every_save_position_and_seed_equals_the_uninterrupted_run(trials, tmp_path, seed):
    """Eight save positions in more than two epochs, with the last step of an epoch and the first of the next."""
    recipe = trials(max_steps=9, **HARD) | {"seed": seed}
    train(recipe, out=tmp_path / "whole")
    for position in range(1, 9):
        interrupted(recipe, tmp_path / f"run{position}", position)
        train(recipe, out=tmp_path / f"run{position}", resume=True)
        assert_same(tmp_path / f"run{position}", tmp_path / "whole")


@pytest.mark.slow
def test_resuming_a_lora_run_twice_equals_the_uninterrupted_run(trials, tmp_path):
    recipe = trials(reasoner={"lora_rank": 2}, beta=0.1)
    train(recipe, out=tmp_path / "whole")
    interrupted(recipe, tmp_path / "run", 1)
    with pytest.raises(Interrupted):
        train(recipe, out=tmp_path / "run", resume=True, **stop_after(2))
    train(recipe, out=tmp_path / "run", resume=True)
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_stop_request_inside_a_step_discards_that_step(trials, tmp_path):
    """The request comes between sampling and scoring in step 2: nothing of step 2 remains."""
    recipe = trials()
    train(recipe, out=tmp_path / "whole")
    asked = []

    def stopped():
        asked.append(None)
        return len(asked) > 16  # 8 of them before the first step, once for every sample

    with pytest.raises(Interrupted, match="stopped after step 1 of 4"):
        train(recipe, out=tmp_path / "run", stopped=stopped)
    train(recipe, out=tmp_path / "run", resume=True)
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_step_discarded_during_its_update_does_not_count_for_the_alarm(trials, tmp_path, monkeypatch):
    """The request comes between the two groups of step 2's update, after scoring."""
    from medground.training.grpo.step import GrpoTrainer

    recipe = trials(rewards={"letters": 1, "idle": {"name": "letters", "letters": "", "weight": 0}})
    train(recipe, out=tmp_path / "whole")
    passes, micro_loss = [], GrpoTrainer.micro_loss
    monkeypatch.setattr(
        GrpoTrainer, "micro_loss", lambda *args, **kwargs: passes.append(1) or micro_loss(*args, **kwargs)
    )
    with pytest.raises(Interrupted, match="stopped after step 1 of 4"):
        train(recipe, out=tmp_path / "run", stopped=lambda: len(passes) == 3)
    train(recipe, out=tmp_path / "run", resume=True)
    assert_same(tmp_path / "run", tmp_path / "whole")
    assert [line["reward/idle/constant_steps"] for line in steps(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(trials, tmp_path):
    recipe = trials(max_steps=2)
    train(recipe, out=tmp_path / "run")
    before = weights(tmp_path / "run")
    again = train(recipe, out=tmp_path / "run", resume=True)
    assert (again.steps, again.before) == (2, 2)
    assert weights(tmp_path / "run") == before
    with pytest.raises(RunError, match="holds a run already"):
        train(recipe, out=tmp_path / "run")
    with pytest.raises(RunError, match="made with another recipe"):
        train(recipe | {"seed": 5}, out=tmp_path / "run", resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_a_finished_run_extends_and_equals_one_of_that_length(trials, tmp_path, kind):
    settings = {"schedule": "constant"} if kind == "sft" else {}
    train(trials(kind, max_steps=4, **settings), out=tmp_path / "whole")
    train(trials(kind, max_steps=2, **settings), out=tmp_path / "run")
    longer = train(tmp_path / "run", f"{kind}.max_steps=3", resume=True)
    assert (longer.before, longer.steps) == (2, 3)
    longest = train(tmp_path / "run", resume=True, **{kind: {"max_steps": 4}})
    assert (longest.before, longest.steps) == (3, 4)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert steps(tmp_path / "run") == steps(tmp_path / "whole")
    assert train(tmp_path / "run", resume=True).steps == 4, "the folder knows its new length"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["planned_steps"] == 4
    extended = [(line["step"], line["planned_steps"]) for line in read_events(tmp_path / "run", "extend")]
    assert extended == [(2, 3), (3, 4)]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"schedule": "cosine"}, {"schedule": "linear"}, {"warmup_ratio": 0.5}])
def test_a_run_whose_rates_follow_its_length_is_not_extended(trials, tmp_path, settings):
    train(trials(max_steps=2, **settings), out=tmp_path / "run")
    (key, value), *_ = settings.items()
    with pytest.raises(RunError, match=f"learning rates follow grpo.{key}={value} over its length") as refused:
        train(tmp_path / "run", "grpo.max_steps=4", resume=True)
    assert refused.value.hint.endswith(f"medground train {tmp_path / 'run'} grpo.max_steps=4 --out DIR")
    assert train(tmp_path / "run", "grpo.max_steps=1", out=tmp_path / "next").steps == 1, "the hint can be typed"


@pytest.mark.slow
def test_a_run_does_not_end_before_what_it_has_done(trials, tmp_path):
    train(trials(max_steps=2), out=tmp_path / "run")
    with pytest.raises(RunError, match="has done 2 steps already, more than the 1"):
        train(tmp_path / "run", "grpo.max_steps=1", resume=True)
    with pytest.raises(RunError, match="made with another recipe"):
        train(tmp_path / "run", "grpo.max_steps=4", "grpo.learning_rate=0.5", resume=True)
    assert train(tmp_path / "run", resume=True).steps == 2, "nothing was changed"


@pytest.mark.slow
def test_resuming_without_a_checkpoint_starts_from_the_beginning(trials, tmp_path, caplog):
    caplog.set_level("INFO", "medground")
    done = train(trials(max_steps=1), out=tmp_path / "run", resume=True)
    assert done.before == 0
    assert caplog.messages == ["there is no checkpoint yet: the run begins at step 1"]


@pytest.mark.slow
def test_training_accepts_a_run_folder_as_its_recipe(trials, tmp_path):
    interrupted(trials(max_steps=2), tmp_path / "run", 1)
    assert train(tmp_path / "run", resume=True).steps == 2


@pytest.mark.slow
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_step_with_a_nonfinite_loss_or_gradient_is_skipped(trials, tmp_path, where, value):
    """It is counted, its batch is saved, the parameters stay, and the run continues."""
    poison = {"bad": [3], "where": where, "value": value}
    done = train(trials(reasoner=poison), out=tmp_path / "run")
    assert (done.steps, done.skipped) == (4, 1)
    (line,) = [line for line in steps(tmp_path / "run") if "skipped" in line]
    kept = json.loads((tmp_path / "run" / "incidents" / f"step-{line['step']:08d}.json").read_text())
    assert ("loss" if where == "loss" else "gradient") in kept["reason"]
    assert len(kept["completions"]) == 6
    assert all(row["token_ids"] for row in kept["completions"])
    from safetensors.torch import load

    tensors = load(weights(tmp_path / "run"))
    assert all(bool(value.isfinite().all()) for value in tensors.values())


@pytest.mark.slow
def test_the_run_stops_after_three_skipped_steps_in_a_row_across_resumes(trials, tmp_path):
    """Every process poisons its first differentiated pass, so that every resumed step is skipped."""
    recipe = trials(reasoner={"bad": [1], "where": "gradient"}, max_steps=9)
    interrupted(recipe, tmp_path / "run", 1)
    with pytest.raises(Interrupted):
        train(recipe, out=tmp_path / "run", resume=True, **stop_after(2))
    with pytest.raises(RunError, match="3 steps in a row had to be skipped, the last is step 3"):
        train(recipe, out=tmp_path / "run", resume=True)


@pytest.mark.slow
def test_the_run_stops_when_more_than_a_hundredth_of_its_steps_are_skipped(trials, tmp_path):
    poison = {"bad": list(range(1, 100, 4)), "where": "gradient"}
    recipe = trials(max_steps=40, reasoner=poison, max_completion_length=2)
    with pytest.raises(RunError, match=r"6 of the last \d+ steps had to be skipped"):
        train(recipe, out=tmp_path / "run")
    assert sum("skipped" in line for line in steps(tmp_path / "run")) == 6


@pytest.mark.slow
def test_a_nan_reward_drops_its_group_and_saves_the_batch(trials, tmp_path):
    recipe = trials(rewards={"letters": {"bad": [2], "value": "inf", "weight": 1}}, max_steps=2)
    done = train(recipe, out=tmp_path / "run")
    assert done.skipped == 0
    first = steps(tmp_path / "run")[0]
    assert (first["failures/infinite"], first["frac_groups_left_out"]) == (1, 0.5)
    assert "returned inf on sample" in first["warnings"][0]
    assert (tmp_path / "run" / "incidents" / "step-00000001.json").is_file()


@pytest.mark.slow
def test_a_run_stops_when_no_rollout_can_be_scored(trials, tmp_path):
    recipe = trials(rewards={"letters": {"bad": list(range(1, 99)), "weight": 1}})
    with pytest.raises(RunError, match="3 steps in a row"):
        train(recipe, out=tmp_path / "run")
    assert "Steps that changed nothing: 3" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("runs", [1, pytest.param(4, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", ["loss nan", "loss inf", "gradient nan", "reward nan"])
def test_injected_nonfinite_numbers_leave_finite_parameters_and_a_record(trials, tmp_path, kind, runs):
    """Five a run, so that no stop rule applies; all leave finite parameters and a record."""
    where, value = kind.split()
    for number in range(runs):
        first = 2 + 3 * number
        bad = [first + 7 * index for index in range(5)]
        if where == "reward":
            recipe = trials(rewards={"letters": {"bad": bad, "value": value, "weight": 1}}, max_steps=20)
        else:
            recipe = trials(max_steps=30, reasoner={"bad": bad, "where": where, "value": value})
        out = tmp_path / f"run{number}"
        done = train(recipe, out=out)
        incidents = len(list((out / "incidents").iterdir()))
        met = sum(line.get("failures/nan", 0) for line in steps(out)) if where == "reward" else done.skipped
        assert met == 5
        assert incidents == (met if where != "reward" else len({line["step"] for line in read_events(out, "incident")}))
        from safetensors.torch import load

        assert all(bool(value.isfinite().all()) for value in load(weights(out)).values())


@pytest.mark.slow
def test_a_full_disk_while_saving_is_one_clear_error(trials, tmp_path):
    """The operating system refuses to write a file beyond a limit, once the first checkpoint exists."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def shrink(step, metrics):
        if step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    try:
        with pytest.raises(RunError, match="the checkpoint of step 2 could not be written: ") as found:
            train(trials(save_every=1), out=tmp_path / "run", report=shrink)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert found.value.exit_code == 1
    assert "are free; make room, then --resume" in found.value.hint
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000001"]
    assert verify(checkpoints.path(1)) is None
    done = train(trials(save_every=1), out=tmp_path / "run", resume=True)
    assert (done.before, done.steps) == (1, 4)


@pytest.mark.slow
def test_a_full_disk_while_recording_is_one_clear_error(trials, tmp_path, monkeypatch):
    from medground.runs import failpoints

    monkeypatch.setenv(failpoints.VARIABLE, "log.write:enospc:2")
    failpoints._passed.clear()
    with pytest.raises(RunError, match="the records of step 2 cannot be written: " + os.strerror(errno.ENOSPC)):
        train(trials(save_every=1), out=tmp_path / "run")


@pytest.mark.slow
def test_a_second_process_cannot_write_to_a_run(trials, tmp_path):
    from medground.recipe import resolve
    from medground.runs.folder import RunFolder

    holder = RunFolder(tmp_path / "run", resolve(trials()))
    with pytest.raises(RunError, match="another process writes to"):
        train(trials(), out=tmp_path / "run")
    holder.close()
    assert train(trials(max_steps=1), out=tmp_path / "run").steps == 1


# Processes that really die. A fork server loads the libraries once; every child starts from there.


@pytest.fixture(scope="module")
def start(trials):
    """``start(recipe, out, fault)`` runs `medground train` in a process that can be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "medground_qwen.factories"])

    def begin(recipe, out, fault=None):
        file = out.with_suffix(".yaml")
        file.write_text(json.dumps(recipe), encoding="utf-8")
        arguments = ["train", str(file), "--out", str(out), "--resume"]
        child = context.Process(
            target=runpy.run_path, args=(str(CHILD), {"ARGUMENTS": arguments, "FAULT": fault}, "__main__")
        )
        child.start()
        return child

    return begin


def assert_sound(out, recipe, whole, acknowledged):
    """The newest checkpoint loads, no saved step is lost, leftovers are removed, the resumed run equals the whole one."""
    checkpoints = Checkpoints(out / "checkpoints")
    assert all(verify(checkpoints.path(step)) is None for step in checkpoints.steps())
    assert max(checkpoints.steps(), default=0) >= acknowledged
    if checkpoints.steps():
        assert medground.load(out).reasoner.model is not None
    train(recipe, out=out, resume=True)
    assert not list(checkpoints.folder.glob(".tmp-*"))
    assert checkpoints.steps() == Checkpoints(whole / "checkpoints").steps()
    assert (out / "report.html").is_file()
    assert_same(out, whole)


def killed_at(point, start, trials, tmp_path, turn=3):
    recipe = trials(save_every=1, max_steps=4)
    train(recipe, out=tmp_path / "whole")
    turn = 1 if point == "prune.mid" else turn
    child = start(recipe, tmp_path / "run", f"{point}:kill:{turn}")
    child.join(120)
    assert child.exitcode == -9
    saved = [line["step"] for line in read_events(tmp_path / "run", "save")]
    assert_sound(tmp_path / "run", recipe, tmp_path / "whole", max(saved, default=0))


@pytest.mark.slow
@pytest.mark.parametrize("point", ["save.before_rename"])
def test_a_killed_run_resumes_as_the_uninterrupted_one(point, start, trials, tmp_path):
    killed_at(point, start, trials, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("turn", [1, 2, 3])
@pytest.mark.parametrize("point", POINTS)
def test_runs_killed_at_every_failpoint_resume_as_the_uninterrupted_one(point, turn, start, trials, tmp_path):
    """Every failpoint, three times."""
    killed_at(point, start, trials, tmp_path, turn)


@pytest.mark.soak
def test_runs_killed_at_fifty_random_times_resume_as_the_uninterrupted_one(start, trials, tmp_path):
    """50 SIGKILLs at uniformly random times over several saves and validations."""
    recipe = trials(save_every=1, max_steps=8)
    recipe["data"]["split"] = "train"
    recipe["validate"] = {"every": 3, "metric": "iou", "before_training": True}
    train(recipe, out=tmp_path / "whole")
    begun = time.perf_counter()
    child = start(recipe, tmp_path / "timed")
    child.join(120)
    span, draws = time.perf_counter() - begun, random.Random(0)
    killed = 0
    while killed < 50:
        out = tmp_path / f"run{killed}"
        child = start(recipe, out)
        child.join(draws.uniform(0.1, span))
        child.kill()
        child.join()
        if child.exitcode != -9:
            shutil.rmtree(out)  # it was faster than the clock, and a finished run has nothing to lose
            continue
        killed += 1
        saved = [line["step"] for line in read_events(out, "save")] if (out / "events.jsonl").exists() else []
        assert_sound(out, recipe, tmp_path / "whole", max(saved, default=0))
        shutil.rmtree(out)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["update.mid"])
def test_sigterm_saves_the_last_finished_step_and_exits_5(point, start, trials, tmp_path):
    _terminated(point, 3, start, trials, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("turn", [1, 2, 3])
@pytest.mark.parametrize("point", ["rollout.mid", "reward.mid", "update.mid", "log.write", "save.after_rename"])
def test_sigterm_at_fifteen_moments_saves_and_exits_5(point, turn, start, trials, tmp_path):
    _terminated(point, turn, start, trials, tmp_path)


def _terminated(point, turn, start, trials, tmp_path):
    recipe = trials(save_every=2, max_steps=8)
    train(recipe, out=tmp_path / "whole")
    child = start(recipe, tmp_path / "run", f"{point}:term:{turn}")
    child.join(120)
    assert child.exitcode == 5
    done = [line["step"] for line in read_events(tmp_path / "run")]
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()[:1] == done[-1:]
    train(recipe, out=tmp_path / "run", resume=True)
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_the_train_command_reports_its_result_and_exit_code(start, trials, tmp_path):
    """Exit code 0 when all steps are done, now or before; 2 when the recipe is not for training."""
    recipe = trials(max_steps=1)
    for _ in range(2):
        child = start(recipe, tmp_path / "run")
        child.join(120)
        assert child.exitcode == 0
    assert len(steps(tmp_path / "run")) == 1
    del recipe["grpo"]
    child = start(recipe, tmp_path / "other")
    child.join(120)
    assert child.exitcode == 2


@pytest.mark.slow
def test_trackers_receive_every_step_and_validation(trials, tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = trials(max_steps=3) | {"trackers": ["tensorboard"], "validate": {"every": 2}}
    recipe["data"]["split"] = "train"
    interrupted(recipe, tmp_path / "run", 1)
    train(recipe, out=tmp_path / "run", resume=True)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    told = [(each.step, each.value) for each in board.Scalars("reward")]
    assert told == [(line["step"], pytest.approx(line["reward"])) for line in steps(tmp_path / "run")]
    assert [each.step for each in board.Scalars("eval/iou")] == [2, 3]
