"""Questions that never name their target, from templates: by place, by looks measured from the image, by what it does.

Every word about the picture is checked against the mask (`facts`), no question holds a name of its target
(`names_in`), and where an image has several targets, facts are added until the others are excluded, where that can be
done.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medground.data.region_props import RegionProps
from medground_data.attributes import Fact, facts_of, standing_out
from medground_data.vocabulary import KIND_HINTS, NOUNS, VIEWS, hints_of, kind_of, names_of

FORMS: tuple[str, ...] = (
    "Which {adj} {noun} lies {place}?",
    "What is the {adj} {noun} {place}?",
    "Where is the {noun} that {hint}?",
    "Which {adj} {noun} {place} {hint}?",
    "Looking {place}, what do you see that {hint}?",
    "Which part of this {view} {hint}?",
    "What {place} {hint}?",
    "How far does the {adj} {noun} seen {place} reach?",
    "If you had to point at the {noun} that {hint}, where would you point?",
    "Which {noun}, {adj} and lying {place}, is meant here?",
    "In this {view}, where is the {adj} {noun} that {hint}?",
    "Where in this {view} would you look for what {hint}?",
    "Something {adj} can be seen {place}; which {noun} is it?",
    "Somebody asks about the {adj} {noun} {place} in this {view}; where are its borders?",
    "Which {noun} {place} {hint}?",
    "Can you outline the {adj} {noun} that {hint}?",
    "Of all that this {view} shows, which {adj} {noun} {hint}?",
    "What would you mark {place} as the {noun} that {hint}?",
)
"""Slots: ``adj`` one to three true adjectives, ``place`` a true place, ``hint`` what is known of the category or kind,
``noun`` and ``view`` words that fit kind and modality."""
_TRIES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target of an image, as far as asking about it goes."""

    category: str
    modality: str
    looks: RegionProps


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question with what is known of it."""

    question: str
    form: int
    """Its place in `FORMS`."""
    distinct: bool
    """Whether it fits no other target of the image, as far as can be measured."""


def ask(target: Target, others: Sequence[Target], rng: np.random.Generator) -> Asked | None:
    """A question about a target among the other targets of its image; None where no form fits without naming it."""
    best: Asked | None = None
    for form in rng.permutation(np.repeat(np.arange(len(FORMS)), 1 + _TRIES // len(FORMS))):
        asked = _asked(int(form), target, others, rng)
        if asked is None or names_in(asked.question, target.category):
            continue
        if asked.distinct:
            return asked
        best = best or asked
    return best


def names_in(text: str, category: str) -> list[str]:
    """Which names of a category a text holds, in either number, whole words only.

    >>> names_in("Which of the kidneys is larger?", "left kidney"), names_in("Which bean is larger?", "left kidney")
    (['kidney'], [])
    """
    low = text.lower()
    return sorted(name for name in names_of(category) if re.search(rf"\b{re.escape(name)}(?:s|es|'s)?\b", low))


def _asked(number: int, target: Target, others: Sequence[Target], rng: np.random.Generator) -> Asked | None:
    form, kind = FORMS[number], kind_of(target.category)
    own_hints = hints_of(target.category)
    hinted = "{hint}" in form
    rivals = [
        other for other in others if not (hinted and own_hints and hints_of(other.category) != own_hints)
    ]  # fmt: skip
    facts = _chosen(target, form, rivals, rng)
    if facts is None:
        return None
    left = [other.looks for other in rivals if all(fact.possible_for(other.looks) for fact in facts)]
    most = standing_out(target.looks, left) if left else None
    question = form.format(
        adj=", ".join(_said(facts, slot, rng) for slot in ("size", "tone", "shape") if _has(facts, slot)),
        place=_said(facts, "place", rng) if _has(facts, "place") else "",
        hint=str(rng.choice(own_hints or KIND_HINTS[kind])) if hinted else "",
        noun=str(rng.choice(NOUNS[kind])),
        view=VIEWS.get(target.modality.lower(), "picture"),
    )
    if most is not None:
        question = f"{question[:-1]} (of those that fit, the one {most})?"
    return Asked(question=question, form=number, distinct=not left or most is not None)


def _chosen(target: Target, form: str, rivals: Sequence[Target], rng: np.random.Generator) -> list[Fact] | None:
    """Facts that fill the slots of a form, more of them while that excludes rivals; None where a slot stays empty."""
    slots = (("place",) if "{place}" in form else ()) + (("size", "tone", "shape") if "{adj}" in form else ())
    free = [fact for fact in facts_of(target.looks) if fact.slot in slots]
    rng.shuffle(free)
    found: list[Fact] = []
    for group in (("place",), ("size", "tone", "shape")):
        if set(group) <= set(slots):
            usable = [fact for fact in free if fact.slot in group]
            if not usable:
                return None
            found.append(usable[0])
    left = [rival for rival in rivals if all(fact.possible_for(rival.looks) for fact in found)]
    while left:
        more = [fact for fact in free if not _has(found, fact.slot)]
        gains = [sum(not fact.possible_for(rival.looks) for rival in left) for fact in more]
        if not gains or max(gains) == 0:
            break
        found.append(more[int(np.argmax(gains))])
        left = [rival for rival in left if found[-1].possible_for(rival.looks)]
    return found


def _has(facts: Sequence[Fact], slot: str) -> bool:
    return any(fact.slot == slot for fact in facts)


def _said(facts: Sequence[Fact], slot: str, rng: np.random.Generator) -> str:
    return str(rng.choice(next(fact.words for fact in facts if fact.slot == slot)))


def untrue(text: str, looks: RegionProps) -> list[str]:
    """Phrases of place in a text that a target clearly contradicts: it lies wholly on the other side of the picture.

    Only phrases about the picture itself count, such as "in the upper left part of the picture" or "on the right side of
    the image": "the left kidney" and "the patient's left" say nothing about the picture.
    """
    found = []
    for phrase in _ABOUT_THE_PICTURE.finditer(text.lower()):
        for side in re.findall(r"left|right|upper|top|lower|bottom", phrase[0]):
            if WHOLLY_ELSEWHERE[side](looks):
                found.append(phrase[0])
                break
    return found


_SIDE = r"(?:left|right|upper|top|lower|bottom)"
_ABOUT_THE_PICTURE = re.compile(
    rf"\b{_SIDE}(?:[ -]{_SIDE})?(?:[ -](?:hand|side|half|part|quarter|quadrant|edge|third|corner|portion))*"
    rf" (?:of|in) (?:the|this) (?:picture|image|frame|photograph|view|field of view)\b"
)
WHOLLY_ELSEWHERE: Mapping[str, Callable[[RegionProps], bool]] = {
    "left": lambda its: its.box.x1 >= 0.5,
    "right": lambda its: its.box.x2 <= 0.5,
    "upper": lambda its: its.box.y1 >= 0.5,
    "top": lambda its: its.box.y1 >= 0.5,
    "lower": lambda its: its.box.y2 <= 0.5,
    "bottom": lambda its: its.box.y2 <= 0.5,
}
"""A word of a side to whether nothing of a target lies on it."""
