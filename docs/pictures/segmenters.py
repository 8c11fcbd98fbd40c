"""Draws the pictures of docs/segmenters.md: each preprocessing mistake beside the same call done right.

    python docs/pictures/segmenters.py

Left the picture with its prompt and true outline, then the mask as it should be, then with the mistake. The segmenter
is toy_sam, the picture a drawn phantom: nothing is retouched.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from medground_sam import ToySam
from medground_sam.contract import MEAN, STD, contract, input_size, prepare, to_input
from medground_toy.phantoms import phantom
from PIL import Image as PIL
from PIL import ImageDraw
from torch.nn import functional as F

from medground.geometry import Box
from medground.types import SpatialPrompt

SAM = contract("sam", "native")
Mask = np.ndarray


class Bench:
    """The small SAM with every step in the open."""

    def __init__(self) -> None:
        self.network = ToySam()._engine.network
        self.side = self.network.side

    def low(self, pixels: np.ndarray, boxes: Any = None, points: Any = None, labels: Any = None) -> Any:
        """Low-resolution logits ``[3, h, w]`` and scores ``[3]`` for input pixels and prompts in input pixels."""
        asked = [None if part is None else torch.as_tensor(np.asarray(part))[None] for part in (points, labels, boxes)]
        with torch.inference_mode():
            embedding = self.network.encode(torch.from_numpy(pixels)[None])
            logits, iou = self.network.decode(embedding, torch.tensor([0]), tuple(asked), True)
        return logits[0], iou[0]

    def full(self, logits: torch.Tensor, size: tuple[int, int], *, crop: bool = True) -> Mask:
        """One logit map as a mask of `size`."""
        height, width = input_size(SAM, size, self.side) if crop else (self.side, self.side)
        whole = F.interpolate(logits[None, None], (self.side, self.side), mode="bilinear")[..., :height, :width]
        return (F.interpolate(whole, size, mode="bilinear")[0, 0] > 0).numpy()

    def right(self, image: np.ndarray, box: Box) -> Mask:
        """Everything as it should be."""
        size = image.shape[:2]
        logits, iou = self.low(prepare(SAM, image, self.side), self.moved(box, size))
        return self.full(logits[iou.argmax()], size)

    def moved(self, box: Any, size: tuple[int, int]) -> np.ndarray:
        """A box in input pixels."""
        return to_input(SAM, np.reshape(box, (2, 2)), size, self.side).reshape(4)


def frame(bench: Bench, image: np.ndarray, box: Box) -> Mask:
    """The box left in pixels of the original."""
    logits, iou = bench.low(prepare(SAM, image, bench.side), np.array(box, np.float32))
    return bench.full(logits[iou.argmax()], image.shape[:2])


def swapped(bench: Bench, image: np.ndarray, box: Box) -> Mask:
    """y before x."""
    return bench.right(image, Box(box.y1, box.x1, box.y2, box.x2))


def squeezed(bench: Bench, image: np.ndarray, box: Box) -> Mask:
    """The image stretched to a square, the box moved as if it had been padded."""
    square = np.asarray(PIL.fromarray(image).resize((bench.side, bench.side), PIL.Resampling.BILINEAR))
    logits, iou = bench.low(prepare(SAM, square, bench.side), bench.moved(box, image.shape[:2]))
    return bench.full(logits[iou.argmax()], image.shape[:2])


def uncropped(bench: Bench, image: np.ndarray, box: Box) -> Mask:
    """The padding left on before the mask is resized."""
    logits, iou = bench.low(prepare(SAM, image, bench.side), bench.moved(box, image.shape[:2]))
    return bench.full(logits[iou.argmax()], image.shape[:2], crop=False)


def raw(bench: Bench, image: np.ndarray, box: Box) -> Mask:
    """Values of 0 to 1 where 0 to 255 were expected before mean and deviation."""
    pixels = prepare(SAM, image, bench.side)
    pixels = ((pixels * STD[:, None, None] + MEAN[:, None, None]) / 255 - MEAN[:, None, None]) / STD[:, None, None]
    logits, iou = bench.low(pixels.astype(np.float32), bench.moved(box, image.shape[:2]))
    return bench.full(logits[iou.argmax()], image.shape[:2])


def bgr(bench: Bench, image: np.ndarray, box: Box) -> Mask:
    """Blue where red should be."""
    return bench.right(np.ascontiguousarray(image[..., ::-1]), box)


def padded(bench: Bench, image: np.ndarray, box: Box) -> Mask:
    """Two padding points beside the box, to make all prompts equally long."""
    corners = bench.moved(box, image.shape[:2])
    points, labels = np.zeros((2, 2), np.float32), np.full(2, -1)
    logits, iou = bench.low(prepare(SAM, image, bench.side), corners, points, labels)
    return bench.full(logits[iou.argmax()], image.shape[:2])


def worst(bench: Bench, image: np.ndarray, box: Box) -> Mask:
    """A fixed one of the three masks, here the one the model itself rates lowest."""
    logits, iou = bench.low(prepare(SAM, image, bench.side), bench.moved(box, image.shape[:2]))
    return bench.full(logits[iou.argmin()], image.shape[:2])


def early(bench: Bench, image: np.ndarray, box: Box) -> Mask:
    """The threshold before the upsampling."""
    size = image.shape[:2]
    logits, iou = bench.low(prepare(SAM, image, bench.side), bench.moved(box, size))
    hard = PIL.fromarray((logits[iou.argmax()] > 0).numpy().astype(np.uint8)).resize(
        (bench.side,) * 2, PIL.Resampling.NEAREST
    )
    height, width = input_size(SAM, size, bench.side)
    return np.asarray(hard.crop((0, 0, width, height)).resize(size[::-1], PIL.Resampling.NEAREST)) > 0


def as_is(image: np.ndarray) -> np.ndarray:
    """The picture as the model should see it."""
    return image


def blue(image: np.ndarray) -> np.ndarray:
    """The picture with its channels reversed."""
    return np.ascontiguousarray(image[..., ::-1])


def dark(image: np.ndarray) -> np.ndarray:
    """A picture of 0 to 1 on a scale of 0 to 255."""
    return image // 255


class Mistake(NamedTuple):
    """One row of the list."""

    wrong: Callable[[Bench, np.ndarray, Box], Mask]
    family: str
    size: tuple[int, int] = (256, 256)
    seen: Callable[[np.ndarray], np.ndarray] = as_is
    """What the model is shown, where that is the mistake."""


MISTAKES = {
    "frame": Mistake(frame, "ct"),
    "order": Mistake(swapped, "ct"),
    "aspect": Mistake(squeezed, "ultrasound", (192, 288)),
    "padding": Mistake(uncropped, "ultrasound", (192, 288)),
    "range": Mistake(raw, "mri", seen=dark),
    "channels": Mistake(bgr, "fundus", seen=blue),
    "padded_prompts": Mistake(padded, "xray"),
    "choice": Mistake(worst, "ct"),
    "threshold": Mistake(early, "mri"),
}


def panel(image: np.ndarray, mask: Mask, box: Box | None) -> PIL.Image:
    """A picture with a mask in orange and a box in blue."""
    shown = image.astype(np.float32)
    shown[mask] = shown[mask] * 0.4 + np.array([255, 140, 0]) * 0.6
    picture = PIL.fromarray(shown.astype(np.uint8))
    if box is not None:
        ImageDraw.Draw(picture).rectangle(tuple(box), outline=(70, 160, 255), width=2)
    return picture


def outline(mask: Mask) -> Mask:
    """The pixels of a mask that touch its outside."""
    inner = np.pad(mask, 1)
    return mask & ~(inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:])


def main() -> None:
    """Write one picture per mistake."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "segmenters")
    folder = parser.parse_args().out
    folder.mkdir(exist_ok=True)
    bench = Bench()
    for name, (wrong, family, size, seen) in MISTAKES.items():
        drawn = phantom(family, 7, size=size)
        target = drawn.samples[-1].target
        prompt = SpatialPrompt(box=target.region.box)
        panels = [
            panel(drawn.image, outline(target.mask), prompt.box),
            panel(drawn.image, bench.right(drawn.image, target.region.box), None),
            panel(seen(drawn.image), wrong(bench, drawn.image, target.region.box), None),
        ]
        sheet = PIL.new("RGB", (size[1] * 3 + 16, size[0]), "white")
        for column, picture in enumerate(panels):
            sheet.paste(picture, (column * (size[1] + 8), 0))
        sheet.quantize(96).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
