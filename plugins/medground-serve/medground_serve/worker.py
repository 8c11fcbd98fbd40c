"""The server's side of the worker process: a bounded line of requests, cancellation, and a restart when it ends."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection, Pipe
from subprocess import Popen
from typing import Any

from medground.children import start_python
from medground.errors import MedgroundError, RunError
from medground_serve.settings import Refusal, Settings

MOST_STARTS = 3
"""Starts in a row that may end before the models are loaded."""
Listen = Callable[[str, str], None]
"""Called with a stage and a text."""


@dataclass(frozen=True)
class _Process:
    popen: "Popen[bytes]"
    pipe: "Connection[bytes, bytes]"


@dataclass(frozen=True)
class _Job:
    number: int
    task: "asyncio.Task[str] | None"
    result: "asyncio.Future[str]"
    listen: Listen


class Worker:
    """One process that answers, and the requests that wait for it.

    Args:
        settings: the recipe and the limits.
        failed: called if the models cannot be loaded at the first start.
    """

    def __init__(self, settings: Settings, failed: Callable[[MedgroundError], None]) -> None:
        self.settings, self._failed = settings, failed
        self.facts: dict[str, Any] | None = None
        """What the worker says about its models; None until they are loaded for the first time."""
        self.pending = 0
        """Requests that wait or are answered."""
        self.restarts = 0
        self.cancelled = 0
        """Requests that were given up before their answer."""
        self.encodes = 0
        """Images that segmenters have encoded, those of ended processes included."""
        self._encodes_before = 0
        self._seconds = 1.0
        self._starts = 0
        self._numbers = count(1)
        self._turn = asyncio.Lock()
        self._sender = ThreadPoolExecutor(1, "medground-serve-send")
        """Writes to the process in order: a pipe that is full holds up this thread, never the event loop."""
        self._tasks: set[asyncio.Task[str]] = set()
        self._closing = False
        self._failure: MedgroundError | None = None
        self._process: _Process | None = None
        self._loaded: asyncio.Future[None] | None = None
        self._job: _Job | None = None

    @property
    def ready(self) -> bool:
        """True if the models are loaded."""
        return self._loaded is not None and self._loaded.done() and self._process is not None

    @property
    def process_id(self) -> int | None:
        """Of the process; None where there is none."""
        return None if self._process is None else self._process.popen.pid

    def start(self) -> None:
        """Start the process; its models load meanwhile. Call it in the event loop."""
        loop = asyncio.get_running_loop()
        ours, its = Pipe()
        settings = self.settings
        words = {"recipe": settings.recipe, "overrides": list(settings.overrides), "compare": settings.compare}
        code = f"from medground_serve.child import main; main({its.fileno()})"
        start = json.dumps({**words, "most_pixels": settings.most_pixels})
        process = _Process(start_python(code, start, pass_fds=[its.fileno()]), ours)
        its.close()  # so that the end of the process reads as the end of the pipe
        self._process, self._loaded = process, loop.create_future()
        self._starts += 1
        threading.Thread(target=self._read, args=(process, loop), daemon=True).start()

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            process, self._process = self._process, None
            process.popen.kill()
            process.popen.wait()

    def close(self) -> None:
        """Answer every request 503 that has no answer yet, and all that come."""
        self._closing = True
        for task in self._tasks:
            task.cancel()

    def refuse_if_full(self) -> None:
        """Refuse another request where as many wait as may.

        Raises:
            Refusal: 429, with the time in which the others may be answered; 503 where the server stops.
        """
        if self._closing:
            raise _stopping()
        if self.pending > self.settings.most_waiting:
            seconds = max(1, round(self._seconds * self.pending))
            hint = f"try again in {seconds} s"
            raise Refusal(429, "too many requests wait", hint, {"Retry-After": str(seconds)})

    async def ask(self, job: dict[str, Any], listen: Listen = lambda stage, text: None) -> str:
        """Return the result of a job, JSON. If the caller is cancelled, so is the job: at once where it waits, else
        between two stages.

        Raises:
            Refusal: 429 where too many wait, 503 where the worker ended, 504 where it took too long, or as the worker says.
        """
        self.refuse_if_full()
        self.pending += 1
        task = asyncio.create_task(self._take(job, listen))
        self._tasks.add(task)
        task.add_done_callback(self._leave)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._closing and task.cancelled():
                raise _stopping() from None
            self.cancelled += 1
            if self._job is not None and self._job.task is task and self._process is not None:
                self._sender.submit(self._process.pipe.send_bytes, b'{"do": "cancel"}')
            else:
                task.cancel()
            raise

    def _leave(self, task: "asyncio.Task[str]") -> None:
        self._tasks.discard(task)
        self.pending -= 1
        if not task.cancelled():
            task.exception()  # read: the failure of a job that nobody waits for is no news

    async def _take(self, job: dict[str, Any], listen: Listen) -> str:
        await self._ready()  # all that wait for the models give up at the same time, not one after the other
        async with self._turn:
            await self._ready()
            process, number = self._process, next(self._numbers)
            assert process is not None
            future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self._job, begin = _Job(number, asyncio.current_task(), future, listen), time.monotonic()
            sent = self._sender.submit(process.pipe.send_bytes, json.dumps({**job, "job": number}).encode())
            try:
                async with asyncio.timeout(self.settings.answer_seconds):
                    await asyncio.wrap_future(sent)
                    return await future
            except TimeoutError:
                process.popen.kill()
                self._end(process)
                raise Refusal(504, f"no answer in {self.settings.answer_seconds:g} s") from None
            except OSError:
                self._end(process)
                raise _gone() from None
            finally:
                self._job = None
                self._seconds += 0.2 * (time.monotonic() - begin - self._seconds)

    async def _ready(self) -> None:
        """Wait until the models are loaded; start the process where starts were given up."""
        if self._process is None:
            self._starts = 0
            self.start()
        assert self._loaded is not None
        try:
            async with asyncio.timeout(self.settings.answer_seconds):
                await asyncio.shield(self._loaded)
        except TimeoutError:
            raise Refusal(503, "the models are still being loaded", "try again later", {"Retry-After": "10"}) from None

    def _read(self, process: _Process, loop: asyncio.AbstractEventLoop) -> None:
        """Hand on what the process says, in a thread of its own."""
        with suppress(RuntimeError):  # the event loop ended first
            try:
                while True:
                    loop.call_soon_threadsafe(self._receive, process, json.loads(process.pipe.recv_bytes()))
            except (EOFError, OSError):
                process.popen.kill()
                process.popen.wait()
                self._sender.submit(process.pipe.close)
                loop.call_soon_threadsafe(self._end, process)

    def _receive(self, process: _Process, message: dict[str, Any]) -> None:
        if process is not self._process or self._loaded is None:
            return
        if message["kind"] == "ready":
            self.facts, self._starts = message["facts"], 0
            self._loaded.set_result(None)
        elif message["kind"] == "failed":
            self._failure = MedgroundError(message["error"], hint=message["hint"])
            self._failure.exit_code = message["exit_code"]
        elif self._job is not None and self._job.number == message["job"] and not self._job.result.done():
            self._conclude(self._job, message)

    def _conclude(self, job: _Job, message: dict[str, Any]) -> None:
        future = job.result
        match message["kind"]:
            case "stage":
                job.listen(message["stage"], message["text"])
            case "done":
                self.encodes = self._encodes_before + (message["encodes"] or 0)
                future.set_result(message["result"])
            case "cancelled":
                future.cancel()
            case "refused":
                future.set_exception(Refusal(message["status"], message["error"], message["hint"] or ""))

    def _end(self, process: _Process) -> None:
        """Answer the request in flight, and start the process again; where it never loaded the models, say why."""
        if process is not self._process:
            return
        self._process, self._encodes_before = None, self.encodes
        waiting: list[asyncio.Future[Any]] = [] if self._loaded is None else [self._loaded]
        waiting += [] if self._job is None else [self._job.result]
        for future in waiting:
            if not future.done():
                future.set_exception(_gone())
                future.exception()  # read: nobody may be waiting
        if self.facts is None:
            self._failed(self._failure or _unloaded(process.popen.returncode))
        elif self._starts < MOST_STARTS:
            self.restarts += 1
            self.start()


def _gone() -> Refusal:
    return Refusal(503, "the worker ended and is started again", "try again", {"Retry-After": "5"})


def _stopping() -> Refusal:
    return Refusal(503, "the server is stopping", "try again later", {"Connection": "close"})


def _unloaded(code: int) -> RunError:
    how = f"by signal {-code}" if code < 0 else f"with code {code}"
    hint = "a signal 9 most often means too little memory: choose smaller models" if code == -9 else None
    return RunError(f"the worker ended {how} before the models were loaded", hint=hint)
