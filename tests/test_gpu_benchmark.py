"""The benchmark for a GPU runs from the repository alone, keeps to its budget and compares all sides."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("peft", reason="needs peft")

ROOT = Path(__file__).parents[1]


def run(*arguments, cwd):
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu.py"),
        "--tiny",
        "--device",
        "cpu",
        "--steps",
        "1",
        *arguments,
    ]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=1200)


@pytest.mark.slow
def test_a_load_frees_the_model_before_it_whoever_holds_it(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from gpu_bench import Bench
    from torch.multiprocessing.reductions import StorageWeakRef

    bench = Bench(argparse.Namespace(device="cpu", tiny=True, budget=100.0, steps=1, out=None))
    bench.load("hybrid")
    weights = [StorageWeakRef(parameter.untyped_storage()) for parameter in bench.model.parameters()]
    holders = [bench.model]
    for share in (True, False):
        side, work = bench.ours(bench.shape, share=share, part=None)
        bench.row("hybrid", bench.shape, "ours", 8, bench.step_of(work))
        holders.append(side)
    assert not any(weight.expired() for weight in weights)
    bench.load("4B")
    assert all(weight.expired() for weight in weights)


@pytest.mark.slow
def test_every_part_runs_on_small_models(tmp_path):
    report = tmp_path / "report.md"
    done = run("--budget", "1100", "--out", str(report), cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert report.read_text(encoding="utf-8") == done.stdout
    for part in ("exact", "update", "step", "long", "segmenter", "hybrid", "card", "windows", "profile", "launches"):
        assert f"| {part} | | | | | | | | done" in done.stdout
    rows = [line.split(" | ") for line in done.stdout.splitlines()]
    sides = {row[4] for row in rows if row[0] == "| update"}
    assert {"ours", "ours, repeated rows"} <= sides
    assert "faster than ours, repeated rows at G=16" in done.stdout
    assert "Everything that was compared is equal." in done.stdout


@pytest.mark.slow
def test_what_the_budget_has_no_time_for_is_named(tmp_path):
    done = run("--budget", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("skipped: no time left") == 10
