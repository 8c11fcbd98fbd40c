"""Servers that components talk to: which are on this machine, and what the user lets go to others.

A component that sends images has an argument ``base_url`` for the address, ``allow_upload`` for the user's consent and,
where it sends a key, ``api_key_env`` for the name of the variable that holds it. Recipes treat these three words apart;
see `medground.recipe.consent`.
"""

import os
import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from medground.errors import RecipeError

ALLOWED = "MEDGROUND_ALLOW_UPLOAD"
"""The environment variable with the hosts, separated by commas, that images, questions and keys may go to."""
_KEY_VARIABLE = re.compile(r"OPENAI_API_KEY|OPENROUTER_API_KEY|MEDGROUND_[A-Z0-9_]{1,64}")


def remote_host(base_url: object) -> str | None:
    """Return the host of an address in lower case; None where it is this machine's, or no address.

    >>> remote_host("http://gpu7:8000/v1"), remote_host("http://127.0.0.1:8000/v1"), remote_host("http://LOCALHOST")
    ('gpu7', None, None)
    """
    try:
        host = urlsplit(base_url).hostname if isinstance(base_url, str) else None
    except ValueError:
        return None
    if not host or host == "localhost":
        return None
    try:
        return None if ip_address(host).is_loopback else host
    except ValueError:
        return host


def is_allowed(host: str) -> bool:
    """Return True if the environment allows uploads to a host."""
    return host in {name.strip().lower() for name in os.environ.get(ALLOWED, "").split(",")}


def checked_url(
    base_url: str, *, allow_upload: bool, argument: str | None = None, sent: str = "images and questions"
) -> str:
    """Return a server's address without a slash at its end, if what is sent may go there.

    Args:
        base_url: as given by a user.
        allow_upload: the user's consent, which only another machine needs.
        argument: the dotted key of that consent in a recipe; None where it is not known.
        sent: what goes there, in words.

    Raises:
        RecipeError: if it is no http(s) address, or could hold a secret (a user, a query); it is not repeated then. Or if
            it is another machine's and neither `allow_upload` nor the environment consents.
    """
    hint = "write it as https://host/v1; a key goes into the environment variable that api_key_env names"
    try:
        address = urlsplit(base_url)
        usable = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:
        usable = False
    if not usable or not base_url.isascii() or re.search(r"[\s\\\x00-\x1f\x7f]", base_url):
        raise RecipeError("base_url is not the address of a server", hint=hint)
    if "@" in address.netloc or address.query or address.fragment:
        raise RecipeError("base_url holds more than a host and a path", hint=hint)
    host = remote_host(base_url)
    if host and not allow_upload and not is_allowed(host):
        added = f"add {argument}=true to the command, or " if argument else ""
        raise RecipeError(
            f"{host} is not this machine, and {sent} would be sent there",
            hint=f"if they may leave this machine, {added}export {ALLOWED}={host}",
        )
    return base_url.rstrip("/")


def key_from(variable: str | None) -> str | None:
    """Return the key in an environment variable; None where none is named.

    Raises:
        RecipeError: if `variable` is not one that keys may be read from, is not set, or holds what no header can carry.
            Neither the key nor `variable`, which may be a key by mistake, is repeated unless it is such a name.
    """
    if variable is None:
        return None
    if not _KEY_VARIABLE.fullmatch(variable):
        raise RecipeError(
            "api_key_env is neither OPENAI_API_KEY, OPENROUTER_API_KEY nor a name that starts with MEDGROUND_",
            hint="export MEDGROUND_KEY=YOUR_KEY, and set api_key_env=MEDGROUND_KEY",
        )
    key = os.environ.get(variable, "")
    if not re.fullmatch(r"[!-~]+", key):
        problem = "holds characters no key has" if key else "is not set"
        raise RecipeError(f"the environment variable {variable} {problem}", hint=f"export {variable}=YOUR_KEY")
    return key
