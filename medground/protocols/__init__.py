"""The promises of components. A plugin implements these shapes; it need not inherit from them.

Factories take flat keyword arguments with defaults, import heavy libraries inside the constructor, and are registered
through `medground.hookspecs`. `medground.testing` checks each promise.
"""

from medground.protocols.grounding import (
    BatchSegmenter,
    PromptInterface,
    Reward,
    Segmenter,
)
from medground.protocols.reasoners import (
    CompletionGroup,
    Reasoner,
    SamplerPrompt,
    ServedReasoner,
    Serving,
    TrainableReasoner,
)
from medground.protocols.training import (
    Engine,
    RolloutSource,
    Tracker,
)
from medground.protocols.volumes import SlicePrompts, VolumeSegmenter

__all__ = [
    "BatchSegmenter",
    "CompletionGroup",
    "Engine",
    "PromptInterface",
    "Reasoner",
    "Reward",
    "RolloutSource",
    "SamplerPrompt",
    "Segmenter",
    "ServedReasoner",
    "Serving",
    "SlicePrompts",
    "Tracker",
    "TrainableReasoner",
    "VolumeSegmenter",
]
