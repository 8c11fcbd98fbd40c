"""Check that a recipe's components exist, take its arguments and suit one another. Nothing is loaded."""

import inspect
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import islice

from medground import registry
from medground.errors import MedgroundError, PluginError, RecipeError
from medground.recipe.choosing import GRID_KINDS, choosing_problems, is_grid
from medground.recipe.combinations import grpo_contradictions
from medground.recipe.config import ComponentConfig
from medground.recipe.consent import consented
from medground.recipe.recipe import Recipe
from medground.recipe.validation import MAX_PROBLEMS, InvalidRecipe, Problem
from medground.recipe.volume_training import volume_training_problems
from medground.recipe.yaml_reader import MISSING
from medground.types import ChosenKind, PromptKind, PromptSelection, TextSource, unread_kinds


def check(recipe: Recipe, *, strict_missing: bool = False) -> None:
    """Raise on components that cannot be used as the recipe says.

    Args:
        recipe: a resolved recipe; its variants are not checked.
        strict_missing: count a value that must still be given as a problem.

    Raises:
        PluginError: if its first problem is a component that is missing, broken or ambiguous.
        InvalidRecipe: if its first problem is of another kind.
    """
    problems = list(islice(_problems(recipe, strict_missing), MAX_PROBLEMS))
    if problems:
        problem, cause = problems[0]
        if isinstance(cause, PluginError):
            raise PluginError(f"{problem.where}: {problem.message}", hint=problem.hint) from cause
        raise InvalidRecipe([problem for problem, _ in problems])


def find_problems(recipe: Recipe, *, strict_missing: bool = False) -> list[Problem]:
    """Return the first problems of the recipe and of each of its variants, without repetitions.

    Of a recipe with a ``sweep`` section, the `incompatibility` of a variant is no problem: the sweep skips the variant
    with that reason.
    """
    problems: dict[str, Problem] = {}
    for problem in _with_variants(recipe, strict_missing):
        # A broken plugin has one message for all its components; a variant repeats the recipe's problems.
        problems.setdefault(f"{problem.message} {problem.hint}", problem)
        if len(problems) == MAX_PROBLEMS:
            break
    return list(problems.values())


def _with_variants(recipe: Recipe, strict_missing: bool) -> Iterator[Problem]:
    yield from (problem for problem, _ in _problems(recipe, strict_missing))
    for name in recipe.variants:
        try:
            variant = recipe.variant(name)
            skipped = incompatibility(variant) if "sweep" in recipe.data else None
            yield from (problem for problem, _ in _problems(variant, strict_missing) if problem.message != skipped)
        except InvalidRecipe as error:
            yield from error.problems
        except RecipeError as error:
            yield Problem(f"variants.{name}", "", error.message, error.hint)


def _problems(recipe: Recipe, strict_missing: bool) -> Iterator[tuple[Problem, MedgroundError | None]]:
    for key in recipe.missing_objects:
        if strict_missing or key in ("reasoner", "prompt_interface", "proposer", "segmenter"):
            yield recipe.missing_object(key), None
    for key, kind, component in recipe.components():
        if not recipe.is_object(key):
            yield from _binding(recipe, kind, key, component)
        try:
            consented(key, component.arguments, recipe.origin)
        except RecipeError as error:
            yield Problem(key, recipe.origin(key), error.message.partition(": ")[2], error.hint), None
    if problem := _untrained(recipe):
        yield problem, None
    for problem in (*choosing_problems(recipe), *volume_training_problems(recipe)):
        yield problem, None
    if "grpo" in recipe.data and not any(key.startswith("grpo") for key in recipe.missing):
        for key, what, hint in grpo_contradictions(recipe.config.grpo):
            yield Problem(key, recipe.origin(key), what, hint), None
    if strict_missing:
        for key in recipe.missing:
            yield Problem(key, recipe.origin(key), f"{key} must be given", f"add {key}=VALUE"), None


def _binding(
    recipe: Recipe, kind: str, key: str, component: ComponentConfig
) -> Iterator[tuple[Problem, MedgroundError | None]]:
    name, arguments = component
    try:
        parameters = inspect.signature(registry.factory(kind, name)).parameters
    except PluginError as error:
        yield Problem(f"{key}.name", recipe.origin(f"{key}.name"), error.message, error.hint), error
        return
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [] if takes_any else [word for word in arguments if word not in parameters]
    # Each unknown argument is a problem of its own.
    for subset in [{word: arguments[word]} for word in unknown] or [arguments]:
        try:
            registry.bind(kind, name, subset)
        except RecipeError as error:
            dotted = f"{key}.{next(iter(subset))}" if unknown else f"{key}.name"
            yield Problem(dotted, recipe.origin(dotted), error.message, error.hint), error
    given = {word: value for word, value in arguments.items() if value != MISSING}
    for word, refusal in registry.unsuitable(kind, name, given).items():
        dotted = f"{key}.{word}"
        yield Problem(dotted, recipe.origin(dotted), f"{dotted}: {refusal.what}", refusal.hint), None


