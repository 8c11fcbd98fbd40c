"""Which components exist, who owns them, and how to get one.

Discovery reads entry-point metadata only (group ``medground``, names ``<kind>.<component>``): nothing is imported, and
a broken plugin is listed with its problem. Use imports the owner of one name only and stops with the cause when
anything is wrong with it. `MEDGROUND_PLUGINS` restricts what is seen: ``none``, or a comma-separated list of
distributions or packages, with or without their ``medground-`` prefix.
"""

import contextlib
import functools
import importlib
import inspect
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import pluggy

import medground
from medground import hookspecs
from medground.errors import PluginError, RecipeError, nearest
from medground.hookspecs import Factory

GROUP = "medground"
OWN = "medground"
"""The distribution the core and the built-ins ship in."""
KINDS: Mapping[str, str] = {
    "reasoner": "register_reasoners",
    "prompt_interface": "register_prompt_interfaces",
    "segmenter": "register_segmenters",
    "reward": "register_rewards",
    "engine": "register_engines",
    "rollout": "register_rollouts",
    "tracker": "register_trackers",
}
"""Kind of component -> the hook that offers it."""
RESERVED = ("name", "weight")
"""Recipe words that a factory may not have as parameters."""


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Component:
    """One entry point of the group ``medground``, as its metadata states it."""

    kind: str
    name: str
    distribution: str
    version: str
    module: str
    problem: str | None = None
    """What the metadata alone shows to be wrong: malformed, of an unknown kind, or owned twice."""
    hint: str | None = None
    """What to do about the problem."""

    @property
    def owner(self) -> str:
        """Distribution, version and module, for people."""
        return f"{self.distribution} {self.version} (module {self.module})"


def kind_word(kind: str) -> str:
    """The kind as the registry spells it; ``prompt-interface`` is accepted for ``prompt_interface``.

    Raises:
        PluginError: if there is no such kind.
    """
    word = kind.replace("-", "_")
    if word not in KINDS:
        raise PluginError(f"there is no component kind {kind!r}", hint=nearest(word, KINDS))
    return word


def components(kind: str | None = None) -> list[Component]:
    """Everything that is declared, sorted; of one kind only if given. Imports nothing and never raises for a plugin."""
    word = None if kind is None else kind_word(kind)
    found = _scan(tuple(sys.path), os.environ.get("MEDGROUND_PLUGINS", ""))
    return [component for component in found if word in (None, component.kind)]


def find(kind: str, name: str) -> Component:
    """The one owner of a name, from metadata alone.

    Raises:
        PluginError: if the name is unknown, malformed or has two owners.
    """
    word = kind_word(kind)
    owners = _owners(word, name)
    if not owners:
        _scan.cache_clear()  # it may have been installed since, as notebooks do
        owners = _owners(word, name)
    if not owners:
        raise PluginError(f"there is no {word} {name!r}", hint=_where_else(word, name))
    if owners[0].problem:
        raise PluginError(owners[0].problem, hint=owners[0].hint)
    return owners[0]


def factory(kind: str, name: str) -> Factory:
    """The factory registered under a name; imports the owner of that name and nothing else.

    Raises:
        PluginError: if the name is unknown or has two owners, or its plugin cannot be imported or does not register
            exactly what it declares.
    """
    component = find(kind, name)
    return offers(component)[component.name]


def bind(kind: str, name: str, arguments: Mapping[str, Any]) -> inspect.BoundArguments:
    """Match arguments to a factory's signature without calling it: no weights are loaded.

    Raises:
        RecipeError: if an argument is unknown or a required one is missing.
        PluginError: as `factory`.
    """
    signature = inspect.signature(factory(kind, name))
    parameters = signature.parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        for word in arguments:
            if word not in signature.parameters:
                raise RecipeError(
                    f"{kind_word(kind)} {name!r} has no argument {word!r}", hint=nearest(word, signature.parameters)
                )
    try:
        return signature.bind(**arguments)
    except TypeError as error:
        raise RecipeError(f"{kind_word(kind)} {name!r}: {error}", hint=f"its arguments: {signature}") from error


