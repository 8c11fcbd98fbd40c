"""An open_clip model from local files: embeds crops and texts as unit vectors."""

import json
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from huggingface_hub import constants
from numpy.typing import NDArray
from open_clip import transform
from PIL import Image as Pictures

from medground.errors import InputError, RecipeError, did_you_mean
from medground.segmenters.weights import find_weights
from medground.types import Image

CONFIG = "open_clip_config.json"
_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, AssertionError, EOFError, pickle.UnpicklingError)


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
        name, weights = _identify(path, model)
        try:
            with _no_downloads():
                self._model = open_clip.create_model(
                    name, pretrained=weights, device=device, require_pretrained=True, weights_only=True
                ).eval()
                self._tokenize = open_clip.get_tokenizer(name)
        except _UNREADABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{path} cannot be loaded as an open_clip model: {reason}",
                hint="nothing is downloaded: the folder needs config, weights and tokenizer, a file its own model name",
            ) from error
        settings = transform.PreprocessCfg(**self._model.visual.preprocess_cfg)
        settings.resize_mode = "longest"  # the whole region, padded; the usual centre crop would cut a long one
        self._prepare = transform.image_transform_v2(settings, is_train=False)
        self._device = device

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


def _identify(path: Path, model: str | None) -> tuple[str, str | None]:
    """Return open_clip's name of the model, and its weights file where the name does not imply it."""
    if path.is_dir():
        if model is not None:
            raise RecipeError(f"model is not used with a folder: {path} names its own", hint="leave out model")
        if not (path / CONFIG).is_file():
            raise InputError(f"the folder {path} holds no {CONFIG}", hint="name the weights file and its model instead")
        return f"local-dir:{path}", None
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
    return model, str(path)


@contextmanager
def _no_downloads() -> Iterator[None]:
    """Make the hub's client refuse to connect, so that a missing file is an error."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


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
