"""The DICOMweb server behind this one, for viewers in the browser: to read, and nothing but what DICOMweb names."""

import re
from collections.abc import Iterator
from contextlib import ExitStack

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from medground_serve.dicomweb import UID, Answer
from medground_serve.series import Volumes

_BULK = r"bulk/[0-9a-f]+(?:/[0-9a-f]+)*"
_INSTANCE = rf"/instances/{UID}(?:/(?:metadata|rendered|thumbnail|frames/[0-9]+(?:,[0-9]+)*|{_BULK}))?"
_SERIES = rf"/series/{UID}(?:/(?:metadata|rendered|thumbnail|instances)|{_INSTANCE})?"
READABLE = re.compile(
    rf"studies|series|instances|studies/{UID}(?:/(?:metadata|rendered|thumbnail|series|instances)|{_SERIES})?"
)
"""The resources of PS3.18 that are forwarded. A pattern that let more through would give away the archive's own interface."""
RETURNED = ("content-type", "content-disposition", "warning")
KINDS = re.compile(
    r"(?:application/(?:dicom\+json|json|dicom)|multipart/related|image/(?:jpeg|png|gif|jp2|jls|jphc))\s*(?:;|$)"
)
"""Of content that is handed on as such."""
MOST_BYTES = 4_000_000_000
"""Of one answer."""
_PLAIN = {"%2A": "*", "%3F": "?", "%5E": "^", "%2C": ",", "%2F": "/", "%3A": ":", "%5C": "\\", "%20": "?", "+": "?"}


def add(app: FastAPI, volumes: Volumes) -> None:
    """Add the route."""

    @app.get("/dicom-web/{path:path}", include_in_schema=False)
    def read(request: Request, path: str) -> StreamingResponse:
        if not READABLE.fullmatch(path):
            raise HTTPException(404, "this is no resource of DICOMweb that is read here")
        query = plain(request.scope["query_string"].decode("latin-1"))
        headers = {
            "Accept": request.headers.get("accept", "*/*"),
            "Forwarded": f"host={request.url.netloc};proto={request.url.scheme}",  # addresses in its answers lead here
        }
        opened = ExitStack()
        answer = opened.enter_context(volumes.archive().open("GET", f"{path}?{query}" if query else path, headers))
        returned = {name: value for name in RETURNED if (value := answer.header(name))}
        if not KINDS.match(
            returned.get("content-type", "")
        ):  # nothing of an archive is a page or a script of this origin
            returned["content-type"] = "application/octet-stream"
        return StreamingResponse(_blocks(opened, answer), answer.status, returned)


def _blocks(opened: ExitStack, answer: Answer) -> Iterator[bytes]:
    with opened:
        yield from answer.blocks(MOST_BYTES)


def plain(query: str) -> str:
    """Return a query with the characters that its values may hold as they are.

    Orthanc's DICOMweb plugin compares values without decoding them, and viewers encode them. A space matches as any character.

    >>> plain("PatientName=Doe%5EJ%2a&limit=101")
    'PatientName=Doe^J*&limit=101'
    """
    for code, character in _PLAIN.items():
        query = re.sub(re.escape(code), lambda _, new=character: new, query, flags=re.IGNORECASE)  # type: ignore[misc]
    return query
