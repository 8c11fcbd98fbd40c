"""Small models of random weights, built from segment-anything's classes and saved in the published layout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from medground_sam.layout import Sizes  # noqa: E402
from medground_sam.networks import official_model  # noqa: E402

from medground.geometry import Box, Point  # noqa: E402
from medground.types import SpatialPrompt  # noqa: E402

TINY = {
    "width": 48,
    "depth": 3,
    "heads": 3,
    "mlp": 96,
    "window": 3,
    "global_blocks": (1,),
    "prompt": 32,
    "mask_channels": 8,
    "masks": 3,
    "decoder_depth": 2,
    "decoder_mlp": 64,
    "decoder_downsample": 2,
    "iou_hidden": 24,
}


def filled(sizes: Sizes, seed: int = 0) -> "torch.nn.Module":
    """Return a segment-anything model with every weight random; a new one has zero position tables."""
    torch.manual_seed(seed)
    model = official_model(sizes).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            noise = torch.randn_like(value) * (0.5 if "prompt_encoder" in name else 0.3)
            value.copy_(noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return model


@pytest.fixture(scope="session")
def tiny_sizes() -> Sizes:
    """512 px in patches of 64: the preprocessing of SAM with a sixty-fourth of its tokens."""
    return Sizes(image=512, patch=64, **TINY)


@pytest.fixture(scope="session")
def reference(tiny_sizes: Sizes) -> "torch.nn.Module":
    return filled(tiny_sizes)


@pytest.fixture(scope="session")
def sam_file(reference: "torch.nn.Module", tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "sam_vit_tiny.pth"
    torch.save(reference.state_dict(), path)
    return str(path)


@pytest.fixture(scope="session")
def med2d_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    sizes = Sizes(image=64, patch=16, adapters=(0, 1, 2), adapter_hidden=12, **(TINY | {"window": 3}))
    path = tmp_path_factory.mktemp("weights") / "sam-med2d_tiny.pth"
    torch.save({"model": filled(sizes, seed=3).state_dict(), "epoch": 7}, path)
    return str(path)


BIG = [pytest.param(size, marks=pytest.mark.slow) for size in ((840, 840), (2000, 300))]


@pytest.fixture(params=[(1, 1000), (37, 512), *BIG], ids=lambda size: f"{size[0]}x{size[1]}")
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


def picture(size: tuple[int, int], *, grey: bool = False, seed: int = 0) -> np.ndarray:
    """Return noise with a bright rectangle, H x W x 3 uint8."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 90, (*size, 1 if grey else 3))
    values[size[0] // 3 : 2 * size[0] // 3 + 1, size[1] // 4 : size[1] // 2] += 120
    return np.broadcast_to(values, (*size, 3)).astype(np.uint8)


def requests(size: tuple[int, int]) -> list[SpatialPrompt]:
    """Return a box, two clicks, both, one click of each kind, and another box."""
    height, width = size
    box = Box(width * 0.2, height * 0.3, width * 0.6, height * 0.71)
    clicks = (Point(width * 0.31, height * 0.4), Point(width * 0.44, height * 0.62))
    return [
        SpatialPrompt(box=box),
        SpatialPrompt(points=clicks),
        SpatialPrompt(box=box, points=clicks),
        SpatialPrompt(points=clicks, labels=(1, 0)),
        SpatialPrompt(box=Box(0, 0, width, height)),
    ]


@pytest.fixture(scope="session")
def make_picture():
    return picture


@pytest.fixture(scope="session")
def make_prompts():
    return requests


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return a folder of data beside the checkout."""
    import os

    folder = Path(os.environ.get("MEDGROUND_SHARED", Path(__file__).resolve().parents[4] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder}")
    return folder


@pytest.fixture(scope="session")
def fill():
    return filled


@pytest.fixture(scope="session")
def scene() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Return `shape_on_ground`."""
    return shape_on_ground


def shape_on_ground(seed: int, side: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """Return image and mask of a bright, slanted shape with two arms on a smooth background."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side * 2 - 1
    turn, (cx, cy) = rng.uniform(0.6, 1.0), rng.uniform(-0.3, 0.3, 2)
    u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
    v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
    angle = np.arctan2(v / 0.55, u)
    mask = np.hypot(u / 0.42, v / 0.23) < 1 + 0.35 * np.cos(3 * angle + rng.uniform(0, 6))
    ground = 90 + 25 * np.sin(3 * x + rng.uniform(0, 6)) + rng.normal(0, 6, x.shape)
    values = np.clip(ground + 80 * mask, 0, 255).astype(np.uint8)
    return np.repeat(values[..., None], 3, axis=2), mask
