"""Who asks: the source's own questions, templates, or (in `medground_data.llm_questions`) a reasoner."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medground.data.source_samples import BadSample
from medground_data.build import Row
from medground_data.question_templates import Target, ask

ASKED_BY = "asked_by"
"""The manifest word that says where a question comes from: ``source``, ``template`` or ``reasoner``."""
DISTINCT = "question_fits_others"
"""Set to ``yes`` where a question, as far as can be measured, fits another target of its image too."""


@dataclass(frozen=True, kw_only=True)
class FromSource:
    """Takes the questions the source states; samples without one are left out.

    Args:
        column: the manifest word or column that holds them; None takes ``question``.
    """

    column: str | None = None

    def __call__(self, rows: list[Row], folder: Path) -> list[BadSample]:
        """See `medground_data.build.Ask`."""
        missing = []
        for row in rows:
            stated = row.line["question"] if self.column is None else row.line.pop(self.column, None)
            row.line["question"] = stated if isinstance(stated, str) and stated.strip() else None
            if row.line["question"] is None:
                missing.append(BadSample(row.where, f"states no {self.column or 'question'}"))
            else:
                row.line[ASKED_BY] = "source"
        return missing


@dataclass(frozen=True, kw_only=True)
class FromTemplates:
    """Asks by template.

    Args:
        seed: everything follows from it and from the samples' ids.
        keep: leave the questions that the source states.
    """

    seed: int = 0
    keep: bool = False

    def __call__(self, rows: list[Row], folder: Path) -> list[BadSample]:
        """See `medground_data.build.Ask`."""
        missing = []
        for group in by_image(rows).values():
            used: set[str] = set()
            for row in group:
                if self.keep and row.line["question"]:
                    row.line[ASKED_BY] = "source"
                elif not self._ask(row, group, used):
                    missing.append(BadSample(row.where, "no template asks about it without naming it"))
        return missing

    def _ask(self, row: Row, group: Sequence[Row], used: set[str]) -> bool:
        row.line["question"] = None
        others = [target_of(other) for other in group if other is not row]
        content = hashlib.blake2b(str(row.line["id"]).encode(errors="surrogatepass"), digest_size=8).digest()
        rng = np.random.default_rng([self.seed, *np.frombuffer(content, np.uint32)])
        for _ in range(5):
            asked = ask(target_of(row), others, rng)
            if asked is None:
                return False
            if asked.question in used:  # the same words about two targets of one image
                continue
            used.add(asked.question)
            row.line.update({"question": asked.question, ASKED_BY: "template"})
            if not asked.distinct:
                row.line[DISTINCT] = "yes"
            return True
        return False


def by_image(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    """The samples of each image."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[str(row.line["image"])].append(row)
    return found


def target_of(row: Row) -> Target:
    """A sample as questions see it."""
    words: dict[str, Any] = row.line
    return Target(category=words.get("category", ""), modality=words.get("modality", ""), looks=row.looks)
