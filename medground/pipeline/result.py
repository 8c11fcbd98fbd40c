"""What a pipeline answers."""

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image as Pillow

from medground.images.overlay import draw
from medground.images.rle import encode_rle
from medground.types import Completion, Fault, Grounding, Mask, Query, Region


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class GroundingResult:
    """The answer to one query. In a notebook it shows its overlay."""

    query: Query
    completion: Completion
    grounding: Grounding
    """With one mask per region; none where nothing could be prompted or the segmenter failed."""
    fault: Fault | None
    """Why there is no mask, or what was wrong with the answer; None when all went well."""
    cause: str = ""
    """One sentence about a fault that is not the model's."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """What the answer points at, in pixels of the original image, each region with its mask."""
        return self.grounding.regions

    @property
    def mask(self) -> Mask | None:
        """The union of the regions' masks; None unless every region has one."""
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
        """Return the image with the regions and the mask drawn on it."""
        region = self.grounding.region
        return draw(
            self.query.image,
            box=region.box if region else None,
            points=region.points if region else (),
            mask=self.mask.data if self.mask else None,
        )

    def to_dict(self, *, run_lengths: bool = False) -> dict[str, Any]:
        """Return JSON-ready values; coordinates in pixels of the original image, the mask by its figures.

        Args:
            run_lengths: add the mask itself as ``mask.rle``, COCO's compressed run lengths of the image as it is shown;
                `medground.images.rle.decode_rle` gives it back.
        """
        region, frame, mask = self.grounding.region, self.completion.frame, self.mask
        figures = mask and {"area": int(mask.data.sum()), "score": float(mask.score)}
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
            "mask": {**figures, "rle": encode_rle(mask.data)} if run_lengths and mask and figures else figures,
            "fault": self.fault,
            "cause": self.cause,
            "usage": dict(self.completion.usage),
        }

    def __repr__(self) -> str:
        count = len(self.regions)
        mask = "no mask" if self.mask is None else f"mask of {int(self.mask.data.sum())} px"
        return f"GroundingResult({count} region{'' if count == 1 else 's'}, {mask}, {self.fault or 'no fault'})"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.overlay().save(buffer, "PNG")
        return buffer.getvalue()