def build(kind: str, name: str, /, **arguments: Any) -> Any:
    """Make a component: ``build("segmenter", "medsam", checkpoint="medsam.safetensors")``.

    Raises:
        RecipeError: if its arguments do not fit.
        PluginError: as `factory`, or if a library it needs is missing.
    """
    bound = bind(kind, name, arguments)
    try:
        return factory(kind, name)(*bound.args, **bound.kwargs)
    except ImportError as error:
        raise _blame(find(kind, name), error) from error
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{kind_word(kind)} {name!r} cannot be made with {dict(arguments)}: {error}") from error


def offers(component: Component) -> Mapping[str, Factory]:
    """Name -> factory of everything that the module of `component` registers of its kind.

    Raises:
        PluginError: if it cannot be imported or registers something else than it declares.
    """
    return _offers(component.module, component.kind)


# Discovery: metadata only.


@functools.lru_cache(maxsize=4)
def _scan(path: tuple[str, ...], only: str) -> tuple[Component, ...]:
    by_name: dict[tuple[str, str], list[Component]] = defaultdict(list)
    for component in sorted({entry for entry in _entries(path) if _allowed(entry, only)}):
        by_name[component.kind, component.name].append(component)
    return tuple(sorted(entry for owners in by_name.values() for entry in _with_collision(owners)))


def _entries(path: tuple[str, ...]) -> Iterator[Component]:
    seen = set()
    for distribution in metadata.distributions(path=list(path)):
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if f"[{GROUP}]" not in text:
                continue
            name, version = _identity(distribution)
            if _canonical(name) in seen:  # an older copy further down the path
                continue
            seen.add(_canonical(name))
            points = distribution.entry_points.select(group=GROUP)
        except (OSError, TypeError, ValueError) as error:
            name, version = _identity(distribution)
            yield Component(
                kind="", name="", distribution=name, version=version, module="",
                problem=f"the entry points of {name} {version} cannot be read: {error}",
                hint=_removal(name),
            )  # fmt: skip
            continue
        for point in points:
            yield _component(point.name, point.value, name, version)


def _identity(distribution: metadata.Distribution) -> tuple[str, str]:
    try:
        fields = distribution.metadata
        return fields["Name"] or "unknown", fields["Version"] or "?"
    except (KeyError, OSError, TypeError, ValueError):
        return "unknown", "?"


def _component(entry: str, value: str, distribution: str, version: str) -> Component:
    kind, dot, name = entry.partition(".")
    kind = kind.replace("-", "_")
    who = f"entry point {entry!r} of {distribution} {version}"
    problem = hint = None
    if not dot or not re.fullmatch(r"\w[\w-]*", name):
        problem, hint = f"{who} is not named <kind>.<component>", f"kinds: {', '.join(KINDS)}"
    elif kind not in KINDS:
        problem = f"{who} is of a kind that medground {medground.__version__} does not know"
        hint = f"{nearest(kind, KINDS)}; or it needs a newer medground: pip install --upgrade medground"
    elif not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", value):
        problem, hint = f"{who} has the value {value!r}, which is not the name of a module", _removal(distribution)
    return Component(
        kind=kind, name=name, distribution=distribution, version=version, module=value, problem=problem, hint=hint
    )


def _with_collision(owners: list[Component]) -> list[Component]:
    if len(owners) == 1 or owners[0].problem:
        return owners
    what, who = f"{owners[0].kind} {owners[0].name!r}", " and ".join(owner.owner for owner in owners)
    others = [owner.distribution for owner in owners if owner.distribution != OWN]
    if len({owner.module for owner in owners}) == 1:
        built_in = len(others) < len(owners)
        problem = f"{what} is installed twice, the same module from {who}"
        hint = f"pip uninstall {others[-1]}"
        if built_in:
            hint += f", whose code ships inside {OWN}; then pip install --force-reinstall --no-deps {OWN}"
    else:
        problem = f"{what} has {len(owners)} owners: {who}"
        hint = f"pip uninstall {others[-1] if others else OWN}, or leave one out with MEDGROUND_PLUGINS"
    return [replace(owner, problem=problem, hint=hint) for owner in owners]


def _allowed(component: Component, only: str) -> bool:
    if not only.strip():
        return True
    package = component.module.partition(".")[0]
    names = {_canonical(component.distribution), _canonical(package)}
    names |= {name.removeprefix("medground-") for name in names}
    return bool(names & {_canonical(word.strip()) for word in only.split(",")})


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _owners(kind: str, name: str) -> list[Component]:
    return [component for component in components(kind) if component.name == name]


