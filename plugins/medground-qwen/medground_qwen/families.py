"""What differs between families of vision-language models: which pixels their numbers count, how inputs are laid out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medground.frames import Frame, Kind, Order
from medground.geometry import Size

MARKS = re.compile(r"</?(?:ref|box|quad|points?)>|<loc_?\d{1,4}>|<seg\d{3}>")
"""Names of special tokens that mark regions, as InternVL's ``<box>``: models that have them write them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family: its architectures and the frame of its answers."""

    model_types: frozenset[str]
    """``model_type`` of the checkpoints it loads; empty for any."""
    kind: Kind
    order: Order = "xy"
    dialect: str | None = None
    """Its native way of marking regions."""
    packs: bool = False
    """Whether its attention can keep packed samples apart: full attention, multimodal rotary positions."""

    def marks(self, tokenizer: Any) -> frozenset[str]:
        """Return the special tokens that a model of a named dialect may write, and be shown, to mark regions."""
        added = tokenizer.added_tokens_decoder.values() if self.dialect is not None else ()
        return frozenset(token.content for token in added if token.special and MARKS.fullmatch(token.content))

    def frame(self, seen: Size) -> Frame:
        """Return the frame of an answer about an image the model sees at `seen` (H, W)."""
        return Frame(self.kind, seen, self.order)


QWEN2_5_VL = Family(model_types=frozenset({"qwen2_5_vl"}), kind="pixel", dialect="qwen", packs=True)
"""Absolute pixels of the resized image. Lingshu has the same architecture and the same frame."""
QWEN3_VL = Family(model_types=frozenset({"qwen3_vl"}), kind="permille", dialect="qwen", packs=True)
"""Thousandths of each side."""


def any_family(kind: Kind, order: Order, dialect: str | None = None) -> Family:
    """Any other image-text-to-text model, with its frame and dialect declared by the recipe."""
    return Family(model_types=frozenset(), kind=kind, order=order, dialect=dialect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How an architecture lays out its inputs, where that is not as usual."""

    along: Mapping[str, int] = field(default_factory=dict)
    """The axis along which several images follow one another; the first where nothing is said."""
    frames: int = 1
    """How often the image processor counts an image's pixels against its limits: once for each frame of a video."""
    fill: Mapping[str, int] = field(default_factory=dict)
    """The value of a completion's tokens in what the processor gives one value per token; 0 where nothing is said."""
    image_alone: bool = True
    """Whether an image's tokens see nothing that comes after them, so that questions about it can share their states."""


LAYOUTS = {
    "glm4v": Layout(frames=2),
    "glm46v": Layout(frames=2),
    "minicpmv4_6": Layout(along={"pixel_values": -1}),
    # 0 is the prompt, whose tokens see one another both ways: the image's see the question.
    "paligemma": Layout(fill={"token_type_ids": 1}, image_alone=False),
}
"""By ``model_type``."""
USUAL = Layout()


def picture_ids(config: Any) -> set[int]:
    """Return the ids of the tokens that stand for images and videos in a model's inputs."""
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "image_token_index")
    return {value for name in names if isinstance(value := getattr(config, name, None), int)}
