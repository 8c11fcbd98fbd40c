"""Models for `gpu.py`: the sizes of released ones, random weights made on the device, and the tiny tokenizer's words."""

from typing import Any

import torch
from medground_qwen import tiny

from medground.types import SpatialPrompt

ROPE = {"rope_type": "default", "rope_theta": 1e6}
SIZES = {
    "3B": {
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 2,
    },
    "7B": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
}  # fmt: skip
"""Of Qwen2.5-VL's language models."""
VOCABULARY = 151936


def qwen2_5_vl(size: str, device: str, *, layers: int | None = None) -> tuple[Any, Any]:
    """Return a model of Qwen2.5-VL's sizes in bfloat16, and its processor; fewer layers of both parts if a number is given."""
    words = tiny.tokenizer()
    config = tiny.model("qwen2_5_vl", words, patch=14).config
    own = {**SIZES[size], **({} if layers is None else {"num_hidden_layers": layers})}
    count = own["num_hidden_layers"]
    config.text_config.update({
        **own, "vocab_size": VOCABULARY, "max_position_embeddings": 32768, "initializer_range": 0.02,
        "layer_types": ["full_attention"] * count, "max_window_layers": count,
    })  # fmt: skip
    config.text_config.rope_parameters = {**ROPE, "mrope_section": [16, 24, 24]}
    config.vision_config.update({
        "depth": 32 if layers is None else layers, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
        "out_hidden_size": own["hidden_size"], "window_size": 112, "initializer_range": 0.02,
        "fullatt_block_indexes": [7, 15, 23, 31] if layers is None else [layers - 1],
    })  # fmt: skip
    kit = tiny.processor("qwen2_5_vl", words, patch=14, max_side=1400)
    return on_device(config, device), kit


def qwen3_vl(device: str) -> tuple[Any, Any]:
    """Return a model of Qwen3-VL-4B's sizes in bfloat16, and its processor; its vision tower has no windows."""
    words = tiny.tokenizer()
    config = tiny.model("qwen3_vl", words, patch=16).config
    config.text_config.update({
        "vocab_size": VOCABULARY, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 32768,
        "initializer_range": 0.02,
    })  # fmt: skip
    config.text_config.rope_parameters = {**ROPE, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    config.vision_config.update({
        "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2560,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17], "initializer_range": 0.02,
    })  # fmt: skip
    return on_device(config, device), tiny.processor("qwen3_vl", words, patch=16, max_side=1600)


def qwen3_5(device: str, *, small: bool) -> tuple[Any, Any]:
    """Return a hybrid, three gated delta nets to one attention: of about 2 B parameters in bfloat16, or small."""
    import transformers

    words = tiny.tokenizer()
    ids = {token: words.convert_tokens_to_ids(token) for token in tiny.SPECIAL}
    head, hidden, patch = (32, 64, 8) if small else (256, 2048, 16)
    config = transformers.Qwen3_5Config(
        text_config={
            "vocab_size": len(words) if small else VOCABULARY, "hidden_size": hidden, "intermediate_size": 3 * hidden,
            "num_hidden_layers": 4 if small else 24, "num_attention_heads": 2 if small else 8,
            "num_key_value_heads": 1 if small else 2, "head_dim": head, "linear_key_head_dim": 16 if small else 128,
            "linear_value_head_dim": 16 if small else 128, "linear_num_key_heads": 2 if small else 16,
            "linear_num_value_heads": 4 if small else 16, "max_position_embeddings": 32768,
            "initializer_range": 0.06 if small else 0.02, "tie_word_embeddings": True,
            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
            "rope_parameters": {
                **ROPE, "mrope_section": [2, 1, 1] if small else [11, 11, 10], "mrope_interleaved": True,
                "partial_rotary_factor": 0.25,
            },
        },
        vision_config={
            "depth": 2 if small else 24, "hidden_size": 64 if small else 1024, "num_heads": 2 if small else 16,
            "intermediate_size": 128 if small else 4096, "patch_size": patch, "out_hidden_size": hidden,
            "spatial_merge_size": 2, "num_position_embeddings": 64 if small else 2304,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"], tie_word_embeddings=True,
    )  # fmt: skip
    kit = tiny.processor("qwen3_vl", words, patch=patch, max_side=1600)
    dtype = torch.float32 if small else torch.bfloat16
    return on_device(config, device, dtype), kit


def on_device(config: Any, device: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Return a model whose random weights are made on the device."""
    import transformers

    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


def sam(device: str, *, small: bool) -> tuple[Any, list[SpatialPrompt]]:
    """Return SAM's ViT-B at 1024 px with random weights (or the one that comes with its plugin), and 16 boxes."""
    import tempfile
    from pathlib import Path

    import medground_sam
    from segmenter_group import SUBJECTS, prompts

    if small:
        return medground_sam.ToySam(device=device), prompts("box", 4)
    with tempfile.TemporaryDirectory() as folder:
        return medground_sam.Sam(checkpoint=str(SUBJECTS[0].write(Path(folder))), device=device), prompts("box", 16)
