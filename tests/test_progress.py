"""Progress: a bar with the time left on a terminal and in a notebook, a line every half minute elsewhere, on stderr."""

import json
import logging
import re
import sys

import nbformat
import pytest
from click.testing import CliRunner
from medground_toy import phantoms
from nbclient import NotebookClient

import medground
from medground.cli import main
from medground.cli import medground as command_line
from medground.data.lint import lint
from medground.progress import counted, in_notebook, progress, training_progress
from medground.sweeps.run import sweep


@pytest.fixture
def clock(monkeypatch):
    """Seconds as all progress counts them, in a list of one."""
    now = [1000.0]
    monkeypatch.setattr("medground.progress.monotonic", lambda: now[0])
    return now


def test_training_shows_one_bar_with_rate_time_left_and_the_newest_numbers_on_a_terminal(monkeypatch, capsys, clock):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with training_progress() as (begin, report):
        begin(2, 64)
        clock[0] += 40
        report(3, {"reward": 0.25, "loss": 0.5, "reward/bbox_iou/mean": 0.125})
        report(3, {"eval/iou": 0.5})
        clock[0] += 40
        report(4, {"reward": 0.75, "loss": 0.25, "reward/bbox_iou/mean": 0.125})
    shown = capsys.readouterr().err
    for said in (
        "4/64",
        "40.0 s/step",
        "0:40:00 left",
        "reward 0.75  loss 0.25",
        "bbox_iou 0.125",
        "after step 3: iou 0.5",
    ):
        assert said in shown
    assert shown.count("\n") == 4, "the bar, the numbers, the terms and the validation, each in its line"


def test_what_a_run_says_stands_above_its_bar_in_a_line_of_its_own(monkeypatch, capsys):
    CliRunner().invoke(command_line, ["recipe", "list"])  # any command sends the library's log to stderr
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with training_progress() as (begin, report):
        begin(2, 64)
        logging.getLogger("medground.training").info("continuing after step %d", 2)
        report(3, {"loss": 0.5})
    erased = re.sub(r"[^\n]*\x1b\[2K", "", capsys.readouterr().err)  # a line erased before it is written anew
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", erased).splitlines()
    assert "continuing after step 2" in shown
    assert "3/64" in shown[-2], "the bar is below it"


def test_training_says_a_line_every_half_minute_without_a_terminal(capsys, clock):
    with training_progress() as (begin, report):
        begin(0, 100)
        for step in range(1, 101):
            clock[0] += 1
            report(step, {"loss": 1 / step})
            if step == 50:
                report(step, {"eval/iou": 0.5})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  loss")[0] for line in lines] == [
        "step 1 of 100", "step 31 of 100", "validation after step 50: iou 0.5",
        "step 61 of 100", "step 91 of 100", "step 100 of 100",
    ]  # fmt: skip
    assert lines[1] == "step 31 of 100  loss 0.03226  1.0 steps/s  0:01:09 left"


def test_the_time_left_follows_the_newest_minute(capsys, clock):
    with training_progress() as (begin, report):
        begin(10, 1000)
        clock[0] += 600  # a slow first step
        report(11, {"loss": 1.0})
        for step in range(12, 112):
            clock[0] += 1
            report(step, {"loss": 1.0})
        clock[0] += 30
        report(112, {"loss": 1.0})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 11 of 1000  loss 1  600.0 s/step  6 days, 20:50:00 left"
    assert lines[-1] == "step 112 of 1000  loss 1  1.9 s/step  0:28:39 left", "31 steps in 60 s"


@pytest.fixture
def data(tmp_path):
    phantoms.write(tmp_path / "data", phantoms.samples(3, seed=0, size=(40, 40)))
    return tmp_path / "data"


def test_work_shows_a_bar_with_speed_and_time_left_on_a_terminal(monkeypatch, capsys, clock):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("measuring", total=10, done=2, unit="sample") as advance:
        clock[0] += 10
        advance(5)
    shown = capsys.readouterr()
    assert shown.out == ""
    for words in ("measuring", "7/10", "2.0 s/sample", "0:00:06 left"):
        assert words in shown.err


def test_work_of_unknown_size_shows_its_count_and_speed(monkeypatch, capsys, clock):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("reading", total=None, unit="sample") as advance:
        clock[0] += 2
        advance(8)
    shown = capsys.readouterr().err
    assert "8/?" in shown and "4.0 samples/s" in shown and "left" not in shown


