"""Waiting for an answer while its client is there."""

import asyncio
from collections.abc import Awaitable

from fastapi import Request

from medground_serve.settings import Refusal


async def until_gone(request: Request, answer: Awaitable[str]) -> str:
    """Return an answer; cancel it when the client leaves.

    Raises:
        Refusal: as the answer; 499 when the client left.
    """
    task = asyncio.ensure_future(answer)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=0.2)
            if not task.done() and await request.is_disconnected():
                raise Refusal(499, "the client left")
        return task.result()
    finally:
        task.cancel()
