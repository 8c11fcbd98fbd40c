"""One pair of axes and what is drawn between them, as pieces of SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

Line = tuple[Sequence[float], Sequence[float | None]]
"""(x, y) of the points of one line."""
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 3", "6 2 2 2 2 2")
MARKED = 8
"""A line has about so many marks, however many points."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A rectangle of the drawing and the values it spans."""

    left: float
    top: float
    width: float
    height: float
    xs: tuple[float, float]
    ys: tuple[float, float]

    def spot(self, x: float, y: float) -> tuple[float, float]:
        """Return the point of the drawing where a pair of values lies."""
        return (
            self.left + self.width * (x - self.xs[0]) / (self.xs[1] - self.xs[0]),
            self.top + self.height * (1 - (y - self.ys[0]) / (self.ys[1] - self.ys[0])),
        )

    def axes(self, x: str, y: str) -> list[str]:
        """Draw lines, numbers and names of both axes."""
        body = self.across()
        for value in ticks(*self.ys):
            _, down = self.spot(self.xs[0], value)
            body.append(f'<path d="M{self.left:.1f} {down:.1f}h{self.width:.1f}" class="tick"/>')
            body.append(text(self.left - 6, down + 4, tick_label(value), anchor="end"))
        body.append(f'<path d="M{self.left:.1f} {self.top:.1f}v{self.height:.1f}h{self.width:.1f}" class="axis"/>')
        if x:
            body.append(text(self.left + self.width / 2, self.top + self.height + 32, x, anchor="middle"))
        if y:
            middle = self.top + self.height / 2
            turn = f' transform="rotate(-90 12 {middle:.1f})"'
            body.append(text(12, middle, y, anchor="middle", more=turn))
        return body

    def across(self) -> list[str]:
        """Draw numbers and lines of the horizontal axis."""
        body = []
        for value in ticks(*self.xs):
            right, _ = self.spot(value, self.ys[0])
            body.append(f'<path d="M{right:.1f} {self.top:.1f}v{self.height:.1f}" class="tick"/>')
            body.append(text(right, self.top + self.height + 16, tick_label(value), anchor="middle"))
        return body

    def straight(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> str:
        """Draw a line between two pairs of values."""
        (a, b), (c, d) = self.spot(*start), self.spot(*end)
        return f'<path d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" class="{kind}"/>'

    def curve(self, line: Line, index: int, marks: int = MARKED) -> list[str]:
        """Draw a line of one series, broken where a value is missing, with marks upon it."""
        values = zip(*line, strict=True)
        spots = [self.spot(x, y) if y is not None and math.isfinite(y) else None for x, y in values]
        pieces = [[spot for spot in piece if spot] for drawn, piece in groupby(spots, key=bool) if drawn]
        points = [" ".join(f"{x:.1f},{y:.1f}" for x, y in piece) for piece in pieces]
        there = [spot for piece in pieces for spot in piece]
        every = max(1, len(there) // marks) if marks else int(len(there) == 1)  # a lone point is marked in any case
        return [
            *(f'<polyline points="{coordinates}" {style(index)}/>' for coordinates in points),
            *(mark(x, y, index) for x, y in (there[::every] if every else ())),
        ]


def finite(xs: Sequence[float], ys: Sequence[float | None]) -> list[tuple[float, float]]:
    """Return the points of a line that can be drawn."""
    return [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None and math.isfinite(y)]


def ticks(low: float, high: float) -> list[float]:
    """Return three to seven round values within a span.

    >>> ticks(0, 2), ticks(-3, 47)
    ([0.0, 0.5, 1.0, 1.5, 2.0], [0.0, 10.0, 20.0, 30.0, 40.0])
    """
    raw = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * round_one for round_one in (1, 2, 5, 10) if raw <= size * round_one * 1.0001)
    first = math.ceil(low / step - 1e-9)
    return [(first + index) * step for index in range(math.floor(high / step + 1e-9) - first + 1)]


def tick_label(value: float) -> str:
    """Return a tick's number, without the noise of binary fractions.

    >>> tick_label(0.30000000000000004), tick_label(2000.0)
    ('0.3', '2000')
    """
    return f"{round(value, 12):.6g}"


def style(index: int) -> str:
    """Return the class and dashes of a series' line."""
    dash = DASHES[index % len(DASHES)]
    return f'class="curve s{index % 8}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def mark(x: float, y: float, index: int, size: float = 3.0) -> str:
    """Return a series' mark: disc, square, triangle, diamond, and so on, by turns."""
    r = size
    shapes = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0",
        f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M{x:.1f} {y - 1.2 * r:.1f}l{1.2 * r:.1f} {2.1 * r:.1f}h{-2.4 * r:.1f}z",
        f"M{x:.1f} {y - 1.4 * r:.1f}l{1.3 * r:.1f} {1.4 * r:.1f}l{-1.3 * r:.1f} {1.4 * r:.1f}l{-1.3 * r:.1f} {-1.4 * r:.1f}z",
        f"M{x:.1f} {y + 1.2 * r:.1f}l{1.2 * r:.1f} {-2.1 * r:.1f}h{-2.4 * r:.1f}z",
    )
    return f'<path d="{shapes[index % len(shapes)]}" class="mark s{index % 8}"/>'


def text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "", more: str = "") -> str:
    """Draw a piece of text."""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}{more}>{escape(words)}</text>'


def whole(title: str, words: str, body: Sequence[str], width: float, height: float, *, sized: bool = False) -> str:
    """Return a drawing with its title and its description in words; `sized` for a file of its own."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}" role="img"'
    size = f' width="{width}" height="{height}"' if sized else ""
    return f"{head}{size}><title>{escape(title)}</title><desc>{escape(words)}</desc>{''.join(body)}</svg>"
