"""LoRA on a model of transformers, through peft's own functions.

transformers has calls for adapters too, but each release of it refuses some releases of peft there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medground.errors import InputError

FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft's own wrapper puts before the names of a model's parameters, and so before those in the file."""


def has_adapter(model: Any) -> bool:
    """Return True if the model has a LoRA adapter."""
    return hasattr(model, "peft_config")


def add_adapter(model: Any, targets: Sequence[str], *, rank: int, alpha: float | None) -> None:
    """Put a new adapter on the modules named `targets`; it changes nothing yet, for its second factor is zero."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha or 2 * rank,  # type: ignore[arg-type]  # peft divides it by the rank, a fraction is well
        target_modules=list(targets),
        lora_dropout=0.0,
        base_model_name_or_path=model.name_or_path,
    )
    inject_adapter_in_model(config, model)


def load_adapter(model: Any, folder: str, *, train: bool) -> None:
    """Put the adapter in `folder` on the model, to go on training or frozen.

    Raises:
        InputError: if it is the adapter of another model.
    """
    from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    config = PeftConfig.from_pretrained(folder)
    config.inference_mode = not train
    inject_adapter_in_model(config, model)
    weights = {name.removeprefix(PREFIX): value for name, value in load_file(Path(folder, FILE)).items()}
    result = set_peft_model_state_dict(model, weights)
    missing = [name for name in result.missing_keys if ".lora_" in name]
    if missing or result.unexpected_keys:
        name = (missing or result.unexpected_keys)[0]
        raise InputError(
            f"{folder} is no adapter of this model: {name} is in one of them only",
            hint="give the adapter of this checkpoint, as a run saves it",
        )


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter alone, as peft and transformers load it."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    # Embeddings are never adapted here; asked to find out by itself, peft would look for the base model on the hub.
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{PREFIX}{name}": value.detach().contiguous() for name, value in weights.items()}
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    model.peft_config["default"].save_pretrained(folder)


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Compute as the model without its adapter does; afterwards the adapter trains again."""
    layers = [module for _, module in _layers(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merge_adapter(model: Any) -> None:
    """Fold the adapter into the weights, and leave the model as if it had never had one."""
    for name, layer in _layers(model):
        layer.merge(safe_merge=True)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer.get_base_layer())
    del model.peft_config


def _layers(model: Any) -> list[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
