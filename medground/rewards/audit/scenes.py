"""What an audit looks at: targets, and answers about them written as text and read back by the recipe's own parser.

The segmenter of an audit is a perfect one: it fills the ellipse of the box it is given, the disc of the points where
there is no box, and the truth is the ellipse of the true box. So a mask is exactly as wrong as its prompt.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medground.geometry import Box, Point, Size, box_iou, disc, disc_dice
from medground.protocols import PromptInterface
from medground.rewards.rubric import Rubric, Score
from medground.types import Completion, Mask, Query, Region, Rollout, Sample, Target

Pair = tuple[Point, Point]


@dataclass(frozen=True, slots=True)
class SceneAnswer:
    """A box and two points, before they are written down."""

    box: Box
    points: Pair

    def moved(self, box: ArrayLike | None = None, points: ArrayLike | None = None) -> "SceneAnswer":
        """Return the same answer with another box, other points, or both."""
        corners = self.box if box is None else Box(*np.asarray(box, np.float64).ravel().tolist())
        if points is None:
            return SceneAnswer(corners, self.points)
        first, second = np.asarray(points, np.float64).tolist()
        return SceneAnswer(corners, (Point(*first), Point(*second)))


@dataclass(frozen=True)
class Scene:
    """One target in an image of `size` (H, W)."""

    name: str
    size: Size
    truth: SceneAnswer

    @property
    def sides(self) -> tuple[float, float]:
        """(width, height) of the true box, px: what relative errors count in."""
        return self.truth.box.width, self.truth.box.height

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The true mask."""
        return _ellipse(self.truth.box, self.size)

    def shrunk(self, factor: float) -> "Scene":
        """Return the same scene in a smaller image."""
        truth = self.truth.moved(np.multiply(self.truth.box, factor), np.multiply(self.truth.points, factor))
        return Scene(self.name, (round(self.size[0] * factor), round(self.size[1] * factor)), truth)

    def overlap(self, answer: SceneAnswer) -> tuple[float, float]:
        """Return (box IoU, true disc Dice) of an answer with the truth."""
        return float(box_iou(answer.box, self.truth.box)), float(disc_dice(answer.points, self.truth.points))


def _scene(name: str, size: Size, box: Sequence[float], points: Sequence[Sequence[float]]) -> Scene:
    return Scene(name, size, SceneAnswer(Box(*box), (Point(*points[0]), Point(*points[1]))))


REFERENCE = _scene("reference", (840, 840), (445, 136, 708, 729), ((534, 273), (595, 455)))
"""An organ-sized target."""
TINY = _scene("tiny", (840, 840), (100, 100, 112, 112), ((104, 106), (109, 106)))
"""A lesion of 12 pixels whose key points are 5 apart."""
LARGE = _scene("large", (480, 480), (40, 200, 240, 360), ((100, 264), (180, 304)))
MEDIUM = _scene("medium", (120, 120), (10, 50, 60, 90), ((25, 66), (45, 76)))
SMALL = _scene("small", (48, 48), (4, 20, 24, 36), ((10, 26.4), (18, 30.4)))
"""`LARGE`, a quarter and a tenth of its size: relative errors must cost the same on all three."""
LONG = _scene("long", (480, 480), (180, 60, 440, 110), ((240, 80), (380, 90)))

CURVED = (LARGE, LONG)
"""Scenes on which terms are followed along growing errors."""


class Scorer:
    """Writes answers as a model would, reads them as the recipe does, and scores them."""

    def __init__(self, rubric: Rubric, interface: PromptInterface) -> None:
        self.rubric = rubric
        self.interface = interface
        ideal = interface.answer(_target(REFERENCE))
        start, end = ideal.rindex("{"), ideal.rindex("}") + 1
        self.before, self.after = ideal[:start], ideal[end:]
        self.single_quoted = "'" in ideal[start:end]
        entry: Mapping[str, Any] = json.loads(ideal[start:end].replace("'", '"'))
        self.box_key = next((key for key, value in entry.items() if _numbers(value, 4)), None)
        self.point_keys = [key for key, value in entry.items() if _numbers(value, 2)]
        self.points_key = next((key for key, value in entry.items() if value and _pairs(value)), None)
        placed = {self.box_key, *self.point_keys, self.points_key}
        self.others = {key: value for key, value in entry.items() if key not in placed}

    def write(self, answer: SceneAnswer, **changed: Any) -> str:
        """Return an answer as text, in JSON; `changed` puts something else under ``box`` or the two ``points``."""
        return self.wrap(json.dumps(self.values(answer, **changed)))

    def wrap(self, answer: str) -> str:
        """Return the ideal completion with another answer object in it."""
        return f"{self.before}{answer}{self.after}"

    def values(self, answer: SceneAnswer, **changed: Any) -> dict[str, Any]:
        """Return the answer object."""
        entry: dict[str, Any] = {}
        if self.box_key is not None:
            entry[self.box_key] = changed.get("box", list(answer.box))
        points = changed.get("points", [list(point) for point in answer.points])
        if self.points_key is not None:
            entry[self.points_key] = points
        return entry | dict(zip(self.point_keys, points, strict=False)) | self.others

    def score(self, scene: Scene, texts: Sequence[str]) -> list[Score]:
        """Return the rubric's scores of texts about one scene; numbers are in its pixels and none is out of frame."""
        return self.rubric([self._rollout(scene, text, index) for index, text in enumerate(texts)])

    def _rollout(self, scene: Scene, text: str, index: int) -> Rollout:
        box, points = list(scene.truth.box), [list(point) for point in scene.truth.points]
        target = _target(scene, Mask(data=scene.mask) if self.rubric.needs_mask else None)
        target = replace(target, published={"bbox_2d": box, "point_2d": points})
        image = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (*scene.size, 3))
        completion = Completion(text=text, frame=None)
        grounding = self.interface.parse(completion, scene.size)
        if self.rubric.needs_mask:
            grounding = grounding.with_masks([_segmented(region, scene.size) for region in grounding.regions])
        sample = Sample(query=Query(image=image, question="", id=f"{scene.name} {index}"), target=target)
        return Rollout(sample=sample, completion=completion, grounding=grounding)


def _numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(item, int | float) for item in value)


def _pairs(value: Any) -> bool:
    return isinstance(value, list) and all(_numbers(item, 2) for item in value)


def _target(scene: Scene, mask: Mask | None = None) -> Target:
    return Target(regions=(Region(box=scene.truth.box, points=scene.truth.points, mask=mask),))


def _segmented(region: Region, size: Size) -> Mask:
    box = region.box
    if box is None:
        (x, y), radius = disc(region.points[:2]) if len(region.points) > 1 else (region.points[0], 0.0)
        box = Box(float(x - radius), float(y - radius), float(x + radius), float(y + radius))
    return Mask(data=_ellipse(box, size), score=1.0)


def _ellipse(box: Box, size: Size) -> NDArray[np.bool_]:
    """Return the pixels whose centres lie in the ellipse of a box; none where the box encloses nothing."""
    if not box.valid:
        return np.zeros(size, bool)
    along = (np.arange(size[1]) + 0.5 - box.centre.x) / (box.width / 2)
    down = (np.arange(size[0]) + 0.5 - box.centre.y) / (box.height / 2)
    return np.asarray(down[:, None] ** 2 + along[None, :] ** 2 <= 1, bool)
