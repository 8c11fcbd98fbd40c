"""What a plugin registers: import its module, run one hook, compare with what it declared."""

import contextlib
import functools
import importlib
import inspect
import sys
from collections.abc import Mapping

import pluggy

from medground import hookspecs
from medground.errors import PluginError
from medground.hookspecs import Factory
from medground.registry.discovery import GROUP, KINDS, Component, components, removal
from medground.registry.errors import blaming, misfit

RESERVED = ("name", "weight")
"""Recipe words that a factory may not have as parameters."""


def offers(component: Component) -> Mapping[str, Factory]:
    """Name -> factory of everything that the module of `component` registers of its kind.

    Raises:
        PluginError: if it cannot be imported or registers something else than it declares.
    """
    return _offers(component.module, component.kind)


@functools.cache
def _offers(module: str, kind: str) -> Mapping[str, Factory]:
    declared = {entry.name: entry for entry in components(kind) if entry.module == module}
    component = next(iter(declared.values()))
    registered: dict[str, Factory] = {}

    def register(name: str, factory: Factory) -> None:
        if name in registered:
            raise ValueError(f"{kind} {name!r} is registered twice")
        _refuse_unusable(kind, name, factory)
        registered[name] = factory

    with blaming(component):
        manager = _manager(module)
        getattr(manager.hook, KINDS[kind])(register=register)
    if set(registered) != set(declared):
        raise PluginError(
            f"plugin {component.owner} declares {kind} {_listed(declared)} but registers {_listed(registered)}",
            hint="its entry points and its hook must name the same components; " + removal(component.distribution),
        )
    return registered


def _refuse_unusable(kind: str, name: str, factory: Factory) -> None:
    if not isinstance(name, str) or not callable(factory):
        raise TypeError(f"register takes a name and a callable, not {name!r} and {factory!r}")
    for word in RESERVED:
        if word in inspect.signature(factory).parameters:
            raise TypeError(f"{kind} {name!r} has a parameter {word!r}, which is a word of recipes")


def check(component: Component) -> None:
    """Let the module of `component` build something tiny of what it offers, if it can.

    Raises:
        PluginError: if that fails: the installed versions of its libraries do not fit together.
    """
    manager = _manager(component.module)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            manager.hook.self_check()
    except (Exception, SystemExit) as error:
        raise misfit(component, error) from error


def _manager(module: str) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(importlib.import_module(module))
    manager.check_pending()
    return manager


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "nothing"
