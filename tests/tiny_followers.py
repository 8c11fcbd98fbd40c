"""Small video models of transformers with random weights, saved as folders: EdgeTAM and the tracker of SAM 3."""

import tiny_sam3
from tiny_folders import save_filled

MEMORY = {
    "memory_attention_hidden_size": 128,
    "memory_attention_num_layers": 1,
    "memory_attention_rope_feat_sizes": [8, 8],
    "memory_encoder_hidden_size": 128,
    "mask_downsampler_embed_dim": 128,
    "memory_fuser_embed_dim": 128,
    "memory_fuser_intermediate_dim": 64,
}
REPVIT = {
    "architecture": "repvit_m1",
    "model_args": {
        "in_chans": 3,
        "features_only": True,
        "out_indices": [0, 1, 2, 3],
        "embed_dim": [8, 16, 24, 32],
        "depth": [1, 1, 1, 1],
    },
}
"""EdgeTAM's backbone, as small as it can be."""


def save_edgetam(folder):
    from transformers import EdgeTamVideoConfig, EdgeTamVideoModel

    backbone = {"model_type": "timm_wrapper", "num_classes": 2, **REPVIT}
    config = EdgeTamVideoConfig(
        image_size=128,
        vision_config={
            "model_type": "edgetam_vision_model",
            "backbone_config": backbone,
            "backbone_channel_list": [32, 24, 16, 8],
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            "fpn_hidden_size": 128,
        },
        prompt_encoder_config={"hidden_size": 128, "image_size": 128, "mask_input_channels": 8},
        mask_decoder_config={"hidden_size": 128, "mlp_dim": 32, "iou_head_hidden_dim": 16},
        memory_attention_mlp_hidden_size=64,
        memory_attention_rope_k_sizes=[8, 8],
        perceiver_resampler_num_latents=64,
        perceiver_resampler_num_latents_2d=64,
        **MEMORY,
    )
    return save_filled(always_there(EdgeTamVideoModel(config)), folder)


def save_tracker(folder):
    from transformers import Sam3TrackerVideoConfig, Sam3TrackerVideoModel

    config = Sam3TrackerVideoConfig(
        **tiny_sam3.TRACKER, **MEMORY, memory_attention_feed_forward_hidden_size=64, memory_encoder_output_channels=64
    )
    config.image_size = tiny_sam3.SIDE
    return save_filled(always_there(Sam3TrackerVideoModel(config)), folder, gain=0.6)


def always_there(model):
    """Leave the model as it is, but for the score of the target, which no random weights make negative."""
    head = model.mask_decoder.pred_obj_score_head
    head.register_forward_hook(lambda module, given, output: output * 0 + 10.0)
    return model
