"""The interface whose answer is the number of a candidate."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self

from medground.arguments import AtLeast
from medground.errors import RecipeError
from medground.frames import Frame
from medground.geometry import Size, box_iou, mask_iou
from medground.types import Fault, Messages, PromptKind, Query, Region, Target
from medground_prompts.coordinates import Space
from medground_prompts.interfaces import Interface, default_think
from medground_prompts.marks import mark
from medground_prompts.schema import ChoiceSchema


@dataclass(frozen=True, kw_only=True)
class Choose(Interface):
    """The number of the one candidate that fits, or null where none does.

    A proposer finds the candidates, and they are drawn on the image with their numbers. The region of an answer is the
    candidate: its box, its key points and its mask. No number in an answer counts pixels. Other arguments are those of
    `Interface`.

    Args:
        style: quotes of the example in the prompt and of ideal completions: ``json`` or ``single_quoted``.
        dialect: for interfaces with ``style: native`` alone, see `Bbox`.
        overlap: the ideal answer is the candidate with the highest IoU with the target, if that is so high; else null.
        least: an image whose longer side is shorter is enlarged to it, px, before numbers are drawn.
    """

    overlap: float = 0.5
    least: Annotated[int, AtLeast(0)] = 448
    candidates: tuple[Region, ...] = field(default=(), init=False, repr=False)
    """What it reads and writes answers about, see `among`."""

    schema: ClassVar[ChoiceSchema] = ChoiceSchema()
    provides: ClassVar[frozenset[PromptKind]] = frozenset({"box", "points"})

    def __post_init__(self) -> None:
        if not 0 < self.overlap <= 1:
            raise RecipeError(f"overlap of choose is not above 0 and at most 1: {self.overlap}", hint="set overlap=0.5")
        if self.least < 0:
            raise RecipeError(f"least of choose is below 0: {self.least}", hint="set least=448")
        super().__post_init__()

    def among(self, candidates: Sequence[Region]) -> Self:
        """Return the same interface for answers about these candidates, numbered from 1."""
        knowing = copy.copy(self)
        object.__setattr__(knowing, "candidates", tuple(candidates))
        return knowing

    def render(self, query: Query) -> Messages:
        """Return one user turn: the image with the query's candidates drawn on it, then the template."""
        [turn] = super().render(query)
        turn["content"][0]["image"] = mark(query.image, query.candidates or (), least=self.least)
        return [turn]

    def answer(
        self, target: Target, think: str | None = None, *, frame: Frame | None = None, size: Size | None = None
    ) -> str:
        """Return the ideal completion for `target`: the number of the best candidate, or null; see `Interface.answer`."""
        if think is None:
            think = default_think(int(self._best(target) is not None))
        return super().answer(target, think, frame=frame, size=size)

    def _ground(self, raw: dict[str, Any] | None, space: Space) -> tuple[tuple[Region, ...], list[Fault], float]:
        if raw is None:
            return (), [], 0.0
        if not self.schema.complete(raw):
            return (), [Fault.MISSING_KEYS], self.schema.level(complete=False, valid=False)
        number = raw[self.schema.keys[0].name]
        if number is None:
            return (), [], self.schema.level(complete=True, valid=True)
        if type(number) is not int or not 1 <= number <= len(self.candidates):
            return (), [Fault.BAD_CHOICE], self.schema.level(complete=True, valid=False)
        return (self.candidates[number - 1],), [], self.schema.level(complete=True, valid=True)

    def _write(self, target: Target, frame: Frame | None, size: Size | None) -> str:
        return self.schema.write(self._best(target), self.style)

    def _best(self, target: Target) -> int | None:
        """Return the number of the ideal answer, or None where that is null.

        Raises:
            ValueError: if the target has several regions.
        """
        if len(target.regions) > 1:
            raise ValueError(f"an answer chooses one candidate, and the target has {len(target.regions)} regions")
        overlaps = [_iou(candidate, target.regions[0]) for candidate in self.candidates] if target.regions else []
        best = max(overlaps, default=0.0)
        return overlaps.index(best) + 1 if best >= self.overlap else None


def _iou(one: Region, other: Region) -> float:
    """Return the IoU of two regions' masks, of their boxes where one has no mask; 0 where one has neither."""
    if one.mask is not None and other.mask is not None:
        return float(mask_iou(one.mask.data, other.mask.data))
    return float(box_iou(one.box, other.box)) if one.box is not None and other.box is not None else 0.0
