"""One thing in an image: how it is prompted, pointed at and masked."""

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medground.geometry import Box, Point

Image = NDArray[np.uint8]
"""H x W x 3 uint8 RGB."""


PromptKind = Literal["box", "points", "negative_points", "text", "exemplars"]
ChosenKind = StrEnum("ChosenKind", ["box", "points", "text", "exemplars"])
"""The kinds of prompt that can be chosen of a region; ``points`` are those of either label."""
SPATIAL_KINDS: frozenset[PromptKind] = frozenset({"box", "points", "negative_points"})


def unread_kinds(given: Collection[str], accepts: Collection[str]) -> list[str]:
    """Return, sorted, the `given` prompt kinds that a segmenter trained for `accepts` has no input for.

    They are a text and exemplars it was not trained for, and boxes and points where it was trained for neither.

    >>> unread_kinds({"points", "text"}, {"box"}), unread_kinds({"box", "text"}, {"text"})
    (['text'], ['box'])
    """
    return sorted(set(given) - set(accepts) - (SPATIAL_KINDS if SPATIAL_KINDS.intersection(accepts) else set()))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialPrompt:
    """What a segmenter is given for one mask: a box, clicks, a concept in words, boxes of examples, or several of these.

    Box and points say where one thing is; text and exemplars say what is looked for, anywhere in the image. Coordinates
    are pixels of the original image.

    >>> sorted(SpatialPrompt(box=Box(0, 0, 9, 9), points=(Point(3, 3), Point(8, 8)), labels=(1, 0)).kinds)
    ['box', 'negative_points', 'points']
    >>> sorted(SpatialPrompt(text="lung nodule", exemplars=(Box(0, 0, 9, 9),)).kinds)
    ['exemplars', 'text']
    """

    box: Box | None = None
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    """One per point: 1 foreground, 0 background. Empty means all foreground."""

    text: str = ""
    """The concept to look for, such as ``lung nodule``; "" where there is none."""
    exemplars: tuple[Box, ...] = ()
    """Boxes in this image, each round one example of what is looked for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _point_labels(self.points, self.labels))
        if not self.kinds:
            raise ValueError("a spatial prompt needs a box, points, a text or exemplars")

    @property
    def kinds(self) -> frozenset[PromptKind]:
        """The kinds of prompt it consists of."""
        kinds: set[PromptKind] = set()
        if self.box is not None:
            kinds.add("box")
        if 1 in self.labels:
            kinds.add("points")
        if 0 in self.labels:
            kinds.add("negative_points")
        if self.text.strip():
            kinds.add("text")
        if self.exemplars:
            kinds.add("exemplars")
        return frozenset(kinds)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Mask:
    """A mask of one region, or of several together. In a notebook it shows itself, white on black.

    >>> Mask(data=np.eye(3, dtype=bool), score=0.9)
    Mask(3 of 3 x 3 px, score 0.9)
    >>> Mask(data=np.zeros((3, 3), bool), score=0.1, presence=0.2).absent
    True
    """

    data: NDArray[np.bool_]
    """H x W bool at the original size."""
    score: float = 1.0
    """The segmenter's own estimate of its IoU; in [0, 1] for a perfect estimator, not clamped. 1 for a truth."""
    instances: tuple["Mask", ...] = ()
    """The single things that `data` is the union of, each H x W with its own score, where the segmenter tells them apart."""
    presence: float | None = None
    """How sure the segmenter is that what it was asked for is in the image, in [0, 1]; None where it does not say."""

    @property
    def absent(self) -> bool:
        """True if it is the segmenter's answer that what it was asked for is not there: a presence, and no pixel."""
        return self.presence is not None and not self.data.any()

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.data.shape))
        parts = [f"{int(self.data.sum())} of {size} px", f"score {self.score:g}"]
        parts += [f"{len(self.instances)} instances"] if self.instances else []
        parts += [] if self.presence is None else [f"presence {self.presence:g}"]
        return f"Mask({', '.join(parts)})"

    def _repr_png_(self) -> bytes:
        return png(self.data.astype(np.uint8) * 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One thing pointed at, by an answer or by the truth, in pixels of the original image.

    >>> Region(box=Box(10, 20, 30, 60), points=(Point(15, 30),)).prompt("points")
    SpatialPrompt(box=None, points=(Point(x=15, y=30),), labels=(1,), text='', exemplars=())
    """

    box: Box | None = None
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    """One per point: 1 foreground, 0 background. Empty means all foreground."""
    label: str = ""  # what it is, in words; "" where nobody says
    confidence: float | None = None
    """How sure the answer is of it, in [0, 1]; None where it does not say."""
    mask: Mask | None = None
    """Its own mask; None where there is none, or not yet."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _point_labels(self.points, self.labels))

    def prompt(self, *kinds: str, text: str | None = None) -> SpatialPrompt | None:
        """Return the prompt for a segmenter, made of the chosen kinds; None where the region lacks what they need.

        A chosen text must be there, and a box where exemplars are chosen: it is the example. Of box and points, those that
        the region has are taken; one must be there if any is chosen.

        Args:
            kinds: of `ChosenKind`; box and points by default.
            text: what to look for, in place of the region's label.

        Raises:
            ValueError: if a kind is none of `ChosenKind`.
        """
        chosen = {ChosenKind(kind) for kind in kinds} or {ChosenKind.box, ChosenKind.points}
        box = self.box if ChosenKind.box in chosen else None
        points, labels = (self.points, self.labels) if ChosenKind.points in chosen else ((), ())
        words = (self.label if text is None else text).strip() if ChosenKind.text in chosen else ""
        exemplars = (self.box,) if ChosenKind.exemplars in chosen and self.box is not None else ()
        needed = {ChosenKind.text: bool(words), ChosenKind.exemplars: bool(exemplars)}
        unplaced = chosen & {ChosenKind.box, ChosenKind.points} and box is None and not points
        if unplaced or not all(needed[kind] for kind in chosen & needed.keys()):
            return None
        return SpatialPrompt(box=box, points=points, labels=labels, text=words, exemplars=exemplars)


def union(masks: Sequence[Mask | None]) -> Mask | None:
    """Return the union of masks; None unless there is a mask, and none is missing.

    It is scored as its least certain part, has the instances of all, and is as present as the part that is surest to be
    there, where every part says.
    """
    known = [mask for mask in masks if mask is not None]
    if not known or len(known) < len(masks):
        return None
    if len(known) == 1:
        return known[0]
    stated = [mask.presence for mask in known if mask.presence is not None]
    return Mask(
        data=np.any([mask.data for mask in known], axis=0),
        score=min(mask.score for mask in known),
        instances=tuple(instance for mask in known for instance in mask.instances),
        presence=max(stated) if len(stated) == len(known) else None,
    )


def boxes_of(regions: Sequence[Region]) -> list[Box]:
    """Return the boxes of the regions that have one, in order."""
    return [region.box for region in regions if region.box is not None]


def png(array: NDArray[np.uint8]) -> bytes:
    """Return an image as the bytes of a PNG file."""
    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _point_labels(points: tuple[Point, ...], labels: tuple[int, ...]) -> tuple[int, ...]:
    labels = labels or (1,) * len(points)
    if len(labels) != len(points) or not set(labels) <= {0, 1}:
        raise ValueError(f"{len(points)} points need as many labels of 0 or 1, not {labels}")
    return labels
