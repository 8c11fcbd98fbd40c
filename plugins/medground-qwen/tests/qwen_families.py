"""Tiny models of the Qwen architectures, from configuration. Each builder returns (model, processor)."""

import transformers as t
from family_parts import DELTA, EXPERTS, ROPE, SIGHT, qwen_tokens, text
from medground_qwen import tiny


def qwen2_vl():
    words = tiny.tokenizer()
    config = t.Qwen2VLConfig(
        text_config=text(words, rope_parameters=ROPE, tie_word_embeddings=True),
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2},
        tie_word_embeddings=True,
        **qwen_tokens(words),
    )
    size = {
        "patch_size": 8,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 256, "longest_edge": 16384},
    }
    kit = t.Qwen2VLProcessor(
        t.Qwen2VLImageProcessor(**size), words, t.Qwen2VLVideoProcessor(**size), chat_template=tiny.TEMPLATE
    )
    return t.Qwen2VLForConditionalGeneration(config), kit


def qwen2_5_vl():
    words = tiny.tokenizer()
    return tiny.model("qwen2_5_vl", words, patch=8), tiny.processor("qwen2_5_vl", words, patch=8, max_side=128)


def qwen3_vl():
    words = tiny.tokenizer()
    return tiny.model("qwen3_vl", words, patch=8), tiny.processor("qwen3_vl", words, patch=8, max_side=128)


def _qwen3(config, model, sight=(), **more):
    words = tiny.tokenizer()
    made = config(
        text_config=text(words, **more, tie_word_embeddings=True),
        vision_config={**SIGHT, **dict(sight)},
        tie_word_embeddings=True,
        **qwen_tokens(words),
    )
    return model(made), tiny.processor("qwen3_vl", words, patch=8, max_side=128)


def qwen3_vl_moe():
    return _qwen3(
        t.Qwen3VLMoeConfig,
        t.Qwen3VLMoeForConditionalGeneration,
        {"deepstack_visual_indexes": [0, 1]},
        rope_parameters={**ROPE, "mrope_interleaved": True},
        decoder_sparse_step=1,
        **EXPERTS,
    )


def qwen3_5():
    return _qwen3(t.Qwen3_5Config, t.Qwen3_5ForConditionalGeneration, **DELTA)


def qwen3_5_moe():
    return _qwen3(
        t.Qwen3_5MoeConfig, t.Qwen3_5MoeForConditionalGeneration, **DELTA, **EXPERTS, shared_expert_intermediate_size=64
    )


def qwen4_exp():
    return _qwen3(
        t.Qwen4ExpConfig,
        t.Qwen4ExpForConditionalGeneration,
        **DELTA,
        **EXPERTS,
        shared_expert_intermediate_size=64,
        hc_lowrank=8,
        hc_count=2,
        indexer_n_heads=2,
        indexer_kv_heads=1,
        indexer_head_dim=32,
        indexer_budget=16,
        indexer_compress_ratio=4,
        ple_layer_ids=[1],
        ple_embed_dim=64,
        ngram_vocab_size_base=64,
        heads_per_ngram=2,
        split_ngram_parts=1,
        make_ngram_vocab_size_divisible_by=8,
    )
