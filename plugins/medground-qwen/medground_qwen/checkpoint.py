"""What can be known of a released checkpoint and of an attention implementation without torch."""

import importlib.util
import json
from pathlib import Path
from typing import Any, Literal

from medground.errors import InputError, PluginError, RecipeError, did_you_mean
from medground.segmenters.weights import check_whole, find_weights
from medground_qwen.families import Family

Attention = Literal["sdpa", "flash_attention_2", "eager"]
REFUSED = ("auto_map", "_attn_implementation_internal")
"""Configuration keys through which a checkpoint would bring code of its own."""
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
    names = sorted(path.name for path in folder.iterdir())
    if "config.json" not in names:
        raise InputError(f"{folder.name} holds no config.json", hint="give the folder of a released checkpoint")
    if not any(name.endswith(".safetensors") for name in names):
        raise InputError(f"{folder.name} holds no safetensors weights", hint="pickled weights are not loaded")
    if not any(name in names for name in PROCESSOR):
        raise InputError(
            f"{folder.name} holds no {PROCESSOR[0]} and no {PROCESSOR[1]}",
            hint="copy it from the released checkpoint, beside config.json",
        )
    if not any(name in TEMPLATES or _mentions_template(folder / name) for name in names):
        raise InputError(
            f"{folder.name} has no chat template",
            hint=f"copy {TEMPLATES[0]} from the released checkpoint, beside config.json",
        )
    check_whole(folder)
    for name in names:
        if name.endswith(".json"):
            _check_json(folder / name)
    kind = _json(folder / "config.json").get("model_type", "")
    if family.model_types and kind not in family.model_types:
        raise InputError(
            f"{folder.name} is a {kind or 'nameless'} model", hint=did_you_mean(str(kind), family.model_types)
        )
    return folder


def _mentions_template(path: Path) -> bool:
    """Return True if a tokenizer's or a processor's configuration brings the template itself."""
    return path.name in ("tokenizer_config.json", *PROCESSOR) and b'"chat_template"' in path.read_bytes()


def check_adapter(folder: str) -> None:
    """Stop where a folder holds no LoRA adapter that can be loaded.

    Raises:
        InputError: naming it.
    """
    for name, hint in (
        ("adapter_model.safetensors", "pickled weights are not loaded"),
        ("adapter_config.json", "copy it from where the adapter was saved"),
    ):
        if not Path(folder, name).is_file():
            raise InputError(f"{folder} holds no {name}", hint=hint)
    check_whole(Path(folder))
    _json(Path(folder, "adapter_config.json"))


def check_attention(attention: str, device: str, dtype: str) -> None:
    """Stop where an attention implementation is not installed, or cannot run on a device with a dtype; imports no torch.

    Raises:
        PluginError: if its package is not installed.
        RecipeError: if it cannot run so.
    """
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


def _check_json(path: Path) -> None:
    """Return True if a file is JSON and, if it is a configuration, brings no code."""
    settings = _json(path)
    if not path.name.endswith("config.json"):
        return
    text = path.read_text(encoding="utf-8")
    for key in REFUSED:
        if f'"{key}"' in text:
            raise InputError(
                f"{path.parent.name}/{path.name} has {key!r}, which would run code from the checkpoint",
                hint="use a checkpoint of an architecture that transformers has itself",
            )
    if not isinstance(settings, dict):
        raise InputError(f"{path} is no configuration of a model", hint="copy it from the released checkpoint")


def _json(path: Path) -> Any:
    check_whole(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of encoding too
        raise InputError(
            f"{path} is damaged or truncated: {error}", hint="copy it from the released checkpoint"
        ) from error
