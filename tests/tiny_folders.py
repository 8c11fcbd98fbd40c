"""Small models of transformers with random weights, saved as folders, and folders with a change."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medground.segmenters.batching import EmbeddingCache
from medground.segmenters.embedding import EncodingSegmenter
from medground.types import SpatialPrompt

ODD_SIZES = ((1, 300), (37, 212), (141, 97), (300, 41))
LARGE_SIZES = ((1, 1000), (37, 512), (840, 840), (2000, 300))
at_odd_sizes = pytest.mark.parametrize(
    "sizes", [ODD_SIZES, pytest.param(LARGE_SIZES, marks=pytest.mark.soak)], ids=["small", "large"]
)
"""For tests of parity, which `pytest -m soak` runs on images as large as real ones."""
Tensors = dict[str, torch.Tensor]


def odd_images(sizes: Sequence[tuple[int, int]] = ODD_SIZES) -> list[np.ndarray]:
    """Return noise of some sizes (H, W), the second grey, H x W x 3 uint8."""
    images = [np.random.default_rng(h).integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sizes]
    images[1] = np.repeat(images[1][..., :1], 3, axis=2)
    return images


def save_filled(model: torch.nn.Module, folder: Path, gain: float = 0.8) -> Path:
    """Fill a model with random weights and save it; `gain` is their size times the square root of the number of inputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.normal_(std=gain / np.sqrt(value[0].numel()))
            elif "norm" in name and name.endswith("weight"):
                value.normal_(mean=1.0, std=0.2)
            else:
                value.normal_(std=0.2)
    model.eval().save_pretrained(folder)
    return folder


def load_shared(component: type[EncodingSegmenter[Any]], **arguments: Any) -> Any:
    """Return a segmenter on the CPU that has encoded nothing; the same arguments give the same one."""
    segmenter = _loaded(component, **arguments)
    segmenter.cache = EmbeddingCache(segmenter.cache.max_bytes)
    return segmenter


@cache
def _loaded(component: type[EncodingSegmenter[Any]], **arguments: Any) -> Any:
    return component(device="cpu", **arguments)


def digest(model: torch.nn.Module) -> str:
    """Return a hash of every parameter and buffer."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def reweighted(folder: Path, target: Path, change: Callable[[Tensors], Tensors | None]) -> Path:
    """Copy a folder with other tensors: those `change` returns, or leaves in what it is given."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    save_file(change(tensors) or tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def reconfigured(folder: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy a folder with a changed config.json."""
    shutil.copytree(folder, target)
    settings = json.loads((target / "config.json").read_text())
    change(settings)
    (target / "config.json").write_text(json.dumps(settings))
    return target


def prompts(image: np.ndarray) -> list[SpatialPrompt]:
    """Return a box, a click, clicks of both labels, and a box with clicks."""
    height, width = image.shape[:2]
    box = (0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height)
    near, far = (0.3 * width, 0.4 * height), (0.8 * width, 0.1 * height)
    return [
        SpatialPrompt(box=box),
        SpatialPrompt(points=(near,)),
        SpatialPrompt(points=(near, far), labels=(1, 0)),
        SpatialPrompt(box=box, points=(near, far)),
    ]
