"""Who may ask: a bearer token for programs, and a cookie that stands for it in the browser that was given the token.

A browser sends a cookie by itself, whoever wrote the page that makes the request. So one that comes with a cookie must come
from a page of this server: its ``Origin``, or ``Sec-Fetch-Site``, says so.
"""

import hashlib
import hmac
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from fastapi import FastAPI, Request
from fastapi.responses import Response

Headers = Mapping[bytes, bytes]


def cookie_name(host: str) -> str:
    """Return the name of the cookie of a server: browsers send cookies to every port of a host.

    >>> cookie_name("127.0.0.1:8000"), cookie_name("pacs.example")
    ('medground-8000', 'medground')
    """
    port = host.rpartition(":")[2]
    return f"medground-{port}" if port.isdecimal() else "medground"


def cookie_value(token: str) -> str:
    """Return the value of the cookie: it follows from the token, which does not follow from it."""
    return hmac.new(token.encode(), b"cookie", hashlib.sha256).hexdigest()


def may_ask(headers: Headers, method: str, token: str) -> bool:
    """Return True if a request carries the token, or the cookie from a page of this server.

    Args:
        headers: names in lower case.
        method: of HTTP.
        token: of this server.
    """
    authorization = headers.get(b"authorization", b"").decode("latin-1")
    if authorization:
        kind, _, given = authorization.partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(given.encode(), token.encode())
    cookie = _cookie(headers, cookie_name(headers.get(b"host", b"").decode("latin-1")))
    same = hmac.compare_digest(cookie.encode(), cookie_value(token).encode())
    return same and _from_here(headers, method)


def _cookie(headers: Headers, name: str) -> str:
    try:
        morsel = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(name)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _from_here(headers: Headers, method: str) -> bool:
    """Return True if a page of this server makes the request, or a person by the address bar, as far as it says."""
    origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
    host = headers.get(b"host", b"").lower()
    if origin is not None and origin.lower() not in (b"http://" + host, b"https://" + host):
        return False
    if site is not None and site not in (b"same-origin", b"none"):
        return False
    return method in ("GET", "HEAD") or origin is not None or site is not None


def add(app: FastAPI, token: str) -> None:
    """Add the request that gives a browser its cookie."""

    @app.post("/cookie", status_code=204)
    async def give_cookie(request: Request) -> Response:
        """Set a cookie that stands for the token, for pages of this server that cannot send the token, as OHIF."""
        response = Response(status_code=204)
        name, secure = cookie_name(request.headers["host"]), request.headers.get("origin", "").startswith("https:")
        response.set_cookie(name, cookie_value(token), httponly=True, samesite="strict", secure=secure)
        return response
