"""What a pipeline answers."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as Pillow

from medground.geometry import mask_box
from medground.images.overlay import draw_grounding
from medground.images.rle import encode_rle
from medground.measures import measure_mask
from medground.types import Completion, Fault, Grounding, Mask, Query, Region, SpatialPrompt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class GroundingResult:
    """The answer to one query. In a notebook it shows its overlay."""

    query: Query
    completion: Completion
    grounding: Grounding
    """With one mask per region; none where nothing could be prompted or the segmenter failed."""
    fault: Fault | None
    """Why there is no mask, or what was wrong with the answer; None when all went well, "nothing fits" included."""
    cause: str = ""
    """One sentence about a fault that is not the model's, or of a region that could not be prompted."""
    prompts: tuple[SpatialPrompt | None, ...] = ()
    """What the segmenter was given for each region; None where nothing could be."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """What the answer points at, in pixels of the original image, each region with its mask; none where nothing fits."""
        return self.grounding.regions

    @property
    def mask(self) -> Mask | None:
        """The union of the regions' masks, empty where the answer is that nothing fits; None unless every region has one."""
        if self.fault is None and self.grounding.abstains:
            return Mask(data=np.zeros(self.query.size, bool))
        return self.grounding.mask

    @property
    def text(self) -> str:
        """All that the reasoner wrote."""
        return self.completion.text

    @property
    def reasoning(self) -> str | None:
        """The reasoning in it; None where there is no such block."""
        return self.grounding.think

    def overlay(self) -> Pillow.Image:
        """Return the image with the regions and their masks drawn on it, and what they measure where the spacing is known."""
        texts = [prompt.text if prompt else "" for prompt in self.prompts]
        return draw_grounding(self.query.image, self.grounding, texts, self._measures())

    def to_dict(self, *, run_lengths: bool = False) -> dict[str, Any]:
        """Return JSON-ready values; coordinates in pixels of the original image, masks by their figures.

        ``regions`` holds every region, with what prompted the segmenter for it; ``box`` and ``points`` are those of an
        answer with exactly one. A mask that is ``absent`` says that what was asked for is not in the image.

        Every mask has its ``area`` in pixels and ``measures`` (`medground.measures.SliceMeasures.to_dict`): in mm where the
        query has a spacing, else in pixels, as their names say; null for an empty mask.

        Args:
            run_lengths: add each mask itself as ``mask.rle``, COCO's compressed run lengths of the image as it is shown;
                `medground.images.rle.decode_rle` gives it back.
        """
        region, frame = self.grounding.region, self.completion.frame
        prompts = self.prompts or (None,) * len(self.regions)
        return {
            "id": self.query.id,
            "question": self.query.question,
            "text": self.text,
            "finish_reason": self.completion.finish_reason,
            "think": self.reasoning,
            "box": list(region.box) if region and region.box else None,
            "points": [list(point) for point in region.points] if region else [],
            "frame": frame and frame.to_dict(),
            "size": list(self.query.size),
            "regions": [
                self._region(one, prompt, run_lengths=run_lengths)
                for one, prompt in zip(self.regions, prompts, strict=True)
            ],
            "mask": self._figures(self.mask, run_lengths=run_lengths),
            "fault": self.fault,
            "cause": self.cause,
            "usage": dict(self.completion.usage),
        }

    def _measures(self) -> str | None:
        """The measures of every region's mask in words; None where the spacing is not known, or nothing can be measured."""
        masks = [(number, region.mask) for number, region in enumerate(self.regions, 1) if region.mask is not None]
        if self.query.spacing is None:
            return None
        lines = [(number, measure_mask(mask.data, self.query.spacing)) for number, mask in masks]
        several = len(self.regions) > 1
        return (
            "; ".join(f"{number}: {one}" if several else str(one) for number, one in lines if one is not None) or None
        )

    def _region(self, region: Region, prompt: SpatialPrompt | None, *, run_lengths: bool) -> dict[str, Any]:
        return {
            "prompt_kinds": sorted(prompt.kinds) if prompt else [],
            "text": prompt.text if prompt else "",
            "box": list(region.box) if region.box else None,
            "points": [list(point) for point in region.points],
            "label": region.label,
            "confidence": region.confidence,
            "mask": self._figures(region.mask, run_lengths=run_lengths),
        }

    def _figures(self, mask: Mask | None, *, run_lengths: bool) -> dict[str, Any] | None:
        if mask is None:
            return None
        return {
            **self._plain_figures(mask, run_lengths=run_lengths),
            "presence": mask.presence if mask.presence is None else float(mask.presence),
            "absent": mask.absent,
            "instances": [
                {
                    "box": list(mask_box(one.data)) if one.data.any() else None,
                    **self._plain_figures(one, run_lengths=run_lengths),
                }
                for one in mask.instances
            ],
        }

    def _plain_figures(self, mask: Mask, *, run_lengths: bool) -> dict[str, Any]:
        measures = measure_mask(mask.data, self.query.spacing)
        figures = {
            "area": int(mask.data.sum()),
            "score": float(mask.score),
            "measures": None if measures is None else measures.to_dict(),
        }
        return {**figures, "rle": encode_rle(mask.data)} if run_lengths else figures

    def __repr__(self) -> str:
        count = len(self.regions)
        mask = "no mask" if self.mask is None else f"mask of {int(self.mask.data.sum())} px"
        return f"GroundingResult({count} region{'' if count == 1 else 's'}, {mask}, {self.fault or 'no fault'})"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.overlay().save(buffer, "PNG")
        return buffer.getvalue()
