"""Terms that medground does not ship: what they do to their child does not reach this process."""

import json
import os
import random
import select
import subprocess
import sys
import threading
from pathlib import Path

import bad_terms
import numpy as np
import pytest
from medground_rewards.boxes import BboxIou

from medground.errors import InputError, RecipeError, RunError
from medground.rewards.adapters import from_trl, from_verl, user_reward
from medground.rewards.isolation import Ending, run_in_child
from medground.rewards.rubric import Rubric
from medground.rewards.term import Term
from medground.types import Completion, Grounding, Query, Region, Rollout, Sample, Target

BAD = Path(bad_terms.__file__)
ANSWER = json.dumps({"prediction": "nothing", "ground_truth": {"bbox_2d": [1, 2, 30, 40]}})


def rollouts(count=3):
    def one(index):
        query = Query(image=np.zeros((8, 8, 3), np.uint8), question="", id=f"s{index}")
        sample = Sample(query=query, target=Target(regions=(Region(),)), labels={"modality": "CT"})
        return Rollout(sample=sample, completion=Completion(text=str(index), frame=None), grounding=Grounding())

    return [one(index) for index in range(count)]


def ours(given):
    """What a term could have changed in this process."""
    images = [rollout.sample.query.image.tobytes() for rollout in given]
    labels = [dict(rollout.sample.labels) for rollout in given]
    return images, labels, os.environ.get("SPOILT"), random.getstate(), threading.active_count(), json.dumps({"a": 1})


@pytest.mark.parametrize("name", [name for name in bad_terms.KINDS if name != "eats_memory"])
def test_a_bad_term_fails_by_name_and_changes_nothing_here(name, capfd):
    given = rollouts()
    before = ours(given)
    rubric = Rubric([Term("bad", getattr(bad_terms, name)), Term("good", lambda rollout: 2.0)])
    scores = rubric(given)
    kinds = [score.terms["bad"].failure and score.terms["bad"].failure.kind for score in scores]
    assert kinds == [bad_terms.KINDS[name]] * 3
    assert [score.terms["good"].value for score in scores] == [2.0] * 3
    assert ours(given) == before
    assert capfd.readouterr().out == ""
    for score in scores:
        assert (score.total is None) == (kinds[0] is not None)
        assert all("'bad'" in failure.cause and "'s" in failure.cause for failure in score.failures)


def test_values_before_the_end_of_a_term_are_kept_and_its_sample_is_named():
    def leaves_later(rollout):
        return 1.0 if rollout.completion.text != "2" else os._exit(0)

    scores = Rubric([Term("later", leaves_later)])(rollouts(4))
    assert [score.total for score in scores] == [1.0, 1.0, None, None]
    assert scores[2].failures[0].cause == "term 'later' ended its process (exit status 0) on sample 's2'"
    assert scores[3].failures == scores[2].failures


def test_closures_and_details_come_through_and_changes_are_lost():
    seen = []

    def term(rollout):
        seen.append(rollout)
        return len(seen)

    rubric = Rubric([Term("count", term)])
    assert [[score.total for score in rubric(rollouts(2))] for _ in range(2)] == [[1.0, 2.0], [1.0, 2.0]]
    assert seen == []


def test_a_term_that_declares_it_keeps_its_state_and_its_output_goes_to_stderr(capsys):
    class Counts:
        needs_mask = False
        range = (0.0, 9.0)
        in_process = True
        calls = 0

        def __call__(self, rollout):
            print("counting")
            self.calls += 1
            if rollout.completion.text == "1":
                sys.exit(0)
            return self.calls

    rubric = Rubric([Term("counts", Counts())])
    assert [score.total for score in rubric(rollouts(3))] == [1.0, None, 3.0]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "counting\n" * 3)
    for adapter in (from_trl, from_verl):
        function = bad_terms.prints
        assert not hasattr(adapter(function), "in_process")
    function = lambda **columns: [1.0]  # noqa: E731
    function.in_process, function.time_limit = True, 5
    assert Term("a", from_trl(function)).in_process
    assert Term("a", from_trl(function)).time_limit == 5


def test_what_medground_ships_runs_here_and_a_class_made_from_it_does_not():
    class Mine(BboxIou):
        """Ours, changed."""

    assert Term("a", BboxIou()).in_process
    assert not Term("a", Mine()).in_process
    assert not Term("a", from_trl(bad_terms.prints)).in_process


@pytest.mark.slow
def test_a_rubric_stops_after_three_late_batches_in_a_row():
    def slow(rollout):
        threading.Event().wait()

    slow.time_limit = 0.1
    rubric = Rubric([Term("slow", slow)])
    assert [rubric(rollouts(1))[0].total for _ in range(2)] == [None, None]
    with pytest.raises(
        RunError, match=r"term 'slow' did not finish within 0\.1 s on sample 's0', in 3 batches in a row"
    ):
        rubric(rollouts(1))


@pytest.mark.parametrize("limit", [0, -1, "soon", float("inf"), None])
def test_a_time_limit_is_a_number_of_seconds(limit):
    term = lambda rollout: 1.0  # noqa: E731
    term.time_limit = limit
    with pytest.raises(RecipeError, match="the time_limit of term 'a' is no number of seconds"):
        Rubric([Term("a", term)])


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; sys.exit(0)", "fails: SystemExit: 0"),
        ("import os; os._exit(0)", r"ended its process \(exit status 0\) when it is run"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"ended its process \(signal 9\)"),
        ("1 / 0", "fails: ZeroDivisionError"),
    ],
)
def test_a_file_that_does_not_run_to_its_end_is_refused(tmp_path, code, says):
    (tmp_path / "my.py").write_text(code)
    with pytest.raises(InputError, match=f"the file of term 'mine' {says}"):
        user_reward(f"mine={tmp_path / 'my.py'}:fn")


