"""Which parameters train."""

from typing import Any

from medground.errors import RecipeError
from medground_qwen.adapters import add_adapter, load_adapter
from medground_qwen.calls import checkpoint_activations

LANGUAGE = ("language_model.", "text_model.", "lm_head.")
"""Where the language model sits in the parameter names of transformers' models."""


def choose_trainable(
    model: Any,
    *,
    lora_rank: int,
    lora_alpha: float | None,
    adapter: str | None,
    train_vision: bool,
    gradient_checkpointing: bool,
) -> None:
    """Freeze what does not train; attach a given LoRA adapter, or a new one if a rank is given.

    Raises:
        InputError: as `load_adapter`.
        RecipeError: if `train_vision` is not what a given adapter that trains does.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(train_vision or not is_vision(name))
    if gradient_checkpointing:
        checkpoint_activations(model)
        model.train()  # transformers checkpoints only in training mode; there is no dropout to switch on
    if adapter is not None:
        targets = load_adapter(
            model, adapter, train=bool(lora_rank)
        )  # where a recipe asks for a rank at all, it trains on
        adapts_vision = any(is_vision(f"{target}.") for target in targets)
        if lora_rank and adapts_vision != train_vision:
            does = "adapts" if adapts_vision else "does not adapt"
            raise RecipeError(
                f"train_vision: {str(train_vision).lower()}, but the adapter {adapter} {does} the vision tower",
                hint=f"write train_vision: {str(adapts_vision).lower()}",
            )
    elif lora_rank:
        add_adapter(model, _targets(model, train_vision), rank=lora_rank, alpha=lora_alpha)


def is_vision(name: str) -> bool:
    """Return True if a parameter belongs to the vision tower or to what joins it to the language model."""
    return not any(part in name for part in LANGUAGE)


def _targets(model: Any, train_vision: bool) -> list[str]:
    """Return the names of the linear layers that an adapter is put on."""
    from torch.nn import Linear

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear) and "lm_head" not in name and (train_vision or not is_vision(f"{name}."))
    ]
