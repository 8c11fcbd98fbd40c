"""Questions about every target of a category in an image: there may be several, one, or none.

Such a question has a true answer only where the source marks every instance. What counts is what it declares: the word
``exhaustive`` of a line, or the option of the same name. Of any other category a label may be missing, so nothing is asked.
An absent target is asked about in the words of the others, so that only the picture tells the difference.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medground.data.category_names import VIEWS, names_in, words_of
from medground.data.source_samples import BadSample
from medground.errors import InputError
from medground.images.paths import safe_name
from medground_data.drafts import Draft, Drafts, Options

FORMS: tuple[str, ...] = (
    "Where in this {view} is there any {name}, each by itself?",
    "Is there any {name} in this {view}, and where is each?",
    "Does this {view} show any {name}, and where would you mark every one?",
    "Can you point at any {name} in this {view}, one by one?",
    "Which places in this {view} would you mark as {name}, if any?",
)
"""Slots: ``name``, the category in words, and ``view``, what an image of the modality is called."""
ALL = "all"
"""Among exhaustive categories: every category of the source."""
_OF_IMAGE = (
    "modality", "dataset", "licence", "site", "source_plane", "source_slice", "window_used", "size", "spacing", "image",
)  # fmt: skip
"""Words of a line that are about its image."""


@dataclass(slots=True, eq=False)
class _Picture:
    """One image of the dataset with all that the source says about it."""

    drafts: list[Draft] = field(default_factory=list)

    @property
    def words(self) -> dict[str, Any]:
        return {key: self.drafts[0].line[key] for key in _OF_IMAGE if key in self.drafts[0].line}

    @property
    def scope(self) -> tuple[Any, Any]:
        """What images must share for a category of one to be looked for in the other."""
        return self.words.get("modality"), self.words.get("dataset")

    @property
    def marked(self) -> list[str]:
        """The categories of which it shows something, as far as is marked; "" for what has no category."""
        return list(dict.fromkeys(draft.category for draft in self.drafts if draft.line.get("regions") != []))

    def declared(self, category: str, options: Options) -> bool:
        """True where the source says that every instance is marked."""
        names = {*options.exhaustive, *(name for draft in self.drafts for name in draft.exhaustive)}
        return bool(category) and (category in names or ALL in names)

    def unclear(self, category: str, rejected: Sequence[BadSample]) -> bool:
        """True where an entry that could not be used may mark the category here."""
        keys = {"", *(draft.image_key for draft in self.drafts)}
        return any(bad.image_key in keys and bad.category in ("", category) for bad in rejected)


def ask_about_every(built: Drafts, options: Options) -> list[Draft]:
    """Return drafts with their questions: one for every category that an image shows, and those whose target is absent.

    Why a category of an image is not asked about is added to ``built.rejected``, where nothing else is asked about it.

    Raises:
        InputError: if the source declares no category to be exhaustive, or absent targets are wanted and there are none.
    """
    if options.targets == "one":
        return []
    pictures: dict[str, _Picture] = defaultdict(_Picture)
    for draft in built.drafts:
        pictures[str(draft.line["image"])].drafts.append(draft)
    if not options.exhaustive and not any(draft.exhaustive for draft in built.drafts):
        raise InputError(
            "the source does not say of which categories it marks every instance, so no question can mean every one or none",
            hint="declare them: --exhaustive CATEGORY, or the word exhaustive of a manifest; or give --targets one",
        )
    present = []
    for picture in pictures.values():
        for category in picture.marked:
            own = [draft for draft in picture.drafts if draft.category == category]
            if any(draft.apart for draft in own) and all(draft.apart for draft in own):
                continue  # the source asks about them itself
            reason = _reason(picture, category, own, built.rejected, options)
            if not reason:
                present.append(_every(picture, category, own, options))
            elif options.targets == "every":
                built.rejected.append(BadSample(own[0].where, reason, own[0].image_key, category))
    return present + _absent(pictures, present, built, options)


def leave_out(alone: Iterable[Draft], options: Options) -> list[BadSample]:
    """Return the drafts that are no samples by themselves, of those that would be: they are too small or too large."""
    if options.targets == "every":
        return []
    return [BadSample(draft.where, draft.unfit) for draft in alone if draft.unfit]


def keep_questions(stated: Iterable[Draft], options: Options) -> list[BadSample]:
    """Set the questions of drafts whose source keeps several targets apart, or has none; return those to leave out.

    A question that the source states is kept. Where it states none, every target of an exhaustive category is asked about.
    """
    rejected = []
    for draft in stated:
        asked_by, question = "source", draft.line["question"]
        if not question and _Picture([draft]).declared(draft.category, options):
            asked_by, question = "template", _question(draft.line, draft.category, options)
        if draft.unfit or not question:
            question = None
            if draft.unfit or draft.category or draft.line["regions"]:
                reason = draft.unfit or "states several targets, or none, and no question"
                rejected.append(BadSample(draft.where, reason))
        draft.line.update({"question": question, "asked_by": asked_by})
    return rejected


def _reason(
    picture: _Picture, category: str, own: Sequence[Draft], rejected: Sequence[BadSample], options: Options
) -> str:
    """Why no question can mean every target of a category in an image; empty where one can."""
    if not picture.declared(category, options):
        return f"its source does not say that every {category or 'target'} is marked"
    if picture.unclear(category, rejected):
        return f"an entry that could not be used may mark another {category}"
    if any(draft.crowd for draft in own):
        return f"its source marks several {category} as one"
    narrower = [other for other in picture.marked if set(words_of(category)) < set(words_of(other))]
    if narrower or any(draft.apart for draft in own):
        return f"{narrower[0] if narrower else category} is marked apart from {category}"
    return ""


def _every(picture: _Picture, category: str, own: Sequence[Draft], options: Options) -> Draft:
    regions = {str(draft.region["mask"]): dict(draft.region) for draft in own}  # one that is asked about twice, once
    first = own[0].line
    same = {key: value for key, value in first.items() if all(draft.line.get(key) == value for draft in own[1:])}
    shared = {key: value for key, value in same.items() if key not in (*own[0].region, "id", "think")}
    return _draft(picture, {**shared, "category": category}, list(regions.values()), own, options)


def _draft(
    picture: _Picture, words: Mapping[str, Any], regions: list[dict[str, Any]], own: Sequence[Draft], options: Options
) -> Draft:
    """A draft about all targets of a category in an image."""
    category = str(words["category"])
    name = f"every-{safe_name(category)}-{str(words['image']).partition('/')[2].partition('.')[0]}"
    line = {**words, "id": name, "regions": regions, "asked_by": "template"}
    splits = {draft.stated_split for draft in picture.drafts}
    return replace(
        picture.drafts[0], line={**line, "question": _question(line, category, options)}, measured=None, region={}, unfit="",
        where=own[0].where if own else picture.drafts[0].where, stated_split=splits.pop() if len(splits) == 1 else None,
    )  # fmt: skip


def _question(line: Mapping[str, Any], category: str, options: Options) -> str:
    content = hashlib.blake2b(str(line["id"]).encode(errors="surrogatepass"), digest_size=8).digest()
    rng = np.random.default_rng([options.seed, *np.frombuffer(content, np.uint32)])
    view = VIEWS.get(str(line.get("modality", "")).lower(), "picture")
    return str(rng.choice(FORMS)).format(name=category.replace("_", " "), view=view)


def _absent(pictures: Mapping[str, _Picture], present: Sequence[Draft], built: Drafts, options: Options) -> list[Draft]:
    """Drafts whose target is absent: of every category at most as many as are present, so that no word tells them apart.

    A category is looked for where others of the same modality and data set show it, and where nothing is marked that it
    could name.
    """
    if not options.negatives:
        return []
    seen: dict[tuple[Any, Any], dict[str, Any]] = defaultdict(dict)
    for picture in pictures.values():
        for draft in picture.drafts:
            if draft.category and draft.line.get("regions") != []:
                seen[picture.scope].setdefault(draft.category, draft.line.get("supercategory"))
    candidates = [
        (picture, category, supercategory)
        for picture in pictures.values()
        for category, supercategory in seen[picture.scope].items()
        if _lacks(picture, category, built.rejected, options)
    ]
    room = Counter(draft.category for draft in present)
    others = len(present) + (
        0 if options.targets == "every" else sum(not (draft.apart or draft.unfit) for draft in built.drafts)
    )
    wanted = round(options.negatives / (1 - options.negatives) * others)
    drafts: list[Draft] = []
    for index in np.random.default_rng([options.seed, len(candidates)]).permutation(len(candidates)):
        picture, category, supercategory = candidates[int(index)]
        if len(drafts) < wanted and room[category]:
            room[category] -= 1
            words = {**picture.words, "category": category}
            words |= {"supercategory": supercategory} if supercategory else {}
            drafts.append(_draft(picture, words, [], (), options))
    if wanted and not drafts:
        raise InputError(
            "no target can be said to be absent: no image lacks a category that others of its modality show and that is "
            "marked exhaustively",
            hint="declare the categories of which every instance is marked, --exhaustive CATEGORY, or leave out --negatives",
        )
    return drafts


def _lacks(picture: _Picture, category: str, rejected: Sequence[BadSample], options: Options) -> bool:
    """True where the source leaves no doubt that an image shows nothing of a category."""
    about = any(draft.category == category for draft in picture.drafts)  # shown, or said to be absent already
    named = any(not other or names_in(other, category) for other in picture.marked)
    return not about and not named and picture.declared(category, options) and not picture.unclear(category, rejected)
