"""`toy_sam`, which ships with the package, loads, is small and segments better than the ellipse in the box."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from medground_sam import ToySam, segmenters, train_toy
from PIL import Image as PIL

from medground.geometry import Box, mask_box, mask_dice
from medground.testing import check_segmenter
from medground.types import SpatialPrompt

WEIGHTS = Path(segmenters.__file__).with_name("toy_sam.safetensors")


@pytest.fixture(scope="module")
def toy() -> ToySam:
    return ToySam()


@pytest.mark.slow
@pytest.mark.lane
def test_toy_sam_passes_the_conformance_kit():
    check_segmenter(ToySam)


def test_the_toy_sam_checkpoint_is_small(toy):
    parameters = sum(tensor.numel() for tensor in toy.codec.network.module.state_dict().values())
    assert parameters <= 4e6 and WEIGHTS.stat().st_size < 8e6


def test_toy_sam_masks_follow_the_image(toy, scene):
    dice = []
    for seed in range(6):
        image, mask = scene(seed)
        box = mask_box(mask)
        rng = np.random.default_rng(seed)
        moved = Box(*(np.array(box) + rng.uniform(-0.1, 0.1, 4) * np.array([box.width, box.height] * 2)))
        inside = np.argwhere(mask)[rng.integers(mask.sum(), size=2)][:, ::-1] + 0.5
        prompts = [SpatialPrompt(box=moved), SpatialPrompt(points=tuple(map(tuple, inside)))]
        rows, columns = np.indices(mask.shape) + 0.5
        x, y = moved.centre
        ellipse = ((columns - x) / moved.width) ** 2 + ((rows - y) / moved.height) ** 2 <= 0.25
        result = [mask_dice(one.data, mask) for one in toy.segment(image, prompts)]
        dice.append([*result, mask_dice(ellipse, mask)])
    by_box, by_points, ellipse = np.mean(dice, axis=0)
    assert by_box > ellipse + 0.05
    assert by_points > 0.5


@pytest.mark.slow
def test_the_training_script_saves_and_continues(tmp_path, scene):
    (tmp_path / "images").mkdir()
    lines = []
    for seed in range(3):
        image, mask = scene(seed, side=96)
        PIL.fromarray(image).save(tmp_path / "images" / f"{seed}.png")
        PIL.fromarray(mask).save(tmp_path / "images" / f"{seed}-mask.png")
        lines.append(json.dumps({"image": f"images/{seed}.png", "mask": f"images/{seed}-mask.png"}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    out = tmp_path / "small.safetensors"
    assert train_toy.main([str(tmp_path), "--out", str(out), "--steps", "2"]) == 0
    from safetensors import safe_open

    with safe_open(out, "pt") as file, safe_open(WEIGHTS, "pt") as shipped:
        assert set(file.keys()) == set(shipped.keys()) and "phantoms only" in shipped.metadata()["note"]
        assert file.get_tensor("image_encoder.pos_embed").dtype == torch.float16
    assert (
        train_toy.main([str(tmp_path), "--out", str(out), "--steps", "2", "--start", str(WEIGHTS), "--rate", "0"]) == 0
    )
    with safe_open(out, "pt") as file, safe_open(WEIGHTS, "pt") as shipped:
        for name in shipped.keys():  # noqa: SIM118  a file of tensors is no dictionary
            assert torch.equal(file.get_tensor(name), shipped.get_tensor(name))
