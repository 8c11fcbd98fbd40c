"""Numbers that others published, with their source and what they mean there: to stand beside a run, never to be mixed with it.

Values are as printed, times 100. A name of a metric is given only where the definition is the same as ours.
"""

import json
from importlib import resources
from typing import Any

from medground.errors import RecipeError, did_you_mean


def names() -> list[str]:
    """The tables at hand."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))


def published(name: str) -> dict[str, Any]:
    """One table: title, source, data, definitions, notes and rows of ``{"model", "values", ...}``.

    >>> published("medreasoner")["rows"][0]["values"]["pdice_compat"]
    26.55

    Raises:
        RecipeError: if there is none of that name.
    """
    if name not in names():
        raise RecipeError(f"there is no published table {name!r}", hint=did_you_mean(str(name), names()))
    found: dict[str, Any] = json.loads(resources.files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return found
