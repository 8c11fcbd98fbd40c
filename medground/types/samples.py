"""A question about an image, its truth, and the conversation that asks it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.geometry import Size
from medground.types.regions import Image, Region, png, union

Messages = list[dict[str, Any]]
"""Chat turns ``{"role", "content"}``; content is a list of ``{"type": "image", "image": Image}`` and
``{"type": "text", "text": str}`` parts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Query:
    """One question about one image. In a notebook it shows the image.

    >>> Query(image=np.zeros((40, 60, 3), np.uint8), question="Which region is dark?", id="scan-1")
    Query('scan-1', 40 x 60 px, 'Which region is dark?')
    """

    image: Image
    """H x W x 3 uint8 RGB."""
    question: str
    """Free text; it need not name what it is about."""
    id: str = ""
    """Names the query in results and logs; never a file path."""
    candidates: tuple[Region, ...] | None = None
    """What an answer may choose from, each with its mask, numbered from 1; None where nothing was proposed."""
    spacing: tuple[float, float] | None = None
    """Millimetres per pixel (along y, along x), where known: then an answer is measured in mm."""

    @property
    def size(self) -> Size:
        """(H, W) of the image."""
        return self.image.shape[0], self.image.shape[1]

    def __repr__(self) -> str:
        height, width = self.size
        return f"Query({self.id!r}, {height} x {width} px, {shortened(self.question)!r})"

    def _repr_png_(self) -> bytes:
        return png(self.image)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """The truth about one query, in pixels of its image.

    >>> from medground.geometry import Box
    >>> from medground.types import Mask
    >>> Target(regions=(Region(box=Box(0, 0, 2, 2), mask=Mask(data=np.ones((2, 2), bool))),)).mask.sum()
    np.int64(4)
    """

    regions: tuple[Region, ...]
    """What an answer should point at: each with its tight box and key points (two in the published format)."""
    published: Mapping[str, Any] | None = None
    """``{"bbox_2d", "point_2d"}`` as a published file states them (inclusive indices), for released numbers alone."""

    @property
    def region(self) -> Region | None:
        """The region where there is exactly one, else None."""
        return self.regions[0] if len(self.regions) == 1 else None

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """H x W bool, the union of the regions' masks; None unless every region has one."""
        mask = union([region.mask for region in self.regions])
        return None if mask is None else mask.data


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """A query with its truth.

    >>> from medground.geometry import Box
    >>> query = Query(image=np.zeros((40, 60, 3), np.uint8), question="Which region is dark?", id="scan-1")
    >>> sample = Sample(query=query, target=Target(regions=(Region(box=Box(0, 0, 9, 9)),)), labels={"modality": "CT"})
    >>> sample.target.region.box.area
    81
    """

    query: Query
    target: Target
    labels: Mapping[str, str] = field(default_factory=dict)
    """Such as modality, category, supercategory, patient."""
    spacing: tuple[float, float] | None = None
    """Millimetres per pixel (along y, along x), where known."""


def image_of(messages: Messages) -> Image:
    """Return the one image of a conversation.

    Raises:
        ValueError: if there is none or more than one.
    """
    images: list[Image] = [part["image"] for turn in messages for part in _parts(turn) if part["type"] == "image"]
    if len(images) != 1:
        raise ValueError(f"a grounding conversation holds exactly one image, not {len(images)}")
    return images[0]


def text_of(messages: Messages) -> str:
    """Return all text parts of a conversation, in order, joined by newlines."""
    return "\n".join(part["text"] for turn in messages for part in _parts(turn) if part["type"] == "text")


def shortened(text: str) -> str:
    """Return a text as a representation shows it, at most 60 characters."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _parts(turn: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = turn["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
