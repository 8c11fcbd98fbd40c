"""Families whose questions mean no target, one, several or many: spots in a plain organ, and cells under a microscope.

A question asks for everything of one kind, in the same words whatever the answer is, so that only the picture tells how
many there are. Targets never touch, and each has its exact mask.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from medground_toy.canvas import Canvas, paint, soft
from medground_toy.plain import CORE
from medground_toy.regions import Floats
from medground_toy.scenes import Structure

Tone = Literal["bright", "dark"]

_TRIES = 30
"""Places tried for one thing before it is left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """All of one kind that a picture holds, for a question about every one of it."""

    category: str
    supercategory: str
    tone: Tone
    structures: tuple[Structure, ...]
    """In reading order; empty where the picture holds none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spots:
    """A plain organ with a chance number of bright and of dark spots."""

    counts: tuple[int, ...]
    """How many of a tone there may be, each as likely."""
    lengths: tuple[float, float]
    """Half the length of a spot's axes, from and to, in canvas units."""

    def __call__(self, canvas: Canvas) -> tuple[Floats, list[Asked]]:
        """Draw a picture."""
        between, p = canvas.between, canvas.pixel
        picture = np.float32(0.5) + np.float32(0.02) * canvas.noise(5)
        taken = np.zeros(canvas.size, bool)
        asked = []
        tones: tuple[tuple[Tone, float, float], ...] = (("bright", 0.66, 0.95), ("dark", 0.27, 0.06))
        for tone, margin, middle in tones:
            structures = []
            for _ in range(int(canvas.rng.choice(self.counts))):
                for _ in range(_TRIES):
                    long, short = between(*self.lengths), between(*self.lengths)
                    reach = max(long, short) + 3 * p
                    x, y = (between(-side + reach, side - reach) for side in _sides(canvas))
                    if not (taken & (canvas.blob(x, y, long + 3 * p, short + 3 * p) > 0)).any():
                        break
                else:
                    continue
                whole, core = (canvas.blob(x, y, long * size, short * size) for size in (1.0, CORE))
                paint(picture, soft(whole, 2 * p), margin)
                paint(picture, soft(core, 2 * p), middle)
                taken |= whole > 0
                structures.append(Structure(f"{tone} nodule", "abnormality", whole > 0, core > 0, tone))
            asked.append(Asked(f"{tone} nodule", "abnormality", tone, _in_order(structures)))
        return picture + canvas.grain(0.015), asked


maybe = Spots(counts=(0, 1), lengths=(0.24, 0.36))
"""No or one spot of each tone."""
several = Spots(counts=(1, 2, 3, 4), lengths=(0.13, 0.2))
"""One to four spots of each tone."""


def cells(canvas: Canvas) -> tuple[Floats, list[Asked]]:
    """Stained tissue: many purple nuclei, and a few brown ones or none."""
    between, p = canvas.between, canvas.pixel
    warp = canvas.noise(3, 2)
    fibres = np.cos(16 * (canvas.x * between(-0.6, 0.6) + canvas.y) + 3 * warp)
    picture = np.array([0.93, 0.75, 0.84], np.float32) + np.array([0.03, 0.05, 0.03], np.float32) * fibres[..., None]
    picture += np.float32(0.015) * canvas.noise(22, 2)[..., None]
    taken = np.zeros(canvas.size, bool)
    density = 0.5 + 0.3 * canvas.noise(2)
    purple: list[Structure] = []
    brown: list[Structure] = []
    cell, few = between(0.14, 0.18), canvas.rng.random() < 0.5
    across, down = _sides(canvas)
    for y in np.arange(-down + cell / 2, down, cell):
        for x in np.arange(-across + cell / 2, across, cell):
            cx, cy = x + between(-0.25, 0.25) * cell, y + between(-0.25, 0.25) * cell
            long, short, turn = cell * between(0.26, 0.4), cell * between(0.22, 0.32), between(0, np.pi)
            rare, lobes, shade = canvas.rng.random() < 0.06, canvas.wobble(0.05, (2, 3)), between(-0.07, 0.07)
            if (
                canvas.rng.random()
                > density[_index(cy + down, p, canvas.size[0]), _index(cx + across, p, canvas.size[1])]
            ):
                continue
            rows, columns = (
                slice(max(0, int((middle - cell) / p)), int((middle + cell) / p) + 1)
                for middle in (cy + down, cx + across)
            )
            field = canvas.blob(cx, cy, long, short, turn, lobes)
            near = canvas.blob(cx, cy, long + 3 * p, short + 3 * p, turn)[rows, columns] > 0
            if not (field > 0).any() or (taken[rows, columns] & near).any():
                continue
            taken[rows, columns] |= field[rows, columns] > 0
            stain = np.array([0.45, 0.27, 0.12] if few and rare else [0.36, 0.20, 0.52], np.float32)
            paint(picture[rows, columns], soft(field[rows, columns], 2 * p) * 0.92, stain + np.float32(shade))
            (brown if few and rare else purple).append(Structure("nucleus", "cells", field > 0, tone="dark"))
    picture *= (1 + 0.02 * canvas.noise(2))[..., None]
    picture += canvas.grain(0.012)[..., None]
    return picture, [
        Asked("nucleus", "cells", "dark", _in_order(purple)),
        Asked("marked nucleus", "cells", "dark", _in_order(brown)),
    ]


def _sides(canvas: Canvas) -> tuple[float, float]:
    """Half the width and the height, in canvas units."""
    return canvas.size[1] * canvas.pixel / 2, canvas.size[0] * canvas.pixel / 2


def _index(along: float, pixel: float, count: int) -> int:
    """The pixel at a distance from the first side, moved inside the image."""
    return int(np.clip(along / pixel, 0, count - 1))


def _in_order(structures: list[Structure]) -> tuple[Structure, ...]:
    """Sort by the first pixel, row by row."""
    return tuple(sorted(structures, key=lambda one: int(one.whole.argmax())))