def incompatibility(recipe: Recipe) -> str | None:
    """Return why the components of a recipe, each by itself valid, cannot work together; None if they can."""
    problem = _untrained(recipe)
    return None if problem is None else problem.message


def untrained_kinds(recipe: Recipe) -> frozenset[PromptKind]:
    """Return the prompt kinds that the segmenter is given and was not trained for; results must state them."""
    provides, accepts = _provides(recipe), _kinds(recipe, "segmenter", "accepts")
    if provides is None or accepts is None or "prompt" in recipe.missing:
        return frozenset()
    given = GRID_KINDS if is_grid(recipe) else _selection(recipe).given(provides)
    return given - accepts


def _untrained(recipe: Recipe) -> Problem | None:
    """Return the problem of a segmenter that is given a prompt kind it was not trained for, or no prompt at all."""
    provides, accepts = _provides(recipe), _kinds(recipe, "segmenter", "accepts")
    if provides is None or "prompt" in recipe.missing:
        return None
    selection = _selection(recipe)
    nothing = None if is_grid(recipe) else never_given(selection, _name(recipe, "prompt_interface"), provides)
    if nothing:
        return Problem("prompt", recipe.origin("prompt"), nothing.message, nothing.hint)
    untrained = untrained_kinds(recipe)
    if accepts is None or not untrained:
        return None
    name, where = _name(recipe, "segmenter"), recipe.origin("segmenter.name")
    if is_grid(recipe):
        usable = f"proposer: {name} and segmenter: null" if "text" in accepts else ""
    else:
        usable = _usable(selection, provides, accepts)
    if unread := without_input(name, untrained, accepts):
        return Problem("segmenter.name", where, unread.message, f"set {usable}" if usable else unread.hint)
    if recipe.data["allow_untrained"] is True:
        return None
    what = f"segmenter {name!r} was not trained for {_listed(untrained)}"
    return Problem("segmenter.name", where, what, f"set {usable}{', or ' if usable else ''}allow_untrained: true")


def _usable(selection: PromptSelection, provides: frozenset[PromptKind], accepts: frozenset[PromptKind]) -> str:
    """Return the first ``prompt`` of one kind that suits both components, as a recipe writes it; "" where none does."""
    for source in dict.fromkeys((selection.text_from, TextSource.question)):
        for kind in ChosenKind:
            given = PromptSelection((kind,), source).given(provides)
            if given and given <= accepts:
                return f"prompt: {kind}{'' if source == selection.text_from else f' and text_from: {source}'}"
    return ""


def never_given(selection: PromptSelection, name: str, provides: frozenset[PromptKind]) -> RecipeError | None:
    """Return the error of a selection that needs what the prompt interface `name` never provides; None if it does."""
    lacking = selection.lacking(provides)
    if selection.kinds and not lacking:
        return None
    what = f"prompt: {selection} selects what prompt_interface {name!r} never gives"
    if lacking == [ChosenKind.text]:
        return RecipeError(f"{what}: a text", hint="set text_from: question, or let it ask for a label")
    return RecipeError(what, hint=f"it gives {_listed(provides)}")


def without_input(name: str, given: Collection[str], accepts: Collection[str]) -> RecipeError | None:
    """Return the error of a segmenter that is given prompt kinds it has no input for; None if it is not."""
    unread = unread_kinds(given, accepts)
    if not unread:
        return None
    return RecipeError(f"segmenter {name!r} cannot read {' and '.join(unread)}", hint="leave it out of prompt")


def _selection(recipe: Recipe) -> PromptSelection:
    return PromptSelection(tuple(recipe.config.prompt), recipe.config.text_from)


def _provides(recipe: Recipe) -> frozenset[PromptKind] | None:
    """Return the prompt kinds that answers hold, by what their interface's class states.

    A class states what it asks for by default. Whether it asks for labels may be an argument: where a text is chosen, the
    interface itself is asked, which loads nothing.
    """
    provides = _kinds(recipe, "prompt_interface", "provides")
    if provides is None or "prompt" in recipe.missing or not _selection(recipe).lacking(provides):
        return provides
    with suppress(MedgroundError):  # reported as the component's own problem
        name, arguments = recipe.component("prompt_interface")
        return frozenset(registry.build("prompt_interface", name, **arguments).provides)
    return provides


def _kinds(recipe: Recipe, kind: str, attribute: str) -> frozenset[PromptKind] | None:
    """Return the prompt kinds a component's factory states; None if they are unknown before it is built."""
    if kind not in recipe.data or recipe.is_object(kind):
        return None
    try:
        kinds = getattr(registry.factory(kind, _name(recipe, kind)), attribute, None)
    except PluginError:  # reported as the component's own problem
        return None
    return kinds if isinstance(kinds, frozenset) else None


def _name(recipe: Recipe, kind: str) -> str:
    return str(recipe.data[kind]["name"])


def _listed(kinds: frozenset[PromptKind]) -> str:
    return " and ".join(sorted(kinds))
