"""The plain family: two large lesions, one bright and one dark, inside an organ that fills the picture.

Made for models so small that they learn from random weights in minutes on a CPU, at 64 px. Everything a harder family
has is there, a core and a margin to every lesion and a question that decides between two, and nothing else is.
"""

from medground_toy.canvas import Canvas, paint, soft
from medground_toy.regions import Floats
from medground_toy.scenes import Region, Shapes, region

_SHARE = 0.72
"""The core's size to the whole lesion's; a little more than elsewhere, for a core of twelve pixels or more."""


def plain(canvas: Canvas, shapes: Shapes) -> tuple[Floats, list[Region]]:
    """A bright and a dark lesion side by side, on sides that chance decides; irregular ones are ellipses."""
    between, p = canvas.between, canvas.pixel
    # No outside of the organ: black as the dark lesion, it made that one hard to find for a tiny model.
    picture = 0.5 + 0.02 * canvas.noise(5)
    regions, flip = [], int(canvas.rng.choice([-1, 1]))
    for side, tone, margin, middle in ((flip, "bright", 0.66, 0.95), (-flip, "dark", 0.27, 0.06)):
        x, y = side * between(0.42, 0.54), between(-0.45, 0.45)
        long, short = between(0.27, 0.4), between(0.27, 0.4)
        if shapes == "round":
            short = long
        whole, core = (canvas.blob(x, y, long * size, short * size) for size in (1.0, _SHARE))
        paint(picture, soft(whole, 2 * p), margin)
        paint(picture, soft(core, 2 * p), middle)
        regions.append(region("nodule", "abnormality", whole, core, "bright" if tone == "bright" else "dark"))
    return picture + canvas.grain(0.015), regions
