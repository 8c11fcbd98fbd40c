"""Answers as server-sent events: ``queue``, ``stage``, ``text``, then ``answer`` or ``error``."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from medground_serve.settings import Refusal
from medground_serve.worker import Worker

PING_SECONDS = 2.0
"""Between two lines of a stream that is silent; a proxy would close it."""


async def event_stream(worker: Worker, job: dict[str, Any]) -> AsyncIterator[str]:
    """Yield the events of a job; when the reader leaves, the job is cancelled."""
    queue: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
    ahead = worker.pending
    task = asyncio.create_task(worker.ask(job, lambda stage, text: queue.put_nowait((stage, text))))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        yield event("queue", json.dumps({"ahead": ahead}))
        while True:
            try:
                async with asyncio.timeout(PING_SECONDS):
                    news = await queue.get()
            except TimeoutError:
                yield ": still working\n\n"
                continue
            if news is None:
                break
            stage, text = news
            yield event("text", json.dumps({"text": text})) if text else event("stage", json.dumps({"stage": stage}))
        yield event("answer", task.result())
    except Refusal as refusal:
        yield event("error", json.dumps({"status": refusal.status, **refusal.to_dict()}))
    finally:
        task.cancel()


def event(name: str, data: str) -> str:
    """Return one event; `data` is JSON, which has no line ends.

    >>> event("stage", '{"stage": "reasoning"}')
    'event: stage\\ndata: {"stage": "reasoning"}\\n\\n'
    """
    return f"event: {name}\ndata: {data}\n\n"
