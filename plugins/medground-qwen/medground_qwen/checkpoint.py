"""What can be known of a released checkpoint and of an attention implementation without torch."""

import importlib.util
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from medground.devices import DTYPES
from medground.errors import InputError, PluginError, RecipeError, did_you_mean
from medground.segmenters.weight_files import (
    ATTENTIONS,
    MOST_TOKENIZER,
    RELEASED,
    check_file,
    check_settings,
    read_header,
    read_json,
    walk,
)
from medground.segmenters.weights import find_weights
from medground_qwen.families import QWEN2_5_VL, QWEN3_VL, Family

Attention = Literal["sdpa", "flash_attention_2", "eager"]
QUANTISED = ("quantization_config", "compression_config")
"""Keys of quantised weights, which do not train; some of their methods fetch kernels."""
DTYPE_KEYS = ("dtype", "torch_dtype")
SIDE, AREA = 2**13, 2**22
"""The most pixels of a side, and of the area, that an image is enlarged to."""
PIXELS = {
    "patch_size": (1, SIDE), "merge_size": (1, 64), "temporal_patch_size": (1, 64), "height": (1, SIDE), "width": (1, SIDE),
    "shortest_edge": (1, AREA), "min_pixels": (1, AREA), "longest_edge": (1, 2**31), "max_pixels": (1, 2**31),
    "image_seq_length": (0, 2**16), "image_seq_len": (0, 2**16), "num_image_tokens": (0, 2**16),
    "num_additional_image_tokens": (0, 2**16), "max_patches": (1, 4096), "min_patches": (0, 64),
}  # fmt: skip
"""The least and the most of what processors' configurations say in pixels and in tokens of an image."""
CONFIGURATIONS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "processor_config.json",
    "preprocessor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
"""What transformers takes settings from."""
TEXTS = (".jinja", ".txt", ".model", ".tiktoken")
"""Suffixes of files that tokenizers and templates are read from."""
MOST_FILES = 4096
PROCESSOR = ("processor_config.json", "preprocessor_config.json")
"""Either says how images are prepared."""
TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
"""Where a chat template lies that is not in a configuration."""


def locate(checkpoint: str, family: Family, revision: str | None) -> Path:
    """Return the folder of a released checkpoint, from a path or the local hub cache; nothing is downloaded.

    Raises:
        InputError: if it is no such folder, is incomplete, is of another family, or would run code.
    """
    folder = find_weights(f"{checkpoint}@{revision}" if revision else checkpoint)
    if not folder.is_dir():
        raise InputError(f"{folder.name} is a file", hint="give the folder of a released checkpoint")
    names = sorted(path.name for path in islice(folder.iterdir(), MOST_FILES + 1))
    if len(names) > MOST_FILES:
        raise InputError(f"{folder.name} holds more than {MOST_FILES} files", hint="give the folder of one checkpoint")
    if "config.json" not in names:
        raise InputError(f"{folder.name} holds no config.json", hint="give the folder of a released checkpoint")
    if not any(name.endswith(".safetensors") for name in names):
        raise InputError(f"{folder.name} holds no safetensors weights", hint="pickled weights are not loaded")
    if not any(name in names for name in PROCESSOR):
        raise InputError(
            f"{folder.name} holds no {PROCESSOR[0]} and no {PROCESSOR[1]}",
            hint=f"{RELEASED}, beside config.json",
        )
    if not any(name in TEMPLATES or _brings_template(folder / name) for name in names):
        raise InputError(
            f"{folder.name} has no chat template",
            hint=f"copy {TEMPLATES[0]} from the released checkpoint, beside config.json",
        )
    headers = [read_header(folder / name) for name in names if name.endswith(".safetensors")]
    tensors = sum(map(len, headers))
    for name in names:
        if not (folder / name).is_dir():
            _check_member(folder / name, names, tensors)
    for template in folder.glob("additional_chat_templates/*"):
        check_file(template)
    config = read_json(folder / "config.json")
    kind = config.get("model_type", "")
    kind = kind[:80] if isinstance(kind, str) else ""
    if not kind or (family.model_types and kind not in family.model_types):
        raise InputError(f"{folder.name} is a {kind or 'nameless'} model", hint=_opened_by(kind))
    return folder


