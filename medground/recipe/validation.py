"""What is wrong with the shape of a recipe: words it may not use, values that do not suit their setting."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from medground.errors import RecipeError, did_you_mean
from medground.recipe.schema import COMPONENTS, RECIPE_WORDS, SETTINGS, TOP, objection
from medground.recipe.yaml_reader import MAX_KEY, MISSING, Key, shown

Place = Callable[[Key], str]
MAX_PROBLEMS = 20
"""Enough to mend a recipe by; looking up the nearest match of thousands would take long."""


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


def problems(data: dict[str, Any], place: Place) -> list[Problem]:
    """The first problems of a merged recipe's shape; of components, only whether they have a name."""
    return list(islice(_top(data, place), MAX_PROBLEMS))


def _top(data: dict[str, Any], place: Place) -> Iterator[Problem]:
    for key, value in data.items():
        if key in RECIPE_WORDS:
            continue
        if key not in TOP:
            yield _unknown((key,), TOP, place)
        elif key in COMPONENTS:
            yield from _component((key,), value, place)
        elif key == "rewards":
            yield from _terms(value, place)
        elif key == "trackers":
            for index, tracker in enumerate(value or ()):
                yield from _component((key, str(index)), tracker, place)
        elif value is not None:
            yield from _setting((key,), SETTINGS[key], value, place)


def _component(path: Key, value: Any, place: Place) -> Iterator[Problem]:
    if value is None:
        return
    name = value.get("name")
    where, dotted = place((*path, "name") if "name" in value else path), ".".join(path)
    if name is None:
        yield Problem(dotted, where, f"{dotted} has no name", f"write {dotted}: NAME, or name: among its lines")
    elif not isinstance(name, str) or not 0 < len(name) <= MAX_KEY:
        yield Problem(dotted, where, f"{dotted} has the name {shown(name)}, which is none", "medground plugins list")


def _terms(rewards: Any, place: Place) -> Iterator[Problem]:
    for label, term in (rewards or {}).items():
        path = ("rewards", label)
        if term is None:
            continue
        yield from _component(path, term, place)
        weight = term.get("weight", 1.0)
        if weight != MISSING and (isinstance(weight, bool) or not isinstance(weight, (int, float))):
            key = ".".join((*path, "weight"))
            where = place((*path, "weight"))
            yield Problem(
                key, where, f"{key} is {shown(weight)}, not a number", f"rewards.{label}: null removes a term"
            )


def _setting(path: Key, setting: Any, value: Any, place: Place) -> Iterator[Problem]:
    if value == MISSING:
        return
    if wrong := objection(setting, value):
        dotted = ".".join(path)
        yield Problem(dotted, place(path), f"{dotted}: {wrong[0]}", wrong[1])
    elif isinstance(setting, dict):
        for key, each in value.items():
            if key in setting:
                yield from _setting((*path, key), setting[key], each, place)
            else:
                yield _unknown((*path, key), setting, place)


def _unknown(path: Key, known: Any, place: Place) -> Problem:
    section = f"in {'.'.join(path[:-1])}" if path[1:] else "in a recipe"
    return Problem(".".join(path), place(path), f"unknown key {path[-1]!r} {section}", did_you_mean(path[-1], known))
