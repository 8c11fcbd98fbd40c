"""The demo runs end to end, at counts too small to learn anything."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs transformers")
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_demo_trains_measures_and_reports_and_goes_on_where_it_was(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    small = {
        "DEMO": tmp_path / "demo",
        "BIN": Path(sys.executable).parent,
        "SAMPLES": 64,
        "HELD": 24,
        "SFT": 3,
        "GRPO": 1,
    }
    # The environment is this one: nothing is installed.
    command = ["make", "demo", "-o", ".venv/.demo", *(f"{name}={value}" for name, value in small.items())]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count(": no") >= 3, "nothing can be reached in three steps"
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
