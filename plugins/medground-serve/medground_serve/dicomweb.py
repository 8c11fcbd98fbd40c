"""DICOMweb as a client: find a series, fetch it, store a segmentation (QIDO-RS, WADO-RS, STOW-RS of PS3.18).

Redirects are not followed: they would carry credentials elsewhere.
"""

import http.client
import json
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from medground_serve.archive import (
    AbsentError,
    Archive,
    ArchiveError,
    BrokenError,
    CertificateError,
    CredentialsError,
    SlowError,
    UnreachableError,
)

UID = r"(?=[0-9.]{1,64}(?![0-9.]))[0-9]+(?:\.[0-9]+)*"
"""A pattern: no path but an identifier fits it."""
STUDY_UID, SERIES_UID, SOP_UID, FAILED = "0020000D", "0020000E", "00080018", "00081198"
BLOCK = 1 << 16
MOST_JSON = 16_000_000
"""Bytes of an answer in JSON."""


@dataclass(frozen=True)
class Series:
    """A series that a DICOMweb server has."""

    study: str
    uid: str
    instances: frozenset[str]
    """SOPInstanceUIDs."""


class DicomWeb:
    """Asks a DICOMweb server; one connection per request.

    Args:
        archive: where it is.
        seconds: in which an answer must be complete.
    """

    def __init__(self, archive: Archive, seconds: float) -> None:
        self.archive, self.seconds = archive, seconds

    def series(self, uid: str) -> Series:
        """Return what the server says about a series.

        Raises:
            ArchiveError: if there is none, or the server fails.
        """
        study = next((_value(item, STUDY_UID) for item in self._search(f"series?SeriesInstanceUID={uid}")), "")
        if study and not re.fullmatch(UID, study):
            raise _broken()
        instances = self._search(f"studies/{study}/series/{uid}/instances") if study else []
        if not instances:
            raise AbsentError(404, "the DICOMweb server has no such series", "check the SeriesInstanceUID")
        return Series(study, uid, frozenset(_value(item, SOP_UID) for item in instances))

    def fetch(self, series: Series, folder: Path, most_bytes: int) -> None:
        """Write the instances of a series into a folder, as they are stored there.

        Raises:
            ArchiveError: if the server fails, sends fewer instances than it lists, or more bytes than `most_bytes`.
            OSError: if they cannot be written.
        """
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with self.open("GET", f"studies/{series.study}/series/{series.uid}", {"Accept": accept}) as answer:
            count = _save_parts(answer, folder, most_bytes)
        if count < len(series.instances):
            raise BrokenError(
                502, f"the DICOMweb server sent {count} of {len(series.instances)} instances", "try again"
            )

    def store(self, study: str, data: bytes) -> None:
        """Store one DICOM file in a study.

        Raises:
            ArchiveError: if the server does not take it.
        """
        limit = secrets.token_hex(16)
        head = f"--{limit}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        headers = {
            "Accept": "application/dicom+json",
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={limit}',
        }
        body = head + data + f"\r\n--{limit}--\r\n".encode()
        with self.open("POST", f"studies/{study}", headers, body) as answer:
            stored = _json(b"".join(answer.blocks(MOST_JSON)))
        if not isinstance(stored, dict) or stored.get(FAILED, {}).get("Value"):
            raise BrokenError(502, "the DICOMweb server did not store the segmentation", "see the server's own log")

    @contextmanager
    def open(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Iterator["Answer"]:
        """Yield the answer to a request, whose status is a success.

        Args:
            method: of HTTP.
            path: below the server's root, with the query; it is sent as it is.
            headers: those of the request; credentials are added.
            body: of the request.

        Raises:
            ArchiveError: if there is no such answer.
        """
        archive, end = self.archive, time.monotonic() + self.seconds
        connection = (
            http.client.HTTPConnection(archive.host, archive.port, timeout=self.seconds)
            if archive.tls is None
            else http.client.HTTPSConnection(archive.host, archive.port, timeout=self.seconds, context=archive.tls)
        )
        if archive.authorization is not None:
            headers = {**headers, "Authorization": archive.authorization}
        with ExitStack() as opened:
            opened.callback(connection.close)
            with _typed(end, self.seconds):
                connection.request(method, f"{archive.root}/{path}", body, headers)
                opened.enter_context(_deadline(connection.sock, end))
                response = opened.enter_context(connection.getresponse())
                if not 200 <= response.status < 300:
                    raise _status_error(response.status)
            yield Answer(response, end, self.seconds)

    def _search(self, path: str) -> list[Any]:
        with self.open("GET", path, {"Accept": "application/dicom+json"}) as answer:
            data = b"".join(answer.blocks(MOST_JSON))
            items = [] if answer.status == 204 else _json(data)
        if not isinstance(items, list):
            raise BrokenError(502, "the DICOMweb server answered a search with no list", "check --dicomweb")
        return items


class Answer:
    """An answer whose headers have come."""

    def __init__(self, response: http.client.HTTPResponse, end: float, seconds: float) -> None:
        self._response, self._end, self._seconds = response, end, seconds
        self.status = response.status

    def header(self, name: str) -> str:
        """Return a header, or nothing."""
        return self._response.getheader(name, "")

    def blocks(self, most: int) -> Iterator[bytes]:
        """Yield the body.

        Raises:
            ArchiveError: if it breaks off, takes too long, or has more than `most` bytes.
        """
        with _typed(self._end, self._seconds):
            while block := self._response.read1(BLOCK):
                most -= len(block)
                if most < 0:
                    raise ArchiveError(413, "the DICOMweb server's answer is too large", "choose a smaller series")
                yield block
            if self._response.length:
                raise http.client.IncompleteRead(b"")


@contextmanager
def _deadline(connected: socket.socket, end: float) -> Iterator[None]:
    """Cut a connection off at a time, so that a server that sends a byte now and then does not go on for ever."""
    timer = threading.Timer(end - time.monotonic(), _cut_off, (connected,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut_off(connected: socket.socket) -> None:
    with suppress(OSError):  # it has ended
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


@contextmanager
def _typed(end: float, seconds: float) -> Iterator[None]:
    """Turn the errors of a connection into one of ours; whatever happens after `end` happens because it was cut off."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        hint = "pass --dicomweb-ca FILE with the certificate of its authority"
        raise CertificateError(
            502, f"the DICOMweb server's certificate is not trusted: {error.verify_message}", hint
        ) from None
    except (http.client.HTTPException, OSError) as error:
        if isinstance(error, TimeoutError) or time.monotonic() >= end:
            raise SlowError(504, f"the DICOMweb server did not answer in {seconds:g} s", "try again") from None
        if isinstance(error, ssl.SSLError):
            raise BrokenError(
                502, f"the DICOMweb server does not speak TLS: {error.reason}", "check --dicomweb"
            ) from None
        if isinstance(error, http.client.HTTPException):
            raise _broken() from None
        raise UnreachableError(
            502, f"the DICOMweb server is not reached: {error.strerror}", "check --dicomweb"
        ) from None


def _status_error(status: int) -> ArchiveError:
    if status in (401, 403):
        hint = "set MEDGROUND_DICOMWEB_USER and MEDGROUND_DICOMWEB_PASSWORD, and start the server again"
        return CredentialsError(502, f"the DICOMweb server refuses the credentials ({status})", hint)
    if status == 404:
        return AbsentError(404, "the DICOMweb server does not have it")
    return BrokenError(502, f"the DICOMweb server answered {status}", "see its log")


def _broken() -> BrokenError:
    return BrokenError(502, "the DICOMweb server's answer broke off or is damaged", "try again")


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise _broken() from None


def _value(item: Any, tag: str) -> str:
    """Return the first value of an element in DICOM's JSON."""
    try:
        return str(item[tag]["Value"][0])
    except (KeyError, IndexError, TypeError):
        raise _broken() from None


def _save_parts(answer: Answer, folder: Path, most_bytes: int) -> int:
    """Write each part of a multipart answer to a file of its own; return how many there are."""
    kind, options = parse_options_header(answer.header("Content-Type"))
    if kind != b"multipart/related" or b"boundary" not in options:
        raise BrokenError(502, "the DICOMweb server sent no multipart/related", "check --dicomweb")
    count, ended = 0, False
    file: IO[bytes] | None = None

    def begin() -> None:
        nonlocal count, file
        file = (folder / f"{count:05}.dcm").open("wb")
        count += 1

    def write(data: bytes, start: int, end: int) -> None:
        assert file is not None
        file.write(data[start:end])

    def close() -> None:
        if file is not None:
            file.close()

    def end() -> None:
        nonlocal ended
        ended = True

    calls = {"on_part_begin": begin, "on_part_data": write, "on_part_end": close, "on_end": end}
    parser = MultipartParser(options[b"boundary"], calls)  # type: ignore[arg-type]
    try:
        for block in answer.blocks(most_bytes):
            parser.write(block)
    except FormParserError:
        raise _broken() from None
    finally:
        close()
    if not ended:
        raise _broken()
    return count
