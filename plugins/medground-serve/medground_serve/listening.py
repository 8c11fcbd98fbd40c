"""The HTTP server: uvicorn with deadlines for headers and idle connections, and a stop that lets requests end."""

import asyncio
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from medground.errors import RunError
from medground_serve.guard import App
from medground_serve.settings import Settings


class TimedProtocol(H11Protocol):
    """Closes a connection that sends no complete headers in time, at its start and after each answer."""

    seconds: float
    most_connections: int
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers; close at once where there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take bytes; stop the wait once a request is complete enough to be answered."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the wait."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop()
        self._deadline = self.loop.call_later(self.seconds, self.transport.abort)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class DrainingServer(uvicorn.Server):
    """Stops accepting at SIGTERM or SIGINT, and returns once running requests have ended; a second one cuts them off."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take the two signals while it serves."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        RunError: if it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()  # whoever reads the address may connect at once
    except OSError as error:
        raise RunError(f"{host} port {port} cannot be listened on: {error.strerror}", hint="pass --port 0") from None
    return listening


def server(app: App, settings: Settings) -> DrainingServer:
    """Return a server for an application."""
    limits: dict[str, Any] = {"seconds": settings.header_seconds, "most_connections": settings.most_connections}
    config = uvicorn.Config(
        app,
        http=type("LimitedProtocol", (TimedProtocol,), limits),
        loop="asyncio",
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, int(settings.header_seconds)),
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    return DrainingServer(config)
