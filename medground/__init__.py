"""medground: reasoning grounding in medical images.

A reasoner reads a vague question about an image and answers with a box and key points; a segmenter turns them into a
mask; reward terms train the reasoner. Research software, not a medical device.

Importing this package loads no plugin, no model library and no recipe machinery; names below arrive on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from medground.hookspecs import hookimpl as hookimpl

if TYPE_CHECKING:
    from medground.evaluation.evaluate import evaluate as evaluate
    from medground.frames import Frame as Frame
    from medground.geometry import Box as Box
    from medground.geometry import Point as Point
    from medground.images.pictures import read_image as read_image
    from medground.pipeline.pipeline import load as load
    from medground.registry import build as build
    from medground.rewards.rubric import rubric as rubric
    from medground.sweeps.run import sweep as sweep
    from medground.training.run import train as train
    from medground.types import Completion as Completion
    from medground.types import Mask as Mask
    from medground.types import Query as Query
    from medground.types import RewardResult as RewardResult
    from medground.types import Sample as Sample
    from medground.types import SpatialPrompt as SpatialPrompt

__version__ = "0.1.0"

_WHERE = {
    "Box": "medground.geometry",
    "Completion": "medground.types",
    "Frame": "medground.frames",
    "Mask": "medground.types",
    "Point": "medground.geometry",
    "Query": "medground.types",
    "RewardResult": "medground.types",
    "Sample": "medground.types",
    "SpatialPrompt": "medground.types",
    "build": "medground.registry",
    "evaluate": "medground.evaluation.evaluate",
    "load": "medground.pipeline.pipeline",
    "read_image": "medground.images.pictures",
    "rubric": "medground.rubric",
    "sweep": "medground.sweeps.run",
    "train": "medground.training.run",
}

__all__ = ["hookimpl", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'medground' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
