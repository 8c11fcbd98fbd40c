"""Which parameters train."""

from pathlib import Path
from typing import Any

from medground.errors import InputError

VISION = ("visual.", "vision_tower.", "vision_model.", "multi_modal_projector.")
"""Where the vision tower and its projector sit in the parameter names of transformers' models."""


def choose_trainable(
    model: Any,
    *,
    lora_rank: int,
    lora_alpha: float | None,
    adapter: str | None,
    train_vision: bool,
    gradient_checkpointing: bool,
) -> Any:
    """Freeze what does not train; attach a given LoRA adapter, or a new one if a rank is given; return the model."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(train_vision or not is_vision(name))
    if gradient_checkpointing:
        _checkpoint_activations(model)
        model.train()  # transformers checkpoints only in training mode; there is no dropout to switch on
    if adapter is not None:
        _load_adapter(model, adapter, lora_rank)
    elif lora_rank:
        model = _with_adapter(model, lora_rank, lora_alpha, train_vision)
    return model


def _checkpoint_activations(model: Any) -> None:
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:  # its name before transformers 5.2x
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def is_vision(name: str) -> bool:
    """Whether a parameter belongs to the vision tower or its projector."""
    return any(part in name for part in VISION)


def _with_adapter(model: Any, rank: int, alpha: float | None, train_vision: bool) -> Any:
    from peft import LoraConfig
    from torch.nn import Linear

    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear) and "lm_head" not in name and (train_vision or not is_vision(f"{name}."))
    ]
    model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, target_modules=targets, lora_dropout=0.0))
    return model


def _load_adapter(model: Any, folder: str, rank: int) -> None:
    """Put a trained adapter on the model; it trains on where the recipe asks for an adapter at all."""
    if not Path(folder, "adapter_model.safetensors").is_file():
        raise InputError(f"{folder} holds no adapter_model.safetensors", hint="pickled weights are not loaded")
    names = getattr(model, "_weight_conversions", None)
    model.load_adapter(folder, is_trainable=bool(rank))
    model._weight_conversions = names  # loading put the adapter's in their place, and a merged model is saved by these


def merge_adapter(model: Any) -> None:
    """Fold the adapter into the weights, and leave the model as if it had never had one."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge(safe_merge=True)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer.get_base_layer())
    del model.peft_config
    model._hf_peft_config_loaded = False
