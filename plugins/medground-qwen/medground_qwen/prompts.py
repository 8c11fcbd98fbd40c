"""Conversations as a model's inputs: the image resized to a fixed point, the chat template, ids, positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

from medground.frames import Frame
from medground.geometry import Size
from medground.types import Image, Messages, image_of

PER_TOKEN = ("mm_token_type_ids", "token_type_ids")
"""Processor outputs with one value per token; a completion's tokens are 0 in them: text."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """One encoded conversation."""

    ids: Tensor
    """[P] int64."""
    per_token: dict[str, Tensor]
    """[P] each, such as ``mm_token_type_ids``."""
    image: dict[str, Tensor]
    """What the vision tower is given, such as ``pixel_values`` and ``image_grid_thw``; the image's own rows."""
    positions: Tensor | None
    """[3, P] multimodal rotary positions; None for models that count tokens."""
    frame: Frame

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def to(self, device: torch.device) -> "Prompt":
        """The same on a device."""
        return Prompt(
            ids=self.ids.to(device),
            per_token={key: value.to(device) for key, value in self.per_token.items()},
            image={key: value.to(device) for key, value in self.image.items()},
            positions=None if self.positions is None else self.positions.to(device),
            frame=self.frame,
        )


def resize(image: Image, size: Size) -> Image:
    """The image at (H, W), bicubic as the processors do it; itself where it has that size already."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Pillow.fromarray(image).resize((size[1], size[0]), Pillow.Resampling.BICUBIC))


def encode(processor: Any, rope: Any, messages: Messages, size: Size, frame: Frame) -> Prompt:
    """Encode a conversation about one image.

    Args:
        processor: the model's processor.
        rope: ``model.get_rope_index`` of models with multimodal rotary positions, else None.
        messages: one image, any text.
        size: (H, W) the image is resized to first, a fixed point of the processor.
        frame: what the answer's numbers will count.

    Raises:
        ValueError: if the processor changed the size all the same, so that the frame would be wrong.
    """
    text = processor.apply_chat_template(_turns(messages), tokenize=False, add_generation_prompt=True)
    image = resize(image_of(messages), size)
    made = processor(text=[text], images=[Pillow.fromarray(image)], return_tensors="pt")
    ids = made.pop("input_ids")
    made.pop("attention_mask", None)
    per_token = {key: made.pop(key)[0] for key in PER_TOKEN if key in made}
    positions = None
    if rope is not None:
        _check_grid(made["image_grid_thw"], processor.image_processor.patch_size, size)
        kinds = per_token["mm_token_type_ids"].unsqueeze(0)
        positions = rope(ids, mm_token_type_ids=kinds, image_grid_thw=made["image_grid_thw"])[0][:, 0]
    image_inputs = {key: value for key, value in made.items() if isinstance(value, Tensor)}
    return Prompt(ids=ids[0], per_token=per_token, image=image_inputs, positions=positions, frame=frame)


def _turns(messages: Messages) -> list[dict[str, Any]]:
    """The turns without pixels: the template only needs to know where the image goes."""
    return [
        {
            "role": turn["role"],
            "content": [{"type": "image"} if part["type"] == "image" else part for part in _parts(turn["content"])],
        }
        for turn in messages
    ]


def _parts(content: Any) -> Sequence[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _check_grid(grid: Tensor, patch: int, size: Size) -> None:
    seen = (int(grid[0, 1]) * patch, int(grid[0, 2]) * patch)
    if seen != size:
        raise ValueError(f"the processor resized {size} to {seen}, so coordinates would be read in the wrong frame")
