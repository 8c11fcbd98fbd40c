"""Components of a pipeline that are built when they are first needed."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from medground import registry
from medground.recipe import Recipe
from medground.runs.inputs import RunInputs, component_inputs
from medground.types import PromptKind

Built = TypeVar("Built")


@dataclass(frozen=True, slots=True)
class Deferred(Generic[Built]):
    """A component that a pipeline builds when it is first needed.

    Args:
        name: what reports call it.
        digest: stands for the component and its settings.
        build: makes it.
        factory: gives its class, which may declare prompt kinds, without making it.
        content: stands for the component's plugin and files; asked for only where a `StageCache` holds what it did.
    """

    name: str
    digest: str
    build: Callable[[], Built]
    factory: Callable[[], Any] = lambda: None
    content: Callable[[], str] = lambda: ""


def of_recipe(recipe: Recipe, kind: str) -> Any:
    """Return the object given for a recipe's component, else the component for later; None where the recipe names none."""
    if kind in recipe.objects:
        return recipe.objects[kind]
    if kind not in recipe.data:
        return None
    name = recipe.data[kind]["name"]

    def build() -> Any:
        recipe.require_object(kind)
        return registry.build(kind, name, **recipe.component(kind).arguments)

    content = functools.cache(lambda: RunInputs(components=component_inputs(recipe, kind)).digest)
    return Deferred(name, recipe.digest(kind), build, lambda: registry.factory(kind, name), content)


def declared_kinds(component: Any, attribute: str) -> frozenset[PromptKind] | None:
    """Return the prompt kinds that a component declares, or its factory before it is built; None where they are not known."""
    holder = component.factory() if isinstance(component, Deferred) else component
    kinds = getattr(holder, attribute, None)
    return kinds if isinstance(kinds, frozenset) else None
