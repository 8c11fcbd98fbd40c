"""Which kinds of prompt are made of the regions of an answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from medground.types.regions import ChosenKind, PromptKind, Region, SpatialPrompt

TextSource = StrEnum("TextSource", ["label", "question"])
"""Where the text of a prompt comes from: what the answer calls the region, or the question that was asked."""


@dataclass(frozen=True, slots=True)
class PromptSelection:
    """What a recipe says about prompts: the kinds, and where a text comes from.

    >>> selection = PromptSelection((ChosenKind.text, ChosenKind.exemplars), TextSource.question)
    >>> sorted(selection.given({"box"}))
    ['exemplars', 'text']
    """

    kinds: tuple[ChosenKind, ...] = (ChosenKind.box, ChosenKind.points)
    """The kinds; points are those of either label."""
    text_from: TextSource = TextSource.label

    def given(self, provides: Iterable[PromptKind]) -> frozenset[PromptKind]:
        """Return the kinds that reach the segmenter from answers that hold those of `provides`.

        The box of a region is its exemplar, and the question is a text that needs no answer.
        """
        offered = set(provides)
        offered |= {"exemplars"} if "box" in offered else set()
        offered |= {"text"} if self.text_from == TextSource.question else set()
        return frozenset(kind for kind in offered if kind.removeprefix("negative_") in self.kinds)

    def lacking(self, provides: Iterable[PromptKind]) -> list[str]:
        """Return what such answers never hold and every prompt needs: ``text`` or ``exemplars``, or all kinds together."""
        given = self.given(provides)
        if not given:
            return list(self.kinds)
        return [kind for kind in (ChosenKind.text, ChosenKind.exemplars) if kind in self.kinds and kind not in given]

    def prompts(self, regions: Sequence[Region], question: str) -> list[SpatialPrompt | None]:
        """Return the prompt of each region, in order; None where a region lacks what `Region.prompt` needs."""
        text = question if self.text_from == TextSource.question else None
        return [region.prompt(*self.kinds, text=text) for region in regions]

    def __str__(self) -> str:
        return self.kinds[0] if len(self.kinds) == 1 else f"[{', '.join(self.kinds)}]"
