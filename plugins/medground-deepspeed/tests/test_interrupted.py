"""Runs of two ranks stop, crash and resume like runs of one process, on any number of ranks."""

import signal
import sys
import time

import pytest

pytest.importorskip("deepspeed", reason="needs deepspeed")


from compared_runs import assert_equal

from medground.runs.checkpoint import Checkpoints
from medground.runs.folder import read_events

pytestmark = pytest.mark.slow
TWO = ("engine=deepspeed", "engine.processes=2")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "medground")
DEEPSPEED = (sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--module", "medground")
CALLS = 6
"""Rewards that rank 1 gives in a step with three of each group's answers, when it has one group of three: 3; two steps."""


def newest(out):
    return Checkpoints(out / "checkpoints").newest()


def assert_saved_once(out):
    """Assert that one checkpoint of the last finished step was saved, and recorded once."""
    done = [line["step"] for line in read_events(out)]
    assert [line["step"] for line in read_events(out, "save")] == done[-1:]
    assert newest(out).name == f"step-{done[-1]:08d}"
    assert not list((out / "checkpoints").glob(".tmp-*"))
    return done[-1]


@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.soak), 3])
def test_sigterm_to_one_rank_stops_all_and_one_process_can_resume(stage, recipe, ended, alone, tiny, tmp_path):
    """SIGTERM to one rank in its second step: one checkpoint, exit code 5, and one process finishes the run."""
    sending = {"reward": {"call": CALLS - 1, "sends": "SIGTERM"}}
    out = tmp_path / "run"
    code, _, stderr = ended(recipe(**sending), out, *TWO, f"engine.stage={stage}")
    assert code == 5, stderr
    assert assert_saved_once(out) == 1
    assert stderr.count("stopped after step 1 of 3") == 1
    code, _, stderr = ended(recipe(**sending), out, "engine=local", "--resume")
    assert code == 0, stderr
    assert_equal(out, alone())


@pytest.mark.parametrize("stage", [2, pytest.param(3, marks=pytest.mark.soak)])
def test_two_ranks_resume_a_run_of_one_process(stage, recipe, ended, alone, tmp_path):
    """The same number of ranks can resume it, too."""
    sending = {"reward": {"call": 1 + 9, "sends": "SIGTERM", "rank": 0, "ranks": 1}}
    out = tmp_path / "run"
    code, _, stderr = ended(recipe(**sending), out, "engine=deepspeed", f"engine.stage={stage}", RANK="0", WORLD_SIZE="1",
                            LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")  # fmt: skip
    assert code == 5, stderr
    code, _, stderr = ended(recipe(**sending), out, *TWO, f"engine.stage={stage}", "--resume")
    assert code == 0, stderr
    assert_equal(out, alone())


def test_sigterm_to_the_launcher_saves_once_and_exits_5(recipe, begin, tmp_path):
    out = tmp_path / "run"
    process = begin(recipe("sft", max_steps=5000), out, *TWO)
    while process.poll() is None and not ((out / "events.jsonl").exists() and read_events(out)):
        time.sleep(0.1)  # until the first step is done; there is no other way to know from outside
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 5, stderr
    assert_saved_once(out)


def test_a_killed_worker_ends_the_run_with_its_name_and_a_loadable_checkpoint(recipe, ended, alone, tmp_path):
    sending = {"reward": {"call": CALLS - 1}, "save_every": 1}
    out = tmp_path / "run"
    code, _, stderr = ended(recipe(**sending), out, *TWO, "engine.stage=3")
    assert code == 1, stderr
    assert "error: process 1 of 2 was killed by SIGKILL" in stderr
    assert newest(out).name == "step-00000001"
    done, _, stderr = ended(recipe(**sending), out, "engine=local", "--resume")
    assert done == 0, stderr
    assert_equal(out, alone())


@pytest.mark.parametrize("launcher", [TORCHRUN, DEEPSPEED], ids=["torchrun", "deepspeed"])
def test_torchrun_and_deepspeed_launchers_start_a_run(launcher, recipe, ended, alone, tmp_path):
    out = tmp_path / "run"
    code, _, stderr = ended(recipe("sft"), out, "engine=deepspeed", launcher=launcher)
    assert code == 0, stderr
    assert_equal(out, alone(kind="sft"))


def test_an_engine_of_one_process_is_not_started_twice(recipe, ended, tmp_path):
    code, _, stderr = ended(recipe("sft", max_steps=1), tmp_path / "run", "engine=local", launcher=TORCHRUN)
    assert code != 0
    assert "2 processes were started, and this engine is one process" in stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.soak
def test_twenty_runs_shut_down_without_an_abort(recipe, ended, tmp_path):
    """ZeRO 3 could abort after the last step, in a fraction of runs."""
    codes = []
    for turn in range(20):
        codes.append(ended(recipe("sft", max_steps=1), tmp_path / f"run{turn}", *TWO, "engine.stage=3")[0])
    assert codes == [0] * 20


@pytest.mark.soak
def test_one_rank_compiles_the_operator_and_a_message_says_so(recipe, ended, tmp_path):
    """Two ranks start without a compiled operator; compiling takes minutes."""
    words = (*TWO, "engine.shared_memory=true", "engine.stage=3")
    code, _, stderr = ended(
        recipe("sft", max_steps=1), tmp_path / "run", *words, TORCH_EXTENSIONS_DIR=str(tmp_path / "built")
    )
    assert code == 0, stderr
    assert stderr.count("compiling DeepSpeed's communication operator, once on this machine") == 1
