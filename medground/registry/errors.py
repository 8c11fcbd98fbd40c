"""Failures of a plugin's own code as one `PluginError`: what is wrong, with which plugin, and what to do about it."""

import re
from importlib import metadata

import medground
from medground.errors import PluginError
from medground.registry.discovery import OWN, Component, canonical, uninstall_hint


def as_plugin_error(component: Component, error: BaseException) -> PluginError:
    """Return the failure `error` of the code of `component` as one sentence with its remedy."""
    if isinstance(error, PluginError):
        return error
    subject, hint = f"plugin {component.owner}", uninstall_hint(component.distribution)
    if isinstance(error, ImportError):
        return _as_import_error(component, error)
    if isinstance(error, SystemExit):
        return PluginError(f"{subject} calls sys.exit({error.code!r}) when it is imported", hint=hint)
    return PluginError(f"{subject} fails with {type(error).__name__}: {error}", hint=hint)


def as_self_check_error(component: Component, error: BaseException) -> PluginError:
    """Return the failure `error` of a plugin's self-check as one sentence, with the versions of its libraries."""
    extras, extra = _extras(component), _extra_name(component)
    required = extras.get(extra) or extras.get("", [])
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in required if name != OWN and _installed(name))
    reason = (str(error).strip().splitlines() or [""])[0]
    package = f"'{component.distribution}[{extra}]'" if extra in extras else component.distribution
    return PluginError(
        f"plugin {component.owner} does not work with {versions or 'what is installed'}: {type(error).__name__}: {reason}",
        hint=f"pip install --upgrade {package}",
    )


def missing_extra(component: Component) -> str | None:
    """Return the extra of a component, as ``medground[sam]``, if something it asks for is not installed; else None."""
    extra = _extra_name(component)
    if all(_installed(required) for required in _extras(component).get(extra, [])):
        return None
    return f"{component.distribution}[{extra}]"


def _as_import_error(component: Component, error: ImportError) -> PluginError:
    subject, missing = f"plugin {component.owner}", error.name or ""
    absent = isinstance(error, ModuleNotFoundError) and missing
    if absent and f"{component.module}.".startswith(f"{missing}."):
        return PluginError(
            f"{subject} is declared, but its module is gone",
            hint=f"pip install --force-reinstall {component.distribution}, or pip uninstall {component.distribution}",
        )
    if missing.partition(".")[0] == OWN:
        versions = " and ".join(line for line in _requirements(component) if _name(line) == OWN) or "a newer one"
        return PluginError(
            f"{subject} asks for something that medground {medground.__version__} does not have: {error.msg}",
            hint=f"pip install --upgrade medground (it wants {versions}); {uninstall_hint(component.distribution)}",
        )
    if absent:
        return PluginError(
            f"{subject} needs the module {missing!r}, which is not installed", hint=_install_hint(component, missing)
        )
    if not missing and (command := re.search(r"pip3? install [^`'\"\n]*[^`'\"\s.]", str(error))):
        text = " ".join(str(error).split())  # a library that says what it lacks and how to get it
        return PluginError(f"{subject} lacks a package: {text}", hint=command[0])
    return PluginError(f"{subject} fails with {type(error).__name__}: {error}", hint=_install_hint(component, missing))


def _installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _install_hint(component: Component, module: str) -> str:
    """Return the command that installs a missing module: the extra of the distribution that asks for it, if any."""
    package, own_extra, extras = canonical(module.partition(".")[0]), _extra_name(component), _extras(component)
    asking = {extra for extra, names in extras.items() if any(f"{name}-".startswith(f"{package}-") for name in names)}
    if "" in asking:
        return f"pip install --force-reinstall {component.distribution}"
    if own_extra in extras and (own_extra in asking or not asking):  # what an extra needs in turn is missing too
        return f"pip install '{component.distribution}[{own_extra}]'"
    if asking:
        own = f"{own_extra}-"
        nearest = min(asking, key=lambda extra: (not extra.startswith(own), len(extras[extra]), extra))
        return f"pip install '{component.distribution}[{nearest}]'"
    return f"install what provides {module!r}; else {uninstall_hint(component.distribution)}"


def _extras(component: Component) -> dict[str, list[str]]:
    """Extra -> the distributions it asks for; under "" those that are always asked for."""
    extras: dict[str, list[str]] = {}
    for requirement in _requirements(component):
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
        extras.setdefault(extra[1] if extra else "", []).append(_name(requirement))
    return extras


def _extra_name(component: Component) -> str:
    """Return the extra of a component: its own where it has one, as ``trackers-wandb``, else that of its plugin."""
    plugin = canonical(component.package).removeprefix("medground-")
    own = f"{plugin}-{canonical(component.name)}"
    return own if own in _extras(component) else plugin


def _requirements(component: Component) -> list[str]:
    try:
        return metadata.requires(component.distribution) or []
    except (metadata.PackageNotFoundError, OSError):
        return []


def _name(requirement: str) -> str:
    return canonical(re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0])
