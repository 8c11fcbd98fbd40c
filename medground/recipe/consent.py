"""What a recipe may not grant itself.

That images leave this machine, which variable holds a key, and that another machine is talked to in plain http: each
counts where the user wrote it, on the command line or in Python, or where the environment allows the server's host. Files
do not count, those of a run that is resumed included: anyone may have written them.
"""

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from medground.errors import RecipeError
from medground.recipe.layers import COMMAND_LINE
from medground.recipe.sources import MAPPING
from medground.servers import ALLOWED, is_allowed, remote_host

_BY_USER = (COMMAND_LINE, MAPPING)


def consented(key: str, arguments: Mapping[str, Any], origin: Callable[[str], str]) -> dict[str, Any]:
    """Return a component's arguments, with ``allow_upload`` as far as the user gave it.

    Args:
        key: the component's dotted key.
        arguments: as the recipe has them.
        origin: dotted key -> where its value is written.

    Raises:
        RecipeError: if a file sends images, a key or plain http to another machine.
    """
    written = {word: origin(f"{key}.{word}") for word in ("allow_upload", "api_key_env", "base_url")}
    host = remote_host(arguments.get("base_url"))
    if host and not is_allowed(host):
        address = str(arguments["base_url"])
        sent = "the run's numbers" if key.startswith("trackers.") else "images and questions"
        what = {
            "allow_upload": arguments.get("allow_upload") and f"allows uploads to {host}",
            "api_key_env": arguments.get("api_key_env") is not None and f"names the variable whose key {host} gets",
            "base_url": not address.startswith("https:") and f"sends {sent} to {host} unencrypted",
        }
        for word, act in what.items():
            if act and written[word] not in _BY_USER:
                value = {"allow_upload": "true", "base_url": address}.get(word, "NAME")
                override, export = shlex.quote(f"{key}.{word}={value}"), f"export {ALLOWED}={shlex.quote(host)}"
                hint = f"if you want that, add {override} to the command, or {export}"
                raise RecipeError(f"{written[word]}: the recipe {act}, which is the user's to decide", hint=hint)
    own = written["allow_upload"] in _BY_USER
    return {word: value if own or word != "allow_upload" else False for word, value in arguments.items()}
