"""Checks that compare the lines of a dataset with one another."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence

from medground.data.category_names import words_of
from medground.data.duplicates import near_duplicates
from medground.data.lint.findings import Line
from medground.data.splits import complete_splits
from medground.errors import InputError

_SPELT = ("modality", "category", "supercategory")


def check_across(lines: Sequence[Line]) -> None:
    """Compare the lines of a dataset with one another."""
    _ids(lines)
    _splits(lines)
    _spelling(lines)
    _leaks(lines)
    _conflicts(lines)


def _by(lines: Sequence[Line], key: Callable[[Line], Hashable]) -> dict[Hashable, list[Line]]:
    """Group lines by a key; those whose key is None or empty are left out."""
    groups: dict[Hashable, list[Line]] = defaultdict(list)
    for line in lines:
        if value := key(line):
            groups[value].append(line)
    return groups


def _ids(lines: Sequence[Line]) -> None:
    for name, same in _by(lines, lambda line: line.id).items():
        for line in same[1:]:
            line.add("duplicate_id", f"line {same[0].record.number} is called {name!r} too")


def _splits(lines: Sequence[Line]) -> None:
    readable = [line for line in lines if line.readable]
    without = [line for line in readable if not line.record.split]
    if len(without) < len(readable):
        for line in without:
            line.add("no_split", "it names no split, and other lines do")
    stated = [line.record.split for line in readable]
    try:
        splits = complete_splits(stated, [line.owners for line in readable])
    except InputError:  # whose group is in two splits, which is found below
        splits = [split or "" for split in stated]
    for line, split in zip(readable, splits, strict=True):
        line.split = split


def _spelling(lines: Sequence[Line]) -> None:
    for word in _SPELT:
        plain = _by(lines, lambda line, word=word: "".join(c for c in line.label(word).lower() if c.isalnum()))  # type: ignore[misc]
        for same in plain.values():
            counts = Counter(line.label(word) for line in same)
            usual = counts.most_common(1)[0][0]
            for line in same:
                if line.label(word) != usual:
                    line.add("label_spelling", f"its {word} {line.label(word)!r} is spelt {usual!r} elsewhere")


def _leaks(lines: Sequence[Line]) -> None:
    in_splits = [line for line in lines if line.split]
    for kind in sorted({kind for line in in_splits for kind in line.owners} - {"image"}):
        for value, same in _by(in_splits, lambda line, kind=kind: line.owners.get(kind)).items():  # type: ignore[misc]
            first = same[0]
            for line in same[1:]:
                if line.split != first.split:
                    line.add("group_across_splits", f"its {kind} {value!r} is in {first.split!r} too ({first.id})")
    by_pixels = _by(in_splits, lambda line: line.fingerprint and (line.fingerprint.pixels, line.split))
    distinct = [same[0] for same in by_pixels.values()]
    prints = [line.fingerprint for line in distinct if line.fingerprint is not None]
    for i, j in near_duplicates(prints):
        first, second = distinct[i], distinct[j]
        if first.split == second.split:
            continue
        exact = prints[i].pixels == prints[j].pixels
        code = "duplicate_across_splits" if exact else "near_duplicate_across_splits"
        how = "is" if exact else "looks like"
        second.add(code, f"its image {how} that of {first.id}, which is in {first.split!r}")


def _conflicts(lines: Sequence[Line]) -> None:
    for same in _by(lines, lambda line: line.fingerprint and line.fingerprint.pixels).values():
        for line in same[1:]:
            if (
                line.label("modality")
                and same[0].label("modality")
                and (line.label("modality").lower() != same[0].label("modality").lower())
            ):
                says = f"the same image is {same[0].label('modality')!r} in {same[0].id} and {line.label('modality')!r} here"
                line.add("label_conflict", says)
        _same_question(same)
        _absent(same)
    for same in _by(lines, _image_and_mask).values():
        for position, line in enumerate(same):
            for earlier in same[:position]:
                if _one_mask(line, earlier):
                    break


def _image_and_mask(line: Line) -> Hashable:
    return line.fingerprint and line.mask_digest and (line.fingerprint.pixels, line.mask_digest)


def _absent(same: Sequence[Line]) -> None:
    """Lines of one image: what one says is absent, no other may mark."""
    for line in (one for one in same if one.record.regions == () and one.label("category")):
        names = set(words_of(line.label("category")))
        marking = (one for one in same if one.record.regions != () and names <= set(words_of(one.label("category"))))
        if (other := next(marking, None)) is not None:
            says = f"its target is absent, and {other.id} marks a {other.label('category')!r} in the same image"
            line.add("absent_target_marked", says)


def _same_question(same: Sequence[Line]) -> None:
    """Lines of one image: one question must not mean two targets."""
    for question, repeated in _by(same, lambda line: " ".join(line.question.lower().split())).items():
        first = repeated[0]
        for line in repeated[1:]:
            mine, theirs = ("absent" if one.record.regions == () else one.mask_digest for one in (line, first))
            if mine and theirs and mine != theirs:
                line.add("question_repeated", f"{first.id} asks {str(question)!r} of the same image about another mask")


def _one_mask(line: Line, earlier: Line) -> bool:
    """Note what is wrong with two lines that share image and mask; return True if anything is."""
    mine, theirs = set(words_of(line.label("category"))), set(words_of(earlier.label("category")))
    # A kidney may be the left kidney; the left lung is not the right one.
    if mine and theirs and not (mine <= theirs or theirs <= mine):
        says = (
            f"its mask is that of {earlier.id}, which is {earlier.label('category')!r}, not {line.label('category')!r}"
        )
        line.add("label_conflict", says)
        return True
    if line.question and line.question == earlier.question:
        line.add("duplicate_sample", f"it repeats {earlier.id}: image, mask and question")
        return True
    return False
