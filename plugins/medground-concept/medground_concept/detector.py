"""The network behind `sam3` and `sam3_lite_text`: transformers' Sam3Model or Sam3LiteTextModel.

Shape legend: M images, N prompts, K exemplars, Q queries, S input size, h x w low resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from medground.devices import dtype_of
from medground.geometry import Box, Size
from medground.segmenters.pixels import to_size
from medground.segmenters.weights import frozen
from medground.types import Mask
from medground_concept.texts import Tokens

Levels = list[torch.Tensor]
"""Three maps ``[M, c, h, w]``, finest first."""


@dataclass(frozen=True, slots=True)
class Detections:
    """What the model finds for N prompts."""

    masks: torch.Tensor
    """Probabilities ``[N, Q, h, w]``."""
    scores: torch.Tensor
    """``[N, Q]``, each times the presence of its concept."""
    presence: torch.Tensor
    """``[N]``, from 0 to 1."""

    def mask(self, row: int, size: Size, least_score: float) -> Mask:
        """Return what is found for one prompt, at the size (H, W) of its image: instances whose score exceeds `least_score`."""
        scores, presence = self.scores[row].tolist(), float(self.presence[row])
        instances = []
        for query in sorted(range(len(scores)), key=lambda query: -scores[query]):
            if scores[query] > least_score:
                data = (to_size(self.masks[row, query], size) > 0.5).cpu().numpy()
                instances += [Mask(data=data, score=scores[query])] if data.any() else []
        if not instances:
            return Mask(data=np.zeros(size, bool), score=1 - presence, presence=presence)
        data = np.any([instance.data for instance in instances], axis=0)
        return Mask(data=data, score=instances[0].score, instances=tuple(instances), presence=presence)


class Detector:
    """A frozen model whose image encoder computes in `dtype`, by autocast, and everything after it in float32."""

    def __init__(self, model: torch.nn.Module, tokens: Tokens, *, device: str, dtype: str, compile: bool) -> None:
        self.model: Any = frozen(model, device=device, dtype="float32")
        self.tokens = tokens
        self._device, self._dtype = torch.device(device).type, dtype_of(dtype)
        if compile:
            self.model.vision_encoder.compile()

    def encode(self, pixels: torch.Tensor) -> Levels:
        """Return the feature maps of images ``[M, 3, S, S]``."""
        with torch.autocast(self._device, self._dtype, enabled=self._dtype is not torch.float32):
            output = self.model.get_vision_features(pixel_values=pixels)
        return [level.to(self._dtype) for level in output.fpn_hidden_states[:-1]]

    def decode(self, levels: Levels, texts: Sequence[str], boxes: torch.Tensor | None) -> Detections:
        """Return what is found for prompts of one kind.

        Args:
            levels: of the image of each prompt, N rows.
            texts: a concept per prompt.
            boxes: exemplars ``[N, K, 4]``: centre, width and height as shares of the image; None without any.
        """
        different = list(dict.fromkeys(texts))
        ids, mask = self.tokens(different)
        words = self.model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        row = torch.tensor([different.index(text) for text in texts], device=words.device)
        positions = self.model.vision_encoder.neck.position_encoding
        # The model leaves out the last level itself, so one stands there that is not computed.
        features = SimpleNamespace(
            fpn_hidden_states=[*levels, None],
            fpn_position_encoding=[*(positions(level.shape, level.device, level.dtype) for level in levels), None],
            hidden_states=None,
            attentions=None,
        )
        output = self.model(
            vision_embeds=features,
            text_embeds=SimpleNamespace(pooler_output=words[row]),
            attention_mask=mask[row],
            input_boxes=boxes,
            input_boxes_labels=None
            if boxes is None
            else torch.ones(boxes.shape[:2], dtype=torch.long, device=boxes.device),
        )
        presence = output.presence_logits.sigmoid()
        return Detections(output.pred_masks.sigmoid(), output.pred_logits.sigmoid() * presence, presence[:, 0])


def to_boxes(exemplars: Sequence[Sequence[Box]], sizes: Sequence[Size]) -> torch.Tensor | None:
    """Return the exemplars of N prompts, K each, ``[N, K, 4]``: centre, width and height as shares of the image.

    What lies outside the image is cut off: the model samples a box as finely as the box is large.
    """
    if not exemplars[0]:
        return None
    extents = np.array([(width, height) for height, width in sizes])[:, None, None]
    inside = np.clip(np.array(exemplars, float).reshape(len(exemplars), -1, 2, 2), 0, extents)
    first, last = torch.tensor(inside, dtype=torch.float32).unbind(2)
    extent = torch.tensor(extents[:, 0], dtype=torch.float32)
    return torch.cat([(first + last) / 2 / extent, (last - first) / extent], dim=-1)
