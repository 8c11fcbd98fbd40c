"""Curves as SVG: one panel per way of being wrong, one line per term. Plain text, no library."""

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Okabe and Ito's, distinct to colour-blind readers; beyond them lines differ by dashes."""
DASHES = ("", "6 3", "2 3")
PANEL, MARGIN, GAP, COLUMNS = (250, 150), 48, 66, 2

Line = tuple[Sequence[float], Sequence[float]]
"""(x, y) of the points of one line."""


def panels(title: str, curves: Mapping[str, Mapping[str, Line]]) -> str:
    """An SVG document of panels, name -> label -> line, all on one vertical scale that holds 0, 1 and every line."""
    every = [value for lines in curves.values() for _, values in lines.values() for value in values]
    low, high = min([0.0, *every]), max([1.0, *every])
    labels = list(dict.fromkeys(label for lines in curves.values() for label in lines))
    rows = -(-len(curves) // COLUMNS)
    width = 2 * MARGIN + COLUMNS * PANEL[0] + (COLUMNS - 1) * GAP
    legend = MARGIN + rows * (PANEL[1] + GAP)
    height = legend + 18 * (-(-len(labels) // 3)) + 12
    body = [_text(MARGIN, 20, title, size=15)]
    for index, (name, lines) in enumerate(curves.items()):
        x = MARGIN + (index % COLUMNS) * (PANEL[0] + GAP)
        y = MARGIN + (index // COLUMNS) * (PANEL[1] + GAP)
        body += _panel(x, y, name, lines, labels, low, high)
    for index, label in enumerate(labels):
        left, down = MARGIN + (index % 3) * (width - 2 * MARGIN) / 3, legend + 18 * (index // 3)
        body += [f'<path d="M{left:.1f} {down - 4:.1f}h22" {_style(index)}/>', _text(left + 28, down, label)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'{head} font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#ffffff"/>' + (
        "".join(body) + "</svg>\n"
    )


def _panel(
    x: float, y: float, name: str, lines: Mapping[str, Line], labels: Sequence[str], low: float, high: float
) -> list[str]:
    width, height = PANEL
    reach = max((max(xs, default=0.0) for xs, _ in lines.values()), default=0.0) or 1.0
    span = high - low
    body = [
        _text(x, y - 8, name),
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="none" stroke="#999"/>',
    ]
    for share in (0.0, 0.5, 1.0):
        body.append(_text(x - 6, y + height * (1 - share) + 4, f"{low + share * span:g}", anchor="end"))
        body.append(_text(x + width * share, y + height + 15, f"{reach * share:g}", anchor="middle"))
    for label, (xs, ys) in lines.items():
        points = " ".join(
            f"{x + width * a / reach:.1f},{y + height * (1 - (b - low) / span):.1f}"
            for a, b in zip(xs, ys, strict=True)
        )
        body.append(f'<polyline points="{points}" {_style(labels.index(label))}/>')
    return body


def _style(index: int) -> str:
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'fill="none" stroke="{COLOURS[index % len(COLOURS)]}" stroke-width="1.8"{dashed}'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
