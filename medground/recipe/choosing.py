"""Does a recipe propose candidates exactly where its prompt interface chooses among them, and can its proposer do so?"""

from collections.abc import Iterator
from typing import Any

from medground import registry
from medground.errors import PluginError
from medground.recipe.recipe import Recipe
from medground.recipe.schema import GRID
from medground.recipe.validation import Problem
from medground.types import PromptKind, unread_kinds

GRID_KINDS: frozenset[PromptKind] = frozenset({"points"})
"""What a grid prompts the segmenter with."""
PROPOSES: frozenset[PromptKind] = frozenset({"points", "text"})
"""The kinds of prompt a proposer may be given: a grid of points, or the question where it reads text."""


def is_grid(recipe: Recipe) -> bool:
    """Return True if the recipe's own segmenter proposes.

    >>> from medground.recipe import resolve
    >>> is_grid(resolve("infer/toy", "proposer=grid")), is_grid(resolve("infer/toy", "proposer=threshold"))
    (True, False)
    """
    return "proposer" in recipe.data and not recipe.is_object("proposer") and recipe.data["proposer"]["name"] == GRID


def proposes_by_text(recipe: Recipe) -> bool:
    """Return True if a recipe's proposer is prompted with the question: it is named, and reads text.

    >>> from medground.recipe import resolve
    >>> proposes_by_text(resolve("infer/toy", "proposer=tones")), proposes_by_text(resolve("infer/toy", "proposer=grid"))
    (True, False)
    """
    if "proposer" not in recipe.data or is_grid(recipe):
        return False
    return "text" in (getattr(_component(recipe, "proposer", "segmenter"), "accepts", None) or ())


def choosing_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield what is wrong with how a recipe proposes and chooses."""
    proposes, chooses = "proposer" in recipe.data, _chooses(recipe)
    if "proposals" in recipe.data and not proposes:
        yield _problem(recipe, "proposals", "proposals has no effect without a proposer", f"add proposer={GRID}")
    if proposes and chooses is False:
        name = recipe.data["prompt_interface"]["name"]
        what = f"proposer proposes candidates, and prompt_interface {name!r} does not choose among any"
        yield _problem(recipe, "proposer", what, "set prompt_interface=choose, or proposer=null")
    if chooses and not proposes:
        name = recipe.data["prompt_interface"]["name"]
        what = f"prompt_interface {name!r} chooses among candidates, and the recipe names no proposer"
        yield _problem(recipe, "prompt_interface.name", what, f"add proposer={GRID}")
    if not proposes:
        return
    if not is_grid(recipe):
        yield from _unpromptable(recipe)
        return
    for argument in [word for word in recipe.data["proposer"] if word != "name"]:
        what = f"proposer.{argument}: the proposer {GRID} has no arguments"
        yield _problem(recipe, f"proposer.{argument}", what, "see medground recipe show --explain proposals")
    if "segmenter" not in recipe.data:
        what = f"proposer {GRID} prompts the recipe's segmenter, and the recipe names none"
        yield _problem(recipe, "proposer", what, "add segmenter=NAME, or set proposer=NAME")


def _unpromptable(recipe: Recipe) -> Iterator[Problem]:
    accepts = getattr(_component(recipe, "proposer", "segmenter"), "accepts", None)
    if not isinstance(accepts, frozenset) or accepts & PROPOSES:
        return
    name, unread = recipe.data["proposer"]["name"], unread_kinds(GRID_KINDS, accepts)
    if unread or recipe.data["allow_untrained"] is not True:
        what = f"proposer {name!r} was not trained for points, which it would be given, and reads no text"
        hint = "set proposer=NAME of another" + ("" if unread else ", or allow_untrained: true")
        yield _problem(recipe, "proposer.name", what, hint)


def _chooses(recipe: Recipe) -> bool | None:
    """Return whether the prompt interface chooses among candidates; None where the recipe names none, or a broken one."""
    if "prompt_interface" not in recipe.data:
        return None
    interface = _component(recipe, "prompt_interface", "prompt_interface")
    return None if interface is None else hasattr(interface, "among")


def _component(recipe: Recipe, key: str, kind: str) -> Any:
    """Return the object at a key, else the factory that is named there; None where there is neither."""
    if recipe.is_object(key):
        return recipe.objects.get(key)
    try:
        return registry.factory(kind, str(recipe.data[key]["name"]))
    except PluginError:  # reported as the component's own problem
        return None


def _problem(recipe: Recipe, key: str, what: str, hint: str) -> Problem:
    return Problem(key, recipe.origin(key), what, hint)
