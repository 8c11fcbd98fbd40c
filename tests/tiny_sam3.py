"""Small SAM 3 models: the part for concepts, the one for boxes and points, and both in the folder of the video model."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tiny_folders import save_filled

SIDE = 112
VISION = {
    "model_type": "sam3_vision_model",
    "backbone_config": {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": SIDE,
    },
    "fpn_hidden_size": 128,
    "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
}
SMALL = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 64}


def detector(**text: Any) -> dict[str, Any]:
    """Return the settings of the part for concepts, with those of its text encoder."""
    return {
        "vision_config": VISION,
        "text_config": text,
        "geometry_encoder_config": SMALL | {"num_layers": 1},
        "detr_encoder_config": SMALL | {"num_layers": 1},
        "detr_decoder_config": SMALL | {"num_layers": 2, "num_queries": 10},
        "mask_decoder_config": {"hidden_size": 128, "num_attention_heads": 2},
    }


def clip_text(vocabulary: int, start: int, end: int) -> dict[str, Any]:
    """Return the settings of a text encoder of CLIP for a tokenizer."""
    return {
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "bos_token_id": start,
        "eos_token_id": end,
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    }


TRACKER = {
    "vision_config": VISION,
    "prompt_encoder_config": {"hidden_size": 128, "image_size": SIDE, "patch_size": 14, "mask_input_channels": 8},
    "mask_decoder_config": {"hidden_size": 128, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
}


def save_tracker(folder: Path) -> Path:
    """Save the part for boxes and points alone."""
    from transformers import Sam3TrackerConfig, Sam3TrackerModel

    return save_filled(Sam3TrackerModel(Sam3TrackerConfig(**TRACKER)), folder, gain=0.6)


def save_whole(folder: Path, **text: Any) -> Path:
    """Save the video model, which holds both parts, as SAM 3 is published."""
    from transformers import Sam3VideoConfig, Sam3VideoModel

    memory = {
        "memory_attention_hidden_size": 128,
        "memory_attention_num_layers": 1,
        "memory_attention_num_attention_heads": 1,
        "memory_attention_feed_forward_hidden_size": 64,
        "memory_attention_rope_feat_sizes": [8, 8],
        "memory_encoder_hidden_size": 128,
        "memory_fuser_embed_dim": 128,
        "memory_fuser_intermediate_dim": 64,
    }
    config = Sam3VideoConfig(detector_config=detector(**text), tracker_config=TRACKER | memory)
    save_filled(Sam3VideoModel(config), folder)
    tensors = load_file(folder / "model.safetensors")
    # transformers writes this prefix twice; the published folder has it once.
    published = {name.replace("tracker_model.tracker_model.", "tracker_model."): t for name, t in tensors.items()}
    save_file(published, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