def test_work_says_a_line_every_half_minute_without_a_terminal_and_short_work_none(capsys, clock):
    with counted("evaluating", unit="answer") as report:
        report(10, 100)
        for done in range(11, 101):
            clock[0] += 1
            report(done, 100, note="a" if done < 60 else "b")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "evaluating 40 of 100  a  1.0 answers/s  0:01:00 left",
        "evaluating 70 of 100  b  1.0 answers/s  0:00:30 left",
        "evaluating 100 of 100  b  1.0 answers/s  0:00:00 left",
    ]
    with progress("checking", total=2) as advance:
        clock[0] += 29
        advance(2)
    assert capsys.readouterr().err == ""


@pytest.fixture
def slow_steps(monkeypatch):
    """Every look at the clock finds half a minute gone, so that each report writes a line."""
    now = [0.0]

    def monotonic():
        now[0] += 31
        return now[0]

    monkeypatch.setattr("medground.progress.monotonic", monotonic)


COMMANDS = {
    "build": (["data", "build", "data", "--out", "built"], "reading 3  31.0 s/sample"),
    "lint": (["data", "lint", "data"], "checking 1 of 3  31.0 s/line  0:01:02 left"),
    "stats": (["data", "stats", "data"], "measuring 1 of 3  31.0 s/sample  0:01:02 left"),
    "run": (["run", "data/images", "--question", "Where?", "--out", "out", "--batch-size", "1"],
            "grounding 1 of 2  31.0 s/input  0:00:31 left"),
    "eval": (["eval", "infer/toy", "data.path=data", "evaluate.batch_size=1", "evaluate.n_boot=20", "--out", "out"],
             "evaluating 1 of "),
    "sweep": (["sweep", "variants.yaml", "--out", "out"], "sweeping 0 of 2  evaluating ellipse: 1 of "),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_takes_long_says_how_far_it_is_on_stderr(
    command, data, tmp_path, monkeypatch, capsys, slow_steps
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "variants.yaml").write_text(
        "extends: infer/toy\ndata: {path: data}\nevaluate: {batch_size: 1, n_boot: 20, conditions: [answer]}\n"
        "variants: {ellipse: {}, fill: {segmenter: box_fill, prompt: box}}\n"
    )
    words, line = COMMANDS[command]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    told = capsys.readouterr()
    assert not ended.value.code, told.err
    json.loads(told.out)
    assert line in told.err


@pytest.mark.slow
def test_a_sweep_counts_trainings_and_evaluations_and_what_it_does_within_each(data, tmp_path):
    reports = []
    recipe = {
        "extends": "infer/toy",
        "data": {"path": str(data)},
        "evaluate": {"batch_size": 1, "n_boot": 20, "conditions": ["answer"]},
        "variants": {"ellipse": {}, "fill": {"segmenter": "box_fill", "prompt": "box"}},
    }
    sweep(recipe, out=tmp_path / "out", progress=lambda *report: reports.append(report))
    assert reports[0] == (0, 2, "")
    assert (1 / 3, 2, "evaluating ellipse: 1 of 3") in reports
    assert (1 + 2 / 3, 2, "evaluating fill: 2 of 3") in reports
    done = [share for share, _, _ in reports]
    assert done == sorted(done) and done[-1] == 2


def test_the_linter_reports_every_line(data):
    reports = []
    lint(data, progress=lambda *report: reports.append(report))
    assert reports == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_call_from_python_outside_a_notebook_shows_nothing(data, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert not in_notebook()
    medground.evaluate(medground.load("infer/toy"), data=str(data), conditions=["answer"])
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_training_and_evaluating_from_python_show_a_bar_in_a_notebook(tiny, data, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    cells = [
        "import medground",
        f"result = medground.evaluate(medground.load('infer/toy'), data={str(data)!r}, conditions=['answer'])",
        "run = medground.train({'reasoner': {'name': 'toy_vlm', 'checkpoint': "
        f"{str(tiny / 'model')!r}}}, 'prompt_interface': {{'name': 'bbox', 'template': {str(tiny / 'template.txt')!r}}}, "
        f"'data': {{'path': {str(tiny / 'data')!r}}}, 'sft': {{'max_steps': 2, 'train_batch_size': 2}}}}, out='run')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [
        [output.data["text/plain"] for output in cell.outputs if output.output_type == "display_data"]
        for cell in notebook.cells
    ]
    assert shown[0] == []
    (evaluated,), (trained,) = shown[1], shown[2]
    assert evaluated.startswith("evaluating") and "3/3" in evaluated and "left" in evaluated
    assert trained.startswith("step") and "2/2" in trained and "loss" in trained
