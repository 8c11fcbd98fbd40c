"""What is known without torch is said without torch: in one sentence, with a remedy, and never as a bug."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from medground import registry

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 16595733168\n"
CHILD = """
import contextlib, io, json, sys
from medground.cli import main

for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # as if it were not installed
told = {}
for case, arguments in json.loads(sys.stdin.read()).items():
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        try:
            main(arguments)
        except SystemExit as leaving:
            told[case] = leaving.code, stderr.getvalue()
print(json.dumps(told))
"""
GROUND = "ground image.png where? --recipe"
QWEN, SAM, SAM2 = (
    f"{GROUND} qwen.yaml",
    f"{GROUND} sam.yaml segmenter.name=sam",
    f"{GROUND} sam.yaml segmenter.name=sam2",
)
TRAIN = "train train/toy data.path=absent --out run reasoner.name=qwen3_vl reasoner.checkpoint=whole"


class SourceSample(NamedTuple):
    command: str
    code: int
    sentence: str
    hint: str


CASES = {
    "an unknown component": SourceSample(
        f"{QWEN} reasoner.name=qwen9_vl", 4, "no reasoner 'qwen9_vl'", "did you mean 'qwen3_vl'?"
    ),
    "a missing checkpoint": SourceSample(
        f"{QWEN} reasoner.checkpoint=whool",
        3,
        "reasoner.checkpoint: the checkpoint whool does not exist",
        "did you mean 'whole'?",
    ),
    "a missing checkpoint like none that is there": SourceSample(
        f"{QWEN} reasoner.checkpoint=zzzzzz", 3, "the checkpoint zzzzzz does not exist", "ls ."
    ),
    "weights that were not fetched": SourceSample(
        f"{QWEN} reasoner.checkpoint=someone/model",
        3,
        "someone/model is neither a file here nor a model in the local hub cache",
        "medground fetch qwen.yaml reasoner.checkpoint=someone/model",
    ),
    "the segmenter's missing checkpoint, before the reasoner is loaded": SourceSample(
        f"{QWEN} segmenter.name=medsam segmenter.checkpoint=medsam.pth",
        3,
        "segmenter.checkpoint: the checkpoint medsam.pth",
        "ls .",
    ),
    "a missing checkpoint in training": SourceSample(
        f"{TRAIN} reasoner.checkpoint=zzzzzz", 3, "zzzzzz does not exist", "ls ."
    ),
    "a reward's missing checkpoint in training": SourceSample(
        f"{TRAIN} rewards.region_text.checkpoint=zzzzzz",
        3,
        "rewards.region_text.checkpoint: the checkpoint zzzzzz",
        "ls .",
    ),
    "the missing checkpoint of a segmenter whose masks are rewarded": SourceSample(
        f"{TRAIN} segmenter.name=sam segmenter.checkpoint=zzzzzz",
        3,
        "segmenter.checkpoint: the checkpoint zzzzzz",
        "ls .",
    ),
    "device gpu": SourceSample(
        f"{QWEN} reasoner.device=gpu", 2, "reasoner.device: 'gpu' is no device", "did you mean 'cuda'?"
    ),
    "device GPU:1": SourceSample(f"{QWEN} reasoner.device=GPU:1", 2, "'GPU:1' is no device", "did you mean 'cuda'?"),
    "a number as device": SourceSample(
        f"{QWEN} reasoner.device=7", 2, "reasoner.device: 7 is not a word", "write a word"
    ),
    "dtype bf16": SourceSample(
        f"{QWEN} reasoner.dtype=bf16", 2, "reasoner.dtype: 'bf16' is not", "did you mean 'bfloat16'?"
    ),
    "dtype fp16": SourceSample(
        f"{QWEN} reasoner.dtype=fp16", 2, "'fp16' is not", "known: auto, bfloat16, float16, float32"
    ),
    "a wrong device in training": SourceSample(
        f"{TRAIN} reasoner.device=gpu", 2, "'gpu' is no device", "did you mean 'cuda'?"
    ),
    "a wrong device of a reward": SourceSample(
        f"{TRAIN} rewards.region_text.device=gpu",
        2,
        "rewards.region_text.device: 'gpu' is no device",
        "did you mean 'cuda'?",
    ),
    "max_pixels 0": SourceSample(
        f"{QWEN} reasoner.max_pixels=0", 2, "max_pixels: 0 is below 1", "write 1 or more, or null"
    ),
    "max_pixels in words": SourceSample(
        f"{QWEN} reasoner.max_pixels=many", 2, "'many' is not a whole number", "write a whole number"
    ),
    "logprob_chunk 0": SourceSample(
        f"{QWEN} reasoner.logprob_chunk=0", 2, "logprob_chunk: 0 is below 1", "write 1 or more"
    ),
    "rows_at_once 0": SourceSample(
        f"{QWEN} reasoner.rows_at_once=0", 2, "rows_at_once: 0 is below 1", "write 1 or more"
    ),
    "a negative lora_rank": SourceSample(
        f"{QWEN} reasoner.lora_rank=-1", 2, "lora_rank: -1 is below 0", "write 0 or more"
    ),
    "half a lora_rank": SourceSample(
        f"{QWEN} reasoner.lora_rank=2.5", 2, "2.5 is not a whole number", "write a whole number"
    ),
    "lora_alpha 0": SourceSample(
        f"{QWEN} reasoner.lora_alpha=0", 2, "lora_alpha: 0 is not above 0", "larger number, or null"
    ),
    "a number as yes or no": SourceSample(
        f"{QWEN} reasoner.share=2", 2, "share: 2 is not true or false", "write true or false"
    ),
    "an unknown attention": SourceSample(
        f"{QWEN} reasoner.attention=sdpaa", 2, "'sdpaa' is not", "did you mean 'sdpa'?"
    ),
    "an attention that is not installed": SourceSample(
        f"{QWEN} reasoner.attention=flash_attention_2", 4, "needs the package flash-attn", "pip install flash-attn"
    ),
    "a folder without a processor": SourceSample(
        f"{QWEN} reasoner.checkpoint=without_processor", 3, "holds no processor_config.json", "copy it from"
    ),
    "a folder without a chat template": SourceSample(
        f"{QWEN} reasoner.checkpoint=without_template", 3, "has no chat template", "copy chat_template.jinja"
    ),
    "a git-LFS pointer": SourceSample(
        f"{QWEN} reasoner.checkpoint=pointer", 3, "is a git-LFS pointer", "git -C pointer lfs pull"
    ),
    "truncated weights": SourceSample(
        f"{QWEN} reasoner.checkpoint=truncated", 3, "is truncated: 100,000 of at least 2,956,808 bytes", "copy or fetch"
    ),
    "a damaged configuration": SourceSample(
        f"{QWEN} reasoner.checkpoint=damaged", 3, "config.json is damaged or truncated", "copy it from"
    ),
    "an adapter that is not there": SourceSample(
        f"{QWEN} reasoner.adapter=absent", 3, "absent holds no adapter_model", "pickled"
    ),
    "sam on device gpu": SourceSample(
        f"{SAM} segmenter.device=gpu", 2, "segmenter.device: 'gpu' is no device", "did you mean 'cuda'?"
    ),
    "sam in dtype bf16": SourceSample(
        f"{SAM} segmenter.dtype=bf16", 2, "dtype: 'bf16' is not", "did you mean 'bfloat16'?"
    ),
    "sam from a git-LFS pointer": SourceSample(
        f"{SAM} segmenter.checkpoint=pointer.pth", 3, "is a git-LFS pointer", "lfs pull"
    ),
    "sam from a truncated file": SourceSample(
        f"{SAM} segmenter.checkpoint=half.pth", 3, "half.pth is truncated", "copy or fetch it again"
    ),
    "sam on an unknown backend": SourceSample(
        f"{SAM} segmenter.backend=offical", 2, "'offical' is not", "did you mean 'official'?"
    ),
    "sam decoding 0 at a time": SourceSample(
        f"{SAM} segmenter.decode_batch=0", 2, "decode_batch: 0 is below 1", "write 1 or more"
    ),
    "sam2 on device gpu": SourceSample(f"{SAM2} segmenter.device=gpu", 2, "'gpu' is no device", "did you mean 'cuda'?"),
    "sam2 from a missing file": SourceSample(
        f"{SAM2} segmenter.checkpoint=zzzzzz.pt", 3, "zzzzzz.pt does not exist", "ls ."
    ),
    "sam2 of a negative size": SourceSample(
        f"{SAM2} segmenter.image_size=-32", 2, "image_size: -32 is below 1", "write 1 or more"
    ),
}


def run_in_child(folder: Path, commands: dict[str, str], *, absent: tuple[str, ...] = ()) -> dict[str, Any]:
    """(exit code, stderr) of each command, in a process where importing torch or transformers is an AssertionError."""
    for name in ("torch", "transformers"):
        (folder / "refused" / name).mkdir(parents=True, exist_ok=True)
        (folder / "refused" / name / "__init__.py").write_text(f"raise AssertionError('{name} was imported')")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(absent)],
        input=json.dumps({name: command.split() for name, command in commands.items()}),
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder / "refused"), os.environ.get("PYTHONPATH", "")])},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A working folder with an image, recipes, and a checkpoint of a real small model, whole and spoilt."""
    folder = tmp_path_factory.mktemp("work")
    spec = find_spec("medground_qwen")
    assert spec and spec.origin
    for name in ("whole", "without_processor", "without_template", "pointer", "truncated", "damaged"):
        shutil.copytree(Path(spec.origin).with_name("toy_vlm"), folder / name)
    (folder / "without_processor/processor_config.json").unlink()
    (folder / "without_template/chat_template.jinja").unlink()
    (folder / "pointer/model.safetensors").write_text(POINTER)
    (folder / "pointer.pth").write_text(POINTER)
    (folder / "half.pth").write_bytes(b"PK\x03\x04" + bytes(5000))
    (folder / "truncated/model.safetensors").write_bytes((folder / "whole/model.safetensors").read_bytes()[:100_000])
    (folder / "damaged/config.json").write_text('{"model_type": ')
    Image.new("RGB", (40, 30)).save(folder / "image.png")
    (folder / "qwen.yaml").write_text(
        "reasoner: {name: qwen3_vl, checkpoint: whole}\nprompt_interface: bbox\nsegmenter: box_fill\n"
    )
    (folder / "sam.yaml").write_text(
        "reasoner: toy\nprompt_interface: bbox_points\nsegmenter: {name: sam, checkpoint: half.pth}\n"
    )
    return folder


