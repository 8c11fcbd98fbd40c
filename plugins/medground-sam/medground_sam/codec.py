"""Images and prompts as the networks take them, and what networks give as maps at the image's size."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from medground.geometry import Size
from medground.segmenters.pixels import to_size
from medground.types import Image, SpatialPrompt
from medground_sam.contract import Contract, as_rgb, input_size, prepare, to_input
from medground_sam.networks import Network, Prompts

Item = tuple[int, SpatialPrompt]
"""A prompt with the index of its image."""


class Codec:
    """A network behind a contract.

    Args:
        network: the frozen model.
        contract: how its input is made and its output read.
    """

    def __init__(self, network: Network, contract: Contract) -> None:
        self.network = network
        self.contract = contract
        self._device = next(network.module.prompt_encoder.parameters()).device
        self._dtype = next(network.encoder.parameters()).dtype

    def encode(self, images: Sequence[Image]) -> list[torch.Tensor]:
        """Return the embedding of every image, on the network's device.

        Raises:
            InputError: if one is neither grey nor RGB, not uint8, or empty.
        """
        pixels = np.stack([prepare(self.contract, as_rgb(image), self.network.side) for image in images])
        batch = torch.from_numpy(pixels).to(self._device, self._dtype)
        return [embedding.clone() for embedding in self.network.encode(batch)]

    def decode(
        self, sizes: Sequence[Size], embeddings: Sequence[torch.Tensor], items: Sequence[Item]
    ) -> Iterator[tuple[NDArray[np.float32], float]]:
        """Yield the best map of every prompt, at the size of its image, with its score; the prompts are of one kind."""
        used = sorted({index for index, _ in items})
        image_of = torch.tensor([used.index(index) for index, _ in items], device=self._device)
        logits, iou = self.network.decode(
            torch.stack([embeddings[index] for index in used]),
            image_of,
            self._tensors(sizes, items),
            self.contract.multimask,
        )
        best = iou.argmax(dim=1)
        rows = torch.arange(len(items), device=self._device)
        for (index, _), one, score in zip(items, logits[rows, best], iou[rows, best].tolist(), strict=True):
            yield self._upsample(one, sizes[index]), score

    def _tensors(self, sizes: Sequence[Size], items: Sequence[Item]) -> Prompts:
        side = self.network.side

        def to_network(numbers: Sequence[object], index: int) -> NDArray[np.float32]:
            return to_input(self.contract, np.asarray(numbers, np.float64).reshape(-1, 2), sizes[index], side)

        points = labels = boxes = None
        if items[0][1].points:
            points = np.stack([to_network(prompt.points, index) for index, prompt in items])
            labels = np.array([prompt.labels for _, prompt in items], np.int64)
        if items[0][1].box is not None:
            boxes = np.stack([to_network(prompt.box, index).reshape(4) for index, prompt in items])
        return tuple(
            None if array is None else torch.from_numpy(array).to(self._device) for array in (points, labels, boxes)
        )

    def _upsample(self, logits: torch.Tensor, size: Size) -> NDArray[np.float32]:
        """Bring a low-resolution map ``[h, w]`` to the original size, as the model's authors do."""
        if self.contract.upsample == "probabilities":
            return to_size(logits.sigmoid(), size).cpu().numpy()
        side = self.network.side
        height, width = input_size(self.contract, size, side)
        return to_size(to_size(logits, (side, side))[:height, :width], size).cpu().numpy()
