"""The pieces of a page. Each gives `Html`; a plain string among them is text and is escaped."""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

Cell = str | int | float | bool | None
"""What a table holds; an `Html` is a string that is markup already."""


class Html(str):
    """Markup. Made by this package only, from escaped text."""

    __slots__ = ()


def text(value: object) -> Html:
    """Anything as text; `Html` stays as it is.

    >>> text("<b>")
    '&lt;b&gt;'
    """
    return value if isinstance(value, Html) else Html(escape(str(value)))


def element(tag: str, *inside: object, **attributes: object) -> Html:
    """One element; an attribute of None or False is left out, of True has no value, ``class_`` is ``class``.

    >>> element("a", "x < y", href="#top", class_="quiet")
    '<a href="#top" class="quiet">x &lt; y</a>'
    """
    given = ""
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        shown = name.rstrip("_").replace("_", "-")
        given += f" {shown}" if value is True else f' {shown}="{escape(str(value))}"'
    return Html(f"<{tag}{given}>{''.join(text(each) for each in inside)}</{tag}>")


def block(body: object) -> Html:
    """A body of a section: markup as it is, anything else as a paragraph of text."""
    return body if isinstance(body, Html) else paragraph(body)


def paragraph(*inside: object) -> Html:
    """A paragraph of text."""
    return element("p", *inside)


def heading(said: object) -> Html:
    """A heading within a section."""
    return element("h3", said)


def preformatted(value: str) -> Html:
    """Text whose line breaks count, such as a completion; long lines wrap."""
    return element("pre", value)


def details(summary: object, *body: object, opened: bool = False) -> Html:
    """A body that is folded away until it is asked for."""
    return element("details", element("summary", summary), *(block(each) for each in body), open=opened)


def grid(*bodies: object) -> Html:
    """Bodies beside one another where there is room, below one another where there is not."""
    return element("div", *(block(body) for body in bodies), class_="grid")


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    caption: str = "",
    sortable: bool = True,
    shown: Callable[[float], str] | None = None,
) -> Html:
    """A table in a box of its own that scrolls sideways where the page is narrow.

    Args:
        columns: the headings.
        rows: as many cells each; None is shown as a dash.
        caption: what the table shows.
        sortable: whether the headings are buttons that sort it.
        shown: how numbers are written: `number` (four significant digits) unless given, or `rounded`.

    Raises:
        ValueError: if a row is not as long as the headings.
    """
    lines = [list(row) for row in rows]
    for line in lines:
        if len(line) != len(columns):
            raise ValueError(f"a row of {len(line)} cells does not fit {len(columns)} columns")
    sort = sortable and len(lines) > 1
    kinds = ["number" if _numeric([line[index] for line in lines]) else None for index in range(len(columns))]
    headings = [
        element(
            "th",
            element("button", name, type="button") if sort else name,
            scope="col",
            aria_sort=sort and "none",
            class_=kind,
        )
        for name, kind in zip(columns, kinds, strict=True)
    ]
    body = [element("tr", *(_cell(*pair, shown or number) for pair in zip(line, kinds, strict=True))) for line in lines]
    whole = element(
        "table",
        *([element("caption", caption)] if caption else []),
        element("thead", element("tr", *headings)),
        element("tbody", *body),
        class_=sort and "sortable",
    )
    return element("div", whole, class_="scroll", role="region", tabindex=0, aria_label=caption or "table")


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _numeric(cells: Sequence[Cell]) -> bool:
    """Whether a column holds numbers, and nothing else but gaps."""
    return any(_is_number(cell) for cell in cells) and all(cell is None or _is_number(cell) for cell in cells)


def _cell(cell: Cell, kind: str | None, shown: Callable[[float], str]) -> Html:
    if isinstance(cell, int | float) and _is_number(cell):
        return element("td", shown(cell), class_=kind, data_value=kind and repr(cell))
    return element("td", "–" if cell is None else cell, class_=kind)


def number(value: float) -> str:
    """A number as a reader wants it.

    >>> number(0.123456), number(3), number(12345.6), number(1e-6)
    ('0.1235', '3', '12,346', '1e-06')
    """
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def rounded(value: float) -> str:
    """A score or a distance, so that a column of them and their intervals line up.

    >>> rounded(0.08287), rounded(1.0), rounded(175.23), rounded(0.0001), rounded(218)
    ('0.083', '1.000', '175.2', '0.0001', '218')
    """
    if isinstance(value, int) or abs(value) >= 1e4:
        return number(value)
    if 0 < abs(value) < 0.0005:
        return f"{value:.1g}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def figure(image: Any, alt: str, caption: object = "", *, side: int = 480) -> Html:
    """A picture inside the page.

    Args:
        image: of Pillow.
        alt: what it shows, for those who do not see it.
        caption: below it.
        side: its longer side is made no larger than this, px.
    """
    from PIL import features

    kind = "webp" if features.check("webp") else "jpeg"
    small = image.convert("RGB")
    small.thumbnail((side, side))
    stream = io.BytesIO()
    small.save(stream, kind, quality=80)
    data = base64.b64encode(stream.getvalue()).decode()
    source = f"data:image/{kind};base64,{data}"
    picture = Html(
        f'<img src="{source}" alt="{escape(alt)}" width="{small.width}" height="{small.height}" loading="lazy">'
    )
    return element("figure", picture, *([element("figcaption", caption)] if caption else []))


def gallery(figures: Iterable[Html]) -> Html:
    """Pictures beside one another."""
    return element("div", *figures, class_="gallery")
