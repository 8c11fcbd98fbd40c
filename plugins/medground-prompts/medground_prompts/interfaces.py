"""What every interface does, and the three whose answer is one region: one class, three schemas."""

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
from medground_prompts.schema import ListSchema, Schema, Style

Parser = Literal["lenient", "strict", "released_train", "released_base", "released_eval"]


def default_think(regions: int) -> str:
    """Return what an ideal completion about so many regions reasons where nobody says what it should."""
    if regions == 0:
        return "Nothing that can be seen fits the question."
    if regions == 1:
        return "What can be seen fits one region, and the answer marks it."
    return f"What can be seen fits {regions} regions, and the answer marks each."


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What interfaces share: the arguments, the prompt, and how a reading becomes a grounding."""

    think: bool = True
    style: Style = "json"
    template: str | os.PathLike[str] | None = None
    instructions: bool = True
    parser: Parser = "lenient"
    text: str = field(init=False, repr=False)
    """The template in use, placeholders unfilled."""

    schema: ClassVar[Schema | ListSchema]
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
        reading = read(completion.text, parser=self.parser, think=self.think, style=self.style, schema=self.schema)
        regions, faults, level = self._ground(reading.raw, Space(completion.frame, size, self.released))
        return Grounding(
            regions=regions,
            fault=reading.fault or next(iter(faults), None),
            think=reading.think,
            think_level=reading.think_level if self.think else None,
            answer_level=level if reading.level is None else reading.level,
            raw=reading.raw if isinstance(reading.raw, dict) else None,
        )

    def answer(
        self, target: Target, think: str | None = None, *, frame: Frame | None = None, size: Size | None = None
    ) -> str:
        """Return the ideal completion for `target`, in whole units of `frame`; `think` is left out where none is asked for.

        Raises:
            ValueError: if the target has another number of regions than can be said, or one lacks what is asked for,
                `frame` comes without `size`, or `think` or a label holds one of the tags.
        """
        think = default_think(len(target.regions)) if think is None else think
        texts = {"a think text": think, "a label": " ".join(region.label for region in target.regions)}
        for what, text in texts.items():
            if any(tag in text for tag in TAGS):
                raise ValueError(f"{what} cannot hold the tags {', '.join(TAGS)}")
        block = f"<think>{think}</think>" if self.think else ""
        return f"{block}<answer>{self._write(target, frame, size)}</answer>"

    def _take(self, schema: ListSchema) -> None:
        """Take the schema that follows from the arguments."""
        object.__setattr__(self, "schema", schema)
        object.__setattr__(self, "provides", schema.provides)

    def _ground(self, raw: Any, space: Space) -> tuple[tuple[Region, ...], list[Fault], float]:
        """Return the usable regions, what is wrong in order, and the level of the answer."""
        raise NotImplementedError

    def _write(self, target: Target, frame: Frame | None, size: Size | None) -> str:
        """Return the ideal answer without its tags."""
        raise NotImplementedError


class _OneRegion(Interface):
    schema: ClassVar[Schema]

    def _ground(self, raw: dict[str, Any] | None, space: Space) -> tuple[tuple[Region, ...], list[Fault], float]:
        if raw is None:
            return (), [], 0.0
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
        return (Region(**usable),) if usable else (), faults, self.schema.level(raw, valid=wellformed)

    def _write(self, target: Target, frame: Frame | None, size: Size | None) -> str:
        region = target.region
        if region is None or (self.schema.box and region.box is None):
            raise ValueError(f"an answer needs a target of one region with a box, not of {len(target.regions)} regions")
        if self.schema.points and len(region.points) < 2:
            raise ValueError(f"an answer with two points needs a target with two, not {len(region.points)}")
        return self.schema.write(ideal.numbers(region, frame, size), self.style)


class BboxPoints(_OneRegion):
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


class Bbox(_OneRegion):
    """A box alone. Arguments as for `BboxPoints`; the released parsers do not apply."""

    schema = Schema(box=True, points=False)
    provides = schema.provides


class Points(_OneRegion):
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
