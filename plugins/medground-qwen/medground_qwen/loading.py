"""Loading released checkpoints: safetensors, processor, chat template; nothing in a checkpoint runs."""

import json
from pathlib import Path
from typing import Any

from medground.errors import InputError, nearest
from medground.weights import find_weights
from medground_qwen.families import Family

REFUSED = ("auto_map", "_attn_implementation_internal")
"""Configuration keys through which a checkpoint would bring code of its own."""


def load(
    checkpoint: str, family: Family, *, revision: str | None, dtype: str, device: str, attention: str
) -> tuple[Any, Any]:
    """A model in eval mode and its processor, from a folder or from the local hub cache; nothing is downloaded.

    Raises:
        InputError: if the folder is no such checkpoint, is of another family, or would run code.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()  # the command line shows its own
    folder = _folder(checkpoint, revision)
    _check(folder, family)
    model = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=attention,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return model.to(_device(device)).eval(), processor


def _folder(checkpoint: str, revision: str | None) -> Path:
    found = find_weights(f"{checkpoint}@{revision}" if revision else checkpoint)
    if not found.is_dir():
        raise InputError(f"{found.name} is a file", hint="give the folder of a released checkpoint")
    return found


def _check(folder: Path, family: Family) -> None:
    names = [path.name for path in folder.iterdir()]
    if "config.json" not in names:
        raise InputError(f"{folder.name} holds no config.json", hint="give the folder of a released checkpoint")
    if not any(name.endswith(".safetensors") for name in names):
        raise InputError(f"{folder.name} holds no safetensors weights", hint="pickled weights are not loaded")
    for name in (name for name in names if name.endswith("config.json")):
        text = (folder / name).read_text(encoding="utf-8")
        for key in REFUSED:
            if f'"{key}"' in text:
                raise InputError(
                    f"{folder.name}/{name} has {key!r}, which would run code from the checkpoint",
                    hint="use a checkpoint of an architecture that transformers has itself",
                )
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", "")
    if family.model_types and kind not in family.model_types:
        raise InputError(f"{folder.name} is a {kind or 'nameless'} model", hint=nearest(kind, family.model_types))


def _device(device: str) -> str:
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
