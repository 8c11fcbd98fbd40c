"""The legend under a picture: what is drawn, in which colours.

The answer is sky blue and solid, the truth yellow and dashed.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

ANSWER = (70, 195, 255)
TRUTH = (255, 221, 64)
Shape = Literal["contour", "fill", "dashes", "frame", "dot"]
LEGEND: Mapping[str, tuple[Shape, tuple[int, int, int]]] = {
    "truth": ("contour", TRUTH),
    "mask": ("fill", ANSWER),
    "masks": ("fill", ANSWER),
    "true box": ("dashes", TRUTH),
    "true boxes": ("dashes", TRUTH),
    "box": ("frame", ANSWER),
    "boxes": ("frame", ANSWER),
    "key points": ("dot", ANSWER),
    "key point": ("dot", ANSWER),
}
"""What can be drawn -> how its entry in a legend looks, and its colour."""
_PANEL, _TEXT = (18, 21, 27), (232, 234, 238)
_NARROWEST = 320
"""The least width of the whole, so that the legend can be read under a sliver."""

_Draw = ImageDraw.ImageDraw
_Spot = tuple[float, float]
_Line = tuple[_Spot, _Spot]


def with_legend(picture: Pillow.Image, legend: Sequence[str], caption: str | None) -> Pillow.Image:
    """Return a picture with a panel below: a caption, then what is drawn, by keys of `LEGEND`."""
    if not legend and not caption:
        return picture
    width = max(picture.width, _NARROWEST)
    letter = float(np.clip(width / 42, 13, 26))
    font = ImageFont.load_default(letter)
    pad, row = round(0.8 * letter), round(1.65 * letter)
    rows = _flow([(name, font.getlength(name) + 2.9 * letter) for name in legend], width - 2 * pad)
    lines = _wrapped(caption or "", font, width - 2 * pad)
    panel = (len(rows) + len(lines)) * row + pad
    whole = Pillow.new("RGB", (width, picture.height + panel), _PANEL)
    whole.paste(picture, ((width - picture.width) // 2, 0))
    pen = ImageDraw.Draw(whole)
    top = picture.height + pad // 2
    for line in lines:
        pen.text((pad, top + row / 2), line, fill=_TEXT, font=font, anchor="lm")
        top += row
    entries = iter(legend)
    for count in rows:
        left = float(pad)
        for _ in range(count):
            name = next(entries)
            _swatch(pen, *LEGEND[name], (left, top + row / 2), letter)
            pen.text((left + 1.45 * letter, top + row / 2), name, fill=_TEXT, font=font, anchor="lm")
            left += font.getlength(name) + 2.9 * letter
        top += row
    return whole


def _flow(items: Sequence[tuple[str, float]], room: float) -> list[int]:
    """How many items go on each row."""
    rows: list[int] = []
    left = room
    for _, width in items:
        if not rows or width > left:
            rows.append(0)
            left = room
        rows[-1] += 1
        left -= width
    return rows


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _swatch(pen: _Draw, kind: Shape, colour: tuple[int, int, int], at: _Spot, letter: float) -> None:
    (x, y), half = at, 0.42 * letter
    box = (x, y - half, x + 2 * half, y + half)
    line = max(2, round(letter / 8))
    if kind == "fill":
        pen.rectangle(box, fill=tuple(int(0.4 * c + 0.6 * p) for c, p in zip(colour, _PANEL, strict=True)))
        pen.rectangle(box, outline=colour, width=line)
    elif kind == "frame":
        pen.rectangle(box, outline=colour, width=line)
    elif kind == "dot":
        pen.ellipse(box, fill=tuple(int(0.45 * c) for c in colour), outline=(255, 255, 255), width=line)
    else:
        edges = [((box[0], box[1]), (box[2], box[1])), ((box[2], box[1]), (box[2], box[3]))]
        edges += [((box[2], box[3]), (box[0], box[3])), ((box[0], box[3]), (box[0], box[1]))]
        if kind == "contour":
            edges = [((x - 0.1 * letter, y), (x + 2 * half + 0.1 * letter, y))]
        for start, end in edges:
            for (x1, y1), (x2, y2) in dashes(start, end, 0.28 * letter):
                pen.line((x1, y1, x2, y2), fill=colour, width=line)


def dashes(start: _Spot, end: _Spot, length: float) -> list[_Line]:
    """Return the dashes of about a `length` from start to end; the first and the last touch the ends."""
    count = max(1, round(float(np.hypot(end[0] - start[0], end[1] - start[1])) / length)) | 1
    stops = np.linspace(start, end, count + 1).tolist()
    return [((a[0], a[1]), (b[0], b[1])) for a, b in zip(stops[::2], stops[1::2], strict=True)]