@pytest.fixture(scope="module")
def told(folder):
    return run_in_child(folder, {name: case.command for name, case in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_sentence_and_a_remedy_without_torch(told, name):
    code, text = told[name]
    error, hint = (line.strip() for line in text.splitlines())
    case = CASES[name]
    assert case.sentence in error and case.hint in hint and code == case.code


@pytest.fixture(scope="module")
def told_without_torch(folder):
    commands = {"train": TRAIN, "ground": QWEN, "dry run": f"{TRAIN} --dry-run", "toy": f"{GROUND} infer/toy"}
    return run_in_child(folder, commands, absent=("torch",))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "dry run", "ground"])
def test_without_torch_the_command_that_installs_it_is_said(told_without_torch, command):
    code, text = told_without_torch[command]
    assert code == 4 and "torch" in text and "which is not installed" in text
    assert "hint: pip install 'medground[qwen]'" in text


@pytest.mark.slow
def test_without_torch_the_toy_still_grounds(told_without_torch):
    assert told_without_torch["toy"][0] == 0


def test_every_component_takes_the_best_device_unless_told_otherwise():
    import inspect

    defaults = {
        f"{each.kind}.{each.name}": parameters["device"].default
        for each in registry.components()
        if "device" in (parameters := inspect.signature(registry.factory(each.kind, each.name)).parameters)
    }
    assert {
        "reasoner.qwen3_vl",
        "segmenter.sam",
        "segmenter.toy_sam",
        "segmenter.medsam2",
        "reward.region_text",
    } <= set(defaults)
    assert set(defaults.values()) == {"auto"}
