"""Source samples: one mask of one image as a source holds it. Readers yield them, `medground data build` makes samples of
them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from medground.geometry import Box, Point
from medground.images.loaded import LoadedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSample:
    """One target in one image. Pixels are decoded when they are needed, so that a source of any size can be listed."""

    id: str
    """Unique within its source, and fit to be a file name's stem."""
    where: str
    """Names it in messages, for example ``manifest.jsonl line 3``; never a patient's name."""
    load_image: Callable[[], LoadedImage]
    """Raises `InputError`."""
    load_mask: Callable[[], NDArray[np.bool_]]
    """H×W bool; raises `InputError`."""
    image_key: str
    """Equal for source samples of one image."""
    group: str
    """What may not part between splits: the patient, else the volume, else the image."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """For example modality, supercategory, category, site, dataset, licence, plane, slice, window."""
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
    """The PNG or JPEG file that `load_image` reads as a whole, so that it can be copied; None where there is none."""


@dataclass(frozen=True, slots=True)
class BadSample:
    """A line or file of a source that cannot be used; the others can."""

    where: str
    reason: str


class Reader(Protocol):
    """A dataset layout: yields the source samples of a folder or file that is laid out so."""

    description: ClassVar[str]
    """The layout in a few words."""

    def recognises(self, path: Path, /) -> bool:
        """Return True if `path` has this layout; decided by names and by little reading."""

    def read(self, path: Path, /, *args: Any, **options: Any) -> Iterator[SourceSample | BadSample]:
        """Yield the source samples in the source's own order; what cannot be used comes as `BadSample` among them.

        The keyword parameters of a reader's own `read` are its options.

        Raises:
            InputError: if the source cannot be read at all.
        """
