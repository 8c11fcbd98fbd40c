"""The weights that a recipe's components name, and whether they are on this machine: known before torch is imported."""

import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from medground import registry
from medground.errors import InputError
from medground.recipe.resolved import Recipe
from medground.recipe.sources import names
from medground.weights import NotFetched, check_whole, find_weights


class Named(NamedTuple):
    """One checkpoint that a recipe names."""

    key: str
    """Dotted place in the recipe, such as ``segmenter.checkpoint``."""
    checkpoint: Any
    """As written there, else the factory's attribute ``published``."""
    revision: Any


def checkpoints(recipe: Recipe) -> Iterator[Named]:
    """Every checkpoint that the reasoner, the segmenter and the reward terms name.

    Raises:
        RecipeError: if a component's values must still be given.
        PluginError: if a component cannot be had.
    """
    named: list[tuple[str, str, str, dict[str, Any]]] = []
    for kind in ("reasoner", "segmenter"):
        if kind in recipe.data:
            named.append((kind, kind, *recipe.component(kind)))
    for label, (name, _, given) in recipe.terms.items():
        named.append(("reward", f"rewards.{label}", name, given))
    for kind, key, name, given in named:
        checkpoint = given.get("checkpoint") or getattr(registry.factory(kind, name), "published", None)
        if checkpoint is not None:
            yield Named(f"{key}.checkpoint", checkpoint, given.get("revision"))


def require_checkpoints(recipe: Recipe, *keys: str) -> None:
    """Stop where weights that a recipe names are not here or not whole; nothing is loaded.

    Args:
        recipe: a resolved recipe.
        keys: the parts that are looked at: ``reasoner``, ``segmenter``, ``rewards``.

    Raises:
        InputError: naming the weights, and how to get them.
        RecipeError: if a component's values must still be given.
        PluginError: if a component cannot be had.
    """
    for key, checkpoint, revision in checkpoints(recipe):
        if key.partition(".")[0] not in keys or not isinstance(checkpoint, str) or "://" in checkpoint:
            continue
        try:
            check_whole(find_weights(f"{checkpoint}@{revision}" if revision else checkpoint))
        except InputError as error:
            on_hub = isinstance(error, NotFetched)
            raise InputError(f"{key}: {error.message}", hint=_fetch(recipe) if on_hub else error.hint) from error


def _fetch(recipe: Recipe) -> str:
    """The command that downloads what a recipe names."""
    source = recipe.name if recipe.name in names() else recipe.written.texts[-1][0]
    return shlex.join(["medground", "fetch", source, *recipe.overrides])
