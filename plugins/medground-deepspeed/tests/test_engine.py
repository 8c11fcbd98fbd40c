"""The engine keeps its promises on a small network in two ranks, and refuses impossible settings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("deepspeed", reason="needs deepspeed")

from medground.errors import RecipeError, RunError
from medground.recipe import check, resolve

CHILD = Path(__file__).with_name("zero_child.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, pytest.param(2, marks=pytest.mark.lane), 3])
def test_the_engine_keeps_every_promise_in_two_ranks(stage, tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [*TORCHRUN, str(CHILD), str(stage), str(tmp_path)], capture_output=True, text=True, timeout=240, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rank 0 is well" in done.stderr
    assert "rank 1 is well" in done.stderr


def test_impossible_settings_are_refused(monkeypatch):
    from medground_deepspeed import deepspeed

    with pytest.raises(RecipeError, match="ZeRO has the stages 1, 2 and 3"):
        deepspeed(stage=4)
    for name, value in {"RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=r"engine\.processes is 2, and 3 processes were started"):
        deepspeed(processes=2)


def test_recipe_check_starts_no_process():
    check(resolve("train/toy", "reasoner.checkpoint=x", "data.path=x", "engine=deepspeed", "engine.stage=3"))
    with pytest.raises(RecipeError, match="has no argument 'stages'"):
        check(resolve("train/toy", "reasoner.checkpoint=x", "data.path=x", "engine=deepspeed", "engine.stages=3"))


def test_train_from_python_explains_how_to_start_several_processes(tiny):
    from medground.training.run import train

    with pytest.raises(RunError, match=r"engine\.processes is 2, and 1 process was started"):
        checkpoint = f"reasoner.checkpoint={tiny / 'qwen3_vl'}"
        train("train/toy", checkpoint, "data.path=x", "engine=deepspeed", "engine.processes=2", out="none")
    assert "RANK" not in os.environ, "a refusal leaves the environment as it was"
