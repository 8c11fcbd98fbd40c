"""Tiles of a large image: where they lie, what of a target falls into one, and how their answers travel in one text."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medground.frames import Frame
from medground.geometry import Box, Point, Size, mask_box
from medground.types import Completion, Mask, Region


class Tile(NamedTuple):
    """A rectangle of an image, in its whole pixels."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def size(self) -> Size:
        """(H, W)."""
        return self.y2 - self.y1, self.x2 - self.x1

    def holds(self, point: Point) -> bool:
        """Return True if a point of the image lies in it."""
        return self.x1 <= point.x < self.x2 and self.y1 <= point.y < self.y2


def layout(size: Size, tile: int, overlap: int) -> list[Tile]:
    """Return the tiles of an image of `size` (H, W), row by row: evenly spread, neighbours sharing `overlap` pixels or more.

    >>> layout((100, 300), 128, 16)
    [Tile(x1=0, y1=0, x2=128, y2=100), Tile(x1=86, y1=0, x2=214, y2=100), Tile(x1=172, y1=0, x2=300, y2=100)]
    """
    (tops, height), (lefts, width) = (_starts(side, tile, overlap) for side in size)
    return [Tile(left, top, left + width, top + height) for top in tops for left in lefts]


def _starts(side: int, tile: int, overlap: int) -> tuple[list[int], int]:
    """Return where the tiles along a side begin, and how long they are."""
    if side <= tile:
        return [0], side
    count = ceil((side - overlap) / (tile - overlap))
    return [round(index * (side - tile) / (count - 1)) for index in range(count)], tile


def region_in(region: Region, tile: Tile) -> Region | None:
    """Return what of a region lies in a tile, in the tile's pixels; None where nothing does.

    The box is that of the mask's part where there is a mask, else the part of the box. A part that holds fewer key points
    than the region gets others: one third and two thirds along its longer side, on the mask's part where there is one.
    """
    part = None if region.mask is None else region.mask.data[tile.y1 : tile.y2, tile.x1 : tile.x2]
    if part is not None and not part.any():
        return None
    box = region.box and _moved(region.box, tile).clip(tile.size)
    if part is not None and region.box is not None:
        box = mask_box(part)
    points = tuple(Point(x - tile.x1, y - tile.y1) for x, y in region.points if tile.holds(Point(x, y)))
    if (box is not None and not box.valid) or (box is None and not points):
        return None
    if box is not None and len(points) < len(region.points):
        points = (*points, *_thirds(box, part))[: len(region.points)] if points else _thirds(box, part)
    mask = None if part is None else Mask(data=part)
    labels = (1,) * len(points)
    return replace(region, box=box, points=points, labels=labels, mask=mask)


def _thirds(box: Box, part: NDArray[np.bool_] | None) -> tuple[Point, Point]:
    wide = box.width >= box.height
    pair = []
    for share in (1 / 3, 2 / 3):
        x = box.x1 + box.width * (share if wide else 0.5)
        y = box.y1 + box.height * (0.5 if wide else share)
        if part is not None:
            rows, columns = np.nonzero(part)
            nearest = int(np.argmin((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2))
            x, y = float(columns[nearest]) + 0.5, float(rows[nearest]) + 0.5
        pair.append(Point(x, y))
    return pair[0], pair[1]


def _moved(box: Box, tile: Tile) -> Box:
    return Box(box.x1 - tile.x1, box.y1 - tile.y1, box.x2 - tile.x1, box.y2 - tile.y1)


def region_of(region: Region, tile: Tile) -> Region:
    """Return a region in a tile's pixels in those of the image."""
    box = region.box and Box(*(value + start for value, start in zip(region.box, (tile.x1, tile.y1) * 2, strict=True)))
    return replace(region, box=box, points=tuple(Point(x + tile.x1, y + tile.y1) for x, y in region.points))


@dataclass(frozen=True, slots=True)
class TileAnswer:
    """What was written about one tile."""

    tile: Tile
    frame: Frame | None
    """What the numbers in the text count, of the tile's own pixels."""
    finish_reason: Literal["stop", "length"]
    text: str


def write_answers(answers: Sequence[TileAnswer]) -> str:
    """Return the answers of all tiles as one text, a line of JSON for each."""
    return "\n".join(map(_line, answers))


def _line(answer: TileAnswer) -> str:
    frame = None if answer.frame is None else answer.frame.to_dict()
    fields = {"tile": list(answer.tile), "frame": frame, "finish_reason": answer.finish_reason, "text": answer.text}
    return json.dumps(fields)


_NUMBER = r"(?:0|[1-9]\d{0,8})"
_LINE = re.compile(
    rf'\{{"tile": \[({_NUMBER}(?:, {_NUMBER}){{3}})\], '
    rf'"frame": (?:null|\{{"kind": "(pixel|permille|unit)", "size": \[({_NUMBER}), ({_NUMBER})\], "order": "(xy|yx)"\}}), '
    r'"finish_reason": "(stop|length)", "text": ("(?:[^"\\]|\\.)*+")\}'
)


def read_answers(text: str, tiles: Sequence[Tile]) -> list[TileAnswer] | None:
    """Return the answers that `write_answers` put into a text about these tiles; None where it is any other text."""
    if not text.startswith('{"tile": ') or text.count("\n") != len(tiles) - 1:
        return None
    answers = [_answer(line) for line in text.split("\n")]
    right = [answer for answer in answers if answer is not None]
    return right if [answer.tile for answer in right] == list(tiles) else None


def _answer(line: str) -> TileAnswer | None:
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    values: Any = match.groups()
    corners, kind, height, width, order, reason, text = values
    try:
        frame = None if kind is None else Frame(kind, (int(height), int(width)), order)
        return TileAnswer(Tile(*map(int, corners.split(", "))), frame, reason, json.loads(text))
    except ValueError:  # a frame without pixels, a string that is none
        return None


def joined(tiles: Sequence[Tile], completions: Sequence[Completion], frame: Frame) -> Completion:
    """Return one completion that holds those about all tiles; where one of them could not be had at all, that is its fault."""
    usage: dict[str, float] = {}
    for completion in completions:
        for name, amount in completion.usage.items():
            usage[name] = usage.get(name, 0) + amount
    for number, completion in enumerate(completions, start=1):
        if completion.fault is not None:
            cause = f"tile {number} of {len(tiles)}: {completion.cause}"
            return Completion(text="", frame=completion.frame, usage=usage, fault=completion.fault, cause=cause)
    answers = [
        TileAnswer(tile, completion.frame, completion.finish_reason, completion.text)
        for tile, completion in zip(tiles, completions, strict=True)
    ]
    cut = any(completion.finish_reason == "length" for completion in completions)
    return Completion(text=write_answers(answers), frame=frame, usage=usage, finish_reason="length" if cut else "stop")
