"""The data that travels: from a question about an image to a scored mask.

Conventions, stated once: images are H x W x 3 uint8 RGB; masks H x W bool; sizes (H, W); points (x, y); boxes XYXY;
coordinates are float pixels of the original image, origin at the top-left corner of the top-left pixel. Only
`Completion` holds numbers of another kind, inside its text, and carries the `Frame` that says which.
"""

from medground.types.answers import (
    Completion,
    Fault,
    Grounding,
    RewardResult,
    Rollout,
    Sampling,
)
from medground.types.regions import (
    SPATIAL_KINDS,
    ChosenKind,
    Image,
    Mask,
    PromptKind,
    Region,
    SpatialPrompt,
    boxes_of,
    union,
    unread_kinds,
)
from medground.types.samples import (
    Messages,
    Query,
    Sample,
    Target,
    image_of,
    text_of,
)
from medground.types.selection import PromptSelection, TextSource

__all__ = [
    "SPATIAL_KINDS",
    "ChosenKind",
    "Completion",
    "Fault",
    "Grounding",
    "Image",
    "Mask",
    "Messages",
    "PromptKind",
    "PromptSelection",
    "Query",
    "Region",
    "RewardResult",
    "Rollout",
    "Sample",
    "Sampling",
    "SpatialPrompt",
    "Target",
    "TextSource",
    "boxes_of",
    "image_of",
    "text_of",
    "union",
    "unread_kinds",
]
