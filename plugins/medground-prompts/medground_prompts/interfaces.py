"""What every interface does, and the three whose answer is one region: one class, three schemas."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from medground.errors import InputError, RecipeError, did_you_mean
from medground.frames import Frame
from medground.geometry import Size
from medground.types import Completion, Fault, Grounding, Messages, PromptKind, Query, Region, Target
from medground_prompts import ideal, wording
from medground_prompts.coordinates import Space, box_of, points_of
from medground_prompts.dialects import DIALECTS, Dialect
from medground_prompts.parsers import TAGS, read, read_native
from medground_prompts.reading import Reading, thinks_to_the_end
from medground_prompts.schema import ChoiceSchema, ListSchema, Schema, Style

Native = Literal["box", "points", "any"]
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
    """What interfaces share: the arguments, the prompt, and how a reading becomes a grounding.

    Args:
        think: ask for reasoning before the answer; without, the think level abstains.
        style: quotes of the example in the prompt and of ideal completions: ``json`` or ``single_quoted``; or ``native``: a
            model is asked, and read, in the way it was trained to mark regions.
        template: a UTF-8 text file to use in place of our wording, with the placeholders ``{Question}`` (needed) and
            ``{Answer}`` (the answer object's form), and ``<image>`` where the image goes.
        instructions: say what to do and how to answer; without, our wording is the question alone, for a model that was
            taught the format.
        parser: ``lenient`` or ``strict``; the released ones are of `BboxPoints`.
        dialect: which native way; the reasoner's own if None.
    """

    think: bool = True
    style: Style = "json"
    template: str | os.PathLike[str] | None = None
    instructions: bool = True
    parser: Parser = "lenient"
    dialect: str | None = None
    text: str = field(init=False, repr=False)
    """The template in use, placeholders unfilled."""

    native: ClassVar[Native | None] = None
    """Which parts a model may write in its own way; None where it must write in ours."""
    schema: ClassVar[Schema | ListSchema | ChoiceSchema]
    provides: ClassVar[frozenset[PromptKind]]

    def __post_init__(self) -> None:
        _known("style", self.style, get_args(Style))
        _known("parser", self.parser, get_args(Parser))
        if self.released and self.schema != BboxPoints.schema:
            raise RecipeError(
                f"parser {self.parser!r} reads a box and two points, which this interface does not ask for",
                hint="use the prompt interface bbox_points, or parser lenient or strict",
            )
        self._check_dialect()
        object.__setattr__(self, "text", self._template())

    def _check_dialect(self) -> None:
        name, native = type(self).__name__, self.native or ""
        if self.dialect is not None:
            _known("dialect", self.dialect, tuple(DIALECTS))
        if self.style != "native":
            if self.dialect is not None:
                raise RecipeError(
                    f"{name} is given a dialect and does not speak it", hint="set style=native, or no dialect"
                )
            return
        if not native or self.parser != "lenient":
            what = "what no model writes in its own way" if not native else "an exact form"
            raise RecipeError(
                f"{name} asks for {what}", hint="with style=native use bbox, regions or multi_point, and parser lenient"
            )
        if self.dialect is not None and native != "any" and getattr(DIALECTS[self.dialect], native) is None:
            raise RecipeError(f"the dialect {self.dialect} has no {native}", hint="use the prompt interface regions")

    @property
    def needs_dialect(self) -> bool:
        """True where models are to answer in their own way and nobody has said yet which: see `speaking`."""
        return self.style == "native" and self.dialect is None

    def speaking(self, dialect: str) -> Self:
        """Return the same interface in a dialect."""
        return replace(self, dialect=dialect)

    @property
    def _dialect(self) -> Dialect | None:
        if self.needs_dialect:
            raise RecipeError(
                f"{type(self).__name__} with style=native is not told which dialect",
                hint=f"set prompt_interface.dialect to one of {', '.join(DIALECTS)}",
            )
        return None if self.dialect is None else DIALECTS[self.dialect]

    def _template(self) -> str:
        if self.template is not None:
            return _load(self.template)
        if self.style == "native":
            return "" if self.needs_dialect else self._native_template()
        return wording.template(self.schema, think=self.think) if self.instructions else wording.QUESTION

    def _native_template(self) -> str:
        dialect = DIALECTS[str(self.dialect)]
        words = dialect.points if self.native == "points" or dialect.box is None else dialect.box
        own = words if self.instructions and words is not None else "{Question}"
        return f"{wording.IMAGE}\n{own}" + (wording.THINK_FIRST if self.think and self.instructions else "")

    @property
    def released(self) -> bool:
        """True when the parser is one of the released system's."""
        return self.parser.startswith("released_")

    def render(self, query: Query) -> Messages:
        """Return one user turn: the image, then the template with its placeholders filled."""
        dialect = self._dialect
        form = self.schema.form(self.style) if dialect is None else dialect.form
        text = wording.fill(self.text, question=query.question, form=form)
        content = [{"type": "image", "image": query.image}, {"type": "text", "text": text}]
        return [{"role": "user", "content": content}]

    def parse(self, completion: Completion, size: Size) -> Grounding:
        """Read a completion with the chosen parser; `size` is the (H, W) of the original image.

        Total: whatever the text, the result is a `Grounding`. `fault` is None exactly when the region holds every part
        this interface asks for; a part with a fault is left out of the region and the other kept.
        """
        if completion.fault is not None:
            return Grounding(fault=completion.fault)
        dialect, frame = self._dialect, completion.frame
        if completion.finish_reason == "length" and not self.released and thinks_to_the_end(completion.text):
            reading = Reading(None, 0.0, fault=Fault.NO_ANSWER, level=0.0)
        elif dialect is None:
            reading = read(completion.text, parser=self.parser, think=self.think, style=self.style, schema=self.schema)
        else:
            reading, frame = self._native(read_native(completion.text, dialect)), dialect.frame(frame, size)
        regions, faults, level = self._ground(reading.raw, Space(frame, size, self.released))
        return Grounding(
            regions=regions,
            fault=reading.fault or next(iter(faults), None),
            think=reading.think,
            think_level=reading.think_level if self.think else None,
            answer_level=level if reading.level is None else reading.level,
            raw=reading.raw if isinstance(reading.raw, dict) and dialect is None else None,
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
        dialect = self._dialect
        if dialect is None:
            return f"{block}<answer>{self._write(target, frame, size)}</answer>"
        self._write(target, None, None)  # raises where the target lacks what is asked for
        if target.regions:
            if size is None and dialect.frame(None, (1, 1)) is not None:
                raise ValueError(f"an answer in {self.dialect}'s own numbers needs the (H, W) of the image as `size`")
            own = frame if size is None else dialect.frame(frame, size)
            return block + dialect.write(target.regions, own, size)
        if dialect.nothing is None:
            raise ValueError(f"the dialect {self.dialect} has no word for a target that is absent")
        return block + dialect.nothing

    def _take(self, schema: ListSchema) -> None:
        """Take the schema that follows from the arguments."""
        object.__setattr__(self, "schema", schema)
        object.__setattr__(self, "provides", schema.provides)

    def _native(self, reading: Reading) -> Reading:
        """Return a reading of entries as one of what the schema holds."""
        return reading

    def _ground(self, raw: Any, space: Space) -> tuple[tuple[Region, ...], list[Fault], float]:
        """Return the usable regions, what is wrong in order, and the level of the answer."""
        raise NotImplementedError

    def _write(self, target: Target, frame: Frame | None, size: Size | None) -> str:
        """Return the ideal answer without its tags."""
        raise NotImplementedError


class _OneRegion(Interface):
    schema: ClassVar[Schema]

    def _native(self, reading: Reading) -> Reading:
        if reading.raw is None:
            return reading
        if len(reading.raw) != 1:
            fault, level = (Fault.TWO_ANSWERS, 0.2) if reading.raw else (Fault.NO_ANSWER, 0.0)
            return replace(reading, raw=None, fault=fault, level=level)
        return replace(reading, raw=reading.raw[0])

    def _ground(self, raw: dict[str, Any] | None, space: Space) -> tuple[tuple[Region, ...], list[Fault], float]:
        if raw is None:
            return (), [], 0.0
        complete = self.schema.complete(raw)
        faults = [] if complete else [Fault.MISSING_KEYS]
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
        return (Region(**usable),) if usable else (), faults, self.schema.level(complete=complete, valid=wellformed)

    def _write(self, target: Target, frame: Frame | None, size: Size | None) -> str:
        region = target.region
        if region is None or (self.schema.box and region.box is None):
            raise ValueError(f"an answer needs a target of one region with a box, not of {len(target.regions)} regions")
        if self.schema.points and len(region.points) < 2:
            raise ValueError(f"an answer with two points needs a target with two, not {len(region.points)}")
        return self.schema.write(ideal.numbers(region, frame, size), self.style)


class BboxPoints(_OneRegion):
    """A box and two key points: the interface of the paper. Other arguments are those of `Interface`.

    Args:
        style: quotes of the example in the prompt and of ideal completions: ``json`` or ``single_quoted``.
        parser: ``lenient``, ``strict``, or a released one: ``released_train``, ``released_base``, ``released_eval``.
        dialect: for interfaces with ``style: native`` alone, see `Bbox`.
    """

    schema = Schema(box=True, points=True)
    provides = schema.provides


class Bbox(_OneRegion):
    """A box alone. Other arguments are those of `Interface`.

    Args:
        dialect: which native way: ``qwen``, ``gemma``, ``internvl``, ``paligemma`` or ``florence``; the reasoner's own if None.
    """

    native: ClassVar[Native | None] = "box"
    schema = Schema(box=True, points=False)
    provides = schema.provides


class Points(_OneRegion):
    """Two key points alone. Other arguments are those of `Interface`.

    Args:
        style: quotes of the example in the prompt and of ideal completions: ``json`` or ``single_quoted``.
        dialect: for interfaces with ``style: native`` alone, see `Bbox`.
    """

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
