"""What every request passes before the application sees it, and every answer on its way out."""

import json
import logging
import re
import time
from collections.abc import Awaitable, Callable

from medground_serve.access import may_ask
from medground_serve.body import Body, Message, Receive
from medground_serve.metrics import Metrics
from medground_serve.ohif import POLICY as OHIF_POLICY
from medground_serve.settings import Refusal, Settings

Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

log = logging.getLogger("medground.serve")
OPEN = re.compile(r"/|/health|/ready|/page/[a-z]+(\.[a-z]+)+|/viewer(\.js)?|/monailabel/auth/(token)?")
"""The paths that need no token: pages, which are the same for everybody, two states, and where Slicer asks for the token."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
OHIF_HEADERS = {**HEADERS, "Content-Security-Policy": OHIF_POLICY, "Cache-Control": "private, max-age=3600"}
"""Those of OHIF's files, which are the same for everybody and 20 MB."""
_HEADERS, _OHIF_HEADERS = (
    [(name.lower().encode(), value.encode()) for name, value in headers.items()] for headers in (HEADERS, OHIF_HEADERS)
)


class Guard:
    """An ASGI application around another: checks host, token and body, sets headers, counts and logs.

    A log line holds the method, the route, the status and the time: no question, file name or identifier.

    Args:
        app: what is guarded.
        settings: hosts, token and limits.
        metrics: where requests are counted.
    """

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self._bodies: set[Body] = set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = _OHIF_HEADERS if scope["path"].startswith("/ohif/") else _HEADERS
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        body = Body(scope, receive, self.settings, self._bodies)
        try:
            self._check(scope)
            await self.app(scope, body, sending)
        except Refusal as refusal:
            await respond(sending, refusal, close=True)
        except Exception as error:  # noqa: BLE001  the client gets a sentence, and the log no text of the request
            log.error("a request failed: %s", type(error).__name__)
            if status == 0:
                await respond(sending, Refusal(500, "the server failed"), close=True)
        finally:
            self._bodies.discard(body)
            self._count(scope, status, time.monotonic() - begin)

    def _count(self, scope: Message, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in ("GET", "POST", "PUT", "DELETE", "HEAD") else "other"
        self.metrics.count(method, route, status, seconds)
        if route not in ("/health", "/ready"):  # these are asked every few seconds
            log.info("%s %s %s %.2f s", method, route, status or "gone", seconds)

    def _check(self, scope: Message) -> None:
        """Refuse another host's name (DNS rebinding), and a request without the token."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if re.sub(r":\d+$", "", host) not in self.settings.hosts:
            raise Refusal(400, "this host is not served here", "start the server with --allow-host NAME")
        if OPEN.fullmatch(scope["path"]):
            return
        if not may_ask(headers, scope["method"], self.settings.token):
            hint = "open the address that the server printed, or send Authorization: Bearer TOKEN"
            raise Refusal(401, "the token is missing or wrong", hint, {"WWW-Authenticate": "Bearer"})


async def respond(send: Send, refusal: Refusal, *, close: bool = False) -> None:
    """Send a refusal as JSON."""
    body = json.dumps(refusal.to_dict()).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refusal.headers}
    if close:
        headers["Connection"] = "close"
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
