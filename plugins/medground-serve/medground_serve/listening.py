"""The HTTP server: uvicorn with deadlines for headers and for clients that read nothing, and a stop that lets requests end."""

import asyncio
import errno
import ipaddress
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from medground.errors import RunError, UsageError
from medground_serve.guard import App
from medground_serve.settings import Settings

BACKLOG = 128
"""Connections that the system holds for us; as many are accepted at once."""


class TimedProtocol(H11Protocol):
    """Closes a connection whose client neither sends complete headers in time, nor takes any of what is sent to it.

    Where there are too many connections, the one goes that has waited longest for a request.
    """

    settings: Settings
    idle: "dict[TimedProtocol, asyncio.TimerHandle]"
    """The connections that wait for their clients, the longest first."""
    _left = 0
    """Bytes that the client had not taken when its wait began."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers; close a connection where there are too many."""
        super().connection_made(transport)
        self._wait(self.settings.header_seconds)
        if len(self.connections) > self.settings.most_connections:
            next(waiting for waiting in self.idle if not waiting.transport.get_write_buffer_size()).abort()

    def data_received(self, data: bytes) -> None:
        """Take bytes; stop the wait for headers once a request is complete enough to be answered."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete and not self.flow.write_paused:
            self._stop()

    def on_response_complete(self) -> None:
        """Wait until the client has taken the answer, and for its next request."""
        super().on_response_complete()
        if self.cycle is None or self.cycle.response_complete:
            unsent = self.transport.get_write_buffer_size()
            self._wait(self.settings.send_seconds if unsent else self.settings.header_seconds)

    def pause_writing(self) -> None:
        """Wait until the client takes some of what is sent to it."""
        super().pause_writing()
        self._wait(self.settings.send_seconds)

    def resume_writing(self) -> None:
        """Go on sending."""
        super().resume_writing()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the wait."""
        self._stop()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close at once; nothing more is sent."""
        self._stop()
        self.connections.discard(self)
        self.transport.abort()

    def _wait(self, seconds: float) -> None:
        self._stop()
        self._left = self.transport.get_write_buffer_size()
        self.idle[self] = self.loop.call_later(seconds, self._judge, seconds)

    def _judge(self, seconds: float) -> None:
        """Close, unless the client took some of what it is sent."""
        if 0 < self.transport.get_write_buffer_size() < self._left:
            self._wait(seconds)
        else:
            self.abort()

    def _stop(self) -> None:
        if (timer := self.idle.pop(self, None)) is not None:
            timer.cancel()


class DrainingServer(uvicorn.Server):
    """Stops accepting at SIGTERM or SIGINT, and returns once running requests have ended; a second one cuts them off.

    Args:
        config: uvicorn's.
        close: called a second before requests that still run are cut off, so that they can be answered.
    """

    def __init__(self, config: uvicorn.Config, close: Callable[[], None]) -> None:
        super().__init__(config)
        self._close = close

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests end."""
        seconds = self.config.timeout_graceful_shutdown or 0
        closing = asyncio.get_running_loop().call_later(max(0, seconds - 1), self._close)
        await super().shutdown(sockets)
        closing.cancel()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take the two signals while it serves."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def bind(host: str, port: int, *, every: bool = False) -> socket.socket:
    """Return a socket that listens on an address.

    Args:
        host: an address or a name of this machine.
        port: 0 for a free one.
        every: whether it may be every address of this machine.

    Raises:
        UsageError: if the host is none of this machine's, or may not be listened on.
        RunError: if the port cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or " ", port, type=socket.SOCK_STREAM)[0]
    except (OSError, ValueError):
        raise UsageError(f"{host!r} is no address or name of this machine", hint="pass --host 127.0.0.1") from None
    if not every and ipaddress.ip_address(address[0]).is_unspecified:
        raise UsageError(
            f"{host} is every address of this machine", hint="pass --allow-host NAME, as browsers reach it"
        )
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)  # whoever reads the address may connect at once
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"{host} is not an address of this machine", hint="pass --host 127.0.0.1") from None
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be listened on: {error.strerror}"
        raise RunError(f"port {port} of {host} {why}", hint="pass --port 0") from None
    return listening


def server(app: App, settings: Settings, close: Callable[[], None]) -> DrainingServer:
    """Return a server for an application; arguments: see `DrainingServer`."""
    config = uvicorn.Config(
        app,
        http=type("LimitedProtocol", (TimedProtocol,), {"settings": settings, "idle": {}}),
        loop="asyncio",
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=max(1, int(settings.header_seconds)),
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    return DrainingServer(config, close)
