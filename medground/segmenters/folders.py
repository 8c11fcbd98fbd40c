"""Models of transformers in folders of config.json and safetensors: every tensor is accounted for, nothing there runs.

torch and transformers are imported when a function is called, never by importing this module.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medground.errors import InputError
from medground.segmenters.bounded import try_tokenizer
from medground.segmenters.weight_files import RELEASED, check_settings, read_json, refusing, walk
from medground.segmenters.weights import check_keys, read_weights

if TYPE_CHECKING:
    import torch

MOST_BUFFERS = 2**28
"""Elements of the tables that a model computes for itself."""
MOST_SIDE = 4096
"""Pixels of the side of a model's input; no tensor shows it."""
TIMM_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
"""A model of the library timm; other forms of names make it look at the hub or in folders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which class of transformers a folder holds, and how published files differ from what that class saves."""

    model: str
    """Name of the class."""
    types: tuple[str, ...]
    """What ``model_type`` in config.json may be."""
    section: str = ""
    """Key of config.json that holds the configuration of this class where the folder holds a larger model."""
    renames: tuple[tuple[str, str], ...] = ()
    """Patterns of the names of tensors, and what replaces them, in this order."""
    others: tuple[str, ...] = ()
    """How names of tensors begin that belong to other parts of a larger model; matched after `renames`."""
    twins: tuple[str, ...] = ()
    """Names of one table, which files hold under one of them or under all."""


def load_folder(path: Path, layout: Layout) -> "torch.nn.Module":
    """Return a model in float32 on the CPU, with exactly the tensors of a folder.

    Args:
        path: a folder with ``config.json`` and ``model.safetensors`` or its shards, or a weights file beside a config.json.
        layout: what is in it.

    Raises:
        InputError: if the configuration is no such model's, or tensors are missing, extra, misshapen or not finite.
    """
    import torch
    import transformers

    settings_file = (path if path.is_dir() else path.parent) / "config.json"
    if not settings_file.exists():
        raise InputError(f"{path} has no config.json beside its weights", hint=RELEASED)
    settings = read_json(settings_file)
    tensors = _of_this_model(read_weights(path), layout)
    check_settings(settings, settings_file, len(tensors))
    model_class: Any = getattr(transformers, layout.model)
    with refusing(f"{path.name} cannot be loaded as {layout.model}"), _quiet():
        if not isinstance(settings, dict) or settings.get("model_type") not in layout.types:
            kind = settings.get("model_type") if isinstance(settings, dict) else None
            hint = f"give a folder of {' or '.join(layout.types)}"
            raise InputError(f"{path.name} is a model of {str(kind)[:80]}, not of {layout.types[0]}", hint=hint)
        _check_limits(settings, settings_file)
        section = settings.get(layout.section) or settings
        with torch.device("meta"):  # no memory before it is known that the tensors fit
            plan = model_class(model_class.config_class.from_dict(copy.deepcopy(section)))
        if sum(buffer.numel() for buffer in plan.buffers()) > MOST_BUFFERS:
            raise InputError(f"{settings_file} means tables of more than {MOST_BUFFERS:,} numbers", hint=RELEASED)
        check_keys({name: tuple(value.shape) for name, value in plan.state_dict().items()}, tensors, path.name)
        return load_state(model_class, model_class.config_class.from_dict(copy.deepcopy(section)), tensors)


def load_state(model_class: Any, config: Any, tensors: "Mapping[str, torch.Tensor]") -> "torch.nn.Module":
    """Return a model of transformers in float32 on the CPU with these tensors, and the tables that it computes for itself.

    Args:
        model_class: of transformers.
        config: of that class.
        tensors: all of the model's, by its names.
    """
    import torch

    with _quiet():
        model: torch.nn.Module = model_class.from_pretrained(
            None,
            config=config,
            state_dict={name: value.float() if value.is_floating_point() else value for name, value in tensors.items()},
            dtype=torch.float32,
        )
    return model


def _of_this_model(tensors: "Mapping[str, torch.Tensor]", layout: Layout) -> "dict[str, torch.Tensor]":
    """Return the tensors by the names that the class gives them, without those of other parts."""
    named = {}
    for name, tensor in tensors.items():
        for pattern, replacement in layout.renames:
            name = re.sub(pattern, replacement, name)
        if name.startswith(layout.others):
            continue
        if name in named:
            raise InputError(f"the weights hold {name} twice, under two prefixes", hint=RELEASED)
        named[name] = tensor
    if present := [name for name in layout.twins if name in named]:
        named |= {name: named[present[0]].clone() for name in layout.twins if name not in named}
    return named


def _check_limits(settings: Mapping[str, Any], path: Path) -> None:
    """Stop at a size of input that no model has, and at a backbone of timm that comes from elsewhere."""
    for where, value in walk(settings):
        key = where.rpartition(".")[2]
        known = type(value) is int and 1 <= value <= MOST_SIDE
        known = known or isinstance(value, list | None)  # the items of a list come one by one
        if key == "image_size" and not known:
            raise InputError(f"{path} has {where}: {str(value)[:80]}", hint=RELEASED)
        named = key == "architecture" and not (isinstance(value, str) and TIMM_NAME.fullmatch(value))
        if named or (".model_args." in f".{where}" and isinstance(value, str)):
            raise InputError(f"{path} has {where}: {str(value)[:80]}, which may name files", hint=RELEASED)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from printing bars and tables; what does not fit is one sentence here."""
    import transformers

    logging: Any = transformers.utils.logging  # without types
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a folder.

    Raises:
        InputError: if its files make none, or one that takes too long or too much memory.
    """
    from transformers import AutoTokenizer

    folder = path if path.is_dir() else path.parent
    files = [folder / name for name in ("tokenizer.json", "vocab.json")]
    if not any(file.exists() for file in files):  # transformers makes an empty one
        raise InputError(f"{folder.name} has no tokenizer: no tokenizer.json and no vocab.json", hint=RELEASED)
    with refusing(f"{folder.name} cannot be loaded, its tokenizer"), _quiet():
        try_tokenizer(folder)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
