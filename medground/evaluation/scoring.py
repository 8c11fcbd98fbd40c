"""Scoring written answers: one line in, one line out.

A line is ``{"prediction": str, "ground_truth": {"bbox_2d", "point_2d", optional "mask"}}``; for several targets
``ground_truth`` is a list of such objects, ``[]`` where the target is absent. Optional are ``size`` ([H, W] of the image),
``frame`` (what the prediction's numbers count), ``image`` (a file, so that the recipe's segmenter can make the masks that
mask terms need), ``id`` and ``labels``. The truth's numbers are taken as they stand. Without size and frame the prediction
is in the truth's pixels, and nothing is out of frame.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from medground.data.json_text import JsonLine, id_text, parse_line, shown
from medground.errors import InputError, RecipeError
from medground.frames import Frame, pixels
from medground.geometry import Box, Point, Size
from medground.images.mask_frames import in_frame_of, read_mask_of
from medground.images.read import read_image, read_mask
from medground.images.rle import decode_rle
from medground.pipeline.pipeline import Pipeline
from medground.protocols import PromptInterface
from medground.recipe import MISSING, Recipe
from medground.registry import build
from medground.rewards.rubric import Rubric, Score
from medground.types import Completion, Fault, Image, Mask, Query, Region, Rollout, Sample, Target, boxes_of

CHUNK = 256
"""Lines read, scored and written together: a batch term sees this many at most."""
MAX_SIDE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TermResult:
    """The score of one term."""

    value: float | None
    weight: float
    details: dict[str, Any]
    """What the term says about it; ``failure`` where it failed: its kind and cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """The score of one line."""

    score: float | None
    terms: dict[str, TermResult]
    fault: Fault | None
    error: str | None = None
    """Why the line could not be read."""


@dataclass(frozen=True, slots=True)
class ScoringLine:
    """One input line, or why it cannot be used."""

    number: int
    """Counted from 1."""
    rollout: Rollout | None = None
    has_image: bool = False
    error: str | None = None


def score_lines(lines: Iterable[bytes], recipe: Recipe, rubric: Rubric, root: Path) -> Iterator[ScoreResult]:
    """Yield one result per line, in order.

    Args:
        lines: UTF-8 JSON lines.
        recipe: says how answers are read (its prompt interface) and who makes masks (its segmenter).
        rubric: the terms.
        root: the folder that file names in the lines count from, and must stay inside.

    Raises:
        RecipeError: if answers are numbers of candidates, which lines do not hold.
    """
    if "proposer" in recipe.data:
        raise RecipeError(
            "answers that choose among candidates cannot be scored from a file, which does not hold the candidates",
            hint="use medground eval, which proposes them",
        )
    interface, graph = reader(recipe), Pipeline.from_recipe(recipe)
    numbered = enumerate(lines, start=1)
    while chunk := list(islice(numbered, CHUNK)):
        read = [read_line(parse_line(raw, number), root, interface) for number, raw in chunk]
        if rubric.needs_mask and "segmenter" in recipe.data:
            read = _with_masks(read, graph)
        rollouts = [line.rollout for line in read if line.rollout is not None]
        scored = iter(zip(rollouts, rubric(rollouts), strict=True))
        for line in read:
            yield (
                ScoreResult(score=None, terms={}, fault=None, error=line.error)
                if line.rollout is None
                else _result(*next(scored))
            )


def reader(recipe: Recipe) -> PromptInterface:
    """Return the recipe's prompt interface, to read answers; a prompt template that is still to be given is not needed."""
    if "prompt_interface" in recipe.objects:
        given: PromptInterface = recipe.objects["prompt_interface"]
        return given
    recipe.require_object("prompt_interface")
    data = recipe.data.get("prompt_interface") or {}
    if data.get("template") != MISSING:
        name, arguments = recipe.component("prompt_interface")
    else:
        arguments = {key: value for key, value in data.items() if key not in ("name", "template")}
        name = data["name"]
    interface: PromptInterface = build("prompt_interface", name, **arguments)
    return interface


