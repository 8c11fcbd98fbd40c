"""The numbers a perfect model would write: a target in the units of a frame, rounded, and still an answer."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from medground.frames import Frame
from medground.geometry import Size
from medground.types import Region
from medground_prompts.coordinates import STEP


def box_and_points(region: Region, frame: Frame | None, size: Size | None) -> dict[str, Any]:
    """Return the values for the keys ``bbox`` and ``points`` of a list's entry, where the region has them; see `numbers`.

    Raises:
        ValueError: if `frame` comes without `size`, or there are more points than numbers to tell them apart.
    """
    grid = _Grid(frame, size)
    return {"bbox": region.box and grid.box(region.box), "points": grid.points(region.points)}


def numbers(region: Region, frame: Frame | None, size: Size | None) -> dict[str, list[float]]:
    """Return the values for the keys ``bbox``, ``points_1`` and ``points_2``, where the region has them.

    Each number is the nearest whole unit, at most half a unit off. Where that would fold a side of the box to nothing,
    the side becomes one unit long around its middle; where it would make the points one, the second moves by a unit.

    Raises:
        ValueError: if `frame` comes without `size`.
    """
    grid = _Grid(frame, size)
    values = {} if region.box is None else {"bbox": grid.box(region.box)}
    if len(region.points) >= 2:
        values["points_1"], values["points_2"] = grid.pair(region.points[0], region.points[1])
    return values


class _Grid:
    """Whole units of a frame; without one, whole pixels without bounds."""

    def __init__(self, frame: Frame | None, size: Size | None) -> None:
        if frame is not None and size is None:
            raise ValueError("an answer in a frame needs the (H, W) of the original image as `size`")
        self.frame, self.size = frame, size
        self.step = 1.0 if frame is None else STEP[frame.kind]
        extent = (math.inf, math.inf) if frame is None else frame.extent
        if frame is not None and frame.order == "yx":
            extent = extent[::-1]
        self.last = [math.inf if math.isinf(side) else round(side / self.step) for side in extent]

    def units(self, pixels: tuple[float, ...]) -> list[float]:
        """Return the unrounded steps along the frame's own axis order."""
        if self.frame is None:
            return [float(number) for number in pixels]
        assert self.size is not None
        return [float(number) for number in np.asarray(self.frame.from_pixels(pixels, self.size)) / self.step]

    def write(self, steps: list[int]) -> list[float]:
        return [step if self.step == 1.0 else round(step * self.step, 4) for step in steps]

    def box(self, box: tuple[float, ...]) -> list[float]:
        exact = self.units(tuple(box))
        low, high = [], []
        for axis in range(2):
            first, second = exact[axis], exact[axis + 2]
            begin, end = _nearest(first), _nearest(second)
            if begin == end and first <= second:
                begin = begin - 1 if (first + second) / 2 < begin or begin >= self.last[axis] else begin
                begin = max(begin, 0) if self.frame else begin
                end = begin + 1
            low.append(begin)
            high.append(end)
        return self.write(low + high)

    def pair(self, first: tuple[float, float], second: tuple[float, float]) -> tuple[list[float], list[float]]:
        exact = self.units((*first, *second))
        steps = [_nearest(number) for number in exact]
        if steps[:2] == steps[2:]:
            apart = [exact[2] - exact[0], exact[3] - exact[1]]
            axis = int(abs(apart[1]) > abs(apart[0]))
            move = 1 if apart[axis] >= 0 else -1
            if not 0 <= steps[2 + axis] + move <= self.last[axis]:
                move = -move
            steps[2 + axis] += move
        return self.write(steps[:2]), self.write(steps[2:])

    def points(self, points: Sequence[tuple[float, float]]) -> list[list[float]]:
        """Return points of which no two are one: of those that round to one, the later moves to the nearest free step."""
        if len(points) == 2:
            return list(self.pair(points[0], points[1]))
        taken: list[tuple[int, int]] = []
        for point in points:
            x, y = self.units(point)
            reach = range(-len(points), len(points) + 1)
            steps = [(_nearest(x) + right, _nearest(y) + down) for right in reach for down in reach]
            free = [step for step in steps if step not in taken and self._inside(step)]
            if not free:
                raise ValueError(f"{len(points)} key points cannot be told apart in {self.frame}")
            taken.append(min(free, key=lambda step: (math.dist(step, (x, y)), step)))
        return [self.write(list(step)) for step in taken]

    def _inside(self, step: tuple[int, int]) -> bool:
        return self.frame is None or all(0 <= number <= last for number, last in zip(step, self.last, strict=True))


def _nearest(number: float) -> int:
    """Return the nearest whole number; of two, the smaller, so that a pixel's middle gives that pixel's index."""
    return math.ceil(number - 0.5)
