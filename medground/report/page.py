"""HTML pages from Jinja2 templates. A template extends ``page.html`` and takes its parts from ``parts.html``."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from medground.report import charts
from medground.report.numbers import is_number, number, rounded
from medground.report.pictures import legend, picture

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
STATEMENT = "Research software, not a medical device. The output must be checked by a qualified person."
LONG, WIDE = 20, 40
"""A table of more rows is folded; a cell of more letters is given room for them."""
DASH = "–"
"""Stands for what there is not."""
Cell = str | int | float | bool | None
"""What a table holds; None is shown as a dash."""


class Table(NamedTuple):
    """The arguments of the macro ``table`` in ``parts.html``."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    sortable: bool = True
    shown: Callable[[float], str] = number
    """How numbers are written."""
    always: Sequence[str] = ()
    """Columns that stay even where they say the same in every row."""


def render(template: str, *, folder: Path = TEMPLATES, **context: Any) -> str:
    """Return one HTML document that loads nothing from outside itself, and forbids the browser to.

    Args:
        template: a file in `folder`; a style sheet and a script of its name beside it are its own, after those of every page.
        folder: holds the template; ``page.html`` and ``parts.html`` are found beside it.
        context: what the template shows: its ``title``, ``causes`` (sentences that come first), and its own names. Text
            is escaped.
    """
    environment = _environment(folder)
    parts = {"style": "css", "script": "js"}
    own = {part: (folder / template).with_suffix(f".{suffix}") for part, suffix in parts.items()}
    extended = {
        part: Markup(f"{environment.globals[part]}\n{file.read_text(encoding='utf-8').strip()}")
        for part, file in own.items()
        if file.is_file()
    }
    return environment.get_template(template).render(context | {"titles": []} | extended)


@cache
def _environment(folder: Path) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        charts.bars,
        charts.line_chart,
        charts.scatter,
        picture,
        legend,
        numeric_columns,
        varying,
        is_number,
        number,
        rounded,
    ):
        environment.globals[function.__name__] = function
    style, script = _asset("page.css") + "\n" + _asset("chart.css"), _asset("page.js")
    constants = {"statement": STATEMENT, "causes": (), "long": LONG, "wide": WIDE, "dash": DASH}
    environment.globals |= constants | {"style": Markup(style), "script": Markup(script)}
    environment.filters |= {"sha256": _hash, "unbroken": unbroken}
    return environment


def _asset(name: str) -> str:
    """Return a file beside the templates."""
    return (TEMPLATES / name).read_text(encoding="utf-8").strip()


def _hash(code: str) -> Markup:
    """Return what a policy names inline code by."""
    return Markup(f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'")


def unbroken(text: str) -> str:
    """Keep words on one line: a narrow page scrolls its tables rather than stacking the ends of an interval."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


class Varying(NamedTuple):
    """A table without the columns that say the same in every row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    same: str
    """What those columns say."""


def varying(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    shown: Callable[[float], str] = number,
    always: Sequence[str] = (),
) -> Varying:
    """Take out the columns after the first that hold one value in all of several rows; two columns stay as they are.

    >>> varying(["who", "n", "mean", "gap"], [["a", 58, 0.1, None], ["b", 58, 0.2, None]])
    Varying(columns=['who', 'mean'], rows=[['a', 0.1], ['b', 0.2]], same='n 58, no gap')

    Raises:
        ValueError: if a row is not as long as the headings.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row of {len(row)} cells does not fit {len(columns)} columns")
    if len(rows) < 2 or len(columns) < 3:
        return Varying(columns, rows, "")
    varied = [
        index
        for index, name in enumerate(columns)
        if not index or name in always or len({row[index] for row in rows}) > 1
    ]
    same = [
        f"no {name}" if value in (None, DASH) else f"{name} {shown(value) if is_number(value) else value}"
        for index, (name, value) in enumerate(zip(columns, rows[0], strict=True))
        if index not in varied and value != ""
    ]
    return Varying(
        [columns[index] for index in varied], [[row[index] for index in varied] for row in rows], ", ".join(same)
    )


def numeric_columns(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[bool]:
    """Return per column whether it holds numbers, and nothing else but gaps."""
    cells = [[row[index] for row in rows if row[index] is not None] for index in range(len(columns))]
    return [bool(column) and all(map(is_number, column)) for column in cells]