def read_line(line: JsonLine, root: Path, interface: PromptInterface) -> ScoringLine:
    """Read one line; what is wrong with it is in its `error`."""
    try:
        if line.problem:
            raise InputError(line.problem)
        rollout, has_image = _rollout(line, root, interface)
    except (ValueError, InputError) as error:
        return ScoringLine(line.number, error=f"line {line.number}: {error}")
    return ScoringLine(line.number, rollout, has_image)


def line_name(line: JsonLine) -> str:
    """Return the name of a line's sample: its id, see `id_text`; ``line N`` where it states none.

    Raises:
        InputError: if its id is none.
    """
    stated = line.value.get("id") if isinstance(line.value, dict) else None
    if stated in (None, ""):
        return f"line {line.number}"
    if (name := id_text(stated)) is None:
        raise InputError(
            f"line {line.number}: id is no text and no whole number: {shown(stated)}", hint='write "id": "NAME"'
        )
    return name


def _rollout(line: JsonLine, root: Path, interface: PromptInterface) -> tuple[Rollout, bool]:
    data = line.value
    if not isinstance(data, dict) or not isinstance(data.get("prediction"), str):
        raise InputError('a line is an object with a text "prediction"')
    path = _inside(root, data["image"]) if data.get("image") is not None else None
    target = _target(data.get("ground_truth"), root, path)
    image = None if path is None else read_image(path)
    size = _agreed_size(data, image, target)
    frame = frame_of(data.get("frame"), size)
    if frame is None and size is not None and data.get("size") is not None:
        frame = pixels(size)
    if size is None:
        size = frame.size if frame is not None else _extent(target)
    query = Query(
        image=_blank(size) if image is None else image,
        question=str(data.get("question", "")),
        id=line_name(line),
    )
    completion = Completion(text=data["prediction"], frame=frame)
    grounding = interface.parse(completion, size)
    return Rollout(
        sample=Sample(query=query, target=target, labels=_labels(data)), completion=completion, grounding=grounding
    ), (image is not None)


def _labels(data: dict[str, Any]) -> dict[str, str]:
    labels = data.get("labels", {})
    if not isinstance(labels, dict):
        raise InputError(f"labels must be an object, not {shown(labels)}")
    return {str(key): str(value) for key, value in labels.items()}


def _target(truth: Any, root: Path, image: Path | None) -> Target:
    """Return the target of an object, or of a list of them: none where the target is absent."""
    if isinstance(truth, list):
        return Target(regions=tuple(_region(entry, f"ground_truth[{n}]", root, image) for n, entry in enumerate(truth)))
    region = _region(truth, "ground_truth", root, image)
    return Target(regions=(region,), published={"bbox_2d": truth["bbox_2d"], "point_2d": truth.get("point_2d", [])})


def _region(truth: Any, name: str, root: Path, image: Path | None) -> Region:
    if not isinstance(truth, dict):
        raise InputError('a line needs a "ground_truth" object, or a list of them')
    box: Any = truth.get("bbox_2d")
    points: Any = truth.get("point_2d", [])
    if not _numbers(box, 4):
        raise InputError(f"{name}.bbox_2d must be four finite numbers, not {shown(box)}")
    if not isinstance(points, list) or not all(_numbers(point, 2) for point in points):
        raise InputError(f"{name}.point_2d must be a list of [x, y], not {shown(points)}")
    if box[2] < box[0] or box[3] < box[1]:
        raise InputError(f"{name}.bbox_2d has its corners reversed: {shown(box)}")
    mask = truth.get("mask")
    if mask is not None:
        if isinstance(mask, dict):
            mask = decode_rle(mask) if image is None else in_frame_of(image, decode_rle(mask))
        else:
            path = _inside(root, mask)
            mask = read_mask(path) if image is None else read_mask_of(image, path)
        if not mask.any():
            raise InputError(f"{name}.mask is empty")
    return Region(
        box=Box(*(float(value) for value in box)),
        points=tuple(Point(float(x), float(y)) for x, y in points),
        mask=None if mask is None else Mask(data=mask),
    )


def _numbers(value: Any, length: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == length
        and all(type(item) in (int, float) and abs(item) < 1e15 for item in value)
    )


