"""The weights that a recipe's components name, and whether they are on this machine. Torch is not imported."""

import inspect
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from medground import registry
from medground.errors import InputError
from medground.hookspecs import Factory
from medground.licences import Published
from medground.recipe.config import ComponentConfig, TermConfig
from medground.recipe.recipe import Recipe
from medground.recipe.sources import names
from medground.segmenters.weights import NotFetched, check_whole, find_weights


class NamedCheckpoint(NamedTuple):
    """One checkpoint that a recipe names."""

    key: str
    """Dotted key in the recipe, for example ``segmenter.checkpoint``."""
    checkpoint: Any
    """As written there, else the first of the factory's attribute ``published``."""
    revision: Any
    published: tuple[Published, ...]
    """What the component declares of published weights."""
    neighbours: tuple[Published, ...]
    """What the others of its plugin declare."""


KEYS = ("reasoner", "proposer", "segmenter", "rewards")
"""The sections of a recipe that may name checkpoints."""


def checkpoints(recipe: Recipe, *keys: str) -> Iterator[NamedCheckpoint]:
    """Yield the checkpoints that sections of a recipe name.

    Args:
        recipe: a resolved recipe.
        keys: some of `KEYS`.

    Raises:
        RecipeError: if a component's values must still be given.
        PluginError: if a component is missing or broken.
    """
    components: list[tuple[str, str, ComponentConfig | TermConfig]] = [
        (kind, key, recipe.component(key))
        for key, kind, _ in recipe.components()
        if key in keys and key in KEYS and not recipe.is_object(key)
    ]
    if "rewards" in keys:
        components += [
            ("reward", key, recipe.terms[label])
            for label in recipe.terms
            if not recipe.is_object(key := f"rewards.{label}")
        ]
    for kind, key, component in components:
        arguments = component.arguments
        factory = registry.factory(kind, component.name)
        checkpoint = arguments.get("checkpoint") or _default(factory)
        if checkpoint is not None:
            published, neighbours = getattr(factory, "published", ()), registry.neighbours(kind, component.name)
            yield NamedCheckpoint(f"{key}.checkpoint", checkpoint, arguments.get("revision"), published, neighbours)


def _default(factory: Factory) -> str | None:
    """Return the weights of a component that names none: the first published, unless it must name some."""
    published: tuple[Published, ...] = getattr(factory, "published", ())
    parameter = inspect.signature(factory).parameters.get("checkpoint")
    must_name = parameter is not None and parameter.default is parameter.empty
    return None if must_name or not published else published[0].id


def require_checkpoints(recipe: Recipe, *keys: str) -> None:
    """Raise if weights that a recipe names are absent or incomplete; nothing is loaded.

    Args:
        recipe: a resolved recipe.
        keys: some of `KEYS`.

    Raises:
        InputError: naming the weights, and how to get them.
        RecipeError: if a component's values must still be given.
        PluginError: if a component is missing or broken.
    """
    for key, checkpoint, revision, *_ in checkpoints(recipe, *keys):
        if not isinstance(checkpoint, str) or "://" in checkpoint:
            continue  # not what `medground.segmenters.weights` reads
        try:
            check_whole(find_weights(f"{checkpoint}@{revision}" if revision else checkpoint))
        except InputError as error:
            hint = _fetch_command(recipe) if isinstance(error, NotFetched) else error.hint
            raise InputError(f"{key}: {error.message}", hint=hint) from error


def _fetch_command(recipe: Recipe) -> str:
    """Return the command that downloads what a recipe names."""
    source = recipe.name if recipe.name in names() else recipe.source.texts[-1][0]
    return shlex.join(["medground", "fetch", source, *recipe.overrides])
