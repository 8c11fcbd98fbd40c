"""Terms that do harm, as somebody's own file: what each does, and the kind of failure that it is; None where it has a value.

This file is itself given to commands as ``--term NAME=tests/bad_terms.py:FUNCTION``.
"""

import math
import os
import signal
import sys
import threading

LIMIT = 0.5
KINDS = {
    "leaves": "left",
    "leaves_politely": "raised",
    "hangs": "late",
    "hangs_and_ignores_signals": "late",
    "raises": "raised",
    "raises_what_nobody_catches": "left",
    "not_a_number": "nan",
    "endless": "infinite",
    "text": "wrong_type",
    "array": "wrong_type",
    "too_many": "wrong_length",
    "kills_itself": "left",
    "eats_memory": "raised",
    "closes_everything": "left",
    "becomes_another_program": "left",
    "prints": None,
    "spoils_what_it_reads": None,
    "spoils_python": None,
    "starts_a_thread": None,
    "closes_stdout": None,
    "forks": None,
    "leaves_a_child_behind": None,
}
"""Function -> kind of failure."""


def leaves(rollout):
    os._exit(0)


def leaves_politely(rollout):
    sys.exit(0)


def hangs(rollout):
    while True:
        pass


def hangs_and_ignores_signals(rollout):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    threading.Event().wait()


hangs.time_limit = hangs_and_ignores_signals.time_limit = LIMIT


def raises(rollout):
    raise KeyError("no such key")


def raises_what_nobody_catches(rollout):
    raise BaseException("nobody catches this")


def not_a_number(rollout):
    return math.nan


def endless(rollout):
    return -math.inf


def text(rollout):
    return "1.0"


def array(rollout):
    import numpy as np

    return np.ones(3)


class _TooMany:
    needs_mask = False
    range = (0.0, 1.0)

    def __call__(self, rollout):
        return 1.0

    def batch(self, rollouts):
        return [1.0] * (len(rollouts) + 1)


too_many = _TooMany()


def kills_itself(rollout):
    os.kill(os.getpid(), signal.SIGKILL)


def eats_memory(rollout):
    return len([bytes(1 << 30) for _ in range(64)])


def closes_everything(rollout):
    os.closerange(0, 1024)
    return 1.0


def becomes_another_program(rollout):
    os.execv("/bin/true", ["true"])


def prints(rollout):
    print("this is no result")
    os.write(1, b"and neither is this\n")
    return 1.0


def spoils_what_it_reads(rollout):
    image = rollout.sample.query.image
    if image.flags.owndata:
        image.flags.writeable = True
        image[:] = 7
    rollout.sample.labels["spoilt"] = "yes"
    os.environ["SPOILT"] = "yes"
    return 1.0


def spoils_python(rollout):
    import json

    math.isfinite = lambda value: True
    json.dumps = lambda *arguments, **settings: "[NaN, {}, null]" if "indent" in settings else "[1.0, {}, null]"
    return 1.0


def starts_a_thread(rollout):
    threading.Thread(target=threading.Event().wait).start()
    return 1.0


def closes_stdout(rollout):
    if not sys.stdout.closed:
        sys.stdout.close()
        os.close(1)
    return 1.0


def forks(rollout):
    os.fork()
    return 1.0


def leaves_a_child_behind(rollout):
    if os.fork() == 0:
        threading.Event().wait()
    return 1.0
