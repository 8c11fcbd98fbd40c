"""The three components: one class, three schemas."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from medground.errors import InputError, RecipeError, did_you_mean
from medground.frames import Frame
from medground.geometry import Size
from medground.types import Completion, Fault, Grounding, Messages, PromptKind, Query, Region, Target
from medground_prompts import ideal, wording
from medground_prompts.coordinates import Space, box_of, points_of
from medground_prompts.parsers import TAGS, read
from medground_prompts.reading import Reading
from medground_prompts.schema import Schema, Style

Parser = Literal["lenient", "strict", "released_train", "released_base", "released_eval"]

DEFAULT_THINK = "What can be seen fits one region, and the answer marks it."
"""What an ideal completion reasons where nobody says what it should."""


@dataclass(frozen=True, kw_only=True)
class _Interface:
    think: bool = True
    style: Style = "json"
    template: str | os.PathLike[str] | None = None
    instructions: bool = True
    parser: Parser = "lenient"
    text: str = field(init=False, repr=False)
    """The template in use, placeholders unfilled."""

    schema: ClassVar[Schema]
    provides: ClassVar[frozenset[PromptKind]]

    def __post_init__(self) -> None:
        _known("style", self.style, get_args(Style))
        _known("parser", self.parser, get_args(Parser))
        if self.released and self.schema != BboxPoints.schema:
            raise RecipeError(
                f"parser {self.parser!r} reads a box and two points, which this interface does not ask for",
                hint="use the prompt interface bbox_points, or parser lenient or strict",
            )
        object.__setattr__(self, "text", self._template())

    def _template(self) -> str:
        if self.template is not None:
            return _load(self.template)
        return wording.template(self.schema, think=self.think) if self.instructions else wording.QUESTION

    @property
    def released(self) -> bool:
        """True when the parser is one of the released system's."""
        return self.parser.startswith("released_")

    def render(self, query: Query) -> Messages:
        """Return one user turn: the image, then the template with its placeholders filled."""
        text = wording.fill(self.text, question=query.question, form=self.schema.form(self.style))
        content = [{"type": "image", "image": query.image}, {"type": "text", "text": text}]
        return [{"role": "user", "content": content}]

    def parse(self, completion: Completion, size: Size) -> Grounding:
        """Read a completion with the chosen parser; `size` is the (H, W) of the original image.

        Total: whatever the text, the result is a `Grounding`. `fault` is None exactly when the region holds every part
        this interface asks for; a part with a fault is left out of the region and the other kept.
        """
        if completion.fault is not None:
            return Grounding(fault=completion.fault)
        reading = read(completion.text, parser=self.parser, think=self.think, style=self.style)
        space = Space(completion.frame, size, self.released)
        region, faults, wellformed = self._ground(reading.raw, space)
        return Grounding(
            regions=() if region is None else (region,),
            fault=reading.fault or next(iter(faults), None),
            think=reading.think,
            think_level=reading.think_level if self.think else None,
            answer_level=self._level(reading, wellformed),
            raw=reading.raw,
        )

    def _ground(self, raw: dict[str, Any] | None, space: Space) -> tuple[Region | None, list[Fault], int]:
        """Return the usable parts, what is wrong in order, and how many parts count as well-formed."""
        if raw is None:
            return None, [], 0
        faults = [] if self.schema.complete(raw) else [Fault.MISSING_KEYS]
        parts: dict[str, Any] = {}
        wellformed = 0
        if self.schema.box and "bbox" in raw:
            parts["box"] = box_of(raw["bbox"], space)
        if self.schema.points and "points_1" in raw and "points_2" in raw:
            parts["points"] = points_of((raw["points_1"], raw["points_2"]), space)
        for part in parts.values():
            if isinstance(part, Fault):
                faults.append(part)
            # The released levels look at shapes and types alone, so NaN is well-formed to them.
            wellformed += not isinstance(part, Fault) or (space.released and part is Fault.NONFINITE)
        usable = {name: part for name, part in parts.items() if not isinstance(part, Fault)}
        return (Region(**usable) if usable else None), faults, wellformed

    def _level(self, reading: Reading, wellformed: int) -> float:
        if reading.level is not None or reading.raw is None:
            return reading.level or 0.0
        return self.schema.level(reading.raw, valid=wellformed)

    def answer(
        self, target: Target, think: str | None = None, *, frame: Frame | None = None, size: Size | None = None
    ) -> str:
        """Return the ideal completion for `target`, in whole units of `frame`; `think` is left out where none is asked for.

        Raises:
            ValueError: if the target is not one region, or lacks the box or the two points that are asked for, `frame`
                comes without `size`, or `think` holds one of the tags.
        """
        think = DEFAULT_THINK if think is None else think
        if any(tag in think for tag in TAGS):
            raise ValueError(f"a think text cannot hold the tags {', '.join(TAGS)}")
        region = target.region
        if region is None or (self.schema.box and region.box is None):
            raise ValueError(f"an answer needs a target of one region with a box, not of {len(target.regions)} regions")
        if self.schema.points and len(region.points) < 2:
            raise ValueError(f"an answer with two points needs a target with two, not {len(region.points)}")
        values = ideal.numbers(region, frame, size)
        block = f"<think>{think}</think>" if self.think else ""
        return f"{block}<answer>{self.schema.write(values, self.style)}</answer>"


class BboxPoints(_Interface):
    """A box and two key points: the interface of the paper.

    Args:
        think: ask for reasoning before the answer; without, the think level abstains.
        style: quotes of the example in the prompt and of ideal completions: ``json`` or ``single_quoted``.
        template: a UTF-8 text file to use in place of our wording, with the placeholders ``{Question}`` (needed) and
            ``{Answer}`` (the answer object's form), and ``<image>`` where the image goes.
        instructions: say what to do and how to answer; without, our wording is the question alone, for a model that was
            taught the format.
        parser: ``lenient``, ``strict``, or a released one: ``released_train``, ``released_base``, ``released_eval``.
    """

    schema = Schema(box=True, points=True)
    provides = schema.provides


class Bbox(_Interface):
    """A box alone. Arguments as for `BboxPoints`; the released parsers do not apply."""

    schema = Schema(box=True, points=False)
    provides = schema.provides


class Points(_Interface):
    """Two key points alone. Arguments as for `BboxPoints`; the released parsers do not apply."""

    schema = Schema(box=False, points=True)
    provides = schema.provides


def _known(argument: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise RecipeError(
            f"{argument} {value!r} is unknown to the prompt interface", hint=did_you_mean(str(value), options)
        )


def _load(path: str | os.PathLike[str]) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the prompt template {os.fspath(path)} cannot be read: {error}") from error
    if "{Question}" not in text:
        raise InputError(f"the prompt template {os.fspath(path)} has no {{Question}}", hint="add {Question} to it")
    if text.count(wording.IMAGE) > 1:
        raise InputError(
            f"the prompt template {os.fspath(path)} has more than one {wording.IMAGE}", hint="remove all but one"
        )
    return text
