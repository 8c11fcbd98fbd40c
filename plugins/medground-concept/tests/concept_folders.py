"""Small SAM 3, SAM3-LiteText and CLIPSeg folders with random weights and a real tokenizer."""

from pathlib import Path
from typing import Any

import tiny_sam3
from tiny_folders import save_filled
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ["lung nodule", "polyp", "optic disc", "left kidney", "tumour", "bright region", "dark region", "lesion"]
SIDE = 64
"""Of CLIPSeg's input."""


def save_tokenizer(folder: Path) -> Any:
    """Train a byte-pair tokenizer on a few words and save it beside a model."""
    from transformers import PreTrainedTokenizerFast

    pairs = Tokenizer(models.BPE())
    pairs.normalizer = normalizers.Lowercase()
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pairs.train_from_iterator(
        WORDS * 4, trainers.BpeTrainer(vocab_size=300, special_tokens=[START, END], initial_alphabet=alphabet)
    )
    pairs.post_processor = processors.TemplateProcessing(f"{START} $A {END}", special_tokens=[(START, 0), (END, 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pairs, bos_token=START, eos_token=END, pad_token=END)
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_sam3(folder: Path) -> Path:
    from transformers import Sam3Config, Sam3Model

    tokenizer = save_tokenizer(folder)
    return save_filled(
        Sam3Model(Sam3Config(**tiny_sam3.detector(**tiny_sam3.clip_text(len(tokenizer), 0, 1)))), folder, gain=0.7
    )


def save_whole_sam3(folder: Path) -> Path:
    """Save SAM 3 as it is published: the parts for concepts and for boxes and points in one folder."""
    return tiny_sam3.save_whole(folder, **tiny_sam3.clip_text(len(save_tokenizer(folder)), 0, 1))


def save_lite(folder: Path) -> Path:
    from transformers import Sam3LiteTextConfig, Sam3LiteTextModel

    text = {
        "vocab_size": len(save_tokenizer(folder)),
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    return save_filled(Sam3LiteTextModel(Sam3LiteTextConfig(**tiny_sam3.detector(**text))), folder)


def save_clipseg(folder: Path) -> Path:
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    text = {
        "vocab_size": len(save_tokenizer(folder)),
        "max_position_embeddings": 24,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    config = CLIPSegConfig(
        text_config=layers | text,
        vision_config=layers | {"image_size": 32, "patch_size": 16},
        projection_dim=16,
        extract_layers=[0, 1, 2],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    return save_filled(CLIPSegForImageSegmentation(config), folder)
