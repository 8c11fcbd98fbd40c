"""Check plugins in a process of their own, where one that crashes, ends or stalls the interpreter harms no other.

Only ``medground doctor`` and ``medground plugins doctor`` do this; in use a plugin is imported here, once.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from medground.children import start_python
from medground.errors import MedgroundError
from medground.registry.discovery import Component, components, uninstall_hint
from medground.registry.errors import missing_extra
from medground.registry.loading import load_factories, run_self_check

SECONDS = 30.0
"""How long a plugin may take to import, where nothing else is said."""
CHECK_SECONDS = 600.0
"""How long a plugin's self-check may take on top: only one that hangs takes so long."""
IMPORTED = "imported"
"""The file that the child process leaves beside its answer once everything is imported and the self-check begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with a plugin, and what to do about it."""

    cause: str
    remedy: str | None = None


def check_plugin(component: Component, seconds: float = SECONDS) -> Problem | None:
    """Import the module of `component` in a child process, run the hooks of all kinds it declares and its self-check.

    The self-check is left out where a library of the plugin's extra is not installed.

    Args:
        component: any one of the module's.
        seconds: for importing.

    Returns:
        What is wrong, or None.
    """
    code = "from medground.registry.isolation import answer; answer()"
    with tempfile.TemporaryDirectory(prefix="medground-", ignore_cleanup_errors=True) as folder:
        path, printed = Path(folder, "answer.json"), Path(folder, "stdout")
        with printed.open("wb") as stdout:
            child = start_python(code, component.distribution, component.module, str(path), stdout=stdout)
            try:
                status = _wait(child, seconds)
                if status is None and path.with_name(IMPORTED).exists():
                    status = _wait(child, CHECK_SECONDS)
            finally:
                _end(child)
        return _problem(component, status, seconds, path, printed.stat().st_size)


def answer() -> None:
    """Check one plugin in this process, the child, and write the answer to a file: stdout belongs to the plugin."""
    distribution, module, path = sys.argv[1:]
    with contextlib.suppress(Exception, SystemExit):  # here, so that what it prints is seen; it raises again below
        importlib.import_module(module)
    problem: dict[str, str | None] | None = None
    entries = [entry for entry in components() if (entry.distribution, entry.module) == (distribution, module)]
    component = entries[0]
    try:
        for entry in {entry.kind: entry for entry in entries}.values():
            load_factories(entry)
        if any(missing_extra(entry) is None for entry in entries):
            sys.stdout.flush()
            os.dup2(2, 1)  # what libraries print while they work is no fault of the plugin's
            Path(path).with_name(IMPORTED).touch()
            run_self_check(component)
    except MedgroundError as error:
        problem = {"cause": error.message.removeprefix(f"plugin {component.owner} "), "remedy": error.hint}
    sys.stdout.flush()
    Path(path).write_text(json.dumps(problem), encoding="utf-8")


def _wait(child: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    """Return the child's exit status, or None where it goes on after `seconds`."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End the child, and on POSIX whatever it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    child.wait()


def _problem(component: Component, status: int | None, seconds: float, path: Path, printed: int) -> Problem | None:
    remedy = uninstall_hint(component.distribution)
    checking = path.with_name(IMPORTED).exists()
    if status is None and checking:
        return Problem(cause=f"does not finish its self-check within {CHECK_SECONDS:g} s", remedy=remedy)
    if status is None:
        slow = f"medground plugins doctor --seconds {4 * seconds:g} if it is only slow; else {remedy}"
        return Problem(cause=f"does not finish importing within {seconds:g} s", remedy=slow)
    if not path.exists():
        when = "it checks itself" if checking else "it is imported"
        return Problem(cause=f"{ending(status)} when {when}", remedy=remedy)
    problem = json.loads(path.read_text(encoding="utf-8"))
    if problem is not None:
        return Problem(**problem)
    return (
        Problem(cause="prints to stdout when it is imported", remedy=f"harmless in use; {remedy}") if printed else None
    )


def finish(child: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    """Return the exit status of a child that `start_python` started, or None where it is ended after `seconds`."""
    try:
        return _wait(child, seconds)
    finally:
        _end(child)


def ending(status: int) -> str:
    """Return what an exit status says of a process, after its name."""
    if status >= 0:
        return f"ends the interpreter (exit status {status})"
    try:
        return f"crashes the interpreter ({signal.Signals(-status).name})"
    except ValueError:
        return f"crashes the interpreter (signal {-status})"
