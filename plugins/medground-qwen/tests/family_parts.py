"""What the builders of tiny models have in common."""

import transformers as t
from medground_qwen import tiny

SPREAD = 0.06
TURNS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def words_with(named=None, more=(), image="<|image|>"):
    """Return a tokenizer with special tokens: `named` become its attributes, `more` are only added."""
    words = t.PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer()._tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=named or {},
        chat_template=TURNS.replace("IMAGE", image),
        padding_side="left",
    )
    if more:
        words.add_tokens(list(more), special_tokens=True)
    return words


def text(words, **more):
    return {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "initializer_range": SPREAD,
        "bos_token_id": words.convert_tokens_to_ids("<|endoftext|>"),
        "pad_token_id": words.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": words.convert_tokens_to_ids("<|im_end|>"),
        **more,
    }


def siglip(**more):
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
        **more,
    }


def qwen_tokens(words):
    ids = {token: words.convert_tokens_to_ids(token) for token in tiny.SPECIAL}
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5]}
SIGHT = {"depth": 2, "num_heads": 2, "patch_size": 8, "out_hidden_size": 64, "spatial_merge_size": 2, "hidden_size": 64,
         "intermediate_size": 128, "num_position_embeddings": 64, "initializer_range": SPREAD}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
DELTA = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "num_hidden_layers": 4,
    "rope_parameters": {**ROPE, "mrope_section": [2, 1, 1], "mrope_interleaved": True, "partial_rotary_factor": 0.25},
}
