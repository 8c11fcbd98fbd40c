"""Tiny models of other architectures, from configuration. Each builder returns (model, processor)."""

import transformers as t
from family_parts import ROPE, SPREAD, siglip, text, words_with


def internvl():
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

    words = words_with(
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        image="<IMG_CONTEXT>",
    )
    image = GotOcr2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    kit = t.InternVLProcessor(
        image,
        words,
        t.InternVLVideoProcessor(size={"height": 32, "width": 32}),
        image_seq_length=4,
        chat_template=words.chat_template,
    )
    config = t.InternVLConfig(
        text_config={"model_type": "qwen2", **text(words)},
        vision_config={**siglip(image_size=[32, 32], patch_size=[8, 8]), "initializer_range": SPREAD},
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return t.InternVLForConditionalGeneration(config), kit


def gemma3():
    words = words_with(
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
        image="<start_of_image>",
    )
    kit = t.Gemma3Processor(
        t.Gemma3ImageProcessor(size={"height": 32, "width": 32}),
        words,
        chat_template=words.chat_template,
        image_seq_length=4,
    )
    config = t.Gemma3Config(
        text_config=text(
            words,
            query_pre_attn_scalar=32,
            sliding_window=16,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        ),
        vision_config=siglip(vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
    )
    return t.Gemma3ForConditionalGeneration(config), kit


def gemma4():
    words = words_with(
        {
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "image_token": "<|image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
        },
        more=("<|video|>",),
    )
    from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
    from transformers.models.gemma4.video_processing_gemma4 import Gemma4VideoProcessor

    size = {"patch_size": 8, "pooling_kernel_size": 2, "max_soft_tokens": 70}
    kit = t.Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        t.Gemma4ImageProcessor(**size),
        words,
        Gemma4VideoProcessor(**size),
        chat_template=words.chat_template,
        image_seq_length=70,
    )
    words = kit.tokenizer
    config = t.Gemma4Config(
        text_config=text(
            words,
            num_hidden_layers=4,
            sliding_window=16,
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=len(words),
            num_kv_shared_layers=2,
            global_head_dim=32,
            num_global_key_value_heads=1,
            layer_types=["sliding_attention", "full_attention"] * 2,
            use_bidirectional_attention="vision",
        ),
        vision_config=siglip(
            patch_size=8, head_dim=16, num_key_value_heads=2, pooling_kernel_size=2, position_embedding_size=64
        ),
        audio_config=None,
        boi_token_id=words.boi_token_id,
        eoi_token_id=words.eoi_token_id,
        image_token_id=words.image_token_id,
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
        audio_token_id=words.audio_token_id,
        boa_token_id=words.boa_token_id,
        eoa_token_index=words.eoa_token_id,
    )
    return t.Gemma4ForConditionalGeneration(config), kit


def _glm(config, model, processor, image_processor, video_processor):
    named = ["<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]
    words = words_with(
        {"image_token": "<|image|>", "video_token": "<|video|>"},
        more=named,
        image="<|begin_of_image|><|image|><|end_of_image|>",
    )
    size = {
        "patch_size": 8,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 512, "longest_edge": 16384},
    }
    ids = [words.convert_tokens_to_ids(name) for name in named]
    made = config(
        text_config=text(words, rope_parameters={**ROPE, "mrope_section": [6, 5, 5]}),
        vision_config={
            "depth": 2,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 64,
            "hidden_size": 64,
            "intermediate_size": 128,
            "image_size": 64,
            "initializer_range": SPREAD,
        },
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        image_start_token_id=ids[0],
        image_end_token_id=ids[1],
        video_start_token_id=ids[2],
        video_end_token_id=ids[3],
    )
    return model(made), processor(
        image_processor(**size), words, video_processor(**size), chat_template=words.chat_template
    )


def glm4v():
    return _glm(
        t.Glm4vConfig, t.Glm4vForConditionalGeneration, t.Glm4vProcessor, t.Glm4vImageProcessor, t.Glm4vVideoProcessor
    )


def glm46v():
    return _glm(
        t.Glm46VConfig,
        t.Glm46VForConditionalGeneration,
        t.Glm46VProcessor,
        t.Glm46VImageProcessor,
        t.Glm46VVideoProcessor,
    )


def _idefics(config, model, kit, words):
    made = config(
        text_config={"model_type": "llama", **text(words)},
        vision_config=siglip(),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=words.pad_token_id,
    )
    return model(made), kit


MARKS = (
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)),
)


def smolvlm():
    words = words_with(more=(*MARKS, "<video>"), image="<image>")
    image = t.SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    video = t.SmolVLMVideoProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    kit = t.SmolVLMProcessor(
        image, words, video, image_seq_len=4, chat_template=words.chat_template
    )  # wants the package num2words
    return _idefics(t.SmolVLMConfig, t.SmolVLMForConditionalGeneration, kit, words)


def idefics3():
    words = words_with(more=MARKS, image="<image>")
    image = t.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    kit = t.Idefics3Processor(image, words, image_seq_len=4, chat_template=words.chat_template)
    return _idefics(t.Idefics3Config, t.Idefics3ForConditionalGeneration, kit, words)
