"""The two networks of the SAM 2 segmenters: transformers' Sam2Model, and Meta's own modules from the package sam2.

Shape legend: M images or 1 shared one, N prompts, K points, C masks offered, S input size, h x w low resolution.
Both networks answer ``encode([M, 3, S, S])`` with three feature maps ``[M, c, S/4..S/16, ...]``, finest first, and
``decode(features of 1 or N images, points [N, K, 2] in input pixels, labels [N, K])`` with logits ``[N, C, h, w]`` and
predicted IoUs ``[N, C]``, both float32. Labels are 0 and 1 for clicks, 2 and 3 for the corners of a box.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import torch

from medground.devices import dtype_of
from medground.errors import PluginError, RecipeError
from medground.segmenters.weight_files import read_json, refusing
from medground.segmenters.weights import check_keys, frozen, read_weights
from medground_sam2.layout import (
    POINTS,
    ROOTS,
    Architecture,
    Unseen,
    architecture,
    is_transformers,
    original_name,
    without_video,
)

Features = list[torch.Tensor]
"""Three maps ``[M, c, h, w]`` of strides 4, 8 and 16."""
_TWINS = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of one file or folder that matter for single images."""

    source: str
    tensors: dict[str, torch.Tensor]
    """By the names they have in the file."""
    unseen: Unseen
    """What its config.json adds, if it has one."""

    @property
    def original(self) -> dict[str, torch.Tensor]:
        """Return the tensors by their original names."""
        return to_original(self.tensors) if is_transformers(self.tensors) else self.tensors

    def architecture(self, unseen: Unseen) -> Architecture:
        """Return its sizes; `unseen` outranks the folder's config.json."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.original.items()}
        return architecture(shapes, unseen.over(self.unseen), self.source)


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a published .pt file, a safetensors file, or a transformers folder.

    Raises:
        InputError: if it cannot be read.
    """
    tensors = read_weights(path, ROOTS)
    tensors = {name: tensors[name] for name in without_video(tensors)}
    stored = [name for name in _TWINS if name in tensors]
    if len(stored) == 1:  # transformers may store the two copies of one table once
        tensors |= dict.fromkeys(_TWINS, tensors[stored[0]])
    unseen = Unseen()
    config = path / "config.json" if path.is_dir() else path.with_name("config.json")
    if is_transformers(tensors) and config.is_file():
        unseen = Unseen.of_config(read_json(config), config)
    return Checkpoint(source=path.name, tensors=tensors, unseen=unseen)


