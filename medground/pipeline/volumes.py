"""From a question about a volume to masks of it: the slice, the answer on it, and its targets followed through the others.

volume -> slice -> completion -> grounding -> masks on the slice -> masks of the volume
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import SegmenterError, SegmenterMemoryError, UsageError
from medground.images.volume import Volume
from medground.measures import VolumeMeasures, measure_volume
from medground.pipeline.pipeline import Pipeline
from medground.pipeline.result import GroundingResult
from medground.pipeline.slices import SliceChoice, SliceTruth, choose_slice
from medground.progress import Count
from medground.recipe.schema import SliceRule, VolumeConfig
from medground.segmenters.propagation import volume_segmenter
from medground.types import Fault, Query, Region

Voxels = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VolumeResult:
    """The answer to a question about a volume. Both exchanges keep their completions: `choice` and `answer`."""

    volume: Volume
    question: str
    choice: SliceChoice
    """The slice that was asked about."""
    answer: GroundingResult | None
    """The answer on that slice; None where there is no slice."""
    masks: tuple[Voxels, ...]
    """Of the volume, ``[i, j, k]``, one per region of the answer; none where the answer could not be used."""
    propagation: str
    """What followed the targets."""
    fault: Fault | None = None
    """Why there is no mask; None when all went well, "nothing fits" included."""
    cause: str = ""

    @property
    def regions(self) -> tuple[Region, ...]:
        """What the answer points at on its slice; none where nothing fits."""
        return () if self.answer is None else self.answer.regions

    @property
    def mask(self) -> Voxels | None:
        """The union of the masks, ``[i, j, k]``; empty where nothing fits, None where there is a fault."""
        if self.fault is not None:
            return None
        union = np.zeros(self.volume.shape, bool)
        for mask in self.masks:
            union |= mask
        return union

    @property
    def names(self) -> list[str]:
        """What each region is called: its label, else its number."""
        return [region.label or f"region {number}" for number, region in enumerate(self.regions, 1)]

    def measures(self) -> list[VolumeMeasures | None]:
        """Return the measures of each mask, in mm; None of an empty one."""
        return [measure_volume(mask, self.volume.affine) for mask in self.masks]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values: the volume, both exchanges, and what each mask measures."""
        first = self.choice.completion
        return {
            "id": self.volume.id,
            "question": self.question,
            "volume": {
                "voxels": list(self.volume.shape), "spacing_mm": [round(step, 6) for step in self.volume.spacing],
                "axes": self.volume.codes, "modality": self.volume.modality, "notes": list(self.volume.notes),
            },
            "slice": {
                "plane": self.choice.plane, "slice": self.choice.index, "rule": self.choice.rule,
                "text": None if first is None else first.text, "fault": self.choice.fault,
            },
            "answer": None if self.answer is None else self.answer.to_dict(),
            "propagation": self.propagation,
            "regions": [
                {
                    "name": name, "voxels": int(mask.sum()), "measures": None if measures is None else measures.to_dict(),
                }
                for name, mask, measures in zip(self.names, self.masks, self.measures(), strict=False)
            ],
            "fault": self.fault,
            "cause": self.cause,
        }  # fmt: skip


def ground_volume(
    pipeline: Pipeline,
    volume: Volume,
    question: str,
    *,
    config: VolumeConfig | None = None,
    window: str | None = None,
    truth: Voxels | None = None,
    progress: Count | None = None,
) -> VolumeResult:
    """Answer one question about one volume.

    The masks of the answer's slice are what is followed through the volume, so on that slice they are the answer's.

    Args:
        pipeline: asks, reads and segments.
        volume: what is asked about.
        question: what is asked.
        config: the slice and how targets are followed; None takes the pipeline's recipe.
        window: as `Volume.slice`.
        truth: bool ``[i, j, k]``, for ``slice: largest``.
        progress: takes the slices done and the slices there are at most while targets are followed.

    Raises:
        UsageError: if no slice is named.
        RecipeError: if the segmenter cannot follow targets in the way that `config` names.
        ViewError: for a plane, a slice or a window that is not there.
        InputError: if the file is damaged or was changed.
    """
    config = config or pipeline.as_recipe.config.volume
    volume_segmenter(config.propagation, pipeline.segmenter)  # refuses what cannot follow before anything is asked
    rule = slice_rule(config)
    choice = choose_slice(
        pipeline, volume, question, rule, plane=config.plane, window=window, tiles=config.tiles, truth=truth
    )
    answer: GroundingResult | None = None
    fault, cause = choice.fault, choice.cause
    if choice.index is not None:
        loaded = volume.slice(choice.plane, choice.index, window=window)
        answer = pipeline(Query(image=loaded.pixels, question=question, id=loaded.id, spacing=loaded.spacing))
        fault, cause = answer.fault, answer.cause
    result = VolumeResult(
        volume=volume, question=question, choice=choice, answer=answer, masks=(), fault=fault, cause=cause,
        propagation=config.propagation,
    )  # fmt: skip
    return follow_answer(pipeline, result, config, window=window, progress=progress)


def follow_answer(
    pipeline: Pipeline,
    result: VolumeResult,
    config: VolumeConfig,
    *,
    window: str | None = None,
    progress: Count | None = None,
) -> VolumeResult:
    """Return a result whose targets are followed as `config` says, from the masks of the same answer on its slice.

    Arguments and errors as of `ground_volume`. Without an answer that can be followed the masks stay as they are.
    """
    result = replace(result, propagation=config.propagation)
    answer, choice, volume = result.answer, result.choice, result.volume
    if answer is None or answer.fault is not None or choice.index is None or not answer.regions:
        return result
    keys = [region.mask for region in answer.regions]
    masks = [np.zeros(volume.shape, bool) for _ in keys]
    present = [(number, mask) for number, mask in enumerate(keys) if mask is not None and mask.data.any()]
    try:
        followed = volume_segmenter(config.propagation, pipeline.segmenter).propagate(
            volume, [{choice.index: mask} for _, mask in present], plane=choice.plane, window=window, reach=config.reach,
            patience=config.patience, progress=progress,
        )  # fmt: skip
    except SegmenterMemoryError as error:
        return replace(result, masks=(), fault=Fault.OUT_OF_MEMORY, cause=f"out of memory: {error}")
    except SegmenterError as error:
        return replace(result, masks=(), fault=Fault.SEGMENTER, cause=str(error))
    for (number, _), mask in zip(present, followed, strict=True):
        masks[number] = mask
    return replace(result, masks=tuple(masks), fault=None, cause="")


def slice_rule(config: VolumeConfig) -> SliceRule | int:
    """Return what names the slice: its number, or a rule.

    Raises:
        UsageError: if nothing does, as a slice is never chosen silently; or if both do.
    """
    if config.slice is not None and config.index is not None:
        raise UsageError(
            f"the slice is named twice: volume.slice is {config.slice}, and volume.index {config.index}",
            hint="set one of them to null",
        )
    rule = config.slice if config.index is None else config.index
    if rule is None:
        raise UsageError("no slice is named", hint=f"--slice N, or --slice {', '.join(SliceRule)}")
    return rule


def slice_distance(volume: Volume, choice: SliceChoice, truth: Voxels) -> Mapping[str, float] | None:
    """Return how far the chosen slice lies from the target, mm, as `SliceTruth.distances`."""
    return SliceTruth.of(volume, choice.plane, truth).distances(choice.index)
