"""What checkpoints bring as programs, chat templates and tokenizers' patterns, runs in a child process with limits.

One child serves a whole process. It knows nothing, writes nothing, and ends when its parent does.
"""

import atexit
import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from medground.children import start_python
from medground.errors import InputError
from medground.segmenters.weight_files import RELEASED

SECONDS = 5
"""Of computing, for one request."""
MOST_WAITING = 120.0
"""Seconds of waiting for the child: on a busy machine five seconds of computing, or importing its library, take so long."""
READY = b"ready"
"""What the child says first."""
MEMORY = 2**30
"""Bytes of address space of the child, of which its library takes a fifth."""
MOST_TEXT = 2**22
"""Characters of a prompt."""
SAMPLE = f"Where is the lesion? {'a' * 500} {'1' * 500} {' ' * 500}{'-' * 500}\n\n\t"
"""What a tokenizer is tried on: runs of letters, digits, spaces and signs, where patterns take longest."""


def render(
    template: str, conversation: Sequence[Mapping[str, Any]], special_tokens: Mapping[str, Any], owner: str
) -> str:
    """Return a conversation as text for the model to go on, as transformers renders it.

    Args:
        template: a chat template.
        conversation: turns without pixels.
        special_tokens: what the template may name, for example ``eos_token``.
        owner: whose template it is, for the error.

    Raises:
        InputError: if the template is wrong, or takes more than `SECONDS`, `MEMORY` or `MOST_TEXT`.
    """
    request = {"template": template, "conversation": list(conversation), "special_tokens": dict(special_tokens)}
    return _CHILD.answer(request, f"the chat template of {owner}")


def try_tokenizer(folder: Path) -> None:
    """Stop at a ``tokenizer.json`` that does not load or does not tokenise within the limits.

    Raises:
        InputError: naming the file.
    """
    if (path := folder / "tokenizer.json").exists():
        _CHILD.answer({"tokenizer": str(path)}, str(path))


class _Child:
    """The child, started when it is needed; one request at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0
        self._ready = False
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[bytes, bytes] | None = None

    def start(self) -> "Connection[bytes, bytes]":
        """Start it unless it runs, and return the connection; what was started before a fork belongs to the parent."""
        if self._pipe is not None and self._owner == os.getpid():
            return self._pipe
        ours, its = Pipe()
        code = f"from medground.segmenters.bounded import serve; serve({its.fileno()})"
        self._process = start_python(code, pass_fds=[its.fileno()])
        its.close()
        self._pipe, self._owner, self._ready = ours, os.getpid(), False
        return ours

    def answer(self, request: dict[str, Any], what: str) -> str:
        """Return the child's answer to a request about `what`."""
        with self._lock:
            pipe = self.start()
            try:
                if not self._ready:
                    self._ready = _received(pipe) == READY
                pipe.send_bytes(json.dumps(request, default=str).encode())
                reply = json.loads(_received(pipe))
            except (EOFError, OSError) as error:
                slow = self.end() in (-signal.SIGXCPU, -signal.SIGKILL)
                limit = f"{SECONDS} s" if slow else f"{MEMORY >> 20} MiB, or crashes"
                raise InputError(f"{what} takes more than {limit}", hint=RELEASED) from error
        if "error" in reply:
            raise InputError(f"{what} is wrong: {reply['error']}", hint=RELEASED)
        text: str = reply["text"]
        return text

    def end(self) -> int | None:
        """End it, if it is this process's own, and return its exit status."""
        status = None
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            status = self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None
        return status


def _received(pipe: "Connection[bytes, bytes]") -> bytes:
    """Return the next message; none for a long time is the end, too."""
    if not pipe.poll(MOST_WAITING):
        raise EOFError
    return pipe.recv_bytes(8 * MOST_TEXT)


_CHILD = _Child()
start = _CHILD.start
atexit.register(_CHILD.end)


def serve(descriptor: int) -> None:
    """Answer requests in this process, the child, until the parent closes the connection."""
    import resource

    from transformers.utils import chat_template_utils  # noqa: F401  imported before memory is limited

    pipe: Connection[bytes, bytes] = Connection(descriptor)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send_bytes(READY)
    with suppress(EOFError):
        while True:
            request = json.loads(pipe.recv_bytes())
            used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
            resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECONDS, resource.RLIM_INFINITY))
            pipe.send_bytes(json.dumps(_reply(request)).encode())


def _reply(request: dict[str, Any]) -> dict[str, str]:
    try:
        text = _tokenise(request["tokenizer"]) if "tokenizer" in request else _render(request)
    except Exception as error:  # noqa: BLE001  whatever a template raises is the answer
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return {"text": text} if len(text) <= MOST_TEXT else {"error": f"it writes {len(text):,} characters"}


def _render(request: dict[str, Any]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered = render_jinja_template(
        conversations=[request["conversation"]],
        chat_template=request["template"],
        add_generation_prompt=True,
        **request["special_tokens"],
    )[0]
    return str(rendered[0])


def _tokenise(path: str) -> str:
    from tokenizers import Tokenizer

    return " ".join(map(str, Tokenizer.from_file(path).encode(SAMPLE).ids))
