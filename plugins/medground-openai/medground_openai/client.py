"""Post JSON over HTTP with four promises: a total deadline, a capped body, no redirects, no proxy but one that is named.

Proxies of the environment are not used: whoever sets one for other programs has not agreed that images pass it. One that
is named passes on a connection that is encrypted from here to the server, so it learns the server's name alone.

The first two promises are about single reads of the socket, so the standard library's connection is used, not a client on
top of it. The key is sent to one host.
"""

import contextlib
import functools
import http.client
import io
import json
import random
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from medground.errors import RecipeError
from medground.servers import key_from
from medground.types import Fault

MAX_BYTES = 16_000_000
"""The longest answer that is read, headers included."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds: the backoff before the first retry is drawn from [0, FIRST_WAIT], its bound doubles up to LONGEST_WAIT."""
PIECE = 65536
SHORTEST_KEY = 8
"""Characters: what is shorter, such as the EMPTY of a local server, is no secret."""
PASSING = (408, 409, 425, 429)
"""Statuses below 500 after which another attempt may help."""

T = TypeVar("T")


class NotAnswered(Exception):
    """The server gave no answer; the model is not the cause.

    Args:
        cause: one sentence.
        fault: transport, or timeout.
        again: whether another attempt may help.
        wait: seconds the server asks to wait before it.
        status: the HTTP status, where there was one.
    """

    def __init__(
        self,
        cause: str,
        *,
        fault: Fault = Fault.TRANSPORT,
        again: bool = True,
        wait: float = 0.0,
        status: int | None = None,
    ) -> None:
        super().__init__(cause)
        self.cause, self.fault, self.again, self.wait, self.status = cause, fault, again, wait, status


@dataclass(frozen=True, kw_only=True)
class Client:
    """Posts JSON to one address.

    Args:
        url: of the resource, as `checked_url` passes it.
        api_key_env: the environment variable that holds the key; it is read when a request is made and kept nowhere.
        timeout: seconds for one attempt, from connecting to the last byte.
        deadline: seconds for a request with all its attempts and the waits between them.
        retries: attempts after the first.
        proxy: as `checked_proxy` passes it.
        clock: seconds that only grow.
        sleep: waits that many seconds.
        draw: a number in [0, 1), for the jitter.
    """

    url: str
    api_key_env: str | None
    timeout: float
    deadline: float
    retries: int
    proxy: str | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.random

    def post(self, body: dict[str, Any], read: Callable[[int, bytes], T]) -> T:
        """Send `body` until ``read(status, answer)`` accepts the answer; return what that returns.

        Waits grow exponentially with full jitter, on top of what ``Retry-After`` asks for.

        Raises:
            NotAnswered: the failure of the last attempt, when no other can be made.
        """
        data = json.dumps(body).encode()
        end = self.clock() + self.deadline
        attempt = 0
        while True:
            try:
                return read(*self._once(data, min(end, self.clock() + self.timeout)))
            except NotAnswered as failure:
                bound = min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt)
                wait = failure.wait + self.draw() * bound
                if not failure.again or attempt == self.retries or self.clock() + wait >= end:
                    raise
            attempt += 1
            self.sleep(wait)

    def _once(self, data: bytes, end: float) -> tuple[int, bytes]:
        """Return status and body of one attempt."""
        address = urlsplit(self.url)
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "medground"}
        key = key_from(self.api_key_env)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            connection = _connection(address.scheme, address.hostname or "", address.port, end - self.clock())
            if self.proxy is None:
                connection.connect()
            else:
                connection.sock = self._tunnel(self.proxy, address, end)
            with contextlib.closing(connection.sock) as plain:
                connection.sock = _Timed(plain, end, self.clock)
                # A server may refuse before it has read everything; its answer can still be read.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.request("POST", address.path, body=data, headers=headers)
                response = connection.getresponse()
                return response.status, _body(response, key)
        except TimeoutError:
            raise NotAnswered("the server did not answer in time", fault=Fault.TIMEOUT) from None
        except ssl.SSLCertVerificationError as error:
            raise NotAnswered(f"the server's certificate is not trusted: {error.verify_message}", again=False) from None
        except (OSError, http.client.HTTPException) as error:
            raise NotAnswered(f"the connection failed: {_cause(error)}") from None

    def _tunnel(self, proxy: str, address: SplitResult, end: float) -> ssl.SSLSocket:
        """Return a connection to an https address through a proxy, encrypted to the server."""
        there = urlsplit(proxy)
        try:
            plain = socket.create_connection((there.hostname, there.port), timeout=end - self.clock())
        except TimeoutError:
            raise NotAnswered(f"the proxy {proxy} did not answer in time", fault=Fault.TIMEOUT) from None
        except OSError as error:
            raise NotAnswered(f"the proxy {proxy} cannot be reached: {_cause(error)}") from None
        with contextlib.ExitStack() as stack:
            stack.callback(plain.close)
            self._ask_for_tunnel(plain, proxy, address, end)
            plain.settimeout(max(end - self.clock(), 1e-3))
            tunnel = _trust().wrap_socket(plain, server_hostname=address.hostname)
            stack.pop_all()
        return tunnel

    def _ask_for_tunnel(self, plain: socket.socket, proxy: str, address: SplitResult, end: float) -> None:
        """Have a proxy connect to an https address; http.client's own way has no deadline for the whole answer."""
        timed = _Timed(plain, end, self.clock)
        authority = address.netloc if address.port else f"{address.netloc}:443"
        try:
            timed.sendall(
                f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: medground\r\n\r\n".encode()
            )
            response = http.client.HTTPResponse(timed, method="CONNECT")  # type: ignore[arg-type]
            response.begin()
        except TimeoutError:
            raise NotAnswered(f"the proxy {proxy} did not answer in time", fault=Fault.TIMEOUT) from None
        except (OSError, http.client.HTTPException) as error:
            raise NotAnswered(f"the proxy {proxy} does not answer as one: {_cause(error)}", again=False) from None
        if response.status != 200:
            why = {407: ": it wants a password, which is not supported", 403: ": it does not allow this"}
            raise NotAnswered(
                f"the proxy {proxy} answered {response.status} to a connection to {authority}{why.get(response.status, '')}",
                again=response.status >= 500,
            )


