"""A DICOMweb server (PS3.18): what it is reached by, and what can go wrong, as one error each."""

import netrc
import os
import re
import ssl
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from medground.errors import UsageError
from medground.servers import remote_host
from medground_serve.settings import Refusal

USER, PASSWORD, TOKEN = (f"MEDGROUND_DICOMWEB_{word}" for word in ("USER", "PASSWORD", "TOKEN"))
"""The environment variables of the credentials: user and password, or a bearer token."""


class ArchiveError(Refusal):
    """The DICOMweb server did not do what it was asked."""


class UnreachableError(ArchiveError):
    """No connection."""


class CertificateError(ArchiveError):
    """Its certificate is not one that is trusted."""


class CredentialsError(ArchiveError):
    """It refuses the credentials, or wants some."""


class SlowError(ArchiveError):
    """It does not answer in time."""


class AbsentError(ArchiveError):
    """It does not have what was asked for."""


class BrokenError(ArchiveError):
    """Its answer is not what DICOMweb says."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Where a DICOMweb server is, and the credentials for it. Its text never holds them."""

    host: str
    port: int
    root: str
    """The path before ``/studies``, without a slash at its end."""
    tls: ssl.SSLContext | None
    authorization: str | None = field(default=None, repr=False)
    """The header's value."""


def archive(url: str, *, netrc_file: Path | None = None, authority: Path | None = None) -> Archive:
    """Return the DICOMweb server at an address, with the credentials of the environment, else of a netrc file.

    Args:
        url: ends where ``/studies`` follows.
        netrc_file: with lines ``machine HOST login USER password PASSWORD``.
        authority: PEM certificates that are trusted in place of the system's.

    Raises:
        UsageError: if the address, a file or the environment cannot be used. No credential is repeated.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username is not None
        or not re.fullmatch(r"[!-~]+", url)
        or parts.query
        or parts.fragment
    ):
        raise UsageError(
            "--dicomweb is not the address of a DICOMweb server",
            hint=f"write it as https://host/dicom-web; credentials go into {USER} and {PASSWORD}, or {TOKEN}",
        )
    authorization = _authorization(parts.hostname, netrc_file)
    if authorization is not None and parts.scheme == "http" and remote_host(url):
        raise UsageError("--dicomweb has no TLS: the credentials would be readable on the way", hint="write https://")
    tls = _context(authority) if parts.scheme == "https" else None
    return Archive(
        host=parts.hostname, port=port or (443 if tls else 80), root=parts.path.rstrip("/"), tls=tls,
        authorization=authorization,
    )  # fmt: skip


def _authorization(host: str, file: Path | None) -> str | None:
    user, password, token = (os.environ.get(name, "") for name in (USER, PASSWORD, TOKEN))
    if not (user or token) and file is not None:
        try:
            entry = netrc.netrc(str(file)).authenticators(host)
        except OSError as error:
            raise UsageError(
                f"--dicomweb-netrc cannot be read: {error.strerror}", hint="give a readable file"
            ) from None
        except netrc.NetrcParseError as error:
            raise UsageError(f"--dicomweb-netrc is damaged in line {error.lineno}", hint="correct the line") from None
        if entry is None:
            raise UsageError(
                f"--dicomweb-netrc has no line for {host}", hint=f"add machine {host} login ... password ..."
            )
        user, password = entry[0], entry[2] or ""
    if token:
        if not re.fullmatch(r"[!-~]+", token):
            raise UsageError(f"{TOKEN} holds characters that no token has", hint=f"export {TOKEN}=YOUR_TOKEN")
        return f"Bearer {token}"
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}" if user else None


def _context(authority: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError:  # an SSLError is one
        raise UsageError(
            "--dicomweb-ca holds no certificate that can be read", hint="give a file in PEM form"
        ) from None
