"""Fixtures for runs of two processes: tiny real models, a reward for letters, and the commands that start them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """``qwen2_5_vl`` and ``qwen3_vl`` (tiny checkpoints), ``data``, ``template.txt``, and ``site`` with a reward plugin."""
    from medground_qwen import tiny as models
    from medground_toy import phantoms

    folder = tmp_path_factory.mktemp("tiny")
    for architecture in ("qwen2_5_vl", "qwen3_vl"):
        words = models.tokenizer()
        models.save(
            folder / architecture,
            models.model(architecture, words, patch=8, hidden=64, layers=2),
            models.processor(architecture, words, patch=8, max_side=64),
        )
    phantoms.write(folder / "data", phantoms.samples(8, seed=0, size=(64, 64)))
    lines = [json.loads(line) for line in (folder / "data" / "manifest.jsonl").read_text().splitlines()]
    for line, split in zip(lines, ["train"] * 5 + ["val"] * 3, strict=True):
        line["split"] = split
    (folder / "data" / "split.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "template.txt").write_text("{Question}", encoding="utf-8")
    info = folder / "site" / "medground_letters-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: medground-letters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[medground]\nreward.letters = medground_letters\n")
    (folder / "site" / "medground_letters.py").write_text(Path(__file__).with_name("letters.py").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "site"))  # this process reads the recipes too
        yield folder


@pytest.fixture(scope="session")
def recipe(tiny):
    """``recipe(kind, architecture, reasoner, reward, **settings)``: three queries a step, in uneven shares and mini-batches,
    with clipping, a reference and a second update whose old log-probabilities are needed."""

    def made(kind="grpo", architecture="qwen3_vl", reasoner=(), reward=(), validate=(), **settings):
        every = {"learning_rate": 1e-4, "max_steps": 3, "save_every": 100, "max_grad_norm": 0.5, "train_batch_size": 3}
        grpo = {
            "num_generations": 3, "mini_batch_size": 2, "max_completion_length": 6, "micro_batch_size": 2, "beta": 0.05,
        }  # fmt: skip
        sft = {"micro_batch_size": 1, "warmup_ratio": 0.0}
        model = {"name": architecture, "checkpoint": str(tiny / architecture), "dtype": "float32", "device": "cpu"}
        found = {
            "reasoner": {**model, "train_vision": True, **dict(reasoner)},
            "prompt_interface": {"name": "bbox", "template": str(tiny / "template.txt")},
            "data": {"path": str(tiny / "data")},
            "sampling": {"max_completion_length": 6},
            kind: {**every, **(grpo if kind == "grpo" else sft), **settings},
        }
        if validate:
            found |= {
                "data": {"path": str(tiny / "data" / "split.jsonl"), "split": "train"},
                "validate": dict(validate),
            }
        return found | ({"rewards": {"letters": {"weight": 1, **dict(reward)}}} if kind == "grpo" else {})

    return made


@pytest.fixture(scope="session")
def begin(tiny):
    """``begin(recipe, out, *words, launcher=...)`` starts the command and returns its process."""

    def started(recipe, out, *words, launcher=(sys.executable, "-m", "medground"), **env):
        file = out.with_suffix(".yaml")
        file.write_text(json.dumps(recipe), encoding="utf-8")
        uses_it = "engine=deepspeed" in words and not any("shared_memory" in word for word in words)
        quick = ["engine.shared_memory=false"] if uses_it else []  # or the first test would compile for minutes
        path = os.pathsep.join([str(tiny / "site"), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            [*launcher, "train", str(file), *words, *quick, "--out", str(out)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=out.parent,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path, **env},
        )  # fmt: skip

    return started


@pytest.fixture(scope="session")
def ended(begin):
    """``ended(recipe, out, *words)`` runs the command with a time limit and returns exit code, stdout and stderr."""

    def run(*given, **named):
        process = begin(*given, **named)
        try:
            said = process.communicate(timeout=500)
        except subprocess.TimeoutExpired:
            process.terminate()
            pytest.fail(f"it hangs: {process.communicate()[1][-2000:]}")
        return process.returncode, *said

    return run


@pytest.fixture(scope="session")
def alone(recipe, tmp_path_factory):
    """``alone(**arguments)`` runs the recipe in one process, once per session, and returns the run folder."""
    runs = {}

    def run(**given):
        from medground.training.run import train

        key = json.dumps(given, sort_keys=True)
        if key not in runs:
            out = tmp_path_factory.mktemp("alone") / "run"
            train(recipe(**given), out=out)
            runs[key] = out
        return runs[key]

    return run
