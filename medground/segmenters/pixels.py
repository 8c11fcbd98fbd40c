"""Images as the square input of a network, and what a network gives back at the size of the image.

torch is imported when a function is called, never by importing this module.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from medground.errors import SegmenterError
from medground.geometry import Size
from medground.types import Image

if TYPE_CHECKING:
    import torch

MEAN = (0.485, 0.456, 0.406)
"""Of ImageNet, RGB, values from 0 to 1."""
STD = (0.229, 0.224, 0.225)
"""The standard deviations of the same."""


class SquareInput:
    """Half of an `EncodingSegmenter` whose network takes squares and gives feature maps: from images to embeddings.

    A subclass implements `features`, and sets `image_size` and `device`. The embedding of an image is the list of its maps.
    """

    mean: ClassVar[tuple[float, ...]] = MEAN
    std: ClassVar[tuple[float, ...]] = STD
    whole_numbers: ClassVar[bool] = True
    """These three as in `to_square`."""
    image_size: int
    """Side of the network's square input in pixels."""
    device: str

    @abstractmethod
    def features(self, pixels: "torch.Tensor") -> "Sequence[torch.Tensor]":
        """Return maps ``[M, ...]`` of images ``[M, 3, S, S]``."""

    def prepare(self, image: Image) -> "torch.Tensor":
        """Return the network's input ``[3, S, S]`` for an H x W x 3 uint8 RGB image."""
        options = {"mean": self.mean, "std": self.std}
        return to_square(image, self.image_size, device=self.device, whole_numbers=self.whole_numbers, **options)

    def encode(self, images: Sequence[Image]) -> "list[list[torch.Tensor]]":
        """As `EncodingSegmenter.encode`."""
        import torch

        levels = self.features(torch.stack([self.prepare(image) for image in images]))
        # Copies, so that dropping one image of a batch frees its memory.
        return [[level[row : row + 1].clone() for level in levels] for row in range(len(images))]


def joined(embeddings: "Sequence[list[torch.Tensor]]", rows: Sequence[int]) -> "list[torch.Tensor]":
    """Return the maps of `SquareInput.encode` with a row for each of some images, in float32."""
    import torch

    return [torch.cat(level).float() for level in zip(*(embeddings[row] for row in rows), strict=True)]


def to_square(
    image: Image, size: int, *, mean: Sequence[float], std: Sequence[float], device: str, whole_numbers: bool = False
) -> "torch.Tensor":
    """Stretch an H x W x 3 uint8 RGB image to a network's input: [3, size, size] float32 on a device, normalised.

    Args:
        image: what is stretched, by an antialiased bilinear filter.
        size: side of the input in pixels.
        mean: of the three channels, values from 0 to 1.
        std: their standard deviations.
        device: where the result lies.
        whole_numbers: True rounds the stretched image to uint8 before it is normalised, as processors of transformers
            do; False keeps its fractions, as Meta's code for SAM 2 does.

    Raises:
        SegmenterError: if it is no such image.
    """
    import torch
    import torch.nn.functional as F

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise SegmenterError(f"a segmenter takes H x W x 3 uint8 images, not {image.shape} {image.dtype}")
    where = "cpu" if whole_numbers else device  # uint8 is resized on the CPU alone
    whole = np.ascontiguousarray(image)  # torch reads no mirrored view
    pixels = torch.tensor(whole, device=where).permute(2, 0, 1)
    pixels = pixels if whole_numbers else pixels.float().div(255)
    square = F.interpolate(pixels[None], (size, size), mode="bilinear", align_corners=False, antialias=True)[0]
    square = square.to(device).float().div(255) if whole_numbers else square
    middle, spread = (torch.tensor(values, device=device).reshape(3, 1, 1) for values in (mean, std))
    return (square - middle) / spread


def to_size(values: "torch.Tensor", size: Size) -> "torch.Tensor":
    """Return a map ``[h, w]`` at another size (H, W), bilinearly."""
    import torch.nn.functional as F

    return F.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def check_finite(model: str, *values: "torch.Tensor") -> None:
    """Stop at numbers of a network that are not finite.

    Raises:
        SegmenterError: naming the model.
    """
    import torch

    if not all(bool(torch.isfinite(tensor).all()) for tensor in values):
        raise SegmenterError(f"{model} gave numbers that are not finite", hint="try dtype float32")
