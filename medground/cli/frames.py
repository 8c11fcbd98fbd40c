"""A known target followed through a recipe: original pixels, the model's numbers, and back."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medground.errors import RunError
from medground.frames import Frame
from medground.geometry import Box, Point, Size
from medground.images.overlay import draw
from medground.images.read import read_image
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.proposals import knowing
from medground.types import Completion, Image, Query, Region, SpatialPrompt, Target

DECIMALS = 3
"""The fewest a fraction is written with; an answer of fewer drifts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """Where the target stands after one step."""

    name: str
    prompt: SpatialPrompt
    pixels: float
    """Largest distance from the target along an axis, px of the original."""
    units: float
    """The same in model units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The hops of one target through one recipe."""

    image: Image
    truth: SpatialPrompt
    """What the answer should hold."""
    frame: Frame
    answer: str
    hops: list[Hop]

    @property
    def worst(self) -> float:
        """The largest drift, in model units."""
        return max(hop.units for hop in self.hops)

    @property
    def ok(self) -> bool:
        """True when no hop drifts beyond half a model unit: what rounding the answer costs, and no more."""
        return self.worst <= 0.5 + 1e-6

    @property
    def unit(self) -> tuple[float, float]:
        """Pixels of the original per model unit, along x and y; see `resolution`."""
        return resolution(self.frame, self.answer, _size(self.image))

    def lines(self) -> list[str]:
        """Return the report for people."""
        height, width = _size(self.image)
        lines = [f"image {height}x{width}, frame {self.frame.kind} of {self.frame.size}, order {self.frame.order}"]
        lines.append(f"answer {self.answer}")
        lines += [f"{hop.name:<16} drift {hop.pixels:8.4f} px  {hop.units:6.4f} units" for hop in self.hops]
        x, y = self.unit
        if max(x, y) > 1:
            lines.append(f"warning: one model unit spans {x:.2f} x {y:.2f} px, so answers cannot be finer than that")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        return {
            "size": list(_size(self.image)),
            "frame": self.frame.to_dict(),
            "unit_px": list(self.unit),
            "target": {"box": list(self.truth.box or ()), "points": [list(point) for point in self.truth.points]},
            "answer": self.answer,
            "hops": [{"name": hop.name, "px": hop.pixels, "units": hop.units} for hop in self.hops],
            "ok": self.ok,
        }


def resolution(frame: Frame, answer: str, size: Size) -> tuple[float, float]:
    """Return how many pixels of an original of `size` (H, W) the last digit of an answer counts, along x and y.

    Pixels and thousandths are whole numbers. Fractions count what their decimals say, three of them at least.

    >>> resolution(Frame("unit", (9, 9)), "[0.25, 0.1371]", (1000, 2000))
    (0.2, 0.1)
    """
    x, y = frame.unit(size)
    if frame.kind != "unit":
        return x, y
    decimals = max((len(digits) for digits in re.findall(r"\d\.(\d+)", answer)), default=0)
    steps = 10 ** max(decimals, DECIMALS)
    return x / steps, y / steps


def follow(pipeline: Pipeline, path: Path | None) -> Report:
    """Send a target through a graph's reasoner frame, prompt interface and prompt selection, hop by hop.

    Raises:
        RunError: if the perfect answer does not parse.
    """
    image = read_image(path) if path else _synthetic()
    size = _size(image)
    truth = _truth(size)
    target = Target(regions=(Region(box=truth.box, points=truth.points),))
    query = Query(image=image, question="Where is the marked region?", candidates=target.regions)
    interface, frame = knowing(pipeline.prompt_interface, query), pipeline.reasoner.frame(size)
    messages = interface.render(query)
    if not messages:
        raise RunError("the prompt interface renders no messages")
    answer = interface.answer(target, "the marked region", frame=frame, size=size)
    grounding = interface.parse(Completion(text=answer, frame=frame), size)
    parsed = grounding.region.prompt() if grounding.region and grounding.fault is None else None
    if grounding.region is None or parsed is None:
        raise RunError(
            f"the perfect answer does not parse: {grounding.fault}", hint="run medground.testing.check_prompt_interface"
        )
    steps = {"rendered": _rendered(truth, frame, size), "parsed": parsed}
    # The box is the exemplar, and a text has no coordinates.
    spatial = ["box" if kind == "exemplars" else kind for kind in pipeline.selection.kinds if kind != "text"]
    if spatial:
        handed = grounding.region.prompt(*spatial)
        if handed is None:
            raise RunError(
                f"the recipe prompts the segmenter with {pipeline.selection}, which the answer does not hold"
            )
        steps["segment input"] = handed
    unit = resolution(frame, answer, size)
    hops = [_hop(name, prompt, truth, unit) for name, prompt in steps.items()]
    return Report(image=image, truth=truth, frame=frame, answer=answer, hops=hops)


def draw_hops(report: Report, path: Path) -> None:
    """Draw the target and where it ended up, as a PNG whatever the suffix."""
    last = report.hops[-1].prompt
    draw(
        report.image,
        box=last.box,
        points=last.points,
        target_box=report.truth.box,
        caption=f"worst drift {report.worst:.2f} model units",
    ).save(path, "PNG")


def _rendered(truth: SpatialPrompt, frame: Frame, size: Size) -> SpatialPrompt:
    """Return the target as numbers of the model, before the answer rounds them, and back: what the frame alone costs."""
    box = frame.to_pixels(frame.from_pixels(truth.box or (), size), size).tolist()
    points = frame.to_pixels(frame.from_pixels(truth.points, size), size).tolist()
    return SpatialPrompt(box=Box(*box), points=tuple(Point(*point) for point in points))


def _hop(name: str, prompt: SpatialPrompt, truth: SpatialPrompt, unit: tuple[float, float]) -> Hop:
    pairs = [(prompt.box, truth.box), (prompt.points, truth.points)]
    drift = np.abs(
        np.concatenate([np.reshape(own, (-1, 2)) - np.reshape(true or (), (-1, 2)) for own, true in pairs if own])
    )
    return Hop(name=name, prompt=prompt, pixels=float(drift.max()), units=float((drift / unit).max()))


def _size(image: Image) -> Size:
    return image.shape[0], image.shape[1]


def _synthetic() -> Image:
    """Return a 517 x 763 gradient: sides that no patch grid divides, so that every frame has to convert."""
    rows, columns = np.mgrid[0:517, 0:763]
    grey = (40 + 120 * columns / 763 + 60 * rows / 517).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _truth(size: Size) -> SpatialPrompt:
    """Return a box and two points at fractions that no frame represents exactly."""
    height, width = size
    box = Box(0.137137 * width, 0.221317 * height, 0.618943 * width, 0.773719 * height)
    points = (Point(0.311947 * width, 0.433731 * height), Point(0.473329 * width, 0.615173 * height))
    return SpatialPrompt(box=box, points=points)
