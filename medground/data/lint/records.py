"""Checks of a line of the manifest that need no other file."""

from medground.data.category_names import VIEWS, names_in
from medground.data.lint.findings import Line
from medground.data.splits import SPLITS
from medground.errors import did_you_mean

MODALITIES = frozenset(VIEWS) | {"pet", "spect", "histology", "angiography", "drawing", "photograph", "dsa", "cbct"}
"""Known modalities, lower case."""
_FEWEST_WORDS = 3


def check_record(line: Line) -> None:
    """Report the flaws of a line, and what its words say that cannot be."""
    record = line.record
    for flaw in record.flaws:
        line.add(flaw.code, flaw.text)
    if not line.readable:
        return
    stated = record.regions is not None or record.mask is not None or record.box is not None
    if not stated and not line.wrong & {"mask", "bbox", "bbox_2d"}:
        line.add("missing_word", "it has neither a mask nor a bbox_2d nor regions")
    if "question" not in line.wrong:
        _check_question(line)
    check_words(line)


def check_words(line: Line) -> None:
    """Check points, split and modality."""
    record = line.record
    for target in record.targets:
        if len(set(target.points)) < len(target.points):
            line.add("equal_points", f"its points are the same: {[list(point) for point in target.points]}")
    if record.split is not None and record.split not in SPLITS:
        line.add("bad_split", f"its split is {record.split!r}")
    modality = line.label("modality")
    if modality and modality.lower() not in MODALITIES:
        line.add("unknown_modality", f"its modality is {modality!r}; {did_you_mean(modality, sorted(MODALITIES))}")


def _check_question(line: Line) -> None:
    question = line.question
    if not question.strip():
        line.add("empty_question", "it has no question")
        return
    if len(question.split()) < _FEWEST_WORDS:
        line.add("short_question", f"its question is {question!r}")
    category = line.label("category")
    # A question about every instance of a category, or about an absent one, cannot do without its name.
    if line.record.regions is None and category and (names := names_in(question, category)):
        line.add("question_names_target", f"its question says {names[0]!r}, and its target is {category!r}")
