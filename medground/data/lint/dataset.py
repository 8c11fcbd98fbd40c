"""What can only be seen by looking at several lines together."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence

from medground_data.vocabulary import words_of

from medground.data.duplicates import near_duplicates
from medground.data.lint.findings import Line

GROUPS = ("patient", "volume", "group")
"""Words whose value may not be in two splits."""
_SPELT = ("modality", "category", "supercategory")


def check_across(lines: Sequence[Line]) -> None:
    """Compare the lines of a dataset with one another."""
    _ids(lines)
    _splits(lines)
    _spelling(lines)
    _leaks(lines)
    _conflicts(lines)


def _by(lines: Sequence[Line], key: Callable[[Line], Hashable]) -> dict[Hashable, list[Line]]:
    """Lines by a key; those whose key is None or empty are left out."""
    found: dict[Hashable, list[Line]] = defaultdict(list)
    for line in lines:
        if value := key(line):
            found[value].append(line)
    return found


def _ids(lines: Sequence[Line]) -> None:
    for name, same in _by(lines, lambda line: line.id).items():
        for line in same[1:]:
            line.found("duplicate_id", f"line {same[0].number} is called {name!r} too")


def _splits(lines: Sequence[Line]) -> None:
    without = [line for line in lines if line.words and not line.words.get("split")]
    if len(without) < len([line for line in lines if line.words]):
        for line in without:
            line.found("no_split", "it names no split, and other lines do")


def _spelling(lines: Sequence[Line]) -> None:
    for word in _SPELT:
        plain = _by(lines, lambda line, word=word: "".join(c for c in line.label(word).lower() if c.isalnum()))  # type: ignore[misc]
        for same in plain.values():
            counts = Counter(line.label(word) for line in same)
            usual = counts.most_common(1)[0][0]
            for line in same:
                if line.label(word) != usual:
                    line.found("label_spelling", f"its {word} {line.label(word)!r} is spelt {usual!r} elsewhere")


def _leaks(lines: Sequence[Line]) -> None:
    placed = [line for line in lines if line.words.get("split")]
    for word in GROUPS:
        for value, same in _by(placed, lambda line, word=word: line.label(word)).items():  # type: ignore[misc]
            first = same[0]
            for line in same[1:]:
                if line.words["split"] != first.words["split"]:
                    says = f"its {word} {value!r} is in {first.words['split']!r} too ({first.id})"
                    line.found("group_across_splits", says)
    seen = [
        same[0] for same in _by(placed, lambda line: line.print and (line.print.pixels, line.words["split"])).values()
    ]
    prints = [line.print for line in seen if line.print is not None]
    for i, j in near_duplicates(prints):
        first, second = seen[i], seen[j]
        if first.words["split"] == second.words["split"]:
            continue
        exact = prints[i].pixels == prints[j].pixels
        code = "duplicate_across_splits" if exact else "near_duplicate_across_splits"
        how = "is" if exact else "looks like"
        second.found(code, f"its image {how} that of {first.id}, which is in {first.words['split']!r}")


def _conflicts(lines: Sequence[Line]) -> None:
    for same in _by(lines, lambda line: line.print and line.print.pixels).values():
        for line in same[1:]:
            if (
                line.label("modality")
                and same[0].label("modality")
                and (line.label("modality").lower() != same[0].label("modality").lower())
            ):
                says = f"the same image is {same[0].label('modality')!r} in {same[0].id} and {line.label('modality')!r} here"
                line.found("label_conflict", says)
        _same_question(same)
    for same in _by(lines, lambda line: line.print and line.pixels and (line.print.pixels, line.pixels)).values():
        for position, line in enumerate(same):
            for earlier in same[:position]:
                if _one_mask(line, earlier):
                    break


def _same_question(same: Sequence[Line]) -> None:
    """Lines of one image: one question must not mean two targets."""
    for question, asked in _by(same, lambda line: " ".join(line.label("question").lower().split())).items():
        first = asked[0]
        for line in asked[1:]:
            if line.pixels and first.pixels and line.pixels != first.pixels:
                line.found(
                    "question_repeated", f"{first.id} asks {str(question)!r} of the same image about another mask"
                )


def _one_mask(line: Line, earlier: Line) -> bool:
    """Note what is wrong with two lines that share image and mask; whether anything is."""
    mine, theirs = set(words_of(line.label("category"))), set(words_of(earlier.label("category")))
    # A kidney may be the left kidney; the left lung is not the right one.
    if mine and theirs and not (mine <= theirs or theirs <= mine):
        says = (
            f"its mask is that of {earlier.id}, which is {earlier.label('category')!r}, not {line.label('category')!r}"
        )
        line.found("label_conflict", says)
        return True
    if line.label("question") and line.label("question") == earlier.label("question"):
        line.found("duplicate_sample", f"it repeats {earlier.id}: image, mask and question")
        return True
    return False
