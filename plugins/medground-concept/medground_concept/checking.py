"""What `medground doctor` runs of this package."""

import torch
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

LAYERS = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def self_check() -> None:
    """Look for one text in an empty image, with a network of random weights."""
    config = CLIPSegConfig(
        text_config=LAYERS | {"vocab_size": 4, "max_position_embeddings": 4, "bos_token_id": 0, "eos_token_id": 1},
        vision_config=LAYERS | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
        extract_layers=[0],
        reduce_dim=8,
        decoder_num_attention_heads=1,
        decoder_intermediate_size=8,
    )
    network = CLIPSegForImageSegmentation(config).eval()
    with torch.inference_mode():
        out = network(input_ids=torch.tensor([[0, 2, 1]]), pixel_values=torch.zeros(1, 3, 32, 32))
    assert out.logits.shape[-2:] == (32, 32)