def to_original(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the same tensors under original names: the table of point embeddings becomes four."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name == "prompt_encoder.point_embed.weight":
            renamed |= {f"{POINTS}{row}.weight": tensor[row : row + 1] for row in range(len(tensor))}
        else:
            renamed[original_name(name)] = tensor
    return renamed


class Network(ABC):
    """A frozen SAM 2 whose encoder computes in `dtype` and whose decoder computes in float32.

    The weights stay float32; another dtype is autocast, as in Meta's code. bfloat16 is too coarse for coordinates.
    """

    encoder: ClassVar[str]
    """The attribute of the model that holds the image encoder."""

    def __init__(self, model: torch.nn.Module, *, device: str, dtype: str, compile: bool) -> None:
        self.model: Any = frozen(model, device=device, dtype="float32")
        self._device, self._dtype = torch.device(device).type, dtype_of(dtype)
        if compile:
            getattr(self.model, self.encoder).compile()

    def encode(self, pixels: torch.Tensor) -> Features:
        """Return feature maps of images ``[M, 3, S, S]``, finest first."""
        with torch.autocast(self._device, self._dtype, enabled=self._dtype is not torch.float32):
            levels = self._encode(pixels)
        return [level.to(self._dtype) for level in levels]

    @abstractmethod
    def _encode(self, pixels: torch.Tensor) -> Features: ...

    @abstractmethod
    def decode(
        self, features: Features, points: torch.Tensor, labels: torch.Tensor, *, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits ``[N, C, h, w]`` and predicted IoUs ``[N, C]`` of prompts on one shared image or on N."""


class TransformersNetwork(Network):
    """transformers' Sam2Model."""

    encoder = "vision_encoder"

    def _encode(self, pixels: torch.Tensor) -> Features:
        features: Features = self.model.get_image_embeddings(pixels)
        return features

    def decode(
        self, features: Features, points: torch.Tensor, labels: torch.Tensor, *, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Network.decode`."""
        # A shared image takes all prompts in its one row; otherwise each image takes its own.
        axis = 0 if len(features[0]) == 1 else 1
        output = self.model(
            image_embeddings=features,
            input_points=points.unsqueeze(axis),
            input_labels=labels.unsqueeze(axis),
            multimask_output=multimask,
        )
        return output.pred_masks.squeeze(axis), output.iou_scores.squeeze(axis)


class OfficialNetwork(Network):
    """Meta's modules from the package sam2, driven as its SAM2ImagePredictor drives them.

    The predictor itself is not used: its feature sizes are written for inputs of 1024 pixels, and it decodes one image
    at a time.
    """

    encoder = "image_encoder"

    def _encode(self, pixels: torch.Tensor) -> Features:
        features: Features = list(self.model.forward_image(pixels)["backbone_fpn"])
        features[-1] = features[-1] + self.model.no_mem_embed.reshape(1, -1, 1, 1)
        return features

    def decode(
        self, features: Features, points: torch.Tensor, labels: torch.Tensor, *, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Network.decode`."""
        sparse, dense = self.model.sam_prompt_encoder(points=(points, labels), boxes=None, masks=None)
        logits, scores, _, _ = self.model.sam_mask_decoder(
            image_embeddings=features[-1],
            image_pe=self.model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            repeat_image=len(features[-1]) == 1,
            high_res_features=features[:-1],
        )
        return logits, scores


def build(
    path: Path, unseen: Unseen, *, backend: str, image_size: int, device: str, dtype: str, compile: bool
) -> Network:
    """Return the network of a backend with the weights at `path`.

    Raises:
        InputError: if they cannot be read, or are not exactly those of a SAM 2 model.
        RecipeError: if an argument does not fit them.
        PluginError: if the backend's package is missing.
    """
    checkpoint = open_checkpoint(path)
    sizes = checkpoint.architecture(unseen)
    unit = math.lcm(32, 4 * sizes.windows[0])
    if image_size <= 0 or image_size % unit:
        raise RecipeError(f"image_size {image_size} is not a multiple of {unit}, which {path.name} needs")
    official = backend == "official"
    with refusing(f"the weights in {path.name} make no SAM 2"):
        model = (load_official if official else load_transformers)(checkpoint, sizes, image_size)
    return (OfficialNetwork if official else TransformersNetwork)(model, device=device, dtype=dtype, compile=compile)


def load_transformers(checkpoint: Checkpoint, sizes: Architecture, image_size: int) -> torch.nn.Module:
    """Return transformers' Sam2Model with exactly the checkpoint's tensors, whatever its layout."""
    from transformers import Sam2Model

    with torch.device("meta"):
        model = Sam2Model(sam2_config(sizes, image_size))
    fresh = model.state_dict()
    expected = fresh if is_transformers(checkpoint.tensors) else to_original(fresh)
    check_keys({name: tuple(t.shape) for name, t in expected.items()}, checkpoint.tensors, checkpoint.source)
    original = checkpoint.original
    state = {
        name: torch.cat([original[f"{POINTS}{row}.weight"] for row in range(len(tensor))])
        if name == "prompt_encoder.point_embed.weight"
        else original[original_name(name)].clone()  # a copy: two names share the table of positions
        for name, tensor in fresh.items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    return model


def load_official(checkpoint: Checkpoint, sizes: Architecture, image_size: int) -> torch.nn.Module:
    """Return Meta's SAM2Base with exactly the checkpoint's tensors, whatever its layout."""
    model = official_model(sizes, image_size)
    state = model.state_dict()
    original = checkpoint.original
    check_keys({name: tuple(state[name].shape) for name in without_video(state)}, original, checkpoint.source)
    model.load_state_dict(state | original, strict=True)
    return model


def sam2_config(sizes: Architecture, image_size: int) -> Any:
    """Return transformers' configuration of a model of these sizes for square inputs of `image_size` pixels."""
    from transformers import Sam2Config

    return Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": sizes.widths[0],
                "num_attention_heads": sizes.heads[0],
                "image_size": [image_size, image_size],
                "blocks_per_stage": list(sizes.stages),
                "embed_dim_per_stage": list(sizes.widths),
                "num_attention_heads_per_stage": list(sizes.heads),
                "window_size_per_stage": list(sizes.windows),
                "global_attention_blocks": list(sizes.global_blocks),
                "window_positional_embedding_background_size": list(sizes.background),
                "num_query_pool_stages": sizes.levels - 1,
            },
            "backbone_channel_list": list(reversed(sizes.widths)),
            "backbone_feature_sizes": [[image_size // stride] * 2 for stride in (4, 8, 16)],
            "fpn_hidden_size": sizes.hidden,
        },
        prompt_encoder_config={
            "hidden_size": sizes.hidden,
            "image_size": image_size,
            "mask_input_channels": sizes.mask_channels,
        },
        mask_decoder_config={
            "hidden_size": sizes.hidden,
            "mlp_dim": sizes.decoder_mlp,
            "num_hidden_layers": sizes.decoder_layers,
            "num_attention_heads": sizes.decoder_heads,
            "attention_downsample_rate": sizes.decoder_downsample,
            "num_multimask_outputs": sizes.masks,
            "iou_head_hidden_dim": sizes.iou_hidden,
        },
    )


def official_model(sizes: Architecture, image_size: int) -> torch.nn.Module:
    """Return Meta's SAM2Base of these sizes with random weights, without the parts that only track through video.

    The published configuration of the tiny model is read as a file and changed: Hydra's global state is neither used
    nor touched. As in Meta's ``build_sam2``, a single mask of stability below 0.98 gives way to the best of three.

    Raises:
        PluginError: if the package sam2 is not installed.
    """
    try:
        from hydra.utils import instantiate
        from omegaconf import OmegaConf

        published = files("sam2").joinpath("configs/sam2.1/sam2.1_hiera_t.yaml")
    except ImportError as error:
        raise PluginError(
            f"backend 'official' of the SAM 2 segmenters needs the package sam2: {error}",
            hint="pip install 'medground[sam2-official]', or use backend: transformers",
        ) from error
    changes = {
        "image_size": image_size,
        "image_encoder": {
            "trunk": {
                "embed_dim": sizes.widths[0],
                "num_heads": sizes.heads[0],
                "stages": list(sizes.stages),
                "q_pool": sizes.levels - 1,
                "window_spec": list(sizes.windows),
                "global_att_blocks": list(sizes.global_blocks),
                "window_pos_embed_bkg_spatial_size": list(sizes.background),
            },
            "neck": {
                "d_model": sizes.hidden,
                "backbone_channel_list": list(reversed(sizes.widths)),
                "position_encoding": {"num_pos_feats": sizes.hidden},
            },
        },
        "memory_attention": None,
        "memory_encoder": None,
        "sam_mask_decoder_extra_args": {
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        },
    }
    config = OmegaConf.merge(OmegaConf.create(published.read_text()).model, changes)
    model: torch.nn.Module = instantiate(config, _recursive_=True)
    return model


def tiny() -> Any:
    """Return a small Sam2Model of random weights for 128 px, with one head, windows 8, 4, 14, 7 and the global block 3."""
    from transformers import Sam2Model

    sizes = Architecture(
        stages=(1, 1, 2, 1), widths=(16, 32, 64, 128), heads=(1, 2, 4, 8), windows=(8, 4, 14, 7), global_blocks=(3,),
        background=(7, 7), hidden=32, mask_channels=4, decoder_layers=1, decoder_mlp=32, decoder_heads=2,
        decoder_downsample=2, masks=3, iou_hidden=16,
    )  # fmt: skip
    return Sam2Model(sam2_config(sizes, 128))


def self_check() -> None:
    """Encode an empty image and decode one box with a network of random weights."""
    network = TransformersNetwork(tiny(), device="cpu", dtype="float32", compile=False)
    with torch.inference_mode():
        features = network.encode(torch.zeros(1, 3, 128, 128))
        corners = torch.tensor([[[32.0, 32.0], [96.0, 96.0]]])
        logits, _ = network.decode(features, corners, torch.tensor([[2, 3]]), multimask=False)
    assert logits.shape == (1, 1, 32, 32)
