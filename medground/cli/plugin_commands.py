"""The commands that plugins declare, as ``medground --help`` lists them: from files, without importing a plugin."""

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def plugin_commands() -> dict[str, str]:
    """Return name -> one line about it, of every command that a plugin declares.

    The line is the summary of the distribution; for the built-ins, which share one, the first line of the package's
    docstring. The registry, whose importlib.metadata takes longer than all else in ``--help``, is asked only where a
    distribution other than medground declares a command, or MEDGROUND_PLUGINS is set.
    """
    declared: dict[str, dict[str, str]] = {}
    for distribution, commands in _declared():
        declared.setdefault(distribution, commands)
    if declared.keys() <= {"medground"} and not os.environ.get("MEDGROUND_PLUGINS"):
        return {name: _docstring(module) for name, module in declared.get("medground", {}).items()}

    from importlib.metadata import metadata

    from medground.registry import OWN, components

    return {
        entry.name: _docstring(entry.module)
        if entry.distribution == OWN
        else (metadata(entry.distribution).get_all("Summary") or [""])[0]
        for entry in components("command")
        if entry.problem is None
    }


def _declared() -> Iterator[tuple[str, dict[str, str]]]:
    """Distributions with the commands they declare, name -> module, in the order of the path."""
    for folder in sys.path:
        with suppress(OSError):
            for info in sorted(name for name in os.listdir(folder or ".") if name.endswith("-info")):
                with suppress(OSError, UnicodeDecodeError):
                    text = Path(folder, info, "entry_points.txt").read_text(encoding="utf-8")
                    if commands := dict(re.findall(r"^command\.([\w-]+)\s*=\s*([\w.]+)", text, re.MULTILINE)):
                        yield info.partition("-")[0], commands


def _docstring(module: str) -> str:
    """The first line of the docstring of a module's top-level package."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec is None or spec.origin is None:
        return ""
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    return (docstring or "").partition("\n")[0]
