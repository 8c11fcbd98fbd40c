"""What a training run needs to be there, as far as it is known before torch is imported."""

import importlib.util

from medground import registry
from medground.errors import PluginError
from medground.recipe import Recipe, require_checkpoints
from medground.registry.errors import lacking


def require_for_training(recipe: Recipe) -> None:
    """Stop where torch or weights that a run needs are not here; imports no torch.

    Raises:
        PluginError: if torch is not installed.
        InputError: if weights are missing or not whole.
    """
    if importlib.util.find_spec("torch") is None:
        extra = lacking(registry.find("reasoner", recipe.component("reasoner")[0])) or "medground[qwen]"
        raise PluginError("training needs torch, which is not installed", hint=f"pip install '{extra}'")
    keys = ["reasoner"]
    if "grpo" in recipe.data:
        keys.append("rewards")
        terms = [registry.factory("reward", name) for name, _, _ in recipe.terms.values()]
        keys += ["segmenter"] * any(getattr(term, "needs_mask", False) is True for term in terms)
    require_checkpoints(recipe, *keys)