def _where_else(kind: str, name: str) -> str:
    only = os.environ.get("MEDGROUND_PLUGINS", "")
    if only and any((entry.kind, entry.name) == (kind, name) for entry in _scan(tuple(sys.path), "")):
        return f"MEDGROUND_PLUGINS={only} leaves it out"
    kinds = [entry.kind for entry in components() if entry.name == name]
    if kinds:
        return f"{name!r} is a {kinds[0]}"
    return nearest(name, {component.name for component in components(kind)})


# Use: import the owner, run its hook, compare with what it declared.


@functools.cache
def _offers(module: str, kind: str) -> Mapping[str, Factory]:
    declared = {entry.name: entry for entry in components(kind) if entry.module == module and not entry.problem}
    component = next(iter(declared.values()))
    registered: dict[str, Factory] = {}

    def register(name: str, factory: Factory) -> None:
        if name in registered:
            raise ValueError(f"{kind} {name!r} is registered twice")
        _refuse_unusable(kind, name, factory)
        registered[name] = factory

    with _blaming(component):
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(importlib.import_module(module))
        manager.check_pending()
        getattr(manager.hook, KINDS[kind])(register=register)
    if set(registered) != set(declared):
        raise PluginError(
            f"plugin {component.owner} declares {kind} {_listed(declared)} but registers {_listed(registered)}",
            hint="its entry points and its hook must name the same components; " + _removal(component.distribution),
        )
    return registered


def _refuse_unusable(kind: str, name: str, factory: Factory) -> None:
    if not isinstance(name, str) or not callable(factory):
        raise TypeError(f"register takes a name and a callable, not {name!r} and {factory!r}")
    for word in RESERVED:
        if word in inspect.signature(factory).parameters:
            raise TypeError(f"{kind} {name!r} has a parameter {word!r}, which is a word of recipes")


@contextlib.contextmanager
def _blaming(component: Component) -> Iterator[None]:
    """Turn whatever a plugin's own code does into one error; what it prints goes to stderr, stdout is for results."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:  # noqa: BLE001 foreign code: any failure of it is the plugin's, not ours
        raise _blame(component, error) from error


def _blame(component: Component, error: BaseException) -> PluginError:
    if isinstance(error, PluginError):
        return error
    who, hint = f"plugin {component.owner}", _removal(component.distribution)
    if isinstance(error, ModuleNotFoundError) and error.name and f"{component.module}.".startswith(f"{error.name}."):
        return PluginError(
            f"{who} is declared, but its module is gone",
            hint=f"pip install --force-reinstall {component.distribution}, or pip uninstall {component.distribution}",
        )
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == OWN:
        wanted = " and ".join(r for r in _requirements(component) if _required(r) == OWN) or "a newer one"
        return PluginError(
            f"{who} asks for something that medground {medground.__version__} does not have: {error.msg}",
            hint=f"pip install --upgrade medground (it wants {wanted}); " + hint,
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        return PluginError(
            f"{who} needs the module {error.name!r}, which is not installed", hint=_source(component, error.name)
        )
    if isinstance(error, SystemExit):
        return PluginError(f"{who} calls sys.exit({error.code!r}) when it is imported", hint=hint)
    return PluginError(f"{who} failed with {type(error).__name__}: {error}", hint=hint)


def _source(component: Component, module: str) -> str:
    """Which command installs a missing module: the extra of the owning distribution that asks for it, if any."""
    wanted, short = _canonical(module.partition(".")[0]), _canonical(component.module).removeprefix("medground-")
    asking, plain = set(), False
    for requirement in _requirements(component):
        if f"{_required(requirement)}-".startswith(f"{wanted}-"):
            extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
            plain |= extra is None
            if extra:
                asking.add(extra[1])
    if asking:
        best = short if short in asking else min(asking)
        return f"pip install '{component.distribution}[{best}]'"
    if plain:
        return f"pip install --force-reinstall {component.distribution}"
    return f"install the package that provides {module!r}, or " + _removal(component.distribution)


def _requirements(component: Component) -> list[str]:
    try:
        return metadata.requires(component.distribution) or []
    except (metadata.PackageNotFoundError, OSError):
        return []


def _required(requirement: str) -> str:
    return _canonical(re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0])


def _removal(distribution: str) -> str:
    return f"tell its author, or pip uninstall {distribution}"


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "nothing"
