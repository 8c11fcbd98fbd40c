"""A case is one mask of one image as a source holds it; readers give cases, `medground data build` makes samples of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medground.geometry import Box, Point
from medground.types import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSample:
    """One target in one image. Files are read when they are needed, so that a source of any size can be listed."""

    id: str
    """Unique within its source, and fit to be a file name's stem."""
    where: str
    """What to say when something is wrong with it, such as ``manifest.jsonl line 3``; never a patient's name."""
    read_image: Callable[[], Image]
    """H×W×3 uint8 RGB; raises `InputError`. Where it has a ``window``, that names the window used, once it has been called."""
    read_mask: Callable[[], NDArray[np.bool_]]
    """H×W bool; raises `InputError`."""
    image_key: str
    """Equal for cases of one image."""
    group: str
    """What may not part between splits: the patient, else the volume, else the image."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Such as modality, supercategory, category, site, dataset, licence, plane, slice, window."""
    question: str | None = None
    think: str | None = None
    split: str | None = None
    box: Box | None = None
    """As the source states it, half-open pixels; None where it states none."""
    points: tuple[Point, ...] = ()
    """As the source states them."""
    spacing: tuple[float, float] | None = None
    """(row, column) in mm."""
    file: Path | None = None
    """The PNG or JPEG file that `read_image` reads as a whole, so that it can be copied; None where there is no such."""


@dataclass(frozen=True, slots=True)
class BadSample:
    """A line or file of a source that cannot be used; the others can."""

    where: str
    reason: str
