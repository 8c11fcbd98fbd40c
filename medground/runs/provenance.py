"""The plugins, libraries and prompt that a run's numbers depend on."""

import platform
from collections.abc import Callable
from hashlib import sha256
from importlib import metadata

import numpy as np

from medground import registry
from medground.protocols import PromptInterface, Reasoner
from medground.recipe import Recipe
from medground.recipe.objects import ObjectRecord, describe
from medground.types import Query, text_of

LIBRARIES = ("medground", "numpy", "torch", "transformers", "peft", "safetensors", "vllm")


def plugins(recipe: Recipe) -> dict[str, str]:
    """Return ``kind.component`` -> distribution and version of everything a recipe names but its trackers."""
    components = [part for part in recipe.components() if part[1] != "tracker" and not recipe.is_object(part[0])]
    names = dict.fromkeys((kind, component.name) for _, kind, component in components)
    offers = [registry.find(kind, name) for kind, name in names]
    return {f"{item.kind}.{item.name}": f"{item.distribution} {item.version}" for item in offers}


def objects(recipe: Recipe) -> dict[str, ObjectRecord]:
    """Return dotted key -> what is recorded of every object that was given from Python.

    Samples were hashed when the recipe was made; other objects are hashed again, because their attributes may have changed.
    """
    given = recipe.objects.items()
    return {key: recipe.records[key] if key == "data" else describe(key, value) for key, value in given}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that are installed."""
    installed = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def prompt_text(interface: PromptInterface) -> str:
    """Return the prompt of an interface, with ``{question}`` in place of the question."""
    blank = Query(image=np.zeros((1, 1, 3), np.uint8), question="{question}")
    return text_of(interface.render(blank))


def prompt_sha256(interface: PromptInterface) -> str:
    """Return the hash of `prompt_text`."""
    return sha256(prompt_text(interface).encode(errors="surrogatepass")).hexdigest()


def processor_sha256(reasoner: Reasoner) -> str | None:
    """Return the hash of what turns text and image into a model's inputs; None if the reasoner does not tell."""
    digest: Callable[[], str] | None = getattr(reasoner, "processor_digest", None)
    return None if digest is None else digest()
