"""How `medground data stats` is shown: on a terminal, and as a page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medground.data.stats import Figures, histogram
from medground.images.overlay import draw
from medground.report import Html, Section, bars, details, figure, gallery, grid, line_chart, page, table
from medground.types import Sample

_SHOWN = {
    "area": "target, share of the image",
    "box_area": "box, share of the image",
    "box_fill": "mask over box",
    "box_dice": "Dice of the filled box",
    "ellipse_dice": "Dice of the inscribed ellipse",
    "components": "components of the mask",
    "point_distance": "key points apart, in box diagonals",
    "question_words": "words of the question",
    "think_words": "words of the reasoning",
}
_LONG = 20
"""A longer table is folded."""
_QUARTILES = ("min", "q1", "median", "q3", "max", "mean")


def show(summary: Mapping[str, Any]) -> None:
    """Print tables on stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    splits = list(summary["splits"])
    for word, names in summary["counts"].items():
        if list(names) == ["unnamed"]:
            continue
        shown = Table(title=f"samples by {word}", title_justify="left")
        for heading in (word, "all", *splits):
            shown.add_column(heading, justify="left" if heading == word else "right")
        for name, counts in names.items():
            shown.add_row(name, *(str(counts[column]) for column in ("all", *splits)))
        console.print(shown)
    shown = Table(title="figures", title_justify="left")
    for heading in ("", *_QUARTILES):
        shown.add_column(heading, justify="left" if not heading else "right")
    for name, values in summary["figures"].items():
        if values is not None:
            shown.add_row(_SHOWN[name], *(f"{values[column]:.3g}" for column in _QUARTILES))
    console.print(shown)


def as_page(
    name: str, summary: Mapping[str, Any], found: Sequence[Figures], samples: Sequence[Sample], pictures: int
) -> str:
    """One self-contained page: counts, distributions, floors, and some samples drawn."""
    sections = [
        Section("Counts", *_counts(summary)),
        Section("Figures", _figures(summary)),
        Section("Distributions", grid(*_charts(found))),
        Section(
            "Floors",
            "What a segmenter reaches that has never seen the image, prompted with the true box: the box filled, and the "
            "ellipse inscribed in it. Gains are to be counted from here.",
            _floors(summary),
        ),
    ]
    if pictures:
        sections.append(Section("Samples", _gallery(samples, pictures)))
    return page(f"Dataset {name}", sections, note=f"{summary['samples']} samples")


def _counts(summary: Mapping[str, Any]) -> list[Html]:
    splits = list(summary["splits"])
    tables = []
    for word, names in summary["counts"].items():
        if list(names) == ["unnamed"]:
            continue
        lines = [[name, *(counts[column] for column in ("all", *splits))] for name, counts in names.items()]
        shown = table([word, "all", *splits], lines, caption=f"Samples by {word}")
        tables.append(shown if len(lines) <= _LONG else details(f"{len(lines)} by {word}", shown))
    return tables


def _figures(summary: Mapping[str, Any]) -> Html:
    lines = [
        [_SHOWN[name], *(values[column] for column in _QUARTILES)]
        for name, values in summary["figures"].items()
        if values is not None
    ]
    return table(["", *_QUARTILES], lines, caption="Over all samples")


def _charts(found: Sequence[Figures]) -> list[Html]:
    splits = list(dict.fromkeys(one.split for one in found))
    charts = []
    for name, edges in (
        ("area", np.linspace(0, 1, 21)),
        ("box_fill", np.linspace(0, 1, 21)),
        ("ellipse_dice", np.linspace(0, 1, 21)),
        ("question_words", np.linspace(0, 40, 21)),
    ):
        lines = {}
        for split in splits:
            middles, shares = histogram((getattr(one, name) for one in found if one.split == split), edges.tolist())
            lines[split] = (middles.tolist(), shares.tolist())
        charts.append(line_chart(_SHOWN[name], lines, x=_SHOWN[name], y="share of the split", holds=(0.0,)))
    return charts


def _floors(summary: Mapping[str, Any]) -> Html:
    floors = summary["floors"]
    series = {
        shown: {modality: values[name] for modality, values in floors.items()}
        for name, shown in (("box_dice", "filled box"), ("ellipse_dice", "inscribed ellipse"))
    }
    return bars("Mean Dice by modality", series, holds=(0.0, 1.0))


def _gallery(samples: Sequence[Sample], count: int) -> Html:
    """Samples evenly spread over the manifest."""
    figures = []
    for index in np.unique(np.linspace(0, len(samples) - 1, count).astype(int)):
        sample = samples[int(index)]
        picture = draw(sample.query.image, box=sample.target.box, points=sample.target.points, mask=sample.target.mask)
        words = " · ".join(filter(None, (sample.labels.get("modality"), sample.labels.get("category"))))
        alt = f"{words}: the target's mask, box and key points drawn on the image"
        figures.append(figure(picture, alt, f"{words}: {sample.query.question}", side=360))
    return gallery(figures)
