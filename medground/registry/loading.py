"""Load what a plugin registers: import its module, run one hook, compare with what it declares."""

import contextlib
import functools
import importlib
import inspect
import logging
import sys
from collections.abc import Mapping

import pluggy

from medground import hookspecs
from medground.errors import PluginError
from medground.hookspecs import RESERVED, Factory, hook_name
from medground.registry.discovery import GROUP, OWN, Component, components, uninstall_hint
from medground.registry.errors import as_plugin_error, as_self_check_error

log = logging.getLogger(__name__)


def load_factories(component: Component) -> Mapping[str, Factory]:
    """Return name -> factory of everything that the module of `component` registers of its kind.

    Before the module of a third party is imported, a log line names it: where it ends, crashes or stalls the interpreter,
    that line is the last one.

    Raises:
        PluginError: if it cannot be imported or registers something else than it declares.
    """
    return _load(component.module, component.kind)


@functools.cache
def _load(module: str, kind: str) -> Mapping[str, Factory]:
    declared = {entry.name: entry for entry in components(kind) if entry.module == module}
    component = next(iter(declared.values()))
    registered: dict[str, Factory] = {}

    def register(name: str, factory: Factory) -> None:
        if name in registered:
            raise ValueError(f"{kind} {name!r} is registered twice")
        _refuse_unusable(kind, name, factory)
        registered[name] = factory

    if component.distribution != OWN and module not in sys.modules:
        log.warning("importing plugin %s", component.owner)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            _caller(module, hook_name(kind))(register=register)
    except (Exception, SystemExit) as error:
        raise as_plugin_error(component, error) from error
    if set(registered) != set(declared):
        raise PluginError(
            f"plugin {component.owner} declares {kind} {_listed(declared)} but registers {_listed(registered)}",
            hint="its entry points and its hook must name the same components; "
            + uninstall_hint(component.distribution),
        )
    return registered


def run_self_check(component: Component) -> None:
    """Run the hook `self_check` of the module of `component`, if it has one.

    Raises:
        PluginError: if that fails: the installed versions of its libraries do not fit together.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            _caller(component.module, "self_check")()
    except (Exception, SystemExit) as error:
        raise as_self_check_error(component, error) from error


def _refuse_unusable(kind: str, name: str, factory: Factory) -> None:
    if not isinstance(name, str) or not callable(factory):
        raise TypeError(f"register takes a name and a callable, not {name!r} and {factory!r}")
    if kind == "command":
        from click import Command

        if not isinstance(factory, Command):
            raise TypeError(f"command {name!r} is no click command: {factory!r}")
    for word in RESERVED:
        if word in inspect.signature(factory).parameters:
            raise TypeError(f"{kind} {name!r} has a parameter {word!r}, which is a word of recipes")


def _caller(module_name: str, hook: str) -> pluggy.HookCaller:
    """Import a module, register it with the one manager, and return a call of its hook alone."""
    manager = _manager()
    if not manager.has_plugin(module_name):
        module = importlib.import_module(module_name)
        try:
            manager.register(module, module_name)
            manager.check_pending()
        except pluggy.PluginValidationError:
            manager.unregister(name=module_name)
            raise
    return manager.subset_hook_caller(hook, manager.get_plugins() - {manager.get_plugin(module_name)})


@functools.cache
def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "nothing"
