"""Failpoints: named moments at which a test can make a run fail.

``MEDGROUND_FAULT=point:action`` or ``point:action:n`` arms one point for its n-th passing (the first by default):
``save.before_rename:kill:2`` kills the process before the second checkpoint is renamed into place. Actions: ``kill``
(SIGKILL to this process), ``term`` (SIGTERM), ``enospc`` and ``eio`` (the operating system's errors). It exists so that
recovery is tested where it matters, by a process that really dies there.
"""

import errno
import os
import signal
from collections import Counter

from medground.errors import RecipeError, did_you_mean

VARIABLE = "MEDGROUND_FAULT"
POINTS = (
    "rollout.mid",
    "reward.mid",
    "update.mid",
    "eval.mid",
    "log.write",
    "save.after_model",
    "save.before_manifest",
    "save.before_rename",
    "save.after_rename",
    "save.before_latest",
    "prune.mid",
    "export.mid",
    "files.append",
    "files.replace",
)
ACTIONS = ("kill", "term", "enospc", "eio")

_passed: Counter[str] = Counter()


def failpoint(point: str) -> None:
    """Fail here if this point is armed; otherwise it costs one look-up."""
    armed = os.environ.get(VARIABLE)
    if armed is None:
        return
    name, action, turn = _parse(armed)
    if name != point:
        return
    _passed[armed] += 1
    if _passed[armed] == turn:
        _do(action, point)


def _parse(armed: str) -> tuple[str, str, int]:
    name, _, rest = armed.partition(":")
    action, _, turn = rest.partition(":")
    for word, known in ((name, POINTS), (action, ACTIONS)):
        if word not in known:
            raise RecipeError(f"{VARIABLE}={armed!r} names {word!r}", hint=did_you_mean(word, known))
    return name, action, int(turn) if turn.isdecimal() else 1


def _do(action: str, point: str) -> None:
    if action in ("kill", "term"):
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGTERM)
        return
    number = errno.ENOSPC if action == "enospc" else errno.EIO
    raise OSError(number, os.strerror(number), point)
