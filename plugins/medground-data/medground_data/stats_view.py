"""The output of `medground data stats`: tables on a terminal, and a page."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medground.data.stats import Figures, histogram
from medground.images.overlay import draw_regions
from medground.report import Line, Table, render, rounded
from medground.terminal import console, printable
from medground.types import Sample

_SHOWN = {
    "regions": "targets of a question",
    "area": "target, share of the image",
    "box_area": "box, share of the image",
    "box_fill": "mask over box",
    "dice_filled_box": "Dice of the filled box",
    "dice_ellipse": "Dice of the inscribed ellipse",
    "components": "components of the mask",
    "point_distance": "key points apart, in box diagonals",
    "question_words": "words of the question",
    "think_words": "words of the reasoning",
}
_COUNTS = ("regions", "components", "question_words", "think_words")
_TRIVIAL = (["unnamed"], ["one"])
"""Names of a table that says nothing."""
_QUARTILES = ("min", "q1", "median", "q3", "max", "mean")


def show(summary: Mapping[str, Any]) -> None:
    """Print tables on stdout."""
    from rich import table
    from rich.text import Text

    shown_on = console(sys.stdout)
    splits = list(summary["splits"])
    for word, names in summary["counts"].items():
        if list(names) in _TRIVIAL:
            continue
        shown = table.Table(title=Text(printable(f"samples by {word}")), title_justify="left")
        for heading in (word, "all", *splits):
            shown.add_column(Text(printable(heading)), justify="left" if heading == word else "right")
        for name, counts in names.items():
            shown.add_row(Text(printable(name)), *(str(counts[column]) for column in ("all", *splits)))
        shown_on.print(shown)
    shown = table.Table(title="figures", title_justify="left")
    for heading in ("", *_QUARTILES):
        shown.add_column(heading, justify="left" if not heading else "right")
    for name, values in summary["figures"].items():
        if values is not None:
            shown.add_row(_SHOWN[name], *(f"{values[column]:.3g}" for column in _QUARTILES))
    shown_on.print(shown)


def as_page(summary: Mapping[str, Any], measured: Sequence[Figures], samples: Sequence[Sample], pictures: int) -> str:
    """Return one self-contained page: counts, distributions, floors, and some samples drawn."""
    splits = list(summary["splits"])
    return render(
        "stats.html",
        folder=Path(__file__).parent / "templates",
        title=f"Dataset of {len(measured)} samples",
        note=", ".join(f"{count} in {split}" for split, count in summary["splits"].items()),
        counts={
            word: (
                [word, "all", *splits],
                [[value, *(counts[column] for column in ("all", *splits))] for value, counts in names.items()],
            )
            for word, names in summary["counts"].items()
            if list(names) not in _TRIVIAL
        },
        figures=Table(
            ["figure", *_QUARTILES],
            [
                [_SHOWN[key], *(_whole(key, values[column]) for column in _QUARTILES)]
                for key, values in summary["figures"].items()
                if values is not None
            ],
            "Over all samples",
            shown=rounded,
        ),
        distributions=_distributions(measured),
        floors={
            shown: {modality: values[key] for modality, values in summary["floors"].items()}
            for key, shown in (("dice_filled_box", "filled box"), ("dice_ellipse", "inscribed ellipse"))
        },
        pictures=_pictures(samples, pictures) if pictures else [],
        drawn=("mask", "box", "key points"),
    )


def _whole(key: str, value: float) -> float:
    """Return a count as a whole number where it is one."""
    return int(value) if key in _COUNTS and value == int(value) else value


def _distributions(measured: Sequence[Figures]) -> dict[str, dict[str, Line]]:
    """Return figure -> split -> shares of its samples."""
    charts: dict[str, dict[str, Line]] = {}
    for name, most in (("area", 1), ("box_fill", 1), ("dice_ellipse", 1), ("question_words", 40)):
        edges = np.linspace(0, most, 21).tolist()
        for split in dict.fromkeys(row.split for row in measured):
            middles, shares = histogram((getattr(row, name) for row in measured if row.split == split), edges)
            charts.setdefault(_SHOWN[name], {})[split] = (middles.tolist(), shares.tolist())
    return charts


def _pictures(samples: Sequence[Sample], count: int) -> list[tuple[Any, str, str]]:
    """Return (image, labels, question) of samples evenly spread over the dataset."""
    pictures = []
    for index in np.unique(np.linspace(0, len(samples) - 1, count).astype(int)):
        sample = samples[int(index)]
        image = draw_regions(sample.query.image, sample.target.regions, legend=False)
        words = " · ".join(filter(None, (sample.labels.get("modality"), sample.labels.get("category"))))
        pictures.append((image, words, sample.query.question))
    return pictures
