"""Charts as SVG, drawn as text. Series differ by dashes and marks as well as by colour; every chart has a title and says
in words what it shows.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

from markupsafe import Markup

from medground.report.numbers import number, rounded
from medground.report.plot import Line, Plot, finite, mark, style, text, whole

WIDTH, HEIGHT = 360, 220
"""Of a chart's own coordinates: its width on a phone and in a column of a wide page, so that its letters keep their size."""
INNER = (56, 10, 12, 40)
"""Room left of, above, right of and below the plot."""
LONGEST = 26
"""Letters of a bar's name."""


def line_chart(
    title: str, lines: Mapping[str, Line], *, x: str = "step", y: str = "", holds: Sequence[float] = ()
) -> Markup:
    """Draw curves over a common axis.

    Args:
        title: what is shown.
        lines: label -> (x, y) of its points; a y that is None or not finite leaves a gap.
        x: what the horizontal axis counts.
        y: what the vertical axis counts.
        holds: values the vertical scale must hold, for example 0 and 1.
    """
    plot = _plot(lines.values(), holds)
    body = [*plot.axes(x, y)]
    for index, line in enumerate(lines.values()):
        body += plot.curve(line, index)
    return _chart(title, body, lines, y or "value")


def scatter(
    title: str, points: Mapping[str, Line], *, x: str, y: str, holds: Sequence[float] = (), diagonal: bool = False
) -> Markup:
    """Draw points, one mark each.

    Args:
        title: what is shown.
        points: label -> (x, y) of its points.
        x: what the horizontal axis counts.
        y: what the vertical axis counts.
        holds: values both scales must hold.
        diagonal: whether to draw the line on which y equals x.
    """
    plot = _plot(points.values(), holds, across=holds)
    body = [*plot.axes(x, y)]
    if diagonal:
        low, high = max(plot.xs[0], plot.ys[0]), min(plot.xs[1], plot.ys[1])
        body.append(plot.straight((low, low), (high, high), "axis"))
    for index, (xs, ys) in enumerate(points.values()):
        body += [mark(*plot.spot(a, b), index, size=3.5) for a, b in finite(xs, ys)]
    return _chart(title, body, points, y, joined=False)


def bars(
    title: str,
    series: Mapping[str, Mapping[str, float | None]],
    *,
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    holds: Sequence[float] = (0.0,),
) -> Markup:
    """Draw horizontal bars, each with its series and its value written beside it.

    Args:
        title: what is shown.
        series: series -> label -> value; a value of None has no bar.
        intervals: series -> label -> (low, high), drawn as whiskers and written.
        holds: values the scale must hold; bars begin at 0.
    """
    spans = intervals or {}
    labels = list(dict.fromkeys(label for values in series.values() for label in values))
    every = [value for values in series.values() for value in values.values() if value is not None]
    every += [end for values in spans.values() for ends in values.values() for end in ends]
    several, row, heading = len(series) > 1, 36, 22
    count = sum(label in values for values in series.values() for label in labels)
    height = row * count + heading * several * len(labels) + 30
    plot = Plot(10, 4, WIDTH - 20, height - 30, _span([0.0, *holds, *every]), (0.0, 1.0))
    body, top = plot.across(), 4.0
    for label in labels:
        if several:
            body.append(text(10, top + 15, _short(label), kind="group"))
            top += heading
        for index, (name, values) in enumerate(series.items()):
            if label in values:
                span = spans.get(name, {}).get(label)
                body += _bar(plot, top, index, name if several else label, values[label], span)
                top += row
    values_in_words = "; ".join(
        f"{name}: "
        + ", ".join(f"{label} {_value(value, spans.get(name, {}).get(label))}" for label, value in values.items())
        for name, values in series.items()
    )
    return _figure(title, whole(title, values_in_words, body, WIDTH, height))


