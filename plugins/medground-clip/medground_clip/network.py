"""An open_clip model from local files: embeds crops and texts as unit vectors."""

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from huggingface_hub import constants
from numpy.typing import NDArray
from open_clip import transform
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from PIL import Image as Pictures

from medground.errors import InputError, RecipeError, did_you_mean
from medground.segmenters.weight_files import MOST_TOKENIZER, check_settings, read_json, refusing
from medground.segmenters.weights import check_keys, find_weights, read_weights
from medground.types import Image

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
"""The weights of a folder: the first of these that is there, as open_clip chooses, else the only file of weights."""
ROOTS = ("visual", "image_encoder")
"""How names begin in what open_clip loads."""
SCALARS = ("logit_scale", "logit_bias")
"""Stored with and without an axis."""
MOST_LAYERS = 1024
OFFLINE = "nothing is downloaded: the folder needs config, weights and tokenizer, a file its own model name"


class Network:
    """An open_clip model in evaluation mode with its own preprocessing and tokenizer.

    Args:
        checkpoint: as `medground_clip.region_text.RegionText` takes it.
        model: the architecture of a weights file; must be None for a folder, whose configuration names it.
        device: where it runs.

    Raises:
        InputError: if the checkpoint is missing, damaged, of another architecture, or needs a download.
        RecipeError: if `model` is missing, unknown, or given for a folder.
    """

    def __init__(self, *, checkpoint: str, model: str | None, device: str) -> None:
        path = find_weights(checkpoint)
        name, file = _identify(path, model)
        weights = read_weights(file, ROOTS)
        with _no_downloads(), refusing(f"{path} cannot be loaded as an open_clip model", hint=OFFLINE):
            create = partial(open_clip.create_model, name, load_weights=False, pretrained_text=False)
            with torch.device("meta"):  # whether the weights fit is known before any memory is taken
                empty = create(device="meta")
            fitting = _as_open_clip_names(empty, weights)
            check_keys({key: tuple(tensor.shape) for key, tensor in empty.state_dict().items()}, fitting, file.name)
            self._model = create(device=device).eval()
            self._model.load_state_dict(fitting)
            self._tokenize = open_clip.get_tokenizer(name)
            settings = transform.PreprocessCfg(**self._model.visual.preprocess_cfg)
            settings.resize_mode = "longest"  # the whole region, padded; the usual centre crop would cut a long one
            self._prepare = transform.image_transform_v2(settings, is_train=False)
            self._device = device
            crop, text = self.regions([np.zeros((8, 8, 3), np.uint8)]), self.texts(["a"])
            if not np.isfinite(crop @ text.T).all():
                raise InputError(f"{path} does not compare an image with a text in numbers", hint=OFFLINE)

    def regions(self, crops: Sequence[Image]) -> NDArray[np.float32]:
        """Return [N, D] unit vectors of N crops, each h x w x 3 uint8 RGB."""
        pixels = torch.stack([self._prepare(Pictures.fromarray(np.ascontiguousarray(crop))) for crop in crops])
        return self._vectors(self._model.encode_image, pixels)

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return [N, D] unit vectors of N texts."""
        return self._vectors(self._model.encode_text, self._tokenize(list(texts)))

    @torch.inference_mode()
    def _vectors(self, encode: Any, inputs: torch.Tensor) -> NDArray[np.float32]:
        vectors = encode(inputs.to(self._device)).float()
        unit: NDArray[np.float32] = torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()
        return unit


def _identify(path: Path, model: str | None) -> tuple[str, Path]:
    """Return open_clip's name of the model, and its weights file."""
    if path.is_dir():
        if model is not None:
            raise RecipeError(f"model is not used with a folder: {path} names its own", hint="leave out model")
        if not (path / CONFIG).is_file():
            raise InputError(f"the folder {path} holds no {CONFIG}", hint="name the weights file and its model instead")
        others = [file for suffix in ("safetensors", "bin", "pth") for file in path.glob(f"*.{suffix}")]
        files = [path / name for name in WEIGHTS if (path / name).exists()] or others
        if not files or (files is others and len(files) > 1):
            raise InputError(f"the folder {path} holds {len(files)} files of weights", hint=f"call one {WEIGHTS[0]}")
        for file in sorted(path.glob("*.json")):
            settings = read_json(file, MOST_TOKENIZER)
            if file.name.endswith("config.json"):
                check_settings(settings, file, MOST_LAYERS)
        return f"local-dir:{path}", files[0]
    if model is None:
        raise RecipeError(
            f"the weights file {path.name} needs its architecture", hint="add model, for example ViT-B-32"
        )
    if model not in open_clip.list_models():
        raise RecipeError(f"open_clip has no model {model!r}", hint=did_you_mean(model, open_clip.list_models()))
    if "siglip" in model.lower():
        raise RecipeError(
            f"{model} fetches its tokenizer when it is built", hint="give a folder with config, weights and tokenizer"
        )
    return model, path


def _as_open_clip_names(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights as open_clip's own loading renames and reshapes them."""
    state = convert_state_dict(model, weights)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    state.pop("text.transformer.embeddings.position_ids", None)
    return {
        name: tensor.reshape(-1)[0] if name in SCALARS and tensor.numel() == 1 else tensor
        for name, tensor in state.items()
    }


@contextmanager
def _no_downloads() -> Iterator[None]:
    """Make the hub's client refuse to connect, so that a missing file is an error, and open_clip not say that weights miss."""
    before, level = constants.HF_HUB_OFFLINE, logging.root.manager.disable
    constants.HF_HUB_OFFLINE = True
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.disable(level)


def write_tiny(folder: Path) -> None:
    """Write a small network of random weights in the published layout."""
    sizes: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / CONFIG).write_text(json.dumps({"model_cfg": sizes, "preprocess_cfg": {}}), encoding="utf-8")
    torch.save(open_clip.CLIP(**sizes).state_dict(), folder / "open_clip_pytorch_model.bin")


def self_check() -> None:
    """Load a network of random weights as a checkpoint is loaded, and embed one crop and one text."""
    with tempfile.TemporaryDirectory() as folder:
        write_tiny(Path(folder))
        network = Network(checkpoint=folder, model=None, device="cpu")
    regions, texts = network.regions([np.zeros((8, 8, 3), np.uint8)]), network.texts(["an organ"])
    assert (regions @ texts.T).shape == (1, 1)
