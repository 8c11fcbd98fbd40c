"""Source samples: one mask of one image as a source holds it. Readers yield them, `medground data build` makes samples of
them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.geometry import Box, Point, Size, box_iou, mask_box
from medground.images.loaded import LoadedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRegion:
    """One of several things that a source keeps apart under one question."""

    load_mask: Callable[[], NDArray[np.bool_]]
    """H×W bool; raises `InputError`."""
    box: Box | None = None
    """As the source states it, half-open pixels; None where it states none."""
    points: tuple[Point, ...] = ()
    """As the source states them."""
    label: str = ""
    """What it is, in words."""
    mask_file: Path | None = None
    """As of a `SourceSample`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceVolume:
    """The volume that an image is a slice of, with the truth in it."""

    image: Path
    """NIfTI."""
    mask: Path
    """A label map on the same grid, NIfTI."""
    values: tuple[int, ...]
    """The labels that are meant."""
    window: str | None = None
    """How values become grey, as of `medground.images.view.View`."""
    stack: int | None = None
    """Of an image file of several volumes, which of them, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSample:
    """One target in one image, or all that one question means.

    Pixels are decoded when they are needed, so that a source of any size can be listed.
    """

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
    """What may not part between splits: the patient, else the volume, else the image. So may the labels of
    `medground.data.splits.GROUPS` not."""
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
    mask_file: Path | None = None
    """The file of which `load_mask` takes every value but 0; None where it is another."""
    regions: tuple[SourceRegion, ...] | None = None
    """What the question means where the source keeps several things apart, or () where the target is absent; `load_mask` is
    their union then. None where `load_mask` is the one target."""
    crowd: bool = False
    """True if the one target is several things that the source does not keep apart."""
    exhaustive: tuple[str, ...] = ()
    """Categories of which the source says that every instance in this image is marked, if there is any; ``all`` stands for
    every category of the source. Of any other category a label may be missing."""
    file: Path | None = None
    """The PNG or JPEG file that `load_image` reads as a whole, so that it can be copied; None where there is none."""
    volume: SourceVolume | None = None
    """What the image is a slice of, where it is known; the label ``volume`` names it."""


@dataclass(frozen=True, slots=True)
class BadSample:
    """A line or file of a source that cannot be used; the others can."""

    where: str
    reason: str
    image_key: str = ""
    """Of the image it is about, as of a `SourceSample`; empty where that is not known."""
    category: str = ""
    """Of what it marks; empty where that is not known."""


STATED = 0.5
"""A stated box that overlaps the mask's own less than this (IoU) counts another frame or orientation."""


def refuse_mask(mask: NDArray[np.bool_], size: Size, box: Box | None) -> None:
    """Raise if a mask cannot be that of its image or of its stated box.

    Args:
        mask: H×W bool.
        size: (H, W) of its image.
        box: as stated; None where none is.

    Raises:
        InputError: if it is of another size, empty, or elsewhere.
    """
    if mask.shape != size:
        turned = " (it would fit if it were transposed)" if mask.shape == size[::-1] else ""
        raise InputError(f"the mask is {mask.shape[0]} x {mask.shape[1]} and its image {size[0]} x {size[1]}{turned}")
    if not mask.any():
        raise InputError("the mask is empty")
    overlap = 1.0 if box is None else float(box_iou(box, mask_box(mask)))
    if overlap < STATED:
        raise InputError(
            f"the stated box overlaps that of the mask by {overlap:.2f}; it counts another frame or orientation"
        )


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
