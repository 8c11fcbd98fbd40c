"""Calls that transformers names differently from version to version; what the installed one has decides, not its number."""

import inspect
from typing import Any


def cache_name(model: Any) -> str:
    """Return the name under which `model` takes the states of earlier tokens, and under which its output holds them."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def checkpoint_activations(model: Any) -> None:
    """Compute activations again in the backward pass instead of holding them, in training mode."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # Only the older kind of checkpoint needs inputs with a gradient; it would send one through a frozen vision tower.
    model.disable_input_require_grads()
