"""Trying a plugin in a process of its own, so that one which crashes, exits or hangs costs nothing but itself."""

import contextlib
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from medground.errors import MedgroundError, PluginError
from medground.registry.discovery import OWN, Component, components, removal
from medground.registry.errors import lacking
from medground.registry.loading import check, offers

SECONDS = 30.0
CHECK_SECONDS = 600.0
"""How long a plugin's self-check may take on top: only one that hangs takes so long."""
IMPORTED = "imported"
"""The file that the child process leaves beside its answer once everything is imported and the self-check begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How importing one plugin and running its hooks went, and its self-check where that was asked for."""

    cause: str | None = None
    """What is wrong, or None."""
    remedy: str | None = None
    died: bool = False
    """True when the process did not live to tell: it crashed, exited or hung."""


def survive(component: Component) -> None:
    """Before a stranger's module is first imported here, see in a child process that the process survives it.

    What ships with medground is not tried, nor what is imported already; a failure that can be caught is left to the
    import itself, which knows more about it.

    Raises:
        PluginError: if it crashes the interpreter, ends it, or does not finish.
    """
    limit = seconds()
    if component.distribution != OWN and component.module not in sys.modules and limit > 0:
        _survive(component, limit)


@functools.cache
def _survive(component: Component, limit: float) -> None:
    found = attempt(component, limit)
    if found.died:
        raise PluginError(f"plugin {component.owner} {found.cause}", hint=found.remedy)


def seconds() -> float:
    """The time limit for importing one plugin: `MEDGROUND_PLUGIN_SECONDS`, or 30."""
    text = os.environ.get("MEDGROUND_PLUGIN_SECONDS", str(SECONDS))
    try:
        return float(text)
    except ValueError:
        raise PluginError(f"MEDGROUND_PLUGIN_SECONDS is not a number: {text!r}", hint="such as 30, or 0") from None


def attempt(component: Component, limit: float, *, self_check: bool = False) -> Trial:
    """Import the module of `component` in a child process, run the hooks of all kinds it declares, and say how it went.

    Args:
        component: any one of the module's.
        limit: for importing, in seconds.
        self_check: run the plugin's hook of that name too, unless a library that it needs is missing.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folder or os.getcwd() for folder in sys.path)}
    code = "from medground.registry.isolation import report; report()"
    with tempfile.TemporaryDirectory(prefix="medground-", ignore_cleanup_errors=True) as folder:
        answer, printed = Path(folder, "answer.json"), Path(folder, "stdout")
        with printed.open("wb") as stdout:
            child = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-c",
                    code,
                    component.distribution,
                    component.module,
                    str(answer),
                    str(self_check),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                status = _wait(child, limit)
                if status is None and answer.with_name(IMPORTED).exists():
                    status = _wait(child, CHECK_SECONDS)
            finally:
                _end(child)
        return _verdict(component, status, limit, answer, printed.stat().st_size)


def report() -> None:
    """What the child process runs; its answer goes to a file, for stdout belongs to the plugin."""
    distribution, module, answer, self_check = sys.argv[1:]
    with contextlib.suppress(Exception, SystemExit):  # asked again below, where the cause is put into words
        importlib.import_module(module)
    found: dict[str, str | None] = {}
    mine = {entry.kind: entry for entry in components() if (entry.distribution, entry.module) == (distribution, module)}
    component = next(iter(mine.values()))
    try:
        for each in mine.values():
            offers(each)
        if self_check == "True" and lacking(component) is None:
            sys.stdout.flush()
            os.dup2(2, 1)  # what libraries print while they work is no fault of the plugin's
            Path(answer).with_name(IMPORTED).touch()
            check(component)
    except MedgroundError as error:
        found = {"cause": error.message.removeprefix(f"plugin {component.owner} "), "remedy": error.hint}
    sys.stdout.flush()
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


def _wait(child: "subprocess.Popen[bytes]", limit: float) -> int | None:
    """The child's exit status, or None where it goes on after `limit` seconds."""
    try:
        return child.wait(limit)
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


def _verdict(component: Component, status: int | None, limit: float, answer: Path, printed: int) -> Trial:
    remedy = removal(component.distribution)
    checking = answer.with_name(IMPORTED).exists()
    when = "it checks itself" if checking else "it is imported"
    if status is None and checking:
        return Trial(cause=f"does not finish its self-check within {CHECK_SECONDS:g} s", remedy=remedy, died=True)
    if status is None:
        slow = f"raise MEDGROUND_PLUGIN_SECONDS if it is only slow; else {remedy}"
        return Trial(cause=f"does not finish importing within {limit:g} s", remedy=slow, died=True)
    if not answer.exists():
        return Trial(cause=f"{_ending(status)} when {when}", remedy=remedy, died=True)
    found = Trial(**json.loads(answer.read_text(encoding="utf-8")))
    if found.cause is None and printed:
        return Trial(cause="prints to stdout when it is imported", remedy=f"harmless in use; {remedy}")
    return found


def _ending(status: int) -> str:
    if status >= 0:
        return f"ends the interpreter (exit status {status})"
    try:
        return f"crashes the interpreter ({signal.Signals(-status).name})"
    except ValueError:
        return f"crashes the interpreter (signal {-status})"