def _opened_by(kind: str) -> str:
    """Return the argument of a recipe with which a kind of model is opened."""
    if not kind:
        return RELEASED
    if kind in QWEN2_5_VL.model_types | QWEN3_VL.model_types:
        return f"write reasoner.name={kind}"
    return "write reasoner.name=hf_vlm and reasoner.frame=permille, unit or pixel"


def _brings_template(path: Path) -> bool:
    """Return True if a tokenizer's or a processor's configuration brings the template itself."""
    return path.name in ("tokenizer_config.json", *PROCESSOR) and any(
        where.rpartition(".")[2] == "chat_template" for where, _ in walk(read_json(path))
    )


def _check_member(path: Path, names: Sequence[str], tensors: int) -> None:
    """Stop at a file that is none, is too large for what it is called, or says what no checkpoint says."""
    if path.suffix in TEXTS:
        check_file(path)
        if path.stat().st_size > MOST_TOKENIZER:
            raise InputError(f"{path} is larger than {MOST_TOKENIZER:,} bytes", hint=RELEASED)
    elif path.name in CONFIGURATIONS:
        settings = read_json(path)
        if not isinstance(settings, dict):
            raise InputError(f"{path} is no configuration of a model", hint=RELEASED)
        check_settings(settings, path, tensors)
        for where, value in walk(settings):
            key = where.rpartition(".")[2]
            if not _plausible(key, value, processor=path.name in PROCESSOR):
                raise InputError(
                    f"{path} has {key}: {str(value)[:40]}, which no released checkpoint has", hint=RELEASED
                )
    elif path.suffix == ".json":
        content = read_json(path, MOST_TOKENIZER)
        shards = content.get("weight_map", {}) if isinstance(content, dict) else {}
        shards = shards.values() if isinstance(shards, dict) else [shards]
        if absent := [str(name)[:80] for name in shards if name not in names]:
            raise InputError(f"{path} names {absent[0]}, which is not in the folder", hint=RELEASED)


def _plausible(key: str, value: Any, *, processor: bool) -> bool:
    """Return False for dtypes that are none, quantised weights, and sizes of images that no processor has."""
    if key in DTYPE_KEYS:
        return value is None or str(value).removeprefix("torch.") in (*DTYPES, "float64", "auto")
    if key in QUANTISED:
        return value is None
    least, most = PIXELS.get(key, (-math.inf, math.inf)) if processor else (-math.inf, math.inf)
    return type(value) is not int or least <= value <= most


def check_adapter(folder: str) -> None:
    """Stop where a folder holds no LoRA adapter that can be loaded.

    Raises:
        InputError: naming it.
    """
    for name, hint in (
        ("adapter_model.safetensors", "pickled weights are not loaded"),
        ("adapter_config.json", "copy it from where the adapter was saved"),
    ):
        if not Path(folder, name).exists():
            raise InputError(f"{folder} holds no {name}", hint=hint)
    read_header(Path(folder, "adapter_model.safetensors"))
    read_json(Path(folder, "adapter_config.json"))


def check_attention(attention: str, device: str, dtype: str) -> None:
    """Stop where an attention implementation is none of ours, is not installed, or cannot run so; imports no torch.

    Raises:
        PluginError: if its package is not installed.
        RecipeError: if it is another word, or cannot run on the device with the dtype.
    """
    if attention not in ATTENTIONS:
        raise RecipeError(f"there is no attention {attention!r:.80}", hint=did_you_mean(attention[:80], ATTENTIONS))
    if attention != "flash_attention_2":
        return
    if importlib.util.find_spec("flash_attn") is None:
        raise PluginError(
            f"attention: {attention} needs the package flash-attn, which is not installed",
            hint="pip install flash-attn --no-build-isolation, or write attention: sdpa",
        )
    if device in ("cpu", "mps") or dtype == "float32":
        raise RecipeError(
            f"attention: {attention} runs on CUDA in 16 bits, not on {device} in {dtype}", hint="write attention: sdpa"
        )