def panels(title: str, curves: Mapping[str, Mapping[str, Line]]) -> str:
    """Draw an SVG document of plots, name -> label -> line, on one vertical scale that holds 0, 1 and every line."""
    wide, high, gap, margin = 250, 150, 66, 48
    every = [value for lines in curves.values() for line in lines.values() for _, value in finite(*line)]
    labels = list(dict.fromkeys(label for lines in curves.values() for label in lines))
    above = margin + 18 * -(-len(labels) // 3) + 12
    width, height = 2 * margin + 2 * wide + gap, above + -(-len(curves) // 2) * (high + gap)
    body = [f'<rect width="{width}" height="{height}" class="paper"/>', text(margin, 20, title, kind="name")]
    for index, (name, lines) in enumerate(curves.items()):
        x, y = margin + index % 2 * (wide + gap), above + index // 2 * (high + gap)
        reach = max((a for line in lines.values() for a, _ in finite(*line)), default=0.0) or 1.0
        plot = Plot(x, y, wide, high, (0.0, reach), _span([0.0, 1.0, *every]))
        body += [text(x, y - 8, name, kind="name"), *plot.axes("", "")]
        for label, line in lines.items():
            body += plot.curve(line, labels.index(label), marks=0)
    for index, label in enumerate(labels):
        left, down = margin + index % 3 * (width - 2 * margin) / 3, margin + 18 * (index // 3)
        body += [f'<path d="M{left:.1f} {down - 4:.1f}h26" {style(index)}/>', text(left + 32, down, label)]
    sheet = resources.files("medground.report").joinpath("templates", "chart.css").read_text(encoding="utf-8")
    return whole(title, ", ".join(curves), [f"<style>{sheet}</style>", *body], width, height, sized=True) + "\n"


def _plot(lines: Iterable[Line], holds: Sequence[float], across: Sequence[float] = ()) -> Plot:
    spots = [spot for line in lines for spot in finite(*line)]
    left, top, right, below = INNER
    return Plot(
        left, top, WIDTH - left - right, HEIGHT - top - below,
        _span([a for a, _ in spots] + list(across)), _span([b for _, b in spots] + list(holds)),
    )  # fmt: skip


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the greatest value, widened where they are one."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high == 0:
        return 0.0, 1.0
    return (low, high) if high > low else (low - abs(low) / 2, high + abs(high) / 2)


def _bar(
    plot: Plot, top: float, index: int, name: str, value: float | None, span: tuple[float, float] | None
) -> list[str]:
    """Draw a bar, over it its name and its value."""
    body = [
        text(plot.left, top + 14, _short(name), kind="name"),
        text(plot.left + plot.width, top + 14, _value(value, span), anchor="end"),
    ]
    if value is not None:
        start, stop = sorted((plot.spot(0.0, 0)[0], plot.spot(value, 0)[0]))
        body.append(
            f'<rect x="{start:.1f}" y="{top + 19:.1f}" width="{stop - start:.1f}" height="10" class="bar s{index % 8}"/>'
        )
    if span is not None:
        low, high = (plot.spot(end, 0)[0] for end in span)
        body.append(f'<path d="M{low:.1f} {top + 21:.1f}v6m0 -3H{high:.1f}m0 -3v6" class="whisker"/>')
    return body


def _value(value: float | None, span: tuple[float, float] | None) -> str:
    between = f" [{rounded(span[0])}, {rounded(span[1])}]" if span else ""
    return ("–" if value is None else rounded(value)) + between


def _short(name: str) -> str:
    """Return a name that leaves room for the value beside it; the description in words has the whole one."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _chart(title: str, body: list[str], lines: Mapping[str, Line], what: str, *, joined: bool = True) -> Markup:
    values = "; ".join(f"{label}: {_in_words(line)}" for label, line in lines.items()) or "no values"
    swatch = '<li><svg class="chart swatch" viewBox="0 0 36 12" aria-hidden="true">{}</svg>{{}}</li>'
    items = [Markup(swatch.format(_swatch(index, joined))).format(label) for index, label in enumerate(lines)]
    legend = Markup('<ul class="legend">{}</ul>').format(Markup("").join(items)) if len(lines) > 1 else ""
    return _figure(title, whole(title, f"{what} of {values}", body, WIDTH, HEIGHT), legend)


def _figure(title: str, drawn: str, legend: str = "") -> Markup:
    caption = Markup('<figcaption class="over">{}</figcaption>').format(title)
    return Markup('<figure class="chart">{}{}{}</figure>').format(caption, Markup(drawn), legend)


def _swatch(index: int, joined: bool) -> str:
    line = f'<path d="M1 6H35" {style(index)}/>' if joined else ""
    return line + mark(18, 6, index)


def _in_words(line: Line) -> str:
    spots = finite(*line)
    if not spots:
        return "no values"
    ys = [b for _, b in spots]
    return (
        f"{len(ys)} values, first {number(ys[0])}, last {number(ys[-1])}, "
        f"lowest {number(min(ys))}, highest {number(max(ys))}"
    )
