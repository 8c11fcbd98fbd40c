"""The whole plugin contract: seven hooks, each handed a callback ``register(name, factory)``, and `self_check`.

A factory is a class or function taking flat keyword arguments with defaults; ``name`` and ``weight`` are recipe words
and may not be its parameters. Declare one entry point per component in the group ``medground``:

    [project.entry-points.medground]
    "segmenter.threshold" = "medground_threshold"
"""

from collections.abc import Callable
from typing import Any

import pluggy

Factory = Callable[..., Any]
Register = Callable[[str, Factory], None]

hookspec = pluggy.HookspecMarker("medground")
hookimpl = pluggy.HookimplMarker("medground")


@hookspec
def register_reasoners(register: Register) -> None:
    """Offer reasoners: see `medground.protocols.Reasoner`."""


@hookspec
def register_prompt_interfaces(register: Register) -> None:
    """Offer prompt interfaces: see `medground.protocols.PromptInterface`."""


@hookspec
def register_segmenters(register: Register) -> None:
    """Offer segmenters: see `medground.protocols.Segmenter`."""


@hookspec
def register_rewards(register: Register) -> None:
    """Offer reward terms: see `medground.protocols.Reward`."""


@hookspec
def register_engines(register: Register) -> None:
    """Offer training engines: see `medground.protocols.Engine`."""


@hookspec
def register_rollouts(register: Register) -> None:
    """Offer rollout sources: see `medground.protocols.RolloutSource`."""


@hookspec
def register_trackers(register: Register) -> None:
    """Offer trackers: see `medground.protocols.Tracker`."""


@hookspec
def self_check() -> None:
    """Build something tiny of what the plugin offers and use it once; raise whatever goes wrong.

    Optional. ``medground doctor`` runs it in a process of its own, to learn whether the installed versions of the plugin's
    libraries fit together. It must need no GPU, no network and no weights that are not in the package, and take seconds.
    """
