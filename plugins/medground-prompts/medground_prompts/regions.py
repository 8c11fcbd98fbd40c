"""Interfaces whose answer is a list of regions: none, one or many."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from medground.errors import RecipeError
from medground.frames import Frame
from medground.geometry import Size
from medground.types import Fault, Region, Target
from medground_prompts import ideal
from medground_prompts.coordinates import Space, box_of, points_of
from medground_prompts.dialects import DIALECTS
from medground_prompts.interfaces import Interface, Native
from medground_prompts.schema import MOST_POINTS, MOST_REGIONS, ListSchema


@dataclass(frozen=True, kw_only=True)
class _Regions(Interface):
    label: bool = False
    confidence: bool = False

    native: ClassVar[Native | None] = "any"
    schema: ClassVar[ListSchema]
    """An instance has its own, which follows from its arguments."""

    def _ground(self, raw: list[Any] | None, space: Space) -> tuple[tuple[Region, ...], list[Fault], float]:
        """Return the usable regions, what is wrong in order, and the level of the list."""
        if raw is None:
            return (), [], 0.0
        if len(raw) > MOST_REGIONS:
            return (), [Fault.TOO_LONG], 0.4
        regions: list[Region] = []
        faults: list[Fault] = []
        complete, valid, count = True, 0, 0
        for entry in raw:
            fields = entry if isinstance(entry, dict) else {}
            if not self._complete(fields):
                complete = False
                faults.append(Fault.MISSING_KEYS)
            parts = self._parts(fields, space)
            faults += [part for part in parts.values() if isinstance(part, Fault)]
            usable = {name: part for name, part in parts.items() if not isinstance(part, Fault)}
            valid, count = valid + len(usable), count + len(parts)
            if "box" in usable or "points" in usable:
                label = fields.get("label")
                regions.append(Region(**usable, label=label if isinstance(label, str) else ""))
        return tuple(regions), faults, self.schema.level(complete=complete, valid=valid, parts=count)

    def _of_dialect(self, preferred: str) -> ListSchema:
        """Return what a list holds that a model writes in its own way: boxes or, where it has none, a point for each region."""
        if self.confidence:
            raise RecipeError(
                "no model states a confidence in its own way", hint="set confidence=false, or another style"
            )
        dialect = DIALECTS.get(self.dialect or "")
        boxed = preferred == "box" and (dialect is None or dialect.box is not None)
        return ListSchema(True, None) if boxed else ListSchema(False, (1, 1))

    def _complete(self, fields: Mapping[str, Any]) -> bool:
        named = not self.schema.label or isinstance(fields.get("label"), str)
        return named and all(key.name in fields for key in self.schema.keys)

    def _parts(self, fields: Mapping[str, Any], space: Space) -> dict[str, Any]:
        """Return what an entry says, by the field of a region, or what is wrong with it."""
        parts: dict[str, Any] = {}
        if self.schema.box and "bbox" in fields:
            parts["box"] = box_of(fields["bbox"], space)
        if self.schema.points is not None and "points" in fields:
            fewest, most = self.schema.points
            points = fields["points"]
            right = isinstance(points, list) and fewest <= len(points) <= most
            parts["points"] = points_of(points, space) if right else Fault.BAD_POINTS
        if "confidence" in fields:
            parts["confidence"] = _confidence(fields["confidence"])
        return parts

    def _write(self, target: Target, frame: Frame | None, size: Size | None) -> str:
        """Return the ideal list.

        Raises:
            ValueError: if there are more regions than an answer may list, or one lacks what is asked for.
        """
        if len(target.regions) > MOST_REGIONS:
            raise ValueError(f"an answer lists at most {MOST_REGIONS} regions, not {len(target.regions)}")
        text = self.schema.write([self._entry(region, frame, size) for region in target.regions], self.style)
        if text.count("[") + text.count("{") > self.schema.brackets:
            raise ValueError(f"an answer about {len(target.regions)} regions with so many key points is too long")
        return text

    def _entry(self, region: Region, frame: Frame | None, size: Size | None) -> dict[str, Any]:
        if self.schema.box and region.box is None:
            raise ValueError("an answer with boxes needs a box of every region")
        if self.schema.points is not None:
            fewest, most = self.schema.points
            if len(region.points) < fewest:
                raise ValueError(f"an answer needs {fewest} key points of every region, not {len(region.points)}")
            region = Region(
                box=region.box, points=region.points[:most], label=region.label, confidence=region.confidence
            )
        confidence = 1.0 if region.confidence is None else round(region.confidence, 2)
        return {**ideal.box_and_points(region, frame, size), "label": region.label, "confidence": confidence}


def _confidence(value: Any) -> float | Fault:
    right = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if right else Fault.BAD_CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class Regions(_Regions):
    """A list of regions, each a box, two key points or both; an empty list where nothing fits.

    With ``style: native`` regions have boxes where the dialect has them, and else a point each. Other arguments are those of
    `Interface`.

    Args:
        dialect: which native way: ``qwen``, ``gemma``, ``internvl``, ``paligemma``, ``florence``, ``molmo`` or ``molmo2``; the
            reasoner's own if None.
        box: ask for the box of each region.
        points: ask for two key points of each region.
        label: ask what each region is; a label that is not asked for is read all the same.
        confidence: ask how likely each region is what is meant, from 0 to 1; one that is not asked for is read too.
    """

    box: bool = True
    points: bool = True

    schema = ListSchema(box=True, points=(2, 2))
    provides = schema.provides

    def __post_init__(self) -> None:
        if not self.box and not self.points:
            raise RecipeError("regions asks for neither a box nor points", hint="set box=true or points=true")
        own = ListSchema(self.box, (2, 2) if self.points else None, self.label, self.confidence)
        self._take(own if self.style != "native" else self._of_dialect("box"))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class MultiPoint(_Regions):
    """A list of regions, each some key points; an empty list where nothing fits.

    Other arguments are those of `Interface`.

    Args:
        dialect: which native way: ``qwen``, ``molmo`` or ``molmo2``; the reasoner's own if None.
        k: the number of key points of each region, up to 16; None leaves it to the model.
        label: ask what each region is; a label that is not asked for is read all the same.
        confidence: ask how likely each region is what is meant, from 0 to 1; one that is not asked for is read too.
    """

    k: int | None = None

    native: ClassVar[Native | None] = "points"
    schema = ListSchema(box=False, points=(1, MOST_POINTS))
    provides = schema.provides

    def __post_init__(self) -> None:
        if self.k is not None and not 1 <= self.k <= MOST_POINTS:
            raise RecipeError(f"k of multi_point is not in 1 to {MOST_POINTS}: {self.k}", hint="set k=2, or no k")
        counts = (1, MOST_POINTS) if self.k is None else (self.k, self.k)
        if self.style == "native" and self.k not in (None, 1):
            raise RecipeError("models point once at a region in their own way", hint="set k=1, or no k")
        own = ListSchema(False, counts, self.label, self.confidence)
        self._take(own if self.style != "native" else self._of_dialect("points"))
        super().__post_init__()
