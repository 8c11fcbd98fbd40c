"""What the segmenters of this package ask of a network, and the models of transformers that answer it.

Shape legend: M images or 1 shared one, N prompts, K points, C masks offered, S input size, h x w low resolution.
A network answers ``encode([M, 3, S, S])`` with three feature maps ``[M, c, S/4..S/16, ...]``, finest first, and
``decode(features of 1 or N images, points [N, K, 2] in input pixels, labels [N, K])`` with logits ``[N, C, h, w]`` and
predicted IoUs ``[N, C]``, both float32. Labels are 0 and 1 for clicks, 2 and 3 for the corners of a box.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch

from medground.devices import dtype_of
from medground.segmenters.weights import frozen

Features = list[torch.Tensor]
"""Three maps ``[M, c, h, w]`` of strides 4, 8 and 16."""


class Network(ABC):
    """A frozen SAM 2 whose encoder computes in `dtype` and whose decoder computes in float32.

    The weights stay float32; another dtype is autocast, as in Meta's code. bfloat16 is too coarse for coordinates.
    """

    encoder: ClassVar[str]
    """The attribute of the model that holds the image encoder."""

    def __init__(self, model: torch.nn.Module, *, device: str, dtype: str, compile: bool) -> None:
        self.model: Any = frozen(model, device=device, dtype="float32")
        self._device, self._dtype = torch.device(device).type, dtype_of(dtype)
        if compile:
            getattr(self.model, self.encoder).compile()

    def encode(self, pixels: torch.Tensor) -> Features:
        """Return feature maps of images ``[M, 3, S, S]``, finest first."""
        with torch.autocast(self._device, self._dtype, enabled=self._dtype is not torch.float32):
            levels = self._encode(pixels)
        return [level.to(self._dtype) for level in levels]

    @abstractmethod
    def _encode(self, pixels: torch.Tensor) -> Features: ...

    @abstractmethod
    def decode(
        self, features: Features, points: torch.Tensor, labels: torch.Tensor, *, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits ``[N, C, h, w]`` and predicted IoUs ``[N, C]`` of prompts on one shared image or on N."""


class TransformersNetwork(Network):
    """transformers' Sam2Model, or another of its models that is called like it."""

    encoder = "vision_encoder"

    def _encode(self, pixels: torch.Tensor) -> Features:
        features: Features = self.model.get_image_embeddings(pixels)
        return features

    def decode(
        self, features: Features, points: torch.Tensor, labels: torch.Tensor, *, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Network.decode`."""
        # A shared image takes all prompts in its one row; otherwise each image takes its own.
        axis = 0 if len(features[0]) == 1 else 1
        output = self.model(
            image_embeddings=features,
            input_points=points.unsqueeze(axis),
            input_labels=labels.unsqueeze(axis),
            multimask_output=multimask,
        )
        return output.pred_masks.squeeze(axis), output.iou_scores.squeeze(axis)
