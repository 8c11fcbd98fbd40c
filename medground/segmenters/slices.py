"""What volume segmenters share: the slices of a plane, prompts checked, and targets followed up and down from key slices."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medground.errors import SegmenterError, UsageError
from medground.geometry import Size
from medground.protocols.volumes import SlicePrompts
from medground.types import Image, Mask, PromptKind

if TYPE_CHECKING:
    from medground.images.volume import Volume
    from medground.progress import Count

Pixels = NDArray[np.bool_]
"""A mask of one slice, H×W, or of a volume, ``[i, j, k]``."""
Step = Callable[[int, Image, Mapping[int, Pixels | None]], Mapping[int, Pixels]]
"""Takes the index of a slice, its picture, and of each target the mask of the slice before it, None on its first key slice;
returns the masks of these targets."""
BLOCK = 16
"""Slices read at once on the way down: zipped files are read upwards only."""


class Slices:
    """The pictures of the slices of one plane, read when they are asked for, at most `BLOCK` at once.

    Args:
        volume: they are of it.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        window: as `medground.images.volume.Volume.slice`.

    Raises:
        ViewError: for another plane.
    """

    def __init__(self, volume: "Volume", plane: str, window: str | None = None) -> None:
        self.volume, self.plane, self.window = volume, plane, window
        placement = volume.placement(plane, 0)
        rows, columns = placement.axes
        self.axis = placement.axis
        self.count: int = volume.shape[self.axis]
        self.size: Size = volume.shape[rows], volume.shape[columns]
        self.spacing = volume.spacing[rows], volume.spacing[columns]
        """(row, column) of a picture, mm."""
        self.step = volume.spacing[self.axis]
        """Millimetres between two slices."""
        self._block: dict[int, Image] = {}
        self._newest = -1

    def image(self, index: int) -> Image:
        """Return the picture of a slice, H×W×3. Raises as `medground.images.volume.Volume.slice`."""
        if index not in self._block:
            first = max(0, index - BLOCK + 1) if index < self._newest else index
            numbers = range(first, index + 1)
            self._block = {
                number: self.volume.slice(self.plane, number, window=self.window).pixels for number in numbers
            }
        self._newest = index
        return self._block[index]

    def put(self, mask: Pixels, index: int, picture: Pixels) -> None:
        """Write the mask of a slice, as its picture lies, into the mask of the volume."""
        np.moveaxis(mask, self.axis, 0)[index] = self.volume.placement(self.plane, index).plane(picture)

    def take(self, mask: Pixels, index: int) -> Pixels:
        """Return the mask of a slice, as its picture lies. Inverts `put`."""
        return self.volume.placement(self.plane, index).picture(np.moveaxis(mask, self.axis, 0)[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRule:
    """Where a target ends; see `medground.protocols.VolumeSegmenter.propagate`.

    Raises:
        UsageError: for a negative reach, or a patience below 1.
    """

    reach: float | None = None
    patience: int | None = 3

    def __post_init__(self) -> None:
        if self.reach is not None and not self.reach >= 0:
            raise UsageError(f"the reach is negative: {self.reach}", hint="give millimetres, or None for no limit")
        if self.patience is not None and self.patience < 1:
            raise UsageError(f"the patience is below 1: {self.patience}", hint="give slices, or None for no limit")

    def slices(self, slices: Slices) -> int:
        """Return how many slices beyond a key slice are within reach."""
        return slices.count if self.reach is None else math.floor(self.reach / slices.step + 1e-6)


def check_prompts(prompts: Sequence[SlicePrompts], slices: Slices, accepts: Collection[PromptKind], model: str) -> None:
    """Stop at prompts that a volume segmenter cannot follow.

    Args:
        prompts: of each target.
        slices: of the plane they are on.
        accepts: the prompt kinds that it takes beside masks.
        model: names it in errors.

    Raises:
        ViewError: for a slice that is not there.
        SegmenterError: naming the target.
    """
    for number, mine in enumerate(prompts):
        if not mine:
            raise SegmenterError(f"target {number} has no prompt", hint="give it one on a key slice")
        for index, prompt in mine.items():
            slices.volume.placement(slices.plane, index)  # which refuses a slice that is not there
            where = f"target {number} on slice {index}"
            if isinstance(prompt, Mask):
                if prompt.data.shape != slices.size:
                    hint = f"a mask of a {slices.plane} slice has {slices.size[0]} x {slices.size[1]}"
                    raise SegmenterError(f"{where} has a mask of {prompt.data.shape}", hint=hint)
            elif unread := sorted(prompt.kinds - set(accepts)):
                hint = f"it takes {', '.join([*sorted(accepts), 'masks'])}"
                raise SegmenterError(f"{model} cannot read {' and '.join(unread)} of {where}", hint=hint)
            elif not np.isfinite([*(prompt.box or ()), *(number for point in prompt.points for number in point)]).all():
                raise SegmenterError(f"{where} needs finite numbers, not {prompt}")


def follow(
    slices: Slices,
    prompts: Sequence[SlicePrompts],
    stop: StopRule,
    begin: Callable[[bool], Step],
    progress: "Count | None" = None,
) -> list[Pixels]:
    """Return the masks of targets that are followed upwards and downwards from their first key slices.

    Slices between the first key slices of two targets come twice, once each way. The way up waits at the highest of these
    slices until the way down has ended: a cache that holds as many slices meets all of them again.

    Args:
        slices: of the plane.
        prompts: of each target; checked.
        stop: where a target ends.
        begin: given True for the way down, returns what segments one slice for the targets that are still followed.
        progress: as of `medground.protocols.VolumeSegmenter.propagate`.
    """
    masks: list[Pixels] = [np.zeros(slices.volume.shape, bool) for _ in prompts]
    up, down = (_follow_one_way(masks, slices, prompts, stop, begin, turned) for turned in (False, True))
    highest = max(map(min, prompts), default=0)
    most = sum(
        len({index for mine in prompts for index in _way(mine, turned, slices, stop)}) for turned in (False, True)
    )
    for done, _ in enumerate(_in_turns(up, down, highest), 1):
        if progress is not None:
            progress(done, most)
    return masks


def _in_turns(up: Iterator[int], down: Iterator[int], highest: int) -> Iterator[int]:
    for index in up:
        yield index
        if index == highest:
            break
    yield from down
    yield from up


def _follow_one_way(
    masks: Sequence[Pixels],
    slices: Slices,
    prompts: Sequence[SlicePrompts],
    stop: StopRule,
    begin: Callable[[bool], Step],
    down: bool,
) -> Iterator[int]:
    """Fill in the masks, slice after slice; yield the index of each one that is done."""
    turn = -1 if down else 1
    todo = {number: _way(mine, down, slices, stop) for number, mine in enumerate(prompts)}
    absent = dict.fromkeys(todo, 0)
    step = begin(down)
    while todo := {number: way for number, way in todo.items() if way}:
        index = (max if down else min)(way[0] for way in todo.values())
        before = {
            number: None if index == min(prompts[number]) else slices.take(masks[number], index - turn)
            for number, way in todo.items()
            if way[0] == index
        }
        for number, picture in step(index, slices.image(index), before).items():
            slices.put(masks[number], index, picture)
            todo[number] = todo[number][1:]
            beyond = down or index > max(prompts[number])
            absent[number] = absent[number] + 1 if beyond and not picture.any() else 0
            if absent[number] == stop.patience:
                todo[number] = range(0)
        yield index


def _way(prompts: SlicePrompts, down: bool, slices: Slices, stop: StopRule) -> range:
    """Return the slices that a target is followed through, in order; the first key slice belongs to the way up."""
    first, last, reach = min(prompts), max(prompts), stop.slices(slices)
    if down:
        return range(first - 1, max(-1, first - 1 - reach), -1)
    return range(first, min(slices.count, last + 1 + reach))
