"""A real server in a process of its own, and plain HTTP to it."""

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SECONDS = 120
WITH_LIMITS = """
import functools, json, sys
from medground_serve import settings
settings.Settings = functools.partial(settings.Settings, **json.loads(sys.argv.pop(1)))
from medground.__main__ import main
main()
"""


class Server:
    """``medground serve --port 0`` with a token; `log` is its stderr, and `limits` are of `Settings`."""

    def __init__(self, *words: str, folder: Path, **limits: float) -> None:
        self.log = folder / "log"
        start = ["-c", WITH_LIMITS, json.dumps(limits)] if limits else ["-m", "medground"]
        command = [sys.executable, *start, "serve", *words, "--port", "0"]
        self.file = self.log.open("wb")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.file, env=os.environ | {"TMPDIR": str(folder)}
        )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        self.address = self.process.stdout.readline().decode().strip() if ready else ""
        if not self.address:
            self.stop()
            raise RuntimeError(self.log.read_text())
        self.url, _, self.token = self.address.partition("/#")
        self.port = int(self.url.rpartition(":")[2])

    def wait_ready(self) -> "Server":
        """Return when the models are loaded."""
        self.wait_for(lambda: self.get("/ready")[0] == 200)
        return self

    def wait_for(self, happened: Any) -> None:
        """Return when something has happened."""
        end = time.monotonic() + SECONDS
        while not happened():
            assert time.monotonic() < end, "it did not happen"
            assert self.process.poll() is None, self.log.read_text()
            select.select([], [], [], 0.05)

    def request(
        self, method: str, path: str, body: bytes = b"", token: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body; underscores in names of headers stand for hyphens."""
        token = self.token if token is None else token
        given = {"Authorization": f"Bearer {token}"} if token else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request(method, path, body or None, given)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return self.request("GET", path, **headers)

    def ground(self, picture: bytes | None, question: str, *, accept: str = "*/*", **fields: str) -> tuple[int, Any]:
        """Return status and answer."""
        body, kind = form({"question": question, **fields}, picture)
        status, _, text = self.request("POST", "/ground", body, Content_Type=kind, Accept=accept)
        return status, text.decode() if "event-stream" in accept else json.loads(text)

    def upload(self, *files: bytes) -> tuple[int, Any]:
        """Store a picture, or the files of a series; return status and answer."""
        body, kind = form({}, *files)
        status, _, text = self.request("POST", "/images", body, Content_Type=kind)
        return status, json.loads(text)

    def post(self, path: str, value: Any) -> tuple[int, Any]:
        """Return status and answer to a request of JSON."""
        status, _, text = self.request("POST", path, json.dumps(value).encode(), Content_Type="application/json")
        return status, json.loads(text)

    def counter(self, name: str) -> float:
        """Return a value of /metrics that has no labels."""
        lines = self.get("/metrics")[2].decode().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    def children(self) -> list[int]:
        """Return the worker's process id, in a list, or nothing while there is none."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(word) for word in text.split()]

    @property
    def worker(self) -> int:
        """Its process id; it must be there."""
        (number,) = self.children()
        return number

    @contextmanager
    def stopped_worker(self) -> Iterator[int]:
        """Hold the worker still, so that a request stays in flight; it goes on at the end."""
        worker = self.worker
        os.kill(worker, signal.SIGSTOP)
        try:
            yield worker
        finally:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)

    def memory(self, worker: bool = False, peak: bool = False) -> float:
        """Return the memory of the server or its worker, MB: now, or at most so far."""
        status = Path(f"/proc/{self.worker if worker else self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM" if peak else "VmRSS"))
        return int(line.split()[1]) / 1000

    def stop(self) -> int:
        """End the server as an init system does; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.file.close()
        return code


def form(fields: dict[str, str], *pictures: bytes | None, name: str = "Mueller^Anna.png") -> tuple[bytes, str]:
    """Return a multipart body and its content type; a picture that is None is left out."""
    parts = [f'Content-Disposition: form-data; name="{key}"\r\n\r\n{text}\r\n'.encode() for key, text in fields.items()]
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    parts += [head + picture + b"\r\n" for picture in pictures if picture is not None]
    return b"".join(b"--limit\r\n" + part for part in parts) + b"--limit--\r\n", "multipart/form-data; boundary=limit"
