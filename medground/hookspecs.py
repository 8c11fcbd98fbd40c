"""The whole plugin contract: a hook per kind of component, given a callback ``register(name, factory)``, and `self_check`.

A factory is a class or function taking flat keyword arguments with defaults; ``name`` and ``weight`` are recipe words
and may not be its parameters. A command is a `click.Command` itself. Declare one entry point per component in the group
``medground``:

    [project.entry-points.medground]
    "segmenter.threshold" = "medground_threshold"
"""

from collections.abc import Callable
from typing import Any, TypeVar

import pluggy

Factory = Callable[..., Any]
Register = Callable[[str, Factory], None]

KINDS = (
    "reasoner", "prompt_interface", "segmenter", "reward", "engine", "rollout", "tracker", "reader", "command",
)  # fmt: skip
"""The kinds of component."""
RESERVED = ("name", "weight")
"""Recipe words that a factory may not have as parameters."""
CORE_COMMANDS = frozenset(
    {"doctor", "eval", "export", "fetch", "ground", "plugins", "recipe", "reward", "run", "sweep", "train", "volume"}
)
"""The commands of medground itself, whose names no plugin can take."""

hookspec = pluggy.HookspecMarker("medground")
_mark = pluggy.HookimplMarker("medground")
Hook = TypeVar("Hook", bound=Callable[..., Any])


def hookimpl(function: Hook) -> Hook:
    """Mark a function of a plugin as one of the hooks below.

    >>> @hookimpl
    ... def register_segmenters(register):
    ...     register("mine", lambda: None)
    """
    return _mark(function)


def hook_name(kind: str) -> str:
    """Return the name of the hook that offers components of a kind."""
    return f"register_{kind}s"


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
def register_readers(register: Register) -> None:
    """Offer readers of dataset layouts: see `medground.data.source_samples.Reader`."""


@hookspec
def register_commands(register: Register) -> None:
    """Offer commands of the command line: a `click.Command` under the name that users type after ``medground``."""


@hookspec
def self_check() -> None:
    """Build something tiny of what the plugin offers and use it once; raise whatever goes wrong.

    Optional. ``medground doctor`` runs it in a process of its own, to learn whether the installed versions of the plugin's
    libraries fit together. It must need no GPU, no network and no weights that are not in the package, and take seconds.
    """
