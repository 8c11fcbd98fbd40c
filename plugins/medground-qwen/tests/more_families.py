"""Tiny models of more architectures, from configuration. Each builder returns (model, processor)."""

import transformers as t
from family_parts import DELTA, siglip, text, words_with


def molmo2():
    named = (
        "<im_patch>",
        "<im_col>",
        "<im_start>",
        "<low_res_im_start>",
        "<frame_start>",
        "<im_end>",
        "<frame_end>",
        "<im_low>",
        "<|video|>",
    )
    words = words_with({"image_token": "<|image|>"}, more=named)
    ids = {name: words.convert_tokens_to_ids(name) for name in named}
    image = t.Molmo2ImageProcessor(size={"height": 32, "width": 32}, patch_size=8, max_crops=2, overlap_margins=[1, 1])
    kit = t.Molmo2Processor(
        image,
        t.Molmo2VideoProcessor(size={"height": 32, "width": 32}, patch_size=8),
        words,
        chat_template=words.chat_template,
    )
    sight = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 64,
    }
    config = t.Molmo2Config(
        text_config=text(
            words,
            vocab_size=words.convert_tokens_to_ids("<|image|>"),  # special tokens have a table of their own
            additional_vocab_size=16,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        ),
        vision_config={
            **sight,
            "num_hidden_layers": 2,
            "image_size": [32, 32],
            "patch_size": 8,
            "num_position_embeddings": 16,
        },
        adapter_config={**sight, "vision_feature_layer": [-1, -2], "text_hidden_size": 64},
        image_start_token_id=ids["<im_start>"],
        low_res_image_start_token_id=ids["<low_res_im_start>"],
        image_end_token_id=ids["<im_end>"],
        image_patch_id=ids["<im_patch>"],
        frame_start_token_id=ids["<frame_start>"],
        frame_end_token_id=ids["<frame_end>"],
    )
    return t.Molmo2ForConditionalGeneration(config), kit


def lfm2_vl():
    words = words_with(
        {
            "image_token": "<image>",
            "image_start_token": "<|image_start|>",
            "image_end_token": "<|image_end|>",
            "image_thumbnail": "<|img_thumbnail|>",
        },
        image="<image>",
    )
    image = t.Lfm2VlImageProcessor(
        tile_size=64,
        encoder_patch_size=8,
        min_image_tokens=4,
        max_image_tokens=16,
        min_tiles=1,
        max_tiles=1,
        do_image_splitting=False,
    )
    kit = t.Lfm2VlProcessor(image, words, chat_template=words.chat_template)
    config = t.Lfm2VlConfig(
        text_config={
            "model_type": "lfm2",
            **text(words, layer_types=["conv", "full_attention", "conv"], block_auto_adjust_ff_dim=False),
        },
        vision_config={"model_type": "siglip2_vision_model", **siglip(num_patches=64, vision_use_head=False)},
        image_token_id=words.image_token_id,
        projector_hidden_size=64,
    )
    return t.Lfm2VlForConditionalGeneration(config), kit


def minicpmv4_6():
    named = {
        key: f"<{key}>"
        for key in (
            "image_start_token",
            "image_end_token",
            "slice_start_token",
            "slice_end_token",
            "image_id_start_token",
            "image_id_end_token",
        )
    }
    words = words_with({"image_token": "<|image|>", "video_token": "<|video|>", **named})
    image = t.MiniCPMV4_6ImageProcessor(scale_resolution=64, patch_size=8, max_slice_nums=1, slice_mode=False)
    video = t.MiniCPMV4_6VideoProcessor(scale_resolution=64, patch_size=8, max_slice_nums=1, slice_mode=False)
    kit = t.MiniCPMV4_6Processor(image, video, words, chat_template=words.chat_template)
    config = t.MiniCPMV4_6Config(
        text_config={"model_type": "qwen3_5_text", **text(words, **DELTA)},
        vision_config=siglip(image_size=64, num_hidden_layers=2),
        insert_layer_id=0,
        image_size=64,
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
    )
    return t.MiniCPMV4_6ForConditionalGeneration(config), kit


def mistral3():
    words = words_with(more=("[IMG]", "[IMG_BREAK]", "[IMG_END]"), image="[IMG]")
    kit = t.PixtralProcessor(
        t.PixtralImageProcessor(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8}),
        words,
        patch_size=8,
        spatial_merge_size=2,
        chat_template=words.chat_template,
    )
    config = t.Mistral3Config(
        text_config={"model_type": "mistral", **text(words, sliding_window=None)},
        vision_config={"model_type": "pixtral", **siglip(image_size=64, head_dim=16)},
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    return t.Mistral3ForConditionalGeneration(config), kit


def paligemma():
    words = words_with({"image_token": "<image>"}, image="<image>")
    image = t.SiglipImageProcessor(size={"height": 32, "width": 32})
    image.image_seq_length = 16
    kit = t.PaliGemmaProcessor(
        image, words, chat_template=words.chat_template
    )  # adds 1,152 location tokens to the tokenizer
    words = kit.tokenizer
    config = t.PaliGemmaConfig(
        text_config={"model_type": "gemma", **text(words)},
        vision_config={"model_type": "siglip_vision_model", **siglip(projection_dim=64, vision_use_head=False)},
        image_token_index=words.image_token_id,
        projection_dim=64,
        hidden_size=64,
        vocab_size=len(words),
    )
    return t.PaliGemmaForConditionalGeneration(config), kit


def llava_onevision():
    words = words_with({"image_token": "<image>", "video_token": "<video>"}, image="<image>")
    pins = [[32, 32], [32, 64], [64, 32], [64, 64]]
    image = t.LlavaOnevisionImageProcessor(size={"height": 32, "width": 32}, image_grid_pinpoints=pins)
    video = t.LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32})
    kit = t.LlavaOnevisionProcessor(
        image,
        words,
        video,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=words.chat_template,
    )
    config = t.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text(words)},
        vision_config={"model_type": "siglip_vision_model", **siglip(vision_use_head=False)},
        image_token_index=words.image_token_id,
        video_token_index=words.video_token_id,
        image_grid_pinpoints=pins,
    )
    return t.LlavaOnevisionForConditionalGeneration(config), kit


def kimi_k25():
    words = words_with(
        {"image_token": "<|media_pad|>", "video_token": "<|video|>"},
        more=("<|media_begin|>", "<|media_end|>"),
        image="<|media_begin|><|media_pad|><|media_end|>",
    )
    size = {"patch_size": 8, "merge_size": 2, "size": {"max_height": 64, "max_width": 64}}
    kit = t.Kimi_K25Processor(
        t.Kimi_K25ImageProcessor(**size, max_patches=1024),
        words,
        t.Kimi_K25VideoProcessor(**size),
        chat_template=words.chat_template,
    )
    latent = {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "qk_head_dim": 32,
    }
    config = t.Kimi_K25Config(
        text_config={
            "model_type": "deepseek_v3",
            **text(words, head_dim=16, num_key_value_heads=2),
            **latent,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
        },
        vision_config={
            "patch_size": 8,
            "pos_emb_height": 8,
            "pos_emb_width": 8,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
        },
        projection_hidden_size=32,
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        vision_start_token_id=words.convert_tokens_to_ids("<|media_begin|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|media_end|>"),
        tie_word_embeddings=False,
    )
    return t.Kimi_K25ForConditionalGeneration(config), kit
