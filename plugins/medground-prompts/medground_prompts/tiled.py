"""The interface that asks about a large image tile by tile."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Annotated, Any

import numpy as np

from medground.arguments import AtLeast
from medground.errors import RecipeError
from medground.frames import Frame, pixels
from medground.geometry import Size
from medground.protocols import PromptInterface
from medground.types import Completion, Fault, Grounding, Messages, PromptKind, Query, Region, Target
from medground_prompts import seams, tiles
from medground_prompts.tiles import Tile, TileAnswer

SMALLEST = 64
"""px: tiles with a shorter side show too little."""
UNFINISHED = (Fault.NO_ANSWER, Fault.BAD_JSON)
"""What a parser says of a text that ends before its answer does."""


class Tiled:
    """Another interface, asked about overlapping tiles of the image; regions on seams become one.

    Every tile is a question of its own, with its own frame. One completion holds all of their answers, a line of JSON for
    each with the tile and its frame. A fault in one tile is the answer's; the regions of the others stay. Levels are means
    over the tiles. A completion that is not made of tiles is read as the answer about the whole image.

    Args:
        interface: the interface that is asked and read, by name or as an object.
        arguments: of the interface, where it is a name.
        tile: the side of a tile, px of the original; an image that is no larger is one tile.
        overlap: px that neighbouring tiles share at least.
    """

    provides: frozenset[PromptKind] = frozenset({"box", "points"})
    """Of an instance, what the interface that is asked provides."""

    def __init__(
        self,
        *,
        interface: Any = "regions",
        arguments: Mapping[str, Any] | None = None,
        tile: Annotated[int, AtLeast(SMALLEST)] = 512,
        overlap: Annotated[int, AtLeast(1)] = 64,
    ) -> None:
        if tile < SMALLEST or not 1 <= overlap <= tile // 2:
            raise RecipeError(
                f"tiles of {tile} px that share {overlap} px cannot cover an image",
                hint=f"set tile to {SMALLEST} or more and overlap from 1 to half of it",
            )
        if not isinstance(interface, str) and arguments:
            raise RecipeError(
                "tiled is given an object as its interface, and arguments for it", hint="leave arguments out"
            )
        self.interface: PromptInterface = (
            _build(interface, arguments or {}) if isinstance(interface, str) else interface
        )
        if hasattr(self.interface, "split"):
            raise RecipeError("tiles cannot be tiled again", hint="set interface to regions")
        self.tile, self.overlap = tile, overlap
        self.provides = self.interface.provides

    def __repr__(self) -> str:
        return f"Tiled(interface={self.interface!r}, tile={self.tile}, overlap={self.overlap})"

    @property
    def needs_dialect(self) -> bool:
        """As of the interface that is asked."""
        return bool(getattr(self.interface, "needs_dialect", False))

    def speaking(self, dialect: str) -> "Tiled":
        """Return the same with the interface that is asked in a dialect."""
        spoken: Any = self.interface
        return Tiled(interface=spoken.speaking(dialect), tile=self.tile, overlap=self.overlap)

    def tiles(self, size: Size) -> list[Tile]:
        """Return the tiles of an image of `size` (H, W), row by row."""
        return tiles.layout(size, self.tile, self.overlap)

    def split(self, query: Query) -> list[Query]:
        """Return one query per tile, each with the tile's pixels as its image."""
        return [
            replace(query, image=np.ascontiguousarray(query.image[tile.y1 : tile.y2, tile.x1 : tile.x2]))
            for tile in self.tiles(query.size)
        ]

    def join(self, query: Query, completions: Sequence[Completion]) -> Completion:
        """Return one completion that holds one of every tile, in order."""
        return tiles.joined(self.tiles(query.size), completions, pixels(query.size))

    def render(self, query: Query) -> Messages:
        """Return the conversation about one tile, or about any image as it is."""
        return self.interface.render(query)

    def parse(self, completion: Completion, size: Size) -> Grounding:
        """Read the answers about all tiles, or the one about the whole image; total, as the interface that is asked is."""
        if completion.fault is not None:
            return Grounding(fault=completion.fault)
        answers = tiles.read_answers(completion.text, self.tiles(size))
        if answers is None:
            return self.interface.parse(completion, size)
        groundings = [self._grounding(answer) for answer in answers]
        groups = [
            [tiles.region_of(region, answer.tile) for region in grounding.regions]
            for answer, grounding in zip(answers, groundings, strict=True)
        ]
        thoughts = [grounding.think for grounding in groundings if grounding.think is not None]
        levels = [grounding.think_level for grounding in groundings if grounding.think_level is not None]
        return Grounding(
            regions=seams.merge([answer.tile for answer in answers], groups),
            fault=next((grounding.fault for grounding in groundings if grounding.fault is not None), None),
            think="\n\n".join(thoughts) if thoughts else None,
            think_level=sum(levels) / len(levels) if levels else None,
            answer_level=sum(grounding.answer_level for grounding in groundings) / len(groundings),
        )

    def _grounding(self, answer: TileAnswer) -> Grounding:
        completion = Completion(text=answer.text, frame=answer.frame, finish_reason=answer.finish_reason)
        grounding = self.interface.parse(completion, answer.tile.size)
        cut = answer.finish_reason == "length" and grounding.fault in UNFINISHED
        return replace(grounding, fault=Fault.CUT_OFF) if cut else grounding

    def answer(
        self, target: Target, think: str | None = None, *, frame: Frame | None = None, size: Size | None = None
    ) -> str:
        """Return the ideal answers about all tiles; without `size` the ideal answer about the whole image.

        A tile's answer counts pixels, thousandths or fractions of the tile as `frame` does of the whole image.

        Raises:
            ValueError: as the interface that is asked; one that knows a single region cannot say what an empty tile holds.
        """
        if size is None:
            return self.interface.answer(target, think, frame=frame, size=size)
        written = []
        for tile in self.tiles(size):
            parts = [tiles.region_in(region, tile) for region in target.regions if self._shows(region, tile)]
            regions = tuple(part for part in parts if part is not None)
            own = None if frame is None else _frame_of(tile, frame, size)
            text = self.interface.answer(Target(regions=regions), think, frame=own, size=tile.size)
            written.append(TileAnswer(tile, own, "stop", text))
        return tiles.write_answers(written)

    def _shows(self, region: Region, tile: Tile) -> bool:
        """Return whether a region can be told of in a tile: where boxes are not asked for, its key points say where it is."""
        return "box" in self.provides or any(tile.holds(point) for point in region.points)


def _frame_of(tile: Tile, frame: Frame, size: Size) -> Frame:
    """Return the frame of a tile in which a number is as fine as in the frame of the whole image of `size` (H, W)."""
    height, width = (ceil(own * side / whole) for own, side, whole in zip(tile.size, frame.size, size, strict=True))
    return Frame(frame.kind, (height, width), frame.order)


def _build(name: str, arguments: Mapping[str, Any]) -> PromptInterface:
    import medground

    interface: PromptInterface = medground.build("prompt_interface", name, **arguments)
    return interface
