"""The components of a pipeline before they are built."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from medground import registry
from medground.recipe import Recipe
from medground.recipe.choosing import is_grid
from medground.recipe.schema import KINDS
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


def of_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return the objects given for a recipe's components, else the components for later; None where the recipe names none.

    Where its own segmenter proposes, both keys hold the same.
    """
    components = {key: _component(recipe, key) for key in ("reasoner", "prompt_interface", "segmenter")}
    return components | {"proposer": components["segmenter"] if is_grid(recipe) else _component(recipe, "proposer")}


def _component(recipe: Recipe, key: str) -> Any:
    if key in recipe.objects:
        return recipe.objects[key]
    if key not in recipe.data:
        return None
    name, kind = recipe.data[key]["name"], KINDS[key]

    def build() -> Any:
        recipe.require_object(key)
        return registry.build(kind, name, **recipe.component(key).arguments)

    content = functools.cache(lambda: RunInputs(components=component_inputs(recipe, key)).digest)
    return Deferred(name, recipe.digest(key), build, lambda: registry.factory(kind, name), content)


def declared_kinds(component: Any, attribute: str) -> frozenset[PromptKind] | None:
    """Return the prompt kinds that a component declares, or its factory before it is built; None where they are not known."""
    holder = component.factory() if isinstance(component, Deferred) else component
    kinds = getattr(holder, attribute, None)
    return kinds if isinstance(kinds, frozenset) else None
