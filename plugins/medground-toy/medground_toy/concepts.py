"""A segmenter that is prompted by words or examples, and needs no weights: it knows what is bright and what is dark."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medground.types import Image, Mask, PromptKind, SpatialPrompt
from medground_toy.regions import Bools, Floats, fill_holes, label, smooth
from medground_toy.segmenters import box_pixels

_TONES = {"bright": 1, "light": 1, "pale": 1, "white": 1, "dark": -1, "black": -1}
"""The words it knows, and which side of the middle grey they name."""
_WORD = re.compile(r"[a-z]+")


@dataclass(eq=False, kw_only=True)
class Tones:
    """Everything in the image of the tone that the text names, each thing an instance.

    The first word of a text that names a tone decides: bright, light, pale, white, dark or black. Without a text the
    exemplars decide, and without these the box, by their mean grey. A box also bounds the mask. What differs from the
    image's median grey by at least `contrast` is there; its presence is the greatest difference over twice that, so that
    below 0.5 nothing is. A text without such a word is never there.

    Args:
        contrast: the least difference, as a share of the grey scale.
    """

    accepts: ClassVar[frozenset[PromptKind]] = frozenset({"text", "exemplars", "box"})
    contrast: float = 0.08

    def segment(self, image: Image, prompts: Sequence[SpatialPrompt]) -> list[Mask]:
        """Return one mask per prompt, with an instance for each thing, and the presence."""
        if not prompts:
            return []
        grey = smooth(image.mean(axis=2, dtype=np.float32) / 255, 1)
        return [self._one(grey - np.median(grey), prompt) for prompt in prompts]

    def _one(self, difference: Floats, prompt: SpatialPrompt) -> Mask:
        inside = np.ones(difference.shape, bool) if prompt.box is None else box_pixels(prompt.box, difference)
        level = np.where(inside, _tone(difference, prompt) * difference, 0)
        marked = fill_holes(level >= self.contrast) & inside
        labels, count = label(marked)
        instances = [self._instance(labels == number, level) for number in range(1, count + 1)]
        presence = self._share(level.max())
        return Mask(data=marked, score=presence, instances=tuple(instances), presence=presence)

    def _instance(self, pixels: Bools, level: Floats) -> Mask:
        return Mask(data=pixels, score=self._share(level[pixels].mean()))

    def _share(self, difference: float) -> float:
        return min(1.0, max(0.0, float(difference) / (2 * self.contrast)))


def _tone(difference: Floats, prompt: SpatialPrompt) -> int:
    """Return 1 where something bright is looked for, -1 where something dark is, 0 where nobody knows."""
    if prompt.text:
        known = [_TONES[word] for word in _WORD.findall(prompt.text.lower()) if word in _TONES]
        return known[0] if known else 0
    boxes = prompt.exemplars or (() if prompt.box is None else (prompt.box,))
    shown = np.any([box_pixels(box, difference) for box in boxes], axis=0)
    return int(np.sign(difference[shown].mean())) if shown.any() else 0
