"""A tiny model of a real architecture, from random weights: for tests, and as the start of the demo.

    python -m medground_qwen.tiny --out DIR [--data FOLDER]

writes a checkpoint in the released layout (safetensors, processor, tokenizer, chat template), which everything that
loads a released checkpoint loads too. With ``--data`` its tokenizer learns the words of a dataset's questions and
reasoning traces, and has a token for every coordinate that 64 px can say: such a model learns several times faster.
"""

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

Architecture = Literal["qwen3_vl", "qwen2_5_vl"]
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = (
    '<think>the bright lesion in the upper left part</think><answer>{"bbox": [12, 34, 56, 78], '
    '"points_1": [90, 11], "points_2": [22, 33]}</answer>',
    "Question: which region on the right would explain the shadow below the dark organ?",
)


SIDE, PATCH = 64, 8
"""The tiny model sees up to 64 x 64 px, in patches of 8."""
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def tokenizer(
    corpus: Sequence[str] = CORPUS, *, vocabulary: int = 420, numbers: Iterable[int] = (), tags: Sequence[str] = ()
) -> Any:
    """Return a byte-level BPE tokenizer trained on a few sentences, with Qwen's special tokens.

    Args:
        corpus: what it is trained on.
        vocabulary: upper bound of its size, special, number and tag tokens not counted.
        numbers: each gets a token of its own, which a small model learns faster than digits. Such a token takes the
            space before it along, which decoding does not bring back.
        tags: text pieces that get a token of their own, such as ``<think>``.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    )
    raw.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    raw.add_tokens([AddedToken(tag, normalized=False) for tag in tags])
    raw.add_tokens([AddedToken(str(value), single_word=True, lstrip=True, normalized=False) for value in numbers])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=TEMPLATE,
        padding_side="left",
    )


def tokenizer_of(folder: Path) -> Any:
    """Return a tokenizer for a dataset (a folder with ``manifest.jsonl``): its words, the answer's tags, its coordinates."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    questions = sorted({line["question"] for line in lines})
    traces = sorted({line.get("think") or "" for line in lines})
    corpus = [f"<|im_start|>user\n{question}" for question in questions]
    corpus += 10 * [f'{trace}{{"bbox": [1, ]}}\nassistant\n' for trace in traces]
    ticks = [math.ceil(tick * 1000 / SIDE - 0.5) for tick in range(SIDE + 1)]  # thousandths, as Qwen3-VL counts
    return tokenizer(corpus, vocabulary=700, numbers=ticks, tags=TAGS)


def processor(architecture: Architecture, words: Any, *, patch: int, max_side: int) -> Any:
    """Return the architecture's processor around a tokenizer; images up to `max_side` squared."""
    import transformers as t

    sizes = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2}
    limits = {"size": {"shortest_edge": (2 * patch) ** 2, "longest_edge": max_side**2}}
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if architecture == "qwen3_vl" else {}
    image = t.Qwen2VLImageProcessor(**sizes, **limits, **statistics)
    if architecture == "qwen3_vl":
        video = t.Qwen3VLVideoProcessor(**sizes, **limits, **statistics)
        return t.Qwen3VLProcessor(image, words, video, chat_template=TEMPLATE)
    return t.Qwen2_5_VLProcessor(image, words, t.Qwen2VLVideoProcessor(**sizes, **limits), chat_template=TEMPLATE)


def model(
    architecture: Architecture,
    words: Any,
    *,
    patch: int,
    hidden: int = 96,
    layers: int = 3,
    vision: int = 64,
    grid: int = 8,
    seed: int = 0,
    spread: float = 0.06,
) -> Any:
    """Return the architecture at toy size: head size 32, grouped keys, random weights.

    Args:
        architecture: ``qwen3_vl`` learns positions quickly (a learned table in its vision tower); ``qwen2_5_vl`` slowly.
        words: its tokenizer.
        patch: vision patch side, px.
        hidden: width of the language model, a multiple of 32.
        layers: depth of the language model.
        vision: width of the vision tower, a multiple of 32.
        grid: side of Qwen3-VL's learned position table, in patches.
        seed: of the random weights.
        spread: their standard deviation.
    """
    import torch
    import transformers as t

    ids = {token: words.convert_tokens_to_ids(token) for token in SPECIAL}
    common = {
        "vocab_size": len(words), "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32, "num_key_value_heads": 1, "max_position_embeddings": 4096,
        "initializer_range": spread, "tie_word_embeddings": True,
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
    }  # fmt: skip
    tokens = {
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
    }  # fmt: skip
    sight = {
        "depth": 2,
        "num_heads": vision // 32,
        "patch_size": patch,
        "out_hidden_size": hidden,
        "spatial_merge_size": 2,
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5]}
    torch.manual_seed(seed)
    if architecture == "qwen3_vl":
        config = t.Qwen3VLConfig(
            text_config={**common, "head_dim": 32, "rope_parameters": {**rope, "mrope_interleaved": True}},
            vision_config={
                **sight, "hidden_size": vision, "intermediate_size": 2 * vision, "initializer_range": spread,
                "num_position_embeddings": grid * grid, "deepstack_visual_indexes": [0, 1],
            },
            tie_word_embeddings=True,
            **tokens,
        )  # fmt: skip
        return t.Qwen3VLForConditionalGeneration(config).eval()
    config = t.Qwen2_5_VLConfig(
        text_config={**common, "rope_parameters": rope},
        vision_config={
            **sight, "hidden_size": vision, "intermediate_size": 2 * vision, "window_size": 4 * patch,
            "fullatt_block_indexes": [1], "initializer_range": spread,
        },
        tie_word_embeddings=True,
        **tokens,
    )  # fmt: skip
    return t.Qwen2_5_VLForConditionalGeneration(config).eval()


def save(folder: Path, model: Any, kit: Any) -> None:
    """Write a checkpoint in the released layout."""
    model.save_pretrained(folder)
    kit.save_pretrained(folder)


def main() -> None:
    """Write one tiny checkpoint."""
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--architecture", choices=("qwen3_vl", "qwen2_5_vl"), default="qwen3_vl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="a folder with manifest.jsonl, whose words the tokenizer learns")
    given = parser.parse_args()
    logging.disable_progress_bar()
    words = tokenizer() if given.data is None else tokenizer_of(given.data)
    checkpoint = model(given.architecture, words, patch=PATCH, seed=given.seed)
    save(given.out, checkpoint, processor(given.architecture, words, patch=PATCH, max_side=SIDE))


if __name__ == "__main__":
    main()
