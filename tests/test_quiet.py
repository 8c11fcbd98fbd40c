"""What libraries warn of does not reach a user's terminal: real commands, each in a process of its own."""

import json
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("transformers", reason="needs transformers")

pytestmark = pytest.mark.slow
WARNING = re.compile(r"warn|deprecat|\bwill be removed\b|is not supported", re.IGNORECASE)
"""What a library's own warning has in it, whether it comes from `warnings` or a logger; our lines here have none of it."""
SMALL = ("segmenter.heads=1", "segmenter.windows=[8,4,14,7]", "segmenter.global_blocks=[3]")
LORA = ("reasoner.name=qwen3_vl", "reasoner.lora_rank=2", "reasoner.gradient_checkpointing=true")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder of four drawings of 64 px, half of them to validate on."""
    from medground_toy import phantoms

    folder = tmp_path_factory.mktemp("drawn")
    phantoms.write(folder, phantoms.samples(4, seed=0, size=(64, 64)))
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    split = "".join(
        json.dumps(line | {"split": "val" if index < 2 else "train"}) + "\n" for index, line in enumerate(lines)
    )
    (folder / "split.jsonl").write_text(split, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def sam2(tmp_path_factory):
    """A SAM 2 of random weights as transformers saves it."""
    from medground_sam2.models import tiny

    folder = tmp_path_factory.mktemp("sam2")
    tiny().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    pytest.importorskip("open_clip", reason="needs open_clip")
    from medground_clip.network import write_tiny

    folder = tmp_path_factory.mktemp("clip")
    write_tiny(folder)
    return folder


def stderr(*command):
    """What a command writes to stderr, without the hand of pytest in its warning filters."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHONWARNINGS")}
    done = subprocess.run(
        [sys.executable, "-m", "medground", *map(str, command)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def assert_quiet(text):
    assert [line for line in text.splitlines() if WARNING.search(line)] == []


def test_the_words_looked_for_are_those_of_warnings():
    for line in (
        "x.py:3: FutureWarning: `past_key_values` is deprecated",
        "[2026-11-26] [WARNING] [real_accelerator.py:213:get_accelerator] Setting accelerator to CPU.",
        "`torch_dtype` is deprecated! Use `dtype` instead!",
    ):
        assert WARNING.search(line)


@pytest.mark.parametrize("segmenter", ["toy_sam", "sam2"])
def test_ground(segmenter, drawn, sam2, tmp_path):
    more = [f"segmenter.checkpoint={sam2}", "segmenter.image_size=128", *SMALL] if segmenter == "sam2" else []
    image = next((drawn / "images").glob("*.png"))
    command = ("ground", image, "Which bright spot on the left is new?", "--recipe", "infer/toy_vlm", "--out", tmp_path)
    assert_quiet(stderr(*command, f"segmenter={segmenter}", *more))


@pytest.mark.parametrize("engine", ["local", "deepspeed"])
def test_grpo_with_lora_and_an_evaluation_of_it(engine, drawn, clip, tmp_path):
    if engine == "deepspeed":
        pytest.importorskip("deepspeed", reason="needs deepspeed")
    from medground_qwen import factories

    checkpoint = factories.__file__.replace("factories.py", "toy_vlm")
    run = tmp_path / "run"
    small = (
        "max_steps=2",
        "train_batch_size=2",
        "mini_batch_size=2",
        "num_generations=2",
        "save_every=1",
        "warmup_ratio=0",
    )
    said = stderr(
        "train", "train/toy", *LORA, f"reasoner.checkpoint={checkpoint}", f"data.path={drawn / 'split.jsonl'}",
        "data.split=train", "validate.every=1", f"rewards.region_text.checkpoint={clip}", "rewards.region_text.weight=0",
        f"engine={engine}", *(["engine.shared_memory=false"] if engine == "deepspeed" else []),
        *(f"grpo.{each}" for each in small), "--out", run,
    )  # fmt: skip
    assert "2 steps done" in said
    assert_quiet(said)
    if engine == "local":
        assert_quiet(stderr("eval", run, "evaluate.split=val", "--out", tmp_path / "eval"))
        assert_quiet(stderr("export", run, "--to", tmp_path / "model"))


def test_sft(drawn, tmp_path):
    from medground_qwen import factories

    checkpoint = factories.__file__.replace("factories.py", "toy_vlm")
    small = ("max_steps=2", "train_batch_size=2", "micro_batch_size=2", "save_every=1")
    command = ("train", "train/toy_sft", f"reasoner.checkpoint={checkpoint}", f"data.path={drawn}")
    assert_quiet(stderr(*command, *(f"sft.{each}" for each in small), "--out", tmp_path / "run"))
