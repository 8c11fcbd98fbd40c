"""What phantoms are drawn with: shapes as signed fields, soft paint, smooth noise, strokes, nuclei.

A field is H x W float32, positive inside its shape and about the distance to the outline, in canvas units: the shorter
side of the image spans -1 to 1, y down. Union is the maximum of two fields, intersection the minimum, and `a` without
`b` is the minimum of a and -b. The mask of a shape is ``field > 0``, exactly.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from medground.geometry import Size
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw

from medground_toy.regions import Floats

Lobes = Sequence[tuple[int, float, float]]
"""(lobes around, amplitude, phase) of the waves on an outline."""
Stroke = tuple[NDArray[np.floating[Any]], float, float]
"""Points [N, 2] as (x, y), and the width at its start and end, in canvas units."""


class Canvas:
    """The pixel grid of one picture and the randomness that fills it."""

    def __init__(self, size: Size, rng: np.random.Generator) -> None:
        height, width = size
        self.size, self.rng = size, rng
        self.pixel = 2.0 / min(size)
        self.x = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) * self.pixel)[None, :].repeat(height, axis=0)
        self.y = ((np.arange(height, dtype=np.float32) + 0.5 - height / 2) * self.pixel)[:, None].repeat(width, axis=1)

    def between(self, low: float, high: float) -> float:
        """A uniform random number."""
        return float(self.rng.uniform(low, high))

    def blob(self, x: float, y: float, rx: float, ry: float, angle: float = 0.0, lobes: Lobes = ()) -> Floats:
        """An ellipse around (x, y), turned by `angle` radians, its outline waved by `lobes`."""
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        dx, dy = self.x - np.float32(x), self.y - np.float32(y)
        u, v = (cos * dx + sin * dy) / np.float32(rx), (cos * dy - sin * dx) / np.float32(ry)
        outline = np.ones(self.size, np.float32)
        if lobes:
            theta = np.arctan2(v, u)
            for around, amplitude, phase in lobes:
                outline += np.float32(amplitude) * np.cos(around * theta + np.float32(phase))
        return (outline - np.hypot(u, v)) * np.float32(min(rx, ry))

    def wobble(self, amount: float, orders: Sequence[int] = (2, 3, 4, 5)) -> Lobes:
        """Random gentle waves, smaller for higher orders."""
        return [(k, amount * self.between(0.4, 1.0) * 2 / k, self.between(0, 2 * np.pi)) for k in orders]

    def noise(self, cells: float, octaves: int = 1) -> Floats:
        """Smooth noise of mean 0 and standard deviation about 1, with `cells` bumps along the shorter side."""
        total, weight = np.zeros(self.size, np.float32), 1.0
        for octave in range(octaves):
            rows, columns = (_basis(side, cells * 2**octave * side / min(self.size)) for side in self.size)
            bumps = self.rng.standard_normal((rows.shape[1], columns.shape[1])).astype(np.float32)
            total += np.float32(weight) * (rows @ bumps @ columns.T)
            weight *= 0.6
        return total / np.float32(max(float(total.std()), 1e-6))

    def grain(self, amount: float) -> Floats:
        """Independent noise of the pixels."""
        return (self.rng.standard_normal(self.size) * amount).astype(np.float32)

    def strokes(self, strokes: Sequence[Stroke]) -> Floats:
        """Coverage in [0, 1] of smooth lines whose width runs from one end to the other."""
        fine = 3
        height, width = self.size
        sheet = Pillow.new("L", (width * fine, height * fine))
        draw = ImageDraw.Draw(sheet)
        for points, start, end in strokes:
            xy = (points / self.pixel + [width / 2, height / 2]) * fine
            widths = np.linspace(start, end, len(xy)) / self.pixel * fine
            for ((x1, y1), (x2, y2)), thick in zip(pairwise(xy), widths, strict=False):
                draw.line((float(x1), float(y1), float(x2), float(y2)), fill=255, width=max(1, round(float(thick))))
                reach = float(thick) / 2
                draw.ellipse((float(x2) - reach, float(y2) - reach, float(x2) + reach, float(y2) + reach), fill=255)
        small = sheet.resize((width, height), Pillow.Resampling.BOX)
        return np.asarray(small, np.float32) / np.float32(255)

    def nuclei(self, cell: float, radius: float, density: Floats) -> tuple[Floats, Floats]:
        """Scattered turned ellipses: a field, and each nucleus's own random shade in [0, 1] around it.

        One candidate per square of side `cell`, kept with the probability that `density` has at its centre.
        """
        height, width = self.size
        rows, columns = (int(np.ceil(side * self.pixel / cell)) + 2 for side in self.size)
        jitter = self.rng.uniform(0.15, 0.85, (2, rows, columns)).astype(np.float32)
        turn = self.rng.uniform(0, np.pi, (rows, columns)).astype(np.float32)
        shape = self.rng.uniform(0.6, 1.0, (2, rows, columns)).astype(np.float32)
        shade = self.rng.uniform(0, 1, (rows, columns)).astype(np.float32)
        left, top = float(self.x[0, 0]) - cell, float(self.y[0, 0]) - cell
        cx = left + (np.arange(columns, dtype=np.float32)[None, :] + jitter[0]) * cell
        cy = top + (np.arange(rows, dtype=np.float32)[:, None] + jitter[1]) * cell
        at = (
            np.clip((cy / self.pixel + height / 2).astype(int), 0, height - 1),
            np.clip((cx / self.pixel + width / 2).astype(int), 0, width - 1),
        )
        kept = self.rng.uniform(0, 1, (rows, columns)) < density[at]
        row, column = ((self.y - top) / cell).astype(int), ((self.x - left) / cell).astype(int)
        best, own = np.full(self.size, -1.0, np.float32), np.zeros(self.size, np.float32)
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                i, j = np.clip(row + down, 0, rows - 1), np.clip(column + across, 0, columns - 1)
                dx, dy, cos, sin = self.x - cx[i, j], self.y - cy[i, j], np.cos(turn)[i, j], np.sin(turn)[i, j]
                u, v = (cos * dx + sin * dy) / shape[0][i, j], (cos * dy - sin * dx) / shape[1][i, j]
                field = np.where(kept[i, j], np.float32(radius) - np.hypot(u, v), np.float32(-1))
                own = np.where(field > best, shade[i, j], own)
                best = np.maximum(best, field)
        return best, own


def soft(field: Floats, width: float) -> Floats:
    """Coverage in [0, 1]: 0 outside, 1 inside, a smooth step of the given width across the outline."""
    t = np.clip(field / np.float32(width) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def paint(picture: Floats, cover: Floats, value: Any) -> None:
    """Lay a grey value, a colour, or a picture over `picture` in place, by coverage [H, W]."""
    if picture.ndim == 3:
        cover, value = cover[..., None], np.asarray(value, np.float32)
    picture += cover * (value - picture)


def curve(*knots: tuple[float, float], steps: int = 24) -> NDArray[np.float64]:
    """Points [steps, 2] along the Bezier curve of the knots."""
    t = np.linspace(0, 1, steps)[:, None]
    points = [np.broadcast_to(np.array(knot, float), (steps, 2)) for knot in knots]
    while len(points) > 1:
        points = [a + (b - a) * t for a, b in pairwise(points)]
    return points[0]


def _basis(side: int, cells: float) -> Floats:
    """[side, knots] smooth bumps along one axis."""
    knots = max(2, int(np.ceil(cells)) + 3)
    place = (np.arange(side, dtype=np.float32) + 0.5) / side * max(cells, 1e-3) + 1
    gap = np.abs(place[:, None] - np.arange(knots, dtype=np.float32)[None, :])
    return np.exp(-1.6 * gap**2).astype(np.float32)
