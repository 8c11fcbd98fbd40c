"""Several processes for one run: how they are started and end, what they share out, what they write."""

import signal
import subprocess
import sys

import pytest

from medground.errors import RunError
from medground.training import launcher

torch = pytest.importorskip("torch", reason="needs torch")

from medground.training import engine_state  # noqa: E402
from medground.training.grpo.metrics import StepStats  # noqa: E402
from medground.training.ranks import pad_to_longest  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "code"), [(["plugins", "list", "--json"], 0), (["nonsense"], 2)])
def test_started_processes_end_as_one(arguments, code, monkeypatch, capfd):
    monkeypatch.delenv("RANK", raising=False)
    assert launcher.start(arguments, 2) == code


def children(*codes):
    """Processes that end with a code, are killed (negative), or go on until they are stopped (None)."""
    programs = {None: "import time; time.sleep(60)"}
    program = "import os, sys; os.kill(os.getpid(), -{0}) if {0} < 0 else sys.exit({0})"
    return [subprocess.Popen([sys.executable, "-c", programs.get(each) or program.format(each)]) for each in codes]


@pytest.mark.parametrize(
    ("codes", "first"), [((0, 0), None), ((0, 5), (1, 5)), ((3, -9), (1, -9)), ((None, 1), (1, 1))]
)
def test_the_first_failure_names_the_end_and_stops_the_others(codes, first, monkeypatch):
    monkeypatch.setattr(launcher, "GRACE", 0.0)
    started = children(*codes)
    if first and codes[0] is not None:
        for child in started:
            child.wait()  # both are there to be found
    assert launcher._wait(started) == first
    assert all(child.returncode is not None for child in started)


def test_a_killed_process_is_named(monkeypatch):
    monkeypatch.setattr(launcher, "_wait", lambda started: [each.wait() for each in started] and (1, -signal.SIGKILL))
    with pytest.raises(RunError, match="process 1 of 2 was killed by SIGKILL"):
        launcher.start(["--version"], 2)


def test_one_process_alone_is_none_of_several(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (launcher.world_size(), launcher.launched()) == (1, False)
    with pytest.raises(SystemExit) as left:
        launcher.exit_process(3)
    assert left.value.code == 3


class Others:
    """An engine as `pad_to_longest` sees it, beside ranks with so many passes."""

    def __init__(self, *counts, lockstep=True):
        self.counts, self.lockstep = list(counts), lockstep

    def gather(self, mine):
        return [mine, *self.counts]


def test_passes_are_filled_up_to_the_busiest_rank():
    assert list(pad_to_longest(Others(3, 1), "ab")) == ["a", "b", None]
    assert list(pad_to_longest(Others(1), "ab")) == ["a", "b"]
    assert list(pad_to_longest(Others(0), "")) == [None], "one pass at least"
    assert list(pad_to_longest(Others(3, lockstep=False), "")) == []


def test_groups_come_back_in_their_order():
    whole = list(range(7))
    for ranks in (1, 2, 3, 8):
        assert launcher.interleave([whole[rank::ranks] for rank in range(ranks)]) == whole


def test_the_stats_of_ranks_add_up_to_those_of_one_process():
    first = StepStats(
        loss=1.0, updates=2, grad_norm=3.0, tokens=4.0, kl=1.0, lowest_weight=0.5, highest_weight=2.0,
        tokens_computed=10, images=1,
    )  # fmt: skip
    second = StepStats(
        loss=0.5, updates=2, grad_norm=3.0, tokens=2.0, highest_mismatch=0.1, lowest_weight=0.7, highest_weight=3.0,
        tokens_computed=5, images=2,
    )  # fmt: skip
    assert StepStats.of_ranks([first, second]) == StepStats(
        loss=1.5, updates=2, grad_norm=3.0, tokens=6.0, kl=1.0, highest_mismatch=0.1, lowest_weight=0.5,
        highest_weight=3.0, tokens_computed=15, images=3,
    )  # fmt: skip


def test_a_large_state_is_written_in_parts_and_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_state, "SHARD", 100)
    tensors = {f"{key}/{name}": torch.randn(5, 4) for name in "abc" for key in ("parameter", "exp_avg")}
    engine_state.write(tmp_path, tensors.items())
    assert len(list(tmp_path.glob("engine*.safetensors"))) == 6
    found = {f"{key}/{name}": value for key, name, value in engine_state.read(tmp_path, "abc")}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in found.items())
    with pytest.raises(RunError, match="trained on other parameters: d is on one side only"):
        list(engine_state.read(tmp_path, "abcd"))
