"""`toy_vlm`, which ships with the package, loads offline, passes the conformance kit and grounds phantoms."""

import json
import re
from pathlib import Path

import medground_qwen
import numpy as np
import pytest
from medground_qwen import factories, tiny
from medground_toy import phantoms

import medground
from medground.data.open_dataset import open_dataset
from medground.frames import Frame
from medground.geometry import box_iou
from medground.testing import check_reasoner
from medground.training.run import train

FOLDER = Path(medground_qwen.__file__).with_name("toy_vlm")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Return 24 questions about 12 pictures that no training run uses."""
    folder = tmp_path_factory.mktemp("drawn")
    phantoms.write(folder, phantoms.samples(24, seed=606060, families=["plain"], size=(64, 64)))
    return folder


def test_the_toy_checkpoint_is_small_and_contains_no_code():
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(sizes.values()) < 4e6
    assert {Path(name).suffix for name in sizes} == {".json", ".safetensors", ".jinja"}


def test_other_engines_can_serve_toy_vlm():
    model = factories.toy_vlm().model
    assert model.config.text_config.head_dim in (32, 64)
    assert sum(each.numel() for each in model.parameters()) < 1_000_000


def test_a_tokenizer_of_a_dataset_has_a_token_for_every_coordinate_and_tag(drawn):
    words = tiny.tokenizer_of(drawn)
    interface = medground.build("prompt_interface", "bbox", instructions=False)
    for sample in open_dataset(drawn):
        size = sample.query.size
        text = interface.answer(sample.target, "nodule, upper left", frame=Frame("permille", size), size=size)
        ids = words(text, add_special_tokens=False)["input_ids"]
        numbers = [words.decode([one]).strip() for one in ids if words.decode([one]).strip().isdigit()]
        assert numbers == re.findall(r"\d+", text)
        assert [words.decode([one]) for one in ids if "<" in words.decode([one])] == list(tiny.TAGS)
        assert json.loads(re.search(r"{.*}", words.decode(ids))[0]) == json.loads(re.search(r"{.*}", text)[0])


@pytest.mark.slow
def test_toy_vlm_passes_the_conformance_kit():
    check_reasoner(factories.toy_vlm)


@pytest.mark.slow
@pytest.mark.lane
def test_toy_vlm_grounds_according_to_the_question(drawn):
    graph = medground.load("infer/toy_vlm")
    samples = list(open_dataset(drawn))
    found = graph.batch([sample.query for sample in samples])
    assert [one.fault for one in found] == [None] * len(samples)
    overlaps = [
        float(box_iou(one.grounding.region.box, s.target.region.box)) for one, s in zip(found, samples, strict=True)
    ]
    assert np.mean(overlaps) > 0.7
    rivals = [float(box_iou(one.grounding.region.box, samples[i ^ 1].target.region.box)) for i, one in enumerate(found)]
    assert np.mean(rivals) < 0.2
    assert all(one.mask.data.any() and one.grounding.think for one in found)


@pytest.mark.slow
def test_training_starts_from_toy_vlm_without_a_checkpoint(drawn, tmp_path):
    small = ("grpo.train_batch_size=2", "grpo.num_generations=4", "grpo.max_steps=2", "grpo.save_every=1")
    train("train/toy", f"data.path={drawn}", *small, out=tmp_path / "run")
    trained, shipped = medground.load(tmp_path / "run").reasoner, factories.toy_vlm()
    changed = [
        not np.array_equal(a.detach().numpy(), b.detach().numpy())
        for a, b in zip(trained.model.parameters(), shipped.model.parameters(), strict=True)
    ]
    assert all(changed)
