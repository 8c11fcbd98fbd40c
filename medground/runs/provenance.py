"""Where a run's numbers come from: the plugins, the libraries and the prompt behind them."""

import platform
from hashlib import sha256
from importlib import metadata

import numpy as np

from medground import registry
from medground.protocols import FingerprintedReasoner, PromptInterface, Reasoner
from medground.recipe import Recipe
from medground.types import Query, text_of

LIBRARIES = ("medground", "numpy", "torch", "transformers", "peft", "safetensors", "vllm")
KINDS = ("reasoner", "prompt_interface", "segmenter", "engine", "rollout")


def plugins(recipe: Recipe) -> dict[str, str]:
    """``kind.component`` -> distribution and version of everything a recipe names but its trackers."""
    used = [(kind, recipe.data[kind]["name"]) for kind in KINDS if kind in recipe.data]
    used += [("reward", component) for component, _, _ in recipe.terms.values()]
    found = [registry.find(kind, name) for kind, name in dict.fromkeys(used)]
    return {f"{each.kind}.{each.name}": f"{each.distribution} {each.version}" for each in found}


def versions() -> dict[str, str]:
    """Python and the libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def prompt_text(interface: PromptInterface) -> str:
    """What an interface asks, ``{question}`` in place of the question."""
    blank = Query(image=np.zeros((1, 1, 3), np.uint8), question="{question}")
    return text_of(interface.render(blank))


def prompt_sha256(interface: PromptInterface) -> str:
    """The hash of what an interface asks, the question left open."""
    return sha256(prompt_text(interface).encode(errors="surrogatepass")).hexdigest()


def processor_sha256(reasoner: Reasoner) -> str | None:
    """The hash of what lies between text and image and a model's inputs; None where the reasoner does not say."""
    return reasoner.processor_digest() if isinstance(reasoner, FingerprintedReasoner) else None
