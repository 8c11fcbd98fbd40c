"""The body of a request on its way in: bounded in time, in bytes together with all others, and complete."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from email.message import Message as Header
from typing import Any

from starlette.exceptions import HTTPException

from medground_serve.settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
TAIL = 256


class Body:
    """The `receive` of a request, which gives up on a slow body, and refuses multipart without its closing boundary.

    Args:
        scope: of the request.
        receive: the server's.
        settings: the limits.
        bodies: of the requests that are not answered yet, this one included once it is called.
    """

    def __init__(self, scope: Message, receive: Receive, settings: Settings, bodies: "set[Body]") -> None:
        self.size = 0
        """Bytes that have come."""
        self._receive, self._settings, self._bodies = receive, settings, bodies
        self._end = asyncio.get_running_loop().time() + settings.body_seconds
        self._content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        self._tail, self._complete = b"", False

    async def __call__(self) -> Message:
        """Return the next message.

        Raises:
            HTTPException: 408 if the body took too long, 503 if all bodies are too many bytes, 400 if it is incomplete.
        """
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"the body took longer than {self._settings.body_seconds:g} s") from None
        if message["type"] == "http.request":
            self._take(message.get("body", b""), last=not message.get("more_body", False))
        return message

    def _take(self, block: bytes, *, last: bool) -> None:
        self.size += len(block)
        self._bodies.add(self)
        if sum(body.size for body in self._bodies) > self._settings.most_received:
            raise HTTPException(503, "too many uploads at once; try again", {"Retry-After": "5"})
        self._tail = (self._tail + block)[-TAIL:]
        self._complete = last
        closing = _closing_boundary(self._content_type) if last else None
        if closing is not None and not self._tail.rstrip(b"\r\n").endswith(closing):
            raise HTTPException(400, "the multipart body ends without its closing boundary")


def _closing_boundary(content_type: bytes) -> bytes | None:
    """Return the last bytes of a multipart body; None of another body."""
    header = Header()
    header["content-type"] = content_type.decode("latin-1").replace("\r", " ").replace("\n", " ")
    if header.get_content_maintype() != "multipart":
        return None
    return b"--" + str(header.get_boundary("")).encode("latin-1", "replace") + b"--"
