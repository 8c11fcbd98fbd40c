"""A segmenter with no weights: what is bright inside the box."""

from dataclasses import dataclass

import numpy as np

import medground
from medground.geometry import in_box


@dataclass(kw_only=True)
class Bright:
    quantile: float = 0.7
    accepts = frozenset({"box", "points"})

    def segment(self, image, prompts):
        bright = image.mean(axis=2) >= np.quantile(image.mean(axis=2), self.quantile)
        pixels = np.moveaxis(np.indices(bright.shape)[::-1], 0, -1) + 0.5  # the centre (x, y) of each
        return [medground.Mask(data=bright & (p.box is None or in_box(pixels, p.box)), score=1.0) for p in prompts]


@medground.hookimpl
def register_segmenters(register):
    register("bright", Bright)
