"""Check the shape of a recipe: unknown keys, components without a name, values that do not suit their setting."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from omegaconf import DictConfig

from medground.errors import RecipeError, did_you_mean
from medground.recipe.schema import COMPONENTS, GENERAL, RECIPE_WORDS, SECTIONS, TOP, GeneralConfig
from medground.recipe.structured import defaults, validate
from medground.recipe.yaml_reader import MAX_KEY, MISSING, Key, quoted

Origin = Callable[[Key], str]
MAX_PROBLEMS = 20
"""Enough to fix a recipe by; the nearest match of thousands of keys would take long."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a recipe."""

    key: str
    """Dotted."""
    where: str
    """``file:line``, ``command line`` or ``default``; empty where the message says it."""
    message: str
    hint: str | None = None

    @property
    def sentence(self) -> str:
        """Where and what."""
        return f"{self.where}: {self.message}" if self.where else self.message


class InvalidRecipe(RecipeError):
    """A recipe with problems; its sentence is the first of them."""

    def __init__(self, problems: list[Problem]) -> None:
        first, more = problems[0], len(problems) - 1
        also = f"; {more} more problem{'s' * (more > 1)}" if more else ""
        super().__init__(f"{first.sentence}{also}", hint=first.hint)
        self.problems = tuple(problems)


def read_settings(data: Mapping[str, Any], origin: Origin) -> dict[str, DictConfig]:
    """Check the shape of a merged recipe and return its settings with their defaults.

    Of components, only the presence of a name is checked.

    Returns:
        Key of a section, or "" for the settings outside sections -> its values.

    Raises:
        InvalidRecipe: with the first problems.
    """
    settings = {"": defaults(GeneralConfig), "sampling": defaults(SECTIONS["sampling"])}
    if problems := list(islice(_problems(data, origin, settings), MAX_PROBLEMS)):
        raise InvalidRecipe(problems)
    return settings


def _problems(data: Mapping[str, Any], origin: Origin, settings: dict[str, DictConfig]) -> Iterator[Problem]:
    """Yield what is wrong; write what is right into `settings`."""
    for key, value in data.items():
        if key in RECIPE_WORDS:
            continue
        if key not in TOP:
            yield _unknown((key,), TOP, origin)
        elif value is None or (value == MISSING and key in SECTIONS):
            continue
        elif key in COMPONENTS:
            yield from _component((key,), value, origin)
        elif key == "rewards":
            for label, term in value.items():
                yield from _term(("rewards", label), term, origin)
        elif key == "trackers":
            for index, tracker in enumerate(value):
                yield from _component((key, str(index)), tracker, origin)
        elif key in GENERAL:
            yield from _section((), {key: value}, settings[""], origin)
        elif isinstance(value, Mapping):
            settings[key] = defaults(SECTIONS[key])
            yield from _section((key,), value, settings[key], origin)
        else:
            what = f"{key}: {quoted(value)} is not a section of key: value lines"
            yield Problem(key, origin((key,)), what, "write a section of key: value lines")


def _component(path: Key, value: Mapping[str, Any], origin: Origin) -> Iterator[Problem]:
    name = value.get("name")
    where, dotted = origin((*path, "name") if "name" in value else path), ".".join(path)
    if name is None:
        yield Problem(dotted, where, f"{dotted} has no name", f"write {dotted}: NAME, or name: among its lines")
    elif not isinstance(name, str) or not 0 < len(name) <= MAX_KEY:
        yield Problem(
            dotted, where, f"{dotted}.name is not a component's name: {quoted(name)}", "medground plugins list"
        )


def _term(path: Key, term: Mapping[str, Any] | None, origin: Origin) -> Iterator[Problem]:
    if term is None:
        return
    yield from _component(path, term, origin)
    weight = term.get("weight", 1.0)
    if weight != MISSING and (isinstance(weight, bool) or not isinstance(weight, (int, float))):
        key = ".".join((*path, "weight"))
        what = f"{key} is not a number: {quoted(weight)}"
        yield Problem(key, origin((*path, "weight")), what, f"{'.'.join(path)}: null removes a term")


def _section(path: Key, values: Mapping[str, Any], section: DictConfig, origin: Origin) -> Iterator[Problem]:
    for key, value in values.items():
        if key not in section:
            yield _unknown((*path, key), [str(known) for known in section], origin)
        elif refusal := validate(section, key, value):
            dotted = ".".join((*path, key))
            yield Problem(dotted, origin((*path, key)), f"{dotted}: {refusal.what}", refusal.hint)


def _unknown(path: Key, known: Collection[str], origin: Origin) -> Problem:
    section = f"in {'.'.join(path[:-1])}" if path[1:] else "in a recipe"
    return Problem(".".join(path), origin(path), f"unknown key {path[-1]!r} {section}", did_you_mean(path[-1], known))
