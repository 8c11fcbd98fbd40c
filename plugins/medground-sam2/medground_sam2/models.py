"""The network of a SAM 2 checkpoint, on transformers' Sam2Model or on Meta's modules."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from medground.errors import InputError, RecipeError
from medground.segmenters.folders import load_state
from medground.segmenters.weight_files import refusing
from medground.segmenters.weights import check_keys
from medground_sam2.checkpoint import Checkpoint, open_checkpoint, to_original
from medground_sam2.layout import POINTS, Architecture, Unseen, is_transformers, original_name
from medground_sam2.networks import Network, TransformersNetwork
from medground_sam2.official import OfficialNetwork, load_official

DOWNSAMPLER = "memory_encoder.mask_downsampler.encoder."


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
    model.load_state_dict(state_of(model, checkpoint), strict=True, assign=True)
    return model


def load_video(path: Path, unseen: Unseen, *, image_size: int) -> torch.nn.Module:
    """Return transformers' Sam2VideoModel with exactly the tensors at `path`, whatever their layout.

    Raises:
        InputError: if they cannot be read, or are not exactly those of a SAM 2 model with its part for video.
    """
    from transformers import Sam2VideoModel

    checkpoint = open_checkpoint(path, video=True)
    with refusing(f"the weights in {path.name} make no SAM 2"):
        config = video_config(checkpoint, unseen, image_size)
        with torch.device("meta"):
            plan = Sam2VideoModel(config)
        state = state_of(plan, checkpoint)
        return load_state(Sam2VideoModel, config, state)


def state_of(model: torch.nn.Module, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint by the names of a model of transformers; every name and shape must agree."""
    fresh = model.state_dict()
    expected = fresh if is_transformers(checkpoint.tensors) else to_original(fresh)
    check_keys({name: tuple(t.shape) for name, t in expected.items()}, checkpoint.tensors, checkpoint.source)
    original = checkpoint.original
    return {
        name: torch.cat([original[f"{POINTS}{row}.weight"] for row in range(len(tensor))])
        if name == "prompt_encoder.point_embed.weight"
        else original[original_name(name)].clone()  # a copy: two names share the table of positions
        for name, tensor in fresh.items()
    }


def video_config(checkpoint: Checkpoint, unseen: Unseen, image_size: int) -> Any:
    """Return transformers' configuration of the video model whose sizes the tensors show.

    Raises:
        InputError: if there are none for video.
    """
    from transformers import Sam2VideoConfig

    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.original.items()}
    image = sam2_config(checkpoint.architecture(unseen), image_size)
    layer, fuser = "memory_attention.layers.", "memory_encoder.fuser.layers."
    needed = ("maskmem_tpos_enc", f"{layer}0.linear1.weight", f"{fuser}0.pwconv1.weight", f"{DOWNSAMPLER}12.weight")
    if missing := [name for name in needed if len(shapes.get(name, ())) < 2]:
        hint = "give the whole published file, whose memory follows targets from slice to slice"
        raise InputError(f"{checkpoint.source} segments single images only: {missing[0]} is missing", hint=hint)
    feed_forward, hidden = shapes[needed[1]][:2]
    intermediate, fused = shapes[needed[2]][:2]
    return Sam2VideoConfig(
        vision_config=image.vision_config.to_dict(),
        prompt_encoder_config=image.prompt_encoder_config.to_dict(),
        mask_decoder_config=image.mask_decoder_config.to_dict(),
        image_size=image_size,
        num_maskmem=shapes["maskmem_tpos_enc"][0],
        memory_encoder_output_channels=shapes["maskmem_tpos_enc"][-1],
        memory_encoder_hidden_size=hidden,
        memory_attention_hidden_size=hidden,
        memory_attention_feed_forward_hidden_size=feed_forward,
        memory_attention_num_layers=_count(shapes, layer),
        memory_attention_rope_feat_sizes=[image_size // 16] * 2,
        mask_downsampler_embed_dim=shapes[f"{DOWNSAMPLER}12.weight"][0],
        memory_fuser_num_layers=_count(shapes, fuser),
        memory_fuser_embed_dim=fused,
        memory_fuser_intermediate_dim=intermediate,
        enable_occlusion_spatial_embedding="no_obj_embed_spatial" in shapes,
        enable_temporal_pos_encoding_for_object_pointers="obj_ptr_tpos_proj.weight" in shapes,
    )


def _count(names: Iterable[str], stem: str) -> int:
    """Return how many numbers follow a stem in names."""
    return len({name.removeprefix(stem).partition(".")[0] for name in names if name.startswith(stem)})


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
