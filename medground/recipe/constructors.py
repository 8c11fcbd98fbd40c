"""Build the components of a recipe that need no weights, to find a constructor that refuses its arguments."""

import inspect
import re
from collections.abc import Iterator

from medground import registry
from medground.errors import MedgroundError, PluginError, RecipeError
from medground.recipe.config import ComponentConfig
from medground.recipe.recipe import Recipe
from medground.recipe.validation import Problem
from medground.recipe.yaml_reader import MISSING

KINDS = ("reasoner", "prompt_interface", "segmenter", "reward")
HEAVY = ("checkpoint", "base_url")
"""Arguments of components that load weights, or talk to a server, when they are built."""


def find_unbuildable(recipe: Recipe) -> list[Problem]:
    """Return a problem for every component of the recipe and of its variants whose constructor raises.

    Left alone are components that have one of the arguments `HEAVY`, whose values must still be given, or whose libraries
    are not installed.
    """
    problems: dict[str, Problem] = {}
    for one in [recipe, *_variants(recipe)]:
        for key, kind, component in one.components():
            if kind in KINDS and not one.is_object(key) and _is_light(kind, component):
                for problem in _problems(one, kind, key, component):
                    problems.setdefault(problem.message, problem)
    return list(problems.values())


def _variants(recipe: Recipe) -> Iterator[Recipe]:
    for name in recipe.variants:
        try:
            yield recipe.variant(name)
        except RecipeError:  # `find_problems` reports it
            continue


def _is_light(kind: str, component: ComponentConfig) -> bool:
    name, arguments = component
    try:
        parameters = inspect.signature(registry.factory(kind, name)).parameters
        registry.bind(kind, name, arguments)
    except MedgroundError:  # `find_problems` reports it
        return False
    known = not registry.unsuitable(kind, name, arguments)
    return known and not set(HEAVY) & set(parameters) and MISSING not in arguments.values()


def _problems(recipe: Recipe, kind: str, key: str, component: ComponentConfig) -> Iterator[Problem]:
    name, arguments = component
    try:
        registry.build(kind, name, **arguments)
    except PluginError:
        return
    except MedgroundError as error:
        cause = str(error.__cause__ or error.message)
        named = [word for word in arguments if re.search(rf"\b{re.escape(word)}\b", cause)]
        word = next(iter(named or list(arguments)), "name")
        dotted = f"{key}.{word}"
        hint = error.hint or (f"set {dotted}=VALUE" if word != "name" else f"medground plugins check {name} --quick")
        yield Problem(dotted, recipe.origin(dotted), error.message, hint)