def checked_proxy(proxy: str | None, base_url: str) -> str | None:
    """Return a proxy's address without a slash at its end, if a server may be reached through it.

    Args:
        proxy: as given by a user.
        base_url: of the server, as `medground.servers.checked_url` passes it.

    Raises:
        RecipeError: if it is no http address with a port, or could hold a password, which is not repeated then; if the server
            is not asked over https, so that the proxy would see images, questions and the key.
    """
    if proxy is None:
        return None
    hint = "write it as http://host:port, without a password"
    try:
        address = urlsplit(proxy)
        usable = address.scheme == "http" and bool(address.hostname) and bool(address.port)
    except ValueError:
        usable = False
    if not usable or not proxy.isascii() or re.search(r"[\s\\\x00-\x1f\x7f]", proxy):
        raise RecipeError("proxy is not the address of a proxy", hint=hint)
    if "@" in address.netloc or address.path.strip("/") or address.query or address.fragment:
        raise RecipeError("proxy holds more than a host and a port", hint=hint)
    if not base_url.startswith("https:"):
        raise RecipeError(
            f"a proxy would see what is sent to {base_url}, which is not https",
            hint="set an https base_url, or no proxy",
        )
    return proxy.rstrip("/")


class _Timed:
    """A socket as `http.client` uses it, where every read and write ends by `end` and all reads by `MAX_BYTES`."""

    def __init__(self, plain: socket.socket, end: float, clock: Callable[[], float]) -> None:
        self.plain, self.end, self.clock = plain, end, clock

    def sendall(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            self.plain.settimeout(self.left())
            self.plain.sendall(data[start : start + PIECE])

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """Do nothing: the caller closes it, for `http.client` closes before it reads the body."""

    def left(self) -> float:
        left = self.end - self.clock()
        if left <= 0:
            raise TimeoutError
        return left


class _Reader(io.RawIOBase):
    def __init__(self, timed: _Timed) -> None:
        super().__init__()
        self.timed, self.count = timed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.timed.plain.settimeout(self.timed.left())
        count = self.timed.plain.recv_into(buffer)
        self.timed.left()
        self.count += count
        if self.count > MAX_BYTES:
            raise NotAnswered(f"the answer is longer than {MAX_BYTES / 1e6:.0f} MB")
        return count


def _connection(scheme: str, host: str, port: int | None, timeout: float) -> http.client.HTTPConnection:
    if timeout <= 0:
        raise TimeoutError
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=_trust())
    return http.client.HTTPConnection(host, port, timeout=timeout)


@functools.cache
def _trust() -> ssl.SSLContext:
    """Return the system's certificates, or those of SSL_CERT_FILE; verification is always on."""
    return ssl.create_default_context()


def _body(response: http.client.HTTPResponse, key: str | None) -> bytes:
    pieces = []
    while piece := response.read(PIECE):  # in pieces: a claimed length allocates nothing
        pieces.append(piece)
    if response.length:
        raise NotAnswered("the answer was cut short")
    body = b"".join(pieces)
    if response.status == 200:
        return body
    if 300 <= response.status < 400:
        raise NotAnswered(
            f"the server answered {response.status}: redirects are not followed",
            again=False,
            status=response.status,
        )
    if response.status == 400 and _error_field(body, "code") == "content_filter":
        return body
    raise NotAnswered(
        _complaint(response.status, body, key),
        again=response.status >= 500 or response.status in PASSING,
        wait=_retry_after(response.headers.get("Retry-After", "")),
        status=response.status,
    )


def _complaint(status: int, body: bytes, key: str | None) -> str:
    """Return the status, what it means for the user, and the server's own words where they can be shown."""
    if status in (401, 403):
        return f"the server answered {status}: it does not accept the key, or the account may not use this model"
    message = _error_field(body, "message")
    printable = "".join(letter for letter in message if letter.isprintable())[:200]
    quoted = f", saying {printable!r}" if printable and without_key(message, key) == message else ""
    known = {404: " (is base_url right, and the model's name?)", 429: " (too many requests, or no quota left)"}
    return f"the server answered {status}{known.get(status, '')}{quoted}"


def without_key(text: str, key: str | None) -> str:
    """Return a server's text with ``[key]`` for every echo of the key, letters that no key has between its own included.

    >>> without_key("not sk-a\u200bbc def0!", "sk-abcdef0")
    'not [key]!'
    """
    if key is None or len(key) < SHORTEST_KEY:
        return text
    return re.sub("[^!-~]*".join(map(re.escape, key)), "[key]", text)


def _error_field(body: bytes, field: str) -> str:
    """Return a field of the error object, as most servers nest it; "" where there is none."""
    try:
        answer = json.loads(body)
        answer = answer[0] if isinstance(answer, list) else answer  # Gemini's way
        return str(answer.get("error", answer).get(field) or "")
    except (ValueError, RecursionError, AttributeError, IndexError):
        return ""


def _retry_after(text: str) -> float:
    """Return the seconds of a Retry-After header, which holds seconds or a date; 0 where it cannot be read."""
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0


def _cause(error: Exception) -> str:
    """Return the failure in the system's words, without what the server wrote."""
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__
