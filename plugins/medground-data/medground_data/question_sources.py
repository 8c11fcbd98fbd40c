"""Sources of questions: the dataset's own, templates, or (in `medground_data.llm_questions`) a reasoner."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medground.data.source_samples import BadSample
from medground_data.drafts import Draft
from medground_data.question_templates import QuestionTarget, ask

ASKED_BY = "asked_by"
"""The manifest word that says where a question comes from: ``source``, ``template`` or ``reasoner``."""
DISTINCT = "question_fits_others"
"""Set to ``yes`` where a question, as far as can be measured, fits another target of its image too."""


@dataclass(frozen=True, kw_only=True)
class FromSource:
    """Takes the questions that the source states; samples without one are left out.

    Args:
        column: the manifest word or column that holds them; None takes ``question``.
    """

    column: str | None = None

    def __call__(self, drafts: list[Draft], folder: Path) -> list[BadSample]:
        """See `medground_data.build.QuestionSource`."""
        missing = []
        for draft in drafts:
            stated = draft.line["question"] if self.column is None else draft.line.pop(self.column, None)
            draft.line["question"] = stated if isinstance(stated, str) and stated.strip() else None
            if draft.line["question"] is None:
                missing.append(BadSample(draft.where, f"states no {self.column or 'question'}"))
            else:
                draft.line[ASKED_BY] = "source"
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

    def __call__(self, drafts: list[Draft], folder: Path) -> list[BadSample]:
        """See `medground_data.build.QuestionSource`."""
        missing = []
        for group in by_image(drafts).values():
            used: set[str] = set()
            for draft in group:
                if self.keep and draft.line["question"]:
                    draft.line[ASKED_BY] = "source"
                elif not self._ask(draft, group, used):
                    missing.append(BadSample(draft.where, "no template asks about it without naming it"))
        return missing

    def _ask(self, draft: Draft, group: Sequence[Draft], used: set[str]) -> bool:
        draft.line["question"] = None
        others = [target_of(other) for other in group if other is not draft]
        content = hashlib.blake2b(str(draft.line["id"]).encode(errors="surrogatepass"), digest_size=8).digest()
        rng = np.random.default_rng([self.seed, *np.frombuffer(content, np.uint32)])
        for _ in range(5):
            result = ask(target_of(draft), others, rng)
            if result is None:
                return False
            if result.question in used:  # the same words about two targets of one image
                continue
            used.add(result.question)
            draft.line.update({"question": result.question, ASKED_BY: "template"})
            if not result.distinct:
                draft.line[DISTINCT] = "yes"
            return True
        return False


def by_image(drafts: Sequence[Draft]) -> Mapping[str, list[Draft]]:
    """Group drafts by image."""
    groups: dict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        groups[str(draft.line["image"])].append(draft)
    return groups


def target_of(draft: Draft) -> QuestionTarget:
    """Return a draft of one target as templates see it."""
    words: dict[str, Any] = draft.line
    return QuestionTarget(category=words.get("category", ""), modality=words.get("modality", ""), props=draft.props)