def _inside(root: Path, name: Any) -> Path:
    """Return a file named in a line; it must lie in the folder of the lines, links followed."""
    if not isinstance(name, str):
        raise InputError(f"a file must be named by a text, not {shown(name)}")
    try:
        path = (root / name).resolve()
    except OSError as error:
        raise InputError(f"the file {name!r} cannot be found: {error}") from error
    if not path.is_relative_to(root.resolve()):
        raise InputError(f"the file {name!r} lies outside the folder of the lines")
    return path


def _agreed_size(data: dict[str, Any], image: Image | None, target: Target) -> Size | None:
    """Return the (H, W) that size, image and mask state together; None where none of them is there."""
    size = data.get("size")
    if size is not None and not (
        _numbers(size, 2) and all(type(side) is int and 0 < side <= MAX_SIDE for side in size)
    ):
        raise InputError(f"size must be [H, W] in whole pixels, not {shown(size)}")
    stated = {
        "size": None if size is None else (size[0], size[1]),
        "image": None if image is None else (image.shape[0], image.shape[1]),
        "mask": None if target.mask is None else (target.mask.shape[0], target.mask.shape[1]),
    }
    known = {what: shape for what, shape in stated.items() if shape is not None}
    if len(set(known.values())) > 1:
        raise InputError("; ".join(f"{what} is {shape}" for what, shape in known.items()), hint="they must agree")
    return next(iter(known.values()), None)


def frame_of(entry: Any, size: Size | None) -> Frame | None:
    """Return a frame from ``"permille"`` or ``{"kind", "size", "order"}``; its size is the image's unless it says another.

    None for plain pixels of no known size: those are the truth's.
    """
    if entry is None:
        return None
    entry = {"kind": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or not set(entry) <= {"kind", "size", "order"}:
        raise InputError(f"frame must be a kind or an object of kind, size and order, not {shown(entry)}")
    own = entry.get("size")
    if own is not None and not (_numbers(own, 2) and all(type(side) is int for side in own)):
        raise InputError(f"a frame's size must be [H, W] in whole pixels, not {shown(own)}")
    of = tuple(own) if own is not None else size
    kind, order = entry.get("kind", "pixel"), entry.get("order", "xy")
    if of is None and (kind, order) == ("pixel", "xy"):
        return None
    if of is None:
        raise InputError(f"the {kind} frame is without a size", hint="add size: [H, W] to the line")
    return Frame(kind, of, order)


def _extent(target: Target) -> Size:
    """Return the smallest image that holds the truth: what terms see as the image where no size is known."""
    boxes = boxes_of(target.regions)
    corners = [corner for box in boxes for corner in ((box.x1, box.y1), (box.x2, box.y2))]
    corners += [point for region in target.regions for point in region.points]
    corners += [] if corners else [(1.0, 1.0)]
    width, height = (max(1, math.ceil(min(max(axis), MAX_SIDE))) for axis in zip(*corners, strict=True))
    return height, width


def _blank(size: Size) -> Image:
    """Return a black image of one stored pixel, where the line names none."""
    blank: Image = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (*size, 3))
    return blank


def _with_masks(lines: list[ScoringLine], graph: Pipeline) -> list[ScoringLine]:
    able = [line for line in lines if line.rollout is not None and line.has_image and line.rollout.grounding.regions]
    answers = [
        (line.rollout.sample.query.image, graph.prompts(line.rollout.sample.query, line.rollout.grounding))
        for line in able
        if line.rollout is not None
    ]
    segmented = dict(zip((line.number for line in able), graph.masks(answers), strict=True))
    return [
        line
        if line.number not in segmented or line.rollout is None
        else replace(line, rollout=segmented[line.number].put_into(line.rollout))
        for line in lines
    ]


def _result(rollout: Rollout, score: Score) -> ScoreResult:
    terms = {
        label: TermResult(
            value=term.value,
            weight=term.weight,
            details={**term.details, "failure": asdict(term.failure)} if term.failure else dict(term.details),
        )
        for label, term in score.terms.items()
    }
    fault = rollout.fault or rollout.completion.fault or rollout.grounding.fault
    return ScoreResult(score=score.total, terms=terms, fault=fault)
