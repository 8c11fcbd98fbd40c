"""Read what is declared, from metadata alone: entry points, and what they show to be wrong. Imports no plugin."""

import functools
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata

import medground
from medground.errors import PluginError, did_you_mean
from medground.hookspecs import CORE_COMMANDS, KINDS

GROUP = "medground"
OWN = "medground"
"""The distribution the core and the built-ins ship in."""


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Component:
    """One entry point of the group ``medground``, as its metadata states it."""

    kind: str
    name: str
    distribution: str
    version: str
    module: str
    """Where its hooks are; "" where the metadata does not name a module."""
    problem: str | None = None
    """What the metadata alone shows to be wrong: malformed, of an unknown kind, or owned twice."""
    hint: str | None = None
    """What to do about the problem."""

    @property
    def owner(self) -> str:
        """Distribution, version and module, for people."""
        return f"{self.distribution} {self.version} (module {self.module})"

    @property
    def package(self) -> str:
        """The top-level package of its module."""
        return self.module.partition(".")[0]


def kind_word(kind: str) -> str:
    """Return the kind as the registry spells it; ``prompt-interface`` is accepted for ``prompt_interface``.

    Raises:
        PluginError: if there is no such kind.
    """
    word = kind.replace("-", "_")
    if word not in KINDS:
        raise PluginError(f"there is no component kind {kind!r}", hint=did_you_mean(word, KINDS))
    return word


def components(kind: str | None = None) -> list[Component]:
    """Return everything that is declared, sorted; of one kind if given. Imports nothing, never raises for a plugin."""
    word = None if kind is None else kind_word(kind)
    declared = _scan(tuple(sys.path), os.environ.get("MEDGROUND_PLUGINS", ""))
    return [component for component in declared if word in (None, component.kind)]


def find(kind: str, name: str) -> Component:
    """Return the one owner of a name, from metadata alone.

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
            if canonical(name) in seen:  # an older copy further down the path
                continue
            seen.add(canonical(name))
            points = distribution.entry_points.select(group=GROUP)
        except (OSError, TypeError, ValueError) as error:
            name, version = _identity(distribution)
            yield Component(
                kind="", name="", distribution=name, version=version, module="",
                problem=f"the entry points of {name} {version} cannot be read: {error}",
                hint=uninstall_hint(name),
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
    subject = f"entry point {entry!r} of {distribution} {version}"
    problem = hint = None
    module = value if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", value) else ""
    if not dot or not re.fullmatch(r"\w[\w-]*", name):
        problem, hint = f"{subject} is not named <kind>.<component>", f"kinds: {', '.join(KINDS)}"
    elif kind not in KINDS:
        problem = f"{subject} is of a kind that medground {medground.__version__} does not know"
        hint = f"{did_you_mean(kind, KINDS)}; or it needs a newer medground: pip install --upgrade medground"
    elif not module:
        problem, hint = f"{subject} has the value {value!r}, which is not a module name", uninstall_hint(distribution)
    elif kind == "command" and name in CORE_COMMANDS:
        problem, hint = f"{subject} has the name of a command of {OWN} itself", uninstall_hint(distribution)
    return Component(
        kind=kind, name=name, distribution=distribution, version=version, module=module, problem=problem, hint=hint
    )


def _with_collision(owners: list[Component]) -> list[Component]:
    if len(owners) == 1 or owners[0].problem:
        return owners
    subject, names = f"{owners[0].kind} {owners[0].name!r}", " and ".join(owner.owner for owner in owners)
    others = [owner.distribution for owner in owners if owner.distribution != OWN]
    if len({owner.module for owner in owners}) == 1:
        built_in = len(others) < len(owners)
        problem = f"{subject} is installed twice, the same module from {names}"
        hint = f"pip uninstall {others[-1]}"
        if built_in:
            hint += f", whose code ships inside {OWN}; then pip install --force-reinstall --no-deps {OWN}"
    else:
        problem = f"{subject} has {len(owners)} owners: {names}"
        hint = f"pip uninstall {others[-1] if others else OWN}, or leave one out with MEDGROUND_PLUGINS"
    return [replace(owner, problem=problem, hint=hint) for owner in owners]


def _allowed(component: Component, only: str) -> bool:
    if not only.strip():
        return True
    names = {canonical(component.distribution), canonical(component.package)}
    names |= {name.removeprefix("medground-") for name in names}
    return bool(names & {canonical(word.strip()) for word in only.split(",")})


def canonical(name: str) -> str:
    """Return a distribution or package name in the one spelling that all its spellings share."""
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
    return did_you_mean(name, {component.name for component in components(kind)})


def uninstall_hint(distribution: str) -> str:
    """Return what to do about a plugin that only its author can fix."""
    if distribution == OWN:
        return f"pip install --force-reinstall {OWN}"
    return f"tell its author, or pip uninstall {distribution}"
