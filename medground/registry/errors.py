"""Who is to blame, for what, and what to do about it: failures of a plugin's own code as one `PluginError`."""

import contextlib
import re
import sys
from collections.abc import Iterator
from importlib import metadata

import medground
from medground.errors import PluginError
from medground.registry.discovery import OWN, Component, canonical, removal


@contextlib.contextmanager
def blaming(component: Component) -> Iterator[None]:
    """Turn whatever a plugin's own code does into one error; what it prints goes to stderr, stdout is for results."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        raise blame(component, error) from error


def blame(component: Component, error: BaseException) -> PluginError:
    """The failure `error` of the code of `component`, as one sentence with its remedy."""
    if isinstance(error, PluginError):
        return error
    who, hint = f"plugin {component.owner}", removal(component.distribution)
    if isinstance(error, ImportError):
        return _blame_import(component, error)
    if isinstance(error, SystemExit):
        return PluginError(f"{who} calls sys.exit({error.code!r}) when it is imported", hint=hint)
    return PluginError(f"{who} fails with {type(error).__name__}: {error}", hint=hint)


def misfit(component: Component, error: BaseException) -> PluginError:
    """The failure `error` of a plugin's own check, as one sentence with the versions of its libraries, and a remedy."""
    extras, short = _extras(component), _short(component)
    needed = extras.get(short) or extras.get("", [])
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in needed if name != OWN and _installed(name))
    reason = (str(error).strip().splitlines() or [""])[0]
    package = f"'{component.distribution}[{short}]'" if short in extras else component.distribution
    return PluginError(
        f"plugin {component.owner} does not work with {versions or 'what is installed'}: {type(error).__name__}: {reason}",
        hint=f"pip install --upgrade {package}",
    )


def _blame_import(component: Component, error: ImportError) -> PluginError:
    who, missing = f"plugin {component.owner}", error.name or ""
    if isinstance(error, ModuleNotFoundError) and missing and f"{component.module}.".startswith(f"{missing}."):
        return PluginError(
            f"{who} is declared, but its module is gone",
            hint=f"pip install --force-reinstall {component.distribution}, or pip uninstall {component.distribution}",
        )
    if missing.partition(".")[0] == OWN:
        wanted = " and ".join(r for r in _requirements(component) if _required(r) == OWN) or "a newer one"
        return PluginError(
            f"{who} asks for something that medground {medground.__version__} does not have: {error.msg}",
            hint=f"pip install --upgrade medground (it wants {wanted}); {removal(component.distribution)}",
        )
    if isinstance(error, ModuleNotFoundError) and missing:
        return PluginError(
            f"{who} needs the module {missing!r}, which is not installed", hint=_source(component, missing)
        )
    if not missing and (command := re.search(r"pip3? install [^`'\"\n]*[^`'\"\s.]", str(error))):
        text = " ".join(str(error).split())  # a library that says what it lacks and how to get it
        return PluginError(f"{who} lacks a package: {text}", hint=command[0])
    return PluginError(f"{who} fails with {type(error).__name__}: {error}", hint=_source(component, missing))


def lacking(component: Component) -> str | None:
    """The extra a component belongs to, as ``medground[sam]``, if something it asks for is not installed; else None."""
    extra = _short(component)
    for required in _extras(component).get(extra, []):
        if not _installed(required):
            return f"{component.distribution}[{extra}]"
    return None


def _installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _source(component: Component, module: str) -> str:
    """Which command installs what is missing: the extra of the owning distribution that asks for it, if any."""
    wanted, short, extras = canonical(module.partition(".")[0]), _short(component), _extras(component)
    asking = {extra for extra, required in extras.items() if any(f"{r}-".startswith(f"{wanted}-") for r in required)}
    if "" in asking:
        return f"pip install --force-reinstall {component.distribution}"
    if short in extras and (short in asking or not asking):  # what an extra needs in turn is missing too
        return f"pip install '{component.distribution}[{short}]'"
    if asking:
        smallest = min(asking, key=lambda extra: (len(extras[extra]), extra))
        return f"pip install '{component.distribution}[{smallest}]'"
    return f"install what provides {module!r}; else {removal(component.distribution)}"


def _extras(component: Component) -> dict[str, list[str]]:
    """Extra -> the distributions it asks for; under "" those that are always asked for."""
    extras: dict[str, list[str]] = {}
    for requirement in _requirements(component):
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
        extras.setdefault(extra[1] if extra else "", []).append(_required(requirement))
    return extras


def _short(component: Component) -> str:
    return canonical(component.module.partition(".")[0]).removeprefix("medground-")


def _requirements(component: Component) -> list[str]:
    try:
        return metadata.requires(component.distribution) or []
    except (metadata.PackageNotFoundError, OSError):
        return []


def _required(requirement: str) -> str:
    return canonical(re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0])
