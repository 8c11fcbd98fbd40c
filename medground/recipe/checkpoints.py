"""The weights that a recipe's components name, and whether they are on this machine: known before torch is imported."""

import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from medground import registry
from medground.errors import InputError
from medground.recipe.recipe import Recipe
from medground.recipe.sources import names
from medground.segmenters.weights import NotFetched, check_whole, find_weights


class Named(NamedTuple):
    """One checkpoint that a recipe names."""

    key: str
    """Dotted place in the recipe, such as ``segmenter.checkpoint``."""
    checkpoint: Any
    """As written there, else the factory's attribute ``published``."""
    revision: Any


KEYS = ("reasoner", "segmenter", "rewards")
"""The parts of a recipe that may name checkpoints."""


def checkpoints(recipe: Recipe, *keys: str) -> Iterator[Named]:
    """The checkpoints that parts of a recipe name.

    Args:
        recipe: a resolved recipe.
        keys: some of `KEYS`; the others are not looked at.

    Raises:
        RecipeError: if a component's values must still be given.
        PluginError: if a component cannot be had.
    """
    named: list[tuple[str, str, str, dict[str, Any]]] = []
    for kind in ("reasoner", "segmenter"):
        if kind in keys and kind in recipe.data:
            named.append((kind, kind, *recipe.component(kind)))
    for label, (name, _, given) in recipe.terms.items() if "rewards" in keys else ():
        named.append(("reward", f"rewards.{label}", name, given))
    for kind, key, name, given in named:
        checkpoint = given.get("checkpoint") or getattr(registry.factory(kind, name), "published", None)
        if checkpoint is not None:
            yield Named(f"{key}.checkpoint", checkpoint, given.get("revision"))


def require_checkpoints(recipe: Recipe, *keys: str) -> None:
    """Stop where weights that a recipe names are not here or not whole; nothing is loaded.

    Args:
        recipe: a resolved recipe.
        keys: some of `KEYS`.

    Raises:
        InputError: naming the weights, and how to get them.
        RecipeError: if a component's values must still be given.
        PluginError: if a component cannot be had.
    """
    for key, checkpoint, revision in checkpoints(recipe, *keys):
        if not isinstance(checkpoint, str) or "://" in checkpoint:
            continue  # not what `medground.segmenters.weights` reads
        try:
            check_whole(find_weights(f"{checkpoint}@{revision}" if revision else checkpoint))
        except InputError as error:
            on_hub = isinstance(error, NotFetched)
            raise InputError(f"{key}: {error.message}", hint=_fetch(recipe) if on_hub else error.hint) from error


def _fetch(recipe: Recipe) -> str:
    """The command that downloads what a recipe names."""
    source = recipe.name if recipe.name in names() else recipe.written.texts[-1][0]
    return shlex.join(["medground", "fetch", source, *recipe.overrides])
