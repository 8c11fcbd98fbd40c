"""The terms of published weights: declared by the component that reads them, shown before anything is downloaded.

class Sam:
    published = (Published("facebook/sam-vit-base", stated("Apache-2.0")),)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_COMMERCIAL = frozenset({
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "unlicense", "cc-by-4.0", "cc-by-sa-4.0",
})  # fmt: skip
"""Licences that allow commercial use, as the hub spells them."""
_RESEARCH = frozenset({"qwen-research", "qwen-research-license"})
"""Licences for research alone whose names do not say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under what terms weights may be used, as far as it is stated."""

    licence: str | None
    """As their authors state it; None where they state none."""
    commercial: bool | None
    """Whether they may be used commercially; None where that is not known."""
    note: str = ""
    """What a user must know beside it, for example share-alike."""

    def __str__(self) -> str:
        licence = self.licence or "UNKNOWN: none is stated, ask the authors"
        words = {True: "", False: ", non-commercial", None: ", commercial use unknown" if self.licence else ""}
        return f"{licence}{words[self.commercial]}{f'; {self.note}' if self.note else ''}"

    @property
    def refusal(self) -> str | None:
        """Why they cannot be used commercially, as the end of a sentence; None where they can."""
        if self.commercial:
            return None
        if self.licence is None:
            return "has no known licence, so nothing allows commercial use"
        if self.commercial is None:
            return f"has terms that medground does not know to allow commercial use: {self.licence}"
        return f"may not be used commercially: {self.licence}"


@dataclass(frozen=True, slots=True)
class Published:
    """Weights that a component loads and somebody has published."""

    id: str
    """Hub id, ``owner/name[/file]``; or the path of what comes with the package."""
    terms: Terms
    sha256: Mapping[str, str] = field(default_factory=dict, hash=False)
    """File name -> expected hash, where several public records agree on it."""

    @property
    def repository(self) -> str:
        """The id without a file."""
        return "/".join(self.id.split("/")[:2])


def stated(licence: str | None, note: str = "") -> Terms:
    """Return the terms of a licence by its name; whether an unknown one allows commercial use is not known.

    >>> stated("CC BY-SA 4.0").commercial, stated("cc-by-nc-4.0").commercial, stated("other").commercial
    (True, False, None)
    """
    word = (licence or "").lower().replace(" ", "-")
    commercial = True if word in _COMMERCIAL else False if word in _RESEARCH or "-nc" in word else None
    return Terms(licence=licence, commercial=commercial, note=note)


def declared(repository: str, published: Iterable[Published]) -> Published | None:
    """Return what is declared of a repository, or None."""
    return next((entry for entry in published if entry.repository == repository), None)


def commercial_remedy(key: str, published: Iterable[Published]) -> str:
    """Return what to type in place of weights that may not be used commercially.

    Args:
        key: the dotted key that names them in a recipe.
        published: the weights of the component that loads them.
    """
    usable = next((entry.id for entry in published if entry.terms.commercial), None)
    if usable:
        return f"write {key}={usable}"
    return f"ask its authors, or name other weights as {key}; medground plugins list shows the licences of components"
