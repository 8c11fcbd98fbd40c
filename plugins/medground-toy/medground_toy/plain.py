"""The simple families: two large lesions, one bright and one dark, inside an organ that fills the picture.

Made for models so small that they learn from random weights in minutes on a CPU, at 64 px. Everything a harder family
has is there, a core and a margin to every lesion and a question that decides between two, and nothing else is. They
differ in colour, texture, contrast and shape, so that a model taught on some can be tried on others.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from medground_toy.canvas import Canvas, Lobes, paint, soft
from medground_toy.regions import Floats
from medground_toy.scenes import Shapes, Structure, region

CORE = 0.72
"""The core's size to the whole lesion's; a little more than elsewhere, for a core of twelve pixels or more."""
Tone = float | tuple[float, float, float]
"""A grey value, or a colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a simple family is drawn; called with a canvas, it gives the picture and its regions."""

    organ: Tone
    texture: tuple[float, float]
    """Bumps along a side, and their strength."""
    grain: float
    bright: tuple[Tone, Tone]
    """Margin and core of the bright lesion."""
    dark: tuple[Tone, Tone]
    lengths: tuple[float, float] = (0.27, 0.4)
    """Half the length of a lesion's axes, from and to, in canvas units."""
    waves: float = 0.0
    """How lobed its outline is; 0 is an ellipse."""

    def __call__(self, canvas: Canvas, shapes: Shapes) -> tuple[Floats, list[Structure]]:
        """A bright and a dark lesion side by side, on sides that chance decides."""
        between, p = canvas.between, canvas.pixel
        cells, strength = self.texture
        # No outside of the organ: black as the dark lesion, it made that one hard to find for a tiny model.
        shade = np.float32(strength) * canvas.noise(cells)
        picture = self.organ + shade if isinstance(self.organ, float) else np.float32(self.organ) + shade[..., None]
        regions, flip = [], int(canvas.rng.choice([-1, 1]))
        tones: tuple[tuple[int, Literal["bright", "dark"]], ...] = ((flip, "bright"), (-flip, "dark"))
        for side, tone in tones:
            margin, middle = self.bright if tone == "bright" else self.dark
            x, y = side * between(0.42, 0.54), between(-0.45, 0.45)
            long, short = between(*self.lengths), between(*self.lengths)
            if shapes == "round":
                short = long
            lobes: Lobes = canvas.wobble(self.waves, (2, 3, 5)) if self.waves and shapes != "round" else ()
            whole, core = (canvas.blob(x, y, long * size, short * size, 0.0, lobes) for size in (1.0, CORE))
            paint(picture, soft(whole, 2 * p), margin)
            paint(picture, soft(core, 2 * p), middle)
            regions.append(region("nodule", "abnormality", whole, core, tone))
        grain = canvas.grain(self.grain)
        return picture + (grain if picture.ndim == 2 else grain[..., None]), regions


plain = Look(organ=0.5, texture=(5, 0.02), grain=0.015, bright=(0.66, 0.95), dark=(0.27, 0.06))
"""Grey, even, all ellipses."""
tinted = Look(
    organ=(0.72, 0.40, 0.20),
    texture=(3, 0.03),
    grain=0.015,
    bright=((0.86, 0.62, 0.34), (1.0, 0.92, 0.66)),
    dark=((0.50, 0.19, 0.10), (0.22, 0.05, 0.05)),
    lengths=(0.2, 0.34),
)
"""Orange as an eye's background, and smaller lesions."""
stained = Look(
    organ=(0.90, 0.70, 0.82),
    texture=(9, 0.04),
    grain=0.03,
    bright=((0.95, 0.86, 0.92), (1.0, 0.98, 0.99)),
    dark=((0.62, 0.40, 0.66), (0.32, 0.16, 0.46)),
    waves=0.1,
)
"""Pink as a stained section, pale lesions that hardly stand out, lobed outlines."""
speckled = Look(
    organ=0.36,
    texture=(14, 0.06),
    grain=0.04,
    bright=(0.52, 0.72),
    dark=(0.22, 0.07),
    lengths=(0.3, 0.46),
    waves=0.07,
)
"""Dim and grainy as ultrasound, larger and lobed lesions."""
