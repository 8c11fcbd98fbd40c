"""How images, boxes and clicks go into SAM 2 and the models that are called like it, and how masks come out.

Image: stretched to a square by an antialiased bilinear filter, values from 0 to 1, normalised, RGB. Prompts: divided by
width and height, times the input size; the corners of a box are two points labelled 2 and 3 before the clicks. Masks:
logits are upsampled bilinearly to the image and cut at 0.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from medground.geometry import Size
from medground.segmenters.embedding import EmbeddingSegmenter
from medground.segmenters.pixels import SquareInput, check_finite, joined, to_size
from medground.types import Image, SpatialPrompt

if TYPE_CHECKING:
    import torch

    from medground_sam2.networks import Features, Network


class ClickSegmenter(SquareInput, EmbeddingSegmenter):
    """A segmenter on a `medground_sam2.networks.Network`; its constructor sets the attributes."""

    whole_numbers: ClassVar[bool] = False
    network: "Network"
    multimask: bool | None
    """True: the best of three masks; False: one; None: the best of three for a single click without a box, one otherwise."""

    def features(self, pixels: "torch.Tensor") -> "Features":
        """As `SquareInput.features`."""
        return self.network.encode(pixels)

    def decode(
        self, images: Sequence[Image], embeddings: "Sequence[Features]", items: Sequence[tuple[int, SpatialPrompt]]
    ) -> Iterator[tuple[NDArray[np.float32], float]]:
        """As `EncodingSegmenter.decode`: the best mask of each prompt as logits, upsampled to its image."""
        import torch

        owners = [index for index, _ in items]
        rows = owners[:1] if len(set(owners)) == 1 else owners
        sizes = [(images[index].shape[0], images[index].shape[1]) for index in owners]
        points, labels = to_points([prompt for _, prompt in items], sizes, self.image_size)
        logits, scores = self.network.decode(
            joined(embeddings, rows), points.to(self.device), labels.to(self.device), multimask=self._three(items[0][1])
        )
        best = scores.argmax(dim=1)
        row = torch.arange(len(items), device=best.device)
        logits, scores = logits[row, best], scores[row, best]
        check_finite(self.model, scores, logits)
        for one, size, score in zip(logits, sizes, scores.tolist(), strict=True):
            yield to_size(one, size).cpu().numpy(), score

    def _three(self, prompt: SpatialPrompt) -> bool:
        """Return True if prompts of this kind get three masks to choose from."""
        return prompt.box is None and len(prompt.points) == 1 if self.multimask is None else self.multimask


def to_points(
    prompts: Sequence[SpatialPrompt], sizes: Sequence[Size], image_size: int
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Convert prompts of one kind to points [N, K, 2] in pixels of the model's input, and their labels [N, K]."""
    import torch

    points = torch.tensor([[*_corners(prompt), *prompt.points] for prompt in prompts], dtype=torch.float32)
    labels = [[*((2, 3) if prompt.box is not None else ()), *prompt.labels] for prompt in prompts]
    extent = torch.tensor([(width, height) for height, width in sizes], dtype=torch.float32)
    return points / extent[:, None] * image_size, torch.tensor(labels, dtype=torch.int32)


def _corners(prompt: SpatialPrompt) -> list[tuple[float, float]]:
    if prompt.box is None:
        return []
    x1, y1, x2, y2 = prompt.box
    return [(x1, y1), (x2, y2)]
