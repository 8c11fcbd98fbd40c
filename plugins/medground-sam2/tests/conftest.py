"""Small models of random weights in the published layouts, built and saved with the authors' classes."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sam2")

SMALL = [
    "++model.image_encoder.trunk.embed_dim=16",
    "++model.image_encoder.trunk.num_heads=1",
    "++model.image_encoder.trunk.stages=[1,1,2,1]",
    "++model.image_encoder.trunk.global_att_blocks=[3]",
    "++model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "++model.memory_attention.num_layers=1",
]


def build_official(image_size: int, overrides: list[str] = SMALL):
    """Return Meta's model with every parameter random; position tables and the no-memory token start at zero."""
    from sam2.build_sam import build_sam2

    torch.manual_seed(0)
    model = build_sam2(
        "configs/sam2.1/sam2.1_hiera_t.yaml",
        device="cpu",
        hydra_overrides_extra=[f"++model.image_size={image_size}", *overrides],
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pos_embed" in name or "no_mem" in name:
                parameter.normal_(std=0.2)
    return model


def predictor(model):
    """Return Meta's predictor with the feature sizes of the model, where it assumes those of 1024 px."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    array = SAM2ImagePredictor(model)
    array._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    return array


def digest(model) -> str:
    """Return a hash of every parameter and buffer."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(name.encode())
        state.update(tensor.detach().contiguous().numpy().tobytes())
    return state.hexdigest()


def with_weights(image_size: int, checkpoint: Path):
    model = build_official(image_size)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"], strict=True)
    return predictor(model)


@pytest.fixture(scope="session")
def faint(tmp_path_factory) -> Path:
    """Save a checkpoint whose single masks are unstable, because their logits are small."""
    path = tmp_path_factory.mktemp("weights") / "faint.pt"
    torch.save({"model": build_official(256).state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def bold(faint, tmp_path_factory) -> Path:
    """Save the same checkpoint with logits a hundred times as large: single masks are stable."""
    state = torch.load(faint, weights_only=True)["model"]
    for name in state:
        if "output_hypernetworks_mlps" in name and ".layers.2." in name:
            state[name] = state[name] * 100
    path = tmp_path_factory.mktemp("weights") / "bold.pt"
    torch.save({"model": state}, path)
    return path


@pytest.fixture(scope="session")
def official() -> SimpleNamespace:
    """Return `build`, `predictor` and `with_weights`, which make Meta's models."""
    return SimpleNamespace(build=build_official, predictor=predictor, with_weights=with_weights)


@pytest.fixture(scope="session")
def hash_of():
    """Return `digest`."""
    return digest


@pytest.fixture(scope="session")
def images() -> dict[str, np.ndarray]:
    """Return noise of odd sizes, grey and colour, by name."""
    result = {}
    for height, width in ((1, 1000), (37, 512), (840, 840), (2000, 300)):
        noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        result[f"{height}x{width} colour"] = noise
        result[f"{height}x{width} grey"] = np.repeat(noise[..., :1], 3, axis=2)
    return result
