"""Tiny models of other image-text-to-text architectures, built from configuration, in the released layout."""

TURNS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(named, template):
    """Return the tiny tokenizer with the special tokens that a processor requires by name."""
    from medground_qwen import tiny
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer()._tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=named,
        chat_template=template,
        padding_side="left",
    )


def text_sizes(words):
    ids = {word: words.convert_tokens_to_ids(word) for word in ("<|im_end|>", "<|endoftext|>")}
    return {
        "vocab_size": len(words), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 2048,
        "initializer_range": 0.06, "pad_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
        "bos_token_id": ids["<|endoftext|>"],
    }  # fmt: skip


def internvl(folder):
    import torch
    import transformers as t
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

    template = TURNS.replace("IMAGE", "<IMG_CONTEXT>")
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    words = tokenizer(named, template)
    image = GotOcr2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    video = t.InternVLVideoProcessor(size={"height": 32, "width": 32})
    kit = t.InternVLProcessor(image, words, video, image_seq_length=4, chat_template=template)
    config = t.InternVLConfig(
        text_config={"model_type": "qwen2", **text_sizes(words)},
        vision_config={
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
            "image_size": [32, 32], "patch_size": [8, 8], "initializer_range": 0.06,
        },
        image_token_id=words.context_image_token_id, image_seq_length=4, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    t.InternVLForConditionalGeneration(config).save_pretrained(folder)
    kit.save_pretrained(folder)


def gemma3(folder):
    import torch
    import transformers as t

    template = TURNS.replace("IMAGE", "<start_of_image>")
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = tokenizer(named, template)
    image = t.Gemma3ImageProcessor(size={"height": 32, "width": 32})
    kit = t.Gemma3Processor(image, words, chat_template=template, image_seq_length=4)
    config = t.Gemma3Config(
        text_config={
            **text_sizes(words), "query_pre_attn_scalar": 32, "sliding_window": 64,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        vision_config={
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
            "image_size": 32, "patch_size": 8, "vision_use_head": False,
        },
        mm_tokens_per_image=4, boi_token_index=words.boi_token_id, eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    t.Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    kit.save_pretrained(folder)
