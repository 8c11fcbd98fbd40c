"""Crafted and randomly changed weights, folders and adapters are loaded or refused in one sentence, within limits."""

import json
import random
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

from medground.errors import InputError

SCRIPT = Path(__file__).with_name("crafted_weights.py")
CORPUS = runpy.run_path(str(SCRIPT))
SECONDS, BYTES = 10.0, 2 * 2**30
NEEDS = {"folder": "medground_qwen", "adapter": "peft", "clip": "open_clip", "sam2": "medground_sam2"}
LONG = ("millions", "many", "deep", "000 tensors", "100 MB", "overlap", "compressed archive", "an integer of text")
"""Parts of the names of files that take long to write or to refuse."""
SOAK = {"pickle": 2000, "safetensors": 2000, "folder": 800, "adapter": 400, "clip": 400, "sam2": 400}


def outcomes(folder: Path, kind: str, rounds: int = 0, seed: int = 0) -> list[tuple[str, str, str, float]]:
    """Return (name, error, message, seconds) of every file of a kind, loaded in a child process that must not hang."""
    pytest.importorskip(NEEDS.get(kind, "medground_sam"), reason=f"needs {NEEDS.get(kind)}")
    command = [sys.executable, str(SCRIPT), str(folder), kind, str(rounds), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        lines = [json.loads(line) for line in child.stdout if line.startswith('["')]  # libraries print too
    assert child.returncode == 0, f"ended with {child.returncode} after {lines[-1:]}"
    (_, _, _, peak) = lines.pop()
    assert peak <= BYTES
    return [(name, error, message, seconds) for name, error, message, seconds in lines]


def assert_typed(outcomes: list[tuple[str, str, str, float]]) -> None:
    untyped = [(name, error, message) for name, error, message, _ in outcomes if error not in ("", "refused")]
    assert not untyped
    assert not [(name, seconds) for name, _, _, seconds in outcomes if seconds > SECONDS]
    assert not [message for _, _, message, _ in outcomes if "\n" in message]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pickle", "safetensors"])
def test_a_sample_of_crafted_files_is_refused_or_loaded_as_it_should_be(kind, tmp_path):
    short = [name for name in CORPUS["CRAFTED"][kind] if not any(part in name for part in LONG)]
    chosen = random.Random(0).sample(short, 25)
    for name in chosen:
        refused, sentence, write = CORPUS["CRAFTED"][kind][name]
        path = tmp_path / f"{chosen.index(name)}.{'pth' if kind == 'pickle' else kind}"
        write(path)
        if not refused:
            CORPUS["load_sam"](path)
            continue
        with pytest.raises(InputError) as caught:
            CORPUS["load_sam"](path)
        assert sentence in str(caught.value), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", CORPUS["KINDS"])
def test_crafted_and_randomly_changed_files_are_refused_or_loaded_as_they_should_be(kind, tmp_path):
    seen = outcomes(tmp_path, kind, rounds=60, seed=1)
    assert_typed(seen)
    crafted = CORPUS["CRAFTED"][kind]
    assert [name for name, *_ in seen[: len(crafted)]] == list(crafted)
    wrong = []
    for name, error, message, _ in seen[: len(crafted)]:
        refused, sentence, _ = crafted[name]
        if bool(error) != refused or sentence not in message:
            wrong.append((name, error, message))
    assert not wrong


@pytest.mark.soak
@pytest.mark.parametrize("kind", CORPUS["KINDS"])
def test_thousands_of_random_changes_are_loaded_or_refused(kind, tmp_path):
    assert_typed(outcomes(tmp_path, kind, rounds=SOAK[kind], seed=2))


def test_the_corpus_is_as_large_as_promised():
    assert sum(map(len, CORPUS["CRAFTED"].values())) >= 100
    assert sum(SOAK.values()) == 6000
