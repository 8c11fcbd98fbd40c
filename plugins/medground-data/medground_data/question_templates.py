"""Questions from templates that never name their target: by position, by measured properties, by function.

Every word about the picture is checked against the mask (`attributes`), no question holds a name of its target
(`names_in`), and where an image has several targets, attributes are added until the others are excluded, where that can be
done.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medground.data.category_names import VIEWS, kind_of, names_in
from medground.data.region_props import RegionProps
from medground_data.attributes import Attribute, attributes_of, superlative
from medground_data.vocabulary import KIND_HINTS, NOUNS, hints_of

FORMS: tuple[str, ...] = (
    "Which {adj} {noun} lies {position}?",
    "What is the {adj} {noun} {position}?",
    "Where is the {noun} that {hint}?",
    "Which {adj} {noun} {position} {hint}?",
    "Looking {position}, what do you see that {hint}?",
    "Which part of this {view} {hint}?",
    "What {position} {hint}?",
    "How far does the {adj} {noun} seen {position} reach?",
    "If you had to point at the {noun} that {hint}, where would you point?",
    "Which {noun}, {adj} and lying {position}, is meant here?",
    "In this {view}, where is the {adj} {noun} that {hint}?",
    "Where in this {view} would you look for what {hint}?",
    "Something {adj} can be seen {position}; which {noun} is it?",
    "Somebody asks about the {adj} {noun} {position} in this {view}; where are its borders?",
    "Which {noun} {position} {hint}?",
    "Can you outline the {adj} {noun} that {hint}?",
    "Of all that this {view} shows, which {adj} {noun} {hint}?",
    "What would you mark {position} as the {noun} that {hint}?",
)
"""Slots: ``adj`` one to three true adjectives, ``position`` a true position, ``hint`` what is known of the category or kind,
``noun`` and ``view`` words that fit kind and modality."""
_TRIES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionTarget:
    """One target of an image, with what a question can use of it."""

    category: str
    modality: str
    props: RegionProps


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateQuestion:
    """A question with what is known of it."""

    question: str
    form: int
    """Its index in `FORMS`."""
    distinct: bool
    """True if it fits no other target of the image, as far as can be measured."""


def ask(target: QuestionTarget, others: Sequence[QuestionTarget], rng: np.random.Generator) -> TemplateQuestion | None:
    """Return a question about a target among the other targets of its image; None if no form fits without naming it."""
    first: TemplateQuestion | None = None
    for form in rng.permutation(np.repeat(np.arange(len(FORMS)), 1 + _TRIES // len(FORMS))):
        result = _filled(int(form), target, others, rng)
        if result is None or names_in(result.question, target.category):
            continue
        if result.distinct:
            return result
        first = first or result
    return first


def _filled(
    number: int, target: QuestionTarget, others: Sequence[QuestionTarget], rng: np.random.Generator
) -> TemplateQuestion | None:
    form, kind = FORMS[number], kind_of(target.category)
    own_hints = hints_of(target.category)
    hinted = "{hint}" in form
    rivals = [
        other for other in others if not (hinted and own_hints and hints_of(other.category) != own_hints)
    ]  # fmt: skip
    attributes = _chosen(target, form, rivals, rng)
    if attributes is None:
        return None
    remaining = [other.props for other in rivals if all(item.possible_for(other.props) for item in attributes)]
    most = superlative(target.props, remaining) if remaining else None
    question = form.format(
        adj=", ".join(_wording(attributes, slot, rng) for slot in _ADJECTIVES if _has(attributes, slot)),
        position=_wording(attributes, "position", rng) if _has(attributes, "position") else "",
        hint=str(rng.choice(own_hints or KIND_HINTS[kind])) if hinted else "",
        noun=str(rng.choice(NOUNS[kind])),
        view=VIEWS.get(target.modality.lower(), "picture"),
    )
    if most is not None:
        question = f"{question[:-1]} (of those that fit, the one {most})?"
    return TemplateQuestion(question=question, form=number, distinct=not remaining or most is not None)


_ADJECTIVES = ("size", "contrast", "shape")


def _chosen(
    target: QuestionTarget, form: str, rivals: Sequence[QuestionTarget], rng: np.random.Generator
) -> list[Attribute] | None:
    """Attributes for the slots of a form, more of them while that excludes rivals; None where a slot stays empty."""
    slots = (("position",) if "{position}" in form else ()) + (_ADJECTIVES if "{adj}" in form else ())
    usable = [attribute for attribute in attributes_of(target.props) if attribute.slot in slots]
    rng.shuffle(usable)
    chosen: list[Attribute] = []
    for group in (("position",), _ADJECTIVES):
        if set(group) <= set(slots):
            fitting = [attribute for attribute in usable if attribute.slot in group]
            if not fitting:
                return None
            chosen.append(fitting[0])
    remaining = [rival for rival in rivals if all(item.possible_for(rival.props) for item in chosen)]
    while remaining:
        more = [attribute for attribute in usable if not _has(chosen, attribute.slot)]
        excluded = [sum(not attribute.possible_for(rival.props) for rival in remaining) for attribute in more]
        if not excluded or max(excluded) == 0:
            break
        chosen.append(more[int(np.argmax(excluded))])
        remaining = [rival for rival in remaining if chosen[-1].possible_for(rival.props)]
    return chosen


def _has(attributes: Sequence[Attribute], slot: str) -> bool:
    return any(attribute.slot == slot for attribute in attributes)


def _wording(attributes: Sequence[Attribute], slot: str, rng: np.random.Generator) -> str:
    return str(rng.choice(next(attribute.words for attribute in attributes if attribute.slot == slot)))
