"""A run's report is made from its folder alone, whatever happened in the run and however long it was."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from medground.recipe import resolve
from medground.runs.folder import RunFolder, RunMetadata, read_events
from medground.runs.inputs import RunInputs
from medground.training.report import POINTS, REPORT, training_report, write_report

HOSTILE = "<script>alert(1)</script>"
REWARDS = {"a#0": 0.5, "a#1": 0.25, "a#2": 0.75, "a#3": 1.5, "a#4": None}
"""Completion -> reward; the second, the first and the fourth are drawn."""
PICTURE = Image.fromarray(np.zeros((600, 600, 3), np.uint8))


@pytest.fixture
def run(tmp_path):
    """``run(steps)``: the folder of a run with so many recorded steps, some of them in trouble."""
    opened = []

    def make(steps, planned=None):
        folder = RunFolder(tmp_path / "run", resolve("infer/toy"))
        opened.append(folder)
        folder.begin(
            RunMetadata(recipe="train/mine", planned_steps=planned or steps, seed=3, prompt_sha256="a" * 64),
            RunInputs(),
        )
        for step in range(1, steps + 1):
            metrics = {"reward": step / steps, "reward/box/mean": 0.5, "reward/box/constant_steps": float(step)}
            metrics |= {
                "loss": float("nan") if step == 2 else 0.1,
                "kl": 0.01,
                "entropy": 1.0,
                "num_tokens": 10.0 * step,
            }
            metrics |= {"faults/bad_json": 2.0} if step % 2 else {}
            skipped = "the loss is nan" if step == 2 else None
            folder.step(step, metrics, seconds=0.5, skipped=skipped, warnings=[HOSTILE] if step == 1 else [])
            if step in (1, steps):
                row = {"name": "a#0", "sample": "a", "prompt": HOSTILE, "completion": HOSTILE * 200, "fault": None}
                rows = [{**row, "name": name, "reward": reward, "reward/box": None} for name, reward in REWARDS.items()]
                folder.completions(step, rows, [(name, lambda: PICTURE) for name in ("a#1", "a#0", "a#3")])
        folder.incident(2, "the loss is nan", {})
        return folder.folder

    yield make
    for folder in opened:
        folder.close()


def test_what_happened_is_told(run):
    text = training_report(run(4, planned=9))
    for said in (
        "Training run of train/mine", "4 of 9 steps done, not finished. Seed 3.", "a" * 64, "Mean of each term",
        "Divergence from the starting policy", "Steps that changed nothing: 1", "Warnings: 1",
        "Batches kept in incidents/: 1", "bad_json", "Step 4", "Research software, not a medical device",
    ):  # fmt: skip
        assert said in text, said
    assert text.count("<img ") == 2 * 3
    assert text.index("<img ") < text.index("<svg xmlns"), "pictures come before curves"
    newest = re.findall("<p><b>([^<]*)</b>: <b>([^<]*)</b>", text)[:3]
    assert newest == [
        ("Highest", "reward 1.500"),
        ("Median", "reward 0.500"),
        ("Lowest", "reward 0.250"),
    ]
    assert "Reward terms that were constant" in text


def test_what_a_model_wrote_is_shown_and_never_run(run):
    text = training_report(run(4))
    assert text.count("<script>") == 1
    assert "&lt;script&gt;alert(1)" in text


def test_a_long_run_is_thinned(run):
    text = training_report(run(3000))
    for points in re.findall(r'<polyline points="([^"]*)"', text):
        assert len(points.split()) <= POINTS
    assert len(text) < 150_000


def test_it_is_written_whole_and_again(run):
    folder = run(2)
    path = write_report(folder)
    assert path == folder / REPORT
    assert write_report(folder).read_text() == path.read_text()
    assert [each.name for each in folder.iterdir() if each.name.startswith(".report")] == []


def test_a_run_that_has_only_begun_has_a_report(run):
    assert "No sample has been drawn yet." in training_report(run(0, planned=5))


def test_a_line_torn_by_a_kill_is_left_out(run):
    folder = run(3)
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "step", "step": 4, "rew')
    assert len(read_events(folder)) == 3
    assert "3 of 3 steps" in training_report(folder)
    assert json.loads((folder / "run.json").read_text())["seed"] == 3


def test_the_tables_of_all_steps_are_one_table(tmp_path):
    """Also where a step's column holds nothing, or its first row has no score."""
    dataset = pytest.importorskip("pyarrow.dataset", reason="needs pyarrow")
    folder = RunFolder(tmp_path, resolve("infer/toy"))
    nothing = {"name": "a#0", "box": None, "points": None, "fault": "bad_json", "failures": "it broke", "reward": None}
    scored = {"name": "b#0", "box": [0.0] * 4, "points": [[1.0, 2.0]], "fault": None, "reward": 1.0, "reward/box": 1.0}
    for step, rows in enumerate(([scored], [nothing, scored], [nothing]), start=1):
        folder.completions(step, rows)
    folder.close()
    table = dataset.dataset(tmp_path / "completions").to_table().sort_by("step")
    assert table["reward/box"].to_pylist() == [1.0, None, 1.0, None]
    assert table["points"].to_pylist() == [[[1.0, 2.0]], None, [[1.0, 2.0]], None]
    assert table["fault"].to_pylist() == [None, "bad_json", None, "bad_json"]
