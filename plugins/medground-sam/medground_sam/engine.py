"""Encode once, decode together: what every SAM of this package does with images and prompts."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from medground.errors import SegmenterError
from medground.geometry import Size
from medground.segmenters.batching import EmbeddingCache, segment_together
from medground.types import Image, SpatialPrompt
from medground_sam.contract import Contract, as_rgb, input_size, prepare, to_input
from medground_sam.networks import Network, Prompts

Answer = TypeVar("Answer")
Item = tuple[int, SpatialPrompt]
"""A prompt with the index of its image."""


class Engine:
    """A network behind a contract.

    Args:
        network: the frozen model.
        contract: how its input is made and its output read.
        cache_bytes: bound of the image embeddings kept.
        encode_batch: images per encoder call.
        decode_batch: prompts per decoder call.
    """

    def __init__(
        self, network: Network, contract: Contract, *, cache_bytes: int, encode_batch: int, decode_batch: int
    ) -> None:
        self.network = network
        self.contract = contract
        self.cache = EmbeddingCache(cache_bytes)
        self.encode_batch = encode_batch
        self.decode_batch = decode_batch
        parameter = next(network.module.prompt_encoder.parameters())
        self._device = parameter.device
        self._dtype = next(network.encoder.parameters()).dtype

    def run(
        self,
        images: Sequence[Image],
        prompts: Sequence[Sequence[SpatialPrompt]],
        finish: Callable[[NDArray[np.float32], float], Answer],
    ) -> list[list[Answer]]:
        """``finish(map, score)`` of every prompt of every image; the map is at the image's size.

        Raises:
            SegmenterError: if the model fails.
        """
        try:
            with torch.inference_mode():
                return segment_together(
                    [as_rgb(image) if mine else image for image, mine in zip(images, prompts, strict=True)],
                    prompts,
                    cache=self.cache,
                    preprocessing=repr(self.contract),
                    encode=self._encode,
                    decode=lambda block, embeddings, items: self._decode(block, embeddings, items, finish),
                    encode_batch=self.encode_batch,
                    decode_batch=self.decode_batch,
                )
        except RuntimeError as error:
            raise SegmenterError(f"the segmenter failed: {(str(error).splitlines() or [''])[0]}") from error

    def _encode(self, images: Sequence[Image]) -> list[torch.Tensor]:
        pixels = np.stack([prepare(self.contract, image, self.network.sizes.image) for image in images])
        batch = torch.from_numpy(pixels).to(self._device, self._dtype)
        return [embedding.clone() for embedding in self.network.encode(batch)]

    def _decode(
        self,
        images: Sequence[Image],
        embeddings: Sequence[torch.Tensor],
        chunk: Sequence[Item],
        finish: Callable[[NDArray[np.float32], float], Answer],
    ) -> list[Answer]:
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        used = sorted({index for index, _ in chunk})
        image_of = torch.tensor([used.index(index) for index, _ in chunk], device=self._device)
        logits, iou = self.network.decode(
            torch.stack([embeddings[index] for index in used]),
            image_of,
            self._tensors(sizes, chunk),
            self.contract.multimask,
        )
        best = iou.argmax(dim=1)
        rows = torch.arange(len(chunk), device=self._device)
        scores = iou[rows, best].tolist()
        return [
            finish(self._upsample(one, sizes[index]), score)
            for (index, _), one, score in zip(chunk, logits[rows, best], scores, strict=True)
        ]

    def _tensors(self, sizes: Sequence[Size], chunk: Sequence[Item]) -> Prompts:
        side = self.network.sizes.image

        def moved(numbers: Sequence[object], index: int) -> NDArray[np.float32]:
            return to_input(self.contract, np.asarray(numbers, np.float64).reshape(-1, 2), sizes[index], side)

        points = labels = boxes = None
        if chunk[0][1].points:
            points = np.stack([moved(prompt.points, index) for index, prompt in chunk])
            labels = np.array([prompt.labels for _, prompt in chunk], np.int64)
        if chunk[0][1].box is not None:
            boxes = np.stack([moved(prompt.box, index).reshape(4) for index, prompt in chunk])
        return tuple(
            None if part is None else torch.from_numpy(part).to(self._device) for part in (points, labels, boxes)
        )

    def _upsample(self, logits: torch.Tensor, size: Size) -> NDArray[np.float32]:
        """A low-resolution map ``[h, w]`` at the original size, as the model's authors bring it there."""
        if self.contract.upsample == "probabilities":
            return _resize(logits.sigmoid(), size).cpu().numpy()
        side = self.network.sizes.image
        height, width = input_size(self.contract, size, side)
        return _resize(_resize(logits, (side, side))[:height, :width], size).cpu().numpy()


def _resize(values: torch.Tensor, size: Size) -> torch.Tensor:
    return F.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]
