"""The demo runs end to end with small counts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs transformers")
ROOT = Path(__file__).resolve().parents[1]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@needs_make
@pytest.mark.slow
def test_the_demo_trains_measures_reports_and_resumes(tmp_path):
    small = {
        "DEMO": tmp_path / "demo",
        "BIN": Path(sys.executable).parent,
        "SAMPLES": 64,
        "HELD": 24,
        "SFT": 3,
        "GRPO": 1,
    }
    # The environment is this one: nothing is installed.
    command = [
        "make",
        "--no-print-directory",
        "demo",
        "-o",
        ".venv/.demo",
        *(f"{name}={value}" for name, value in small.items()),
    ]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    _check_story(first.stdout, tmp_path / "demo")
    trained = [line.split("  ")[0] for line in first.stderr.splitlines() if line.startswith("step ")]
    assert {"step 1 of 3", "step 3 of 3", "step 1 of 1"} <= set(trained)
    numbers = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert numbers["questions"] == 24 and numbers["pictures"] == 12
    assert {name: each["steps"] for name, each in numbers["training"].items()} == {"sft": 3, "grpo": 1}
    assert set(numbers["rows"]) == {"sft", "grpo", "constant box", "centre box"}
    assert 0 < numbers["rows"]["centre box"]["whole"]["mean"] < numbers["rows"]["constant box"]["whole"]["mean"] < 1
    report = (tmp_path / "demo" / "report.html").read_text()
    assert report.count("<img") == 7 and "not a medical device" in report
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("was finished already") == 2


def _check_story(told: str, folder: Path) -> None:
    """Stdout holds the plan, a heading for each stage and the result, and no commands."""
    paragraphs = told.strip().split("\n\n")
    assert "Estimated total: " in paragraphs[0] and "`make demo` resumes" in paragraphs[0]
    assert [heading.split(".")[0] for heading in paragraphs[1:5]] == [
        "1 of 4: Draw", "2 of 4: SFT", "3 of 4: GRPO", "4 of 4: Measure",
    ]  # fmt: skip
    learnt = paragraphs[5].splitlines()
    assert len(learnt) == 5 and len(paragraphs) == 6
    assert [line.rpartition(": ")[2] for line in learnt[:4]].count("no") >= 3, "nothing can be reached in three steps"
    assert str(folder / "report.html") in learnt[4] and f"--recipe {folder / 'grpo'}" in learnt[4]


@pytest.mark.slow
def test_the_first_estimate_leaves_out_finished_stages(tmp_path):
    sizes = ["--samples", "2", "--held", "2", "--sft", "100000", "--grpo", "0"]

    def minutes() -> int:
        command = [sys.executable, "benchmarks/demo_start.py", str(tmp_path), *sizes]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return int(told.split("Estimated total: ")[1].split(" min")[0])

    all_of_it = minutes()
    (tmp_path / "sft" / "checkpoints" / "step-00099900").mkdir(parents=True)
    assert minutes() < all_of_it / 20


@needs_make
def test_TORCH_INDEX_is_an_extra_index_of_pip(tmp_path):
    shown = tmp_path / "shown.mk"
    shown.write_text('shown:\n\t@echo "[$$PIP_EXTRA_INDEX_URL]"\n')

    def index(*words: str, **environment: str) -> str:
        command = ["make", "-s", "--no-print-directory", "-f", "Makefile", "-f", str(shown), "shown", *words]
        clean = {name: value for name, value in os.environ.items() if name != "PIP_EXTRA_INDEX_URL"}
        return subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True).stdout.strip()

    assert index() == "[]"
    assert index(PIP_EXTRA_INDEX_URL="file:///own") == "[file:///own]"
    assert index("TORCH_INDEX=file:///cpu") == "[file:///cpu]"
    assert index("TORCH_INDEX=file:///cpu", PIP_EXTRA_INDEX_URL="file:///own") == "[file:///own file:///cpu]"
