"""Whether a recipe's components exist, take the arguments it gives, and suit one another. Nothing is constructed."""

import inspect
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from medground import registry
from medground.errors import MedgroundError, PluginError, RecipeError
from medground.recipe.recipe import Recipe
from medground.recipe.schema import COMPONENTS
from medground.recipe.validation import MAX_PROBLEMS, InvalidRecipe, Problem
from medground.recipe.yaml_reader import MISSING

PARTS: Mapping[str, frozenset[str]] = {
    "both": frozenset({"box", "points", "negative_points"}),
    "box": frozenset({"box"}),
    "points": frozenset({"points", "negative_points"}),
}
"""The recipe's word ``prompt`` -> the prompt kinds it lets through to the segmenter."""


def check(recipe: Recipe, *, strict_missing: bool = False) -> None:
    """Stop where a recipe names components that cannot be used as it says.

    Args:
        recipe: a resolved recipe; its variants are not looked at.
        strict_missing: whether a value that must still be given is a problem.

    Raises:
        PluginError: if its first problem is a component that is missing, broken or ambiguous.
        InvalidRecipe: if its first problem is of another kind.
    """
    found = list(islice(_problems(recipe, strict_missing), MAX_PROBLEMS))
    if found:
        problem, cause = found[0]
        if isinstance(cause, PluginError):
            raise PluginError(f"{problem.where}: {problem.message}", hint=problem.hint) from cause
        raise InvalidRecipe([each for each, _ in found])


def find_problems(recipe: Recipe, *, strict_missing: bool = False) -> list[Problem]:
    """The first things `check` would stop at, in the recipe and in each of its variants; each is told once.

    Of a recipe with a ``sweep`` section, a variant that is `impossible` is none: the sweep skips it with that reason.
    """
    found: dict[str, Problem] = {}
    for problem in _everywhere(recipe, strict_missing):
        # A broken plugin says the same of each of its components; a variant, what the recipe said before.
        found.setdefault(f"{problem.message} {problem.hint}", problem)
        if len(found) == MAX_PROBLEMS:
            break
    return list(found.values())


def _everywhere(recipe: Recipe, strict_missing: bool) -> Iterator[Problem]:
    yield from (problem for problem, _ in _problems(recipe, strict_missing))
    for name in recipe.variants:
        try:
            variant = recipe.variant(name)
            # A sweep skips a cell whose parts cannot work together, and says so: that is part of its result.
            excused = impossible(variant) if "sweep" in recipe.data else None
            yield from (each for each, _ in _problems(variant, strict_missing) if each.message != excused)
        except InvalidRecipe as error:
            yield from error.problems
        except RecipeError as error:
            yield Problem(f"variants.{name}", "", error.message, error.hint)


def _problems(recipe: Recipe, strict_missing: bool) -> Iterator[tuple[Problem, MedgroundError | None]]:
    data = recipe.data
    for kind in COMPONENTS:
        if kind in data:
            yield from _binding(recipe, kind, kind, data[kind])
    for label, term in data.get("rewards", {}).items():
        yield from _binding(recipe, "reward", f"rewards.{label}", term)
    for index, tracker in enumerate(data.get("trackers", ())):
        yield from _binding(recipe, "tracker", f"trackers.{index}", tracker)
    if problem := _untrained(recipe):
        yield problem, None
    if strict_missing:
        for key in recipe.missing:
            yield Problem(key, recipe.place(key), f"{key} must be given", f"add {key}=VALUE"), None


def _binding(
    recipe: Recipe, kind: str, key: str, component: Mapping[str, Any]
) -> Iterator[tuple[Problem, MedgroundError | None]]:
    arguments = {word: value for word, value in component.items() if word not in registry.RESERVED}
    name = component["name"]
    try:
        parameters = inspect.signature(registry.factory(kind, name)).parameters
    except PluginError as error:
        yield Problem(f"{key}.name", recipe.place(f"{key}.name"), error.message, error.hint), error
        return
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [] if takes_any else [word for word in arguments if word not in parameters]
    for part in [{word: arguments[word]} for word in unknown] or [arguments]:
        try:
            registry.bind(kind, name, part)
        except RecipeError as error:
            dotted = f"{key}.{next(iter(part))}" if unknown else f"{key}.name"
            yield Problem(dotted, recipe.place(dotted), error.message, error.hint), error
    given = {word: value for word, value in arguments.items() if value != MISSING}
    for word, wrong in registry.unsuitable(kind, name, given).items():
        dotted = f"{key}.{word}"
        yield Problem(dotted, recipe.place(dotted), f"{dotted}: {wrong.what}", wrong.hint), None


def impossible(recipe: Recipe) -> str | None:
    """Why the parts of a recipe cannot work together as it wants them to, each by itself being in order; else None."""
    problem = _untrained(recipe)
    return None if problem is None else problem.message


def untrained_kinds(recipe: Recipe) -> frozenset[str]:
    """The prompt kinds that the segmenter is given and was not trained for; results of such a recipe must say so."""
    provides, accepts = (_kinds(recipe, *pair) for pair in (("prompt_interface", "provides"), ("segmenter", "accepts")))
    if provides is None or accepts is None or recipe.data["prompt"] not in PARTS:
        return frozenset()
    return (provides & PARTS[recipe.data["prompt"]]) - accepts


def _untrained(recipe: Recipe) -> Problem | None:
    """Whether the segmenter would be given a kind of prompt it was not trained for."""
    provides, accepts = (_kinds(recipe, *pair) for pair in (("prompt_interface", "provides"), ("segmenter", "accepts")))
    if provides is None or recipe.data["prompt"] not in PARTS:
        return None
    part, interface = recipe.data["prompt"], recipe.data["prompt_interface"]["name"]
    given = provides & PARTS[part]
    if not given:
        what = f"prompt: {part} asks for what prompt_interface {interface!r} never gives"
        return Problem("prompt", recipe.place("prompt"), what, f"it gives {_listed(provides)}")
    untrained = untrained_kinds(recipe)
    if accepts is None or not untrained or recipe.data["allow_untrained"] is True:
        return None
    name = recipe.data["segmenter"]["name"]
    what = f"segmenter {name!r} was not trained for {_listed(untrained)}"
    usable = next(
        (word for word in ("box", "points") if provides & PARTS[word] and provides & PARTS[word] <= accepts), ""
    )
    hint = f"set prompt: {usable}, or allow_untrained: true" if usable else "set allow_untrained: true"
    return Problem("segmenter.name", recipe.place("segmenter.name"), what, hint)


def _kinds(recipe: Recipe, kind: str, attribute: str) -> frozenset[str] | None:
    """The prompt kinds a component's factory states, or None where it cannot be known without building it."""
    if kind not in recipe.data:
        return None
    try:
        found = getattr(registry.factory(kind, recipe.data[kind]["name"]), attribute, None)
    except PluginError:  # told already, as the component's own problem
        return None
    return found if isinstance(found, frozenset) else None


def _listed(kinds: frozenset[str]) -> str:
    return " and ".join(sorted(kinds))
