"""Numbers that others published, with their source and what they mean there: to stand beside a run, never to be mixed with it.

Values are as printed, times 100. A name of a metric is given only where the definition is the same as ours.
"""

import json
from dataclasses import dataclass, field
from importlib import resources

from medground.errors import RecipeError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """The numbers of one model; None where none was published."""

    model: str
    size: str | None = None
    type: str | None = None
    values: dict[str, float | None]
    iou_compat_by_supercategory: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """One table and what its numbers mean."""

    title: str
    source: str
    data: str
    prompt: str
    segmenter: str
    definitions: dict[str, str]
    notes: list[str]
    rows: list[PublishedRow]


def names() -> list[str]:
    """Return the names of the shipped tables."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))


def published(name: str) -> PublishedTable:
    """Return one table.

    >>> published("medreasoner").rows[0].values["pdice_compat"]
    26.55

    Raises:
        RecipeError: if there is none of that name.
    """
    if name not in names():
        raise RecipeError(f"there is no published table {name!r}", hint=did_you_mean(name, names()))
    entry = json.loads(resources.files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return PublishedTable(**{**entry, "rows": [PublishedRow(**row) for row in entry["rows"]]})
