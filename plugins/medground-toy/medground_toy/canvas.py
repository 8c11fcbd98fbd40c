"""What phantoms are drawn with: shapes as signed fields, soft paint, smooth noise, strokes, nuclei.

A field is H x W float32, positive inside its shape and about the distance to the outline, in canvas units: the shorter
side of the image spans -1 to 1, y down. Union is the maximum of two fields, intersection the minimum, and `a` without
`b` is the minimum of a and -b. The mask of a shape is ``field > 0``, exactly.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw

from medground.geometry import Size
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
        """An ellipse around (x, y), turned by `angle` radians, its outline waved by `lobes`.

        Far from the shape, where nothing looks, the field is a flat -1.
        """
        reach = 1.7 * max(rx, ry) + 0.25
        rows, columns = self._span(self.y[:, 0], y, reach), self._span(self.x[0], x, reach)
        field = np.full(self.size, -1.0, np.float32)
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        dx, dy = self.x[rows, columns] - np.float32(x), self.y[rows, columns] - np.float32(y)
        u, v = (cos * dx + sin * dy) / np.float32(rx), (cos * dy - sin * dx) / np.float32(ry)
        outline: Any = np.float32(1)
        if lobes:
            steps = 2048
            theta = np.arange(steps) * (2 * np.pi / steps)
            table = 1 + sum(amplitude * np.cos(around * theta + phase) for around, amplitude, phase in lobes)
            turn = (np.arctan2(v, u) * np.float32(steps / (2 * np.pi))).astype(np.int32) % steps
            outline = np.asarray(table, np.float32)[turn]
        field[rows, columns] = (outline - np.hypot(u, v)) * np.float32(min(rx, ry))
        return field

    @staticmethod
    def _span(axis: Floats, centre: float, reach: float) -> slice:
        first, last = np.searchsorted(axis, (centre - reach, centre + reach))
        return slice(int(first), int(last))

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
        return (total - total.mean()) / np.float32(max(float(total.std()), 1e-6))

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
            along = np.gradient(xy, axis=0)
            normal = np.stack([-along[:, 1], along[:, 0]], axis=1) / (np.hypot(*along.T)[:, None] + 1e-9)
            reach = np.maximum(np.linspace(start, end, len(xy)) / self.pixel * fine, 1.0)[:, None] / 2
            draw.polygon(np.concatenate([xy + normal * reach, (xy - normal * reach)[::-1]]).ravel().tolist(), fill=255)
            for (x, y), r in ((xy[0], reach[0, 0]), (xy[-1], reach[-1, 0])):
                draw.ellipse((float(x - r), float(y - r), float(x + r), float(y + r)), fill=255)
        small = sheet.resize((width, height), Pillow.Resampling.BOX)
        return np.asarray(small, np.float32) / np.float32(255)

    def nuclei(self, cell: float, radius: float, density: Floats) -> tuple[Floats, Floats]:
        """Scattered turned ellipses: their coverage in [0, 1], and a shade in [0, 1], each nucleus its own.

        One candidate per square of side `cell`, kept with the probability that `density` has at its centre.
        """
        (height, width), rng, fine = self.size, self.rng, 2
        y, x = np.meshgrid(*(np.arange(-1, int(n * self.pixel / cell) + 2) for n in self.size), indexing="ij")
        across = (x + rng.uniform(0.1, 0.9, x.shape)) * cell / self.pixel
        down = (y + rng.uniform(0.1, 0.9, y.shape)) * cell / self.pixel
        at = np.clip(down.astype(int), 0, height - 1), np.clip(across.astype(int), 0, width - 1)
        accepted = rng.uniform(0, 1, x.shape) < density[at]
        long, short = (rng.uniform(0.65, 1.05, (2, *x.shape))[:, accepted] * radius / self.pixel)[..., None]
        turn = rng.uniform(0, np.pi, x.shape)[accepted][:, None]
        around = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        u, v = long * np.cos(around), short * np.sin(around)
        px = (across[accepted][:, None] + np.cos(turn) * u - np.sin(turn) * v) * fine
        py = (down[accepted][:, None] + np.sin(turn) * u + np.cos(turn) * v) * fine
        shades = rng.integers(0, 256, len(turn))
        cover, shade = (Pillow.new("L", (width * fine, height * fine)) for _ in range(2))
        on_cover, on_shade = ImageDraw.Draw(cover), ImageDraw.Draw(shade)
        for outline, tone in zip(np.stack([px, py], axis=2).reshape(len(turn), -1).tolist(), shades, strict=True):
            on_cover.polygon(outline, fill=255)
            on_shade.polygon(outline, fill=int(tone))
        sheets = (sheet.resize((width, height), Pillow.Resampling.BOX) for sheet in (cover, shade))
        covered, toned = (np.asarray(sheet, np.float32) / np.float32(255) for sheet in sheets)
        return covered, toned


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
    position = (np.arange(side, dtype=np.float32) + 0.5) / side * max(cells, 1e-3) + 1
    gap = np.abs(position[:, None] - np.arange(knots, dtype=np.float32)[None, :])
    return np.exp(-1.6 * gap**2).astype(np.float32)