def test_a_file_that_hangs_is_refused_after_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("medground.rewards.adapters.SECONDS", 0.2)
    (tmp_path / "my.py").write_text("while True: pass")
    with pytest.raises(InputError, match=r"did not finish within 0\.2 s when it is run"):
        user_reward(f"mine={tmp_path / 'my.py'}:fn")


def test_a_line_without_end_is_refused():
    assert run_in_child(lambda send: send(b"a" * 200_000), 20).ending is Ending.GARBLED
    assert run_in_child(lambda send: send(b"a"), 20).lines == [b"a"]


def score(tmp_path, name, count=3):
    """Run ``medground reward score`` on `count` lines with one bad term."""
    (tmp_path / "answers.jsonl").write_text(f"{ANSWER}\n" * count)
    words = ["reward", "score", "infer/toy", str(tmp_path / "answers.jsonl"), "--json", "--term", f"bad={BAD}:{name}"]
    return subprocess.run(
        [sys.executable, "-P", "-m", "medground", *words],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def check_score(tmp_path, name):
    done = score(tmp_path, name)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if bad_terms.KINDS[name] is None:
        assert (done.returncode, [line["score"] for line in lines]) == (0, [1.0] * 3), done.stderr
    else:
        assert (done.returncode, [line["score"] for line in lines]) == (1, [None] * 3), done.stderr
        assert "error: 3 of 3 lines of answers.jsonl have no score: term 'bad'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", bad_terms.KINDS)
def test_no_bad_term_ends_a_command_with_0_before_its_work_is_done(tmp_path, name):
    check_score(tmp_path, name)


@pytest.mark.soak
@pytest.mark.parametrize("name", bad_terms.KINDS)
def test_no_bad_term_ends_a_command_with_0_fifty_times(tmp_path, name):
    for _ in range(50):
        check_score(tmp_path, name)


IN_PROCESS = """
import os, posix, sys, threading

def declared(function):
    function.in_process, function.time_limit = True, 0.5
    return function

@declared
def leaves(rollout): os._exit(0)

@declared
def leaves_by_another_name(rollout): posix._exit(0)

@declared
def hangs(rollout): threading.Event().wait()

@declared
def becomes_another_program(rollout): os.execv("/bin/true", ["true"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("leaves", "error: term 'bad' ended the process before the command was done"),
        ("leaves_by_another_name", "error: term 'bad' ended the process before the command was done"),
        ("hangs", "error: term 'bad' did not finish within 0.5 s"),
        ("becomes_another_program", "term 'bad' would replace the process by another program"),
    ],
)
def test_a_declared_term_that_ends_the_process_ends_the_command_with_1(tmp_path, name, says, monkeypatch):
    (tmp_path / "declared.py").write_text(IN_PROCESS)
    monkeypatch.setattr(sys.modules[__name__], "BAD", tmp_path / "declared.py")
    done = score(tmp_path, name)
    assert done.returncode == 1
    assert says in done.stderr


@pytest.mark.slow
def test_a_term_that_leaves_does_not_end_a_training_run_as_if_it_were_done(trials, tmp_path):
    pytest.importorskip("torch", reason="needs torch")
    from medground.training.run import train

    with pytest.raises(
        RunError, match=r"3 steps in a row had to be skipped.*term 'bye' ended its process \(exit status 0\)"
    ):
        train(trials(max_steps=9), out=tmp_path / "run", rewards={"bye": bad_terms.leaves})


@pytest.mark.slow
def test_the_children_of_a_killed_command_end_with_it(tmp_path):
    (tmp_path / "answers.jsonl").write_text(f"{ANSWER}\n")
    (tmp_path / "waits.py").write_text(
        "import os, pathlib, threading\n"
        "def waits(rollout):\n"
        f"    pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        f"    os.mkfifo({str(tmp_path / 'ready')!r} + '2')\n"
        f"    open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "    threading.Event().wait()\n"
    )
    os.mkfifo(tmp_path / "ready")
    words = [
        "reward",
        "score",
        "infer/toy",
        str(tmp_path / "answers.jsonl"),
        "--term",
        f"w={tmp_path / 'waits.py'}:waits",
    ]
    parent = subprocess.Popen([sys.executable, "-P", "-m", "medground", *words], stderr=subprocess.DEVNULL)
    (tmp_path / "ready").open().close()  # the term runs
    child = os.pidfd_open(int((tmp_path / "pid").read_text()))
    parent.kill()
    parent.wait()
    assert select.select([child], [], [], 20)[0] == [child]  # readable once it has ended
    os.close(child)


@pytest.mark.gpu
def test_children_are_forked_beside_a_cuda_context():
    torch = pytest.importorskip("torch", reason="needs torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    before = torch.ones(8, device="cuda").sum()

    def uses_the_device(rollout):
        return float(torch.ones(8, device="cuda").sum())

    scores = Rubric([Term("plain", lambda rollout: 1.0), Term("device", uses_the_device, 0.0)])(rollouts(2))
    assert [score.total for score in scores] == [1.0, 1.0]
    assert "Cannot re-initialize CUDA in forked subprocess" in scores[0].failures[0].cause
    assert float(before + torch.ones(8, device="cuda").sum()) == 16.0
