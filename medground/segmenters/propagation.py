"""Volume segmenters without weights of their own: the floors `Copy` and `Interpolate`, and `PerSlice` on any segmenter."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from medground.errors import RecipeError, SegmenterError, did_you_mean
from medground.geometry import mask_box
from medground.protocols.grounding import Segmenter
from medground.protocols.volumes import SlicePrompts, VolumeSegmenter
from medground.segmenters.slices import Pixels, Slices, Step, StopRule, check_prompts, follow
from medground.types import Image, Mask, PromptKind, SpatialPrompt

if TYPE_CHECKING:
    from medground.images.volume import Volume
    from medground.progress import Count


class KeyMasks(ABC):
    """The base of floors that turn the masks of key slices into the mask of a volume.

    Args:
        segmenter: makes masks of the prompts on key slices; None takes masks alone.
    """

    def __init__(self, segmenter: Segmenter | None = None) -> None:
        self.segmenter = segmenter
        self.accepts: frozenset[PromptKind] = frozenset() if segmenter is None else segmenter.accepts

    def propagate(
        self,
        volume: "Volume",
        prompts: Sequence[SlicePrompts],
        *,
        plane: str,
        window: str | None = None,
        reach: float | None = None,
        patience: int | None = 3,
        progress: "Count | None" = None,
    ) -> list[NDArray[np.bool_]]:
        """As `medground.protocols.VolumeSegmenter.propagate`; `patience` has no effect, `progress` counts targets' slices."""
        slices = Slices(volume, plane, window)
        check_prompts(prompts, slices, self.accepts, type(self).__name__)
        within = StopRule(reach=reach, patience=patience).slices(slices)
        volumes: list[Pixels] = [np.zeros(volume.shape, bool) for _ in prompts]
        masks = self._masks(slices, prompts)
        steps = [
            (number, index)
            for number, mine in enumerate(masks)
            for index in range(max(0, min(mine) - within), min(slices.count, max(mine) + 1 + within))
        ]
        for done, (number, index) in enumerate(steps, 1):
            slices.put(volumes[number], index, self.between(masks[number], index, slices.spacing))
            if progress is not None:
                progress(done, len(steps))
        return volumes

    @abstractmethod
    def between(self, masks: Mapping[int, Pixels], index: int, spacing: tuple[float, float]) -> Pixels:
        """Return the mask of a slice.

        Args:
            masks: of the key slices, by index.
            index: of the slice.
            spacing: (row, column) of the slices, mm.
        """

    def _masks(self, slices: Slices, prompts: Sequence[SlicePrompts]) -> list[dict[int, Pixels]]:
        """Return the masks of the key slices of each target; every key slice is encoded once."""
        masks: list[dict[int, Pixels]] = [{} for _ in prompts]
        for index in sorted({index for mine in prompts for index in mine}):
            here = {number: mine[index] for number, mine in enumerate(prompts) if index in mine}
            for number, mask in segment_slice(self.segmenter, slices.image(index), here).items():
                masks[number][index] = mask
        return masks

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self.segmenter is None else repr(self.segmenter)})"


class Copy(KeyMasks):
    """Put the mask of the nearest key slice on every slice within reach; of two equally near, the lower one's."""

    def between(self, masks: Mapping[int, Pixels], index: int, spacing: tuple[float, float]) -> Pixels:
        """As `KeyMasks.between`."""
        return masks[min(masks, key=lambda key: (abs(key - index), key))]


class Interpolate(KeyMasks):
    """Fill the slices between two key slices by their signed distances (Raya and Udupa 1990); no slice beyond them.

    A pixel's distance to the border of the mask, in mm, is positive inside; it is interpolated linearly between the key
    slices, and the mask is where it is positive. Between a mask and an empty one there is nothing.
    """

    def between(self, masks: Mapping[int, Pixels], index: int, spacing: tuple[float, float]) -> Pixels:
        """As `KeyMasks.between`."""
        if index in masks:
            return masks[index]
        below = max((key for key in masks if key < index), default=None)
        above = min((key for key in masks if key > index), default=None)
        if below is None or above is None or not (masks[below].any() and masks[above].any()):
            return np.zeros_like(next(iter(masks.values())))
        share = (index - below) / (above - below)
        low, high = (signed_distance(masks[key], spacing) for key in (below, above))
        return np.asarray((1 - share) * low + share * high > 0)


class PerSlice:
    """Segment every slice by itself: prompted with what is given for it, else with the box of the mask on the slice before.

    Where that mask is empty, the box before it is tried again until the target ends.

    Args:
        segmenter: of single images; takes boxes.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        if "box" not in segmenter.accepts:
            raise RecipeError(f"{segmenter!r} takes no boxes, which slice after slice is prompted with")
        self.segmenter = segmenter
        self.accepts: frozenset[PromptKind] = segmenter.accepts

    def propagate(
        self,
        volume: "Volume",
        prompts: Sequence[SlicePrompts],
        *,
        plane: str,
        window: str | None = None,
        reach: float | None = None,
        patience: int | None = 3,
        progress: "Count | None" = None,
    ) -> list[NDArray[np.bool_]]:
        """As `medground.protocols.VolumeSegmenter.propagate`.

        Slices between the first key slices of two targets come twice, once each way.
        """
        slices = Slices(volume, plane, window)
        check_prompts(prompts, slices, self.accepts, type(self).__name__)
        stop = StopRule(reach=reach, patience=patience)
        return follow(slices, prompts, stop, lambda down: self._step(prompts), progress)

    def _step(self, prompts: Sequence[SlicePrompts]) -> Step:
        boxes: dict[int, SpatialPrompt] = {}

        def step(index: int, image: Image, before: Mapping[int, Pixels | None]) -> dict[int, Pixels]:
            here: dict[int, SpatialPrompt | Mask] = {}
            for number, mask in before.items():
                if mask is not None and mask.any():
                    boxes[number] = SpatialPrompt(box=mask_box(mask))
                if index in prompts[number]:
                    here[number] = prompts[number][index]
                elif number in boxes:
                    here[number] = boxes[number]
            nothing = {number: np.zeros(image.shape[:2], bool) for number in before}
            return nothing | segment_slice(self.segmenter, image, here)

        return step

    def __repr__(self) -> str:
        return f"PerSlice({self.segmenter!r})"


def segment_slice(
    segmenter: Segmenter | None, image: Image, prompts: Mapping[int, SpatialPrompt | Mask]
) -> dict[int, Pixels]:
    """Return the masks of one slice by target; a mask that is given is its own answer, and needs no segmenter."""
    masks = {number: prompt.data for number, prompt in prompts.items() if isinstance(prompt, Mask)}
    spatial = {number: prompt for number, prompt in prompts.items() if isinstance(prompt, SpatialPrompt)}
    if spatial and segmenter is None:
        raise SegmenterError("prompts on key slices need a segmenter", hint="give masks")
    answers = segmenter.segment(image, list(spatial.values())) if spatial and segmenter is not None else []
    return masks | {number: answer.data for number, answer in zip(spatial, answers, strict=True)}


def signed_distance(mask: Pixels, spacing: tuple[float, float]) -> NDArray[np.float64]:
    """Return the distance of every pixel to the nearest one on the other side of a mask's border, in mm, positive inside.

    Args:
        mask: H×W, with a pixel; of a full one every distance is the diagonal.
        spacing: (row, column), mm.

    >>> signed_distance(np.array([[False, True, True, False]]), (1.0, 2.0))
    array([[-2.,  2.,  2., -2.]])
    """
    if mask.all():
        return np.full(mask.shape, float(np.hypot(*np.multiply(mask.shape, spacing))))
    return np.asarray(distance_transform_edt(mask, spacing) - distance_transform_edt(~mask, spacing))


WAYS: Mapping[str, Callable[[Segmenter], VolumeSegmenter]] = {
    "copy": Copy, "interpolate": Interpolate, "per_slice": PerSlice,
}  # fmt: skip
"""How any segmenter of single images becomes one of volumes, by the word for it."""


def volume_segmenter(way: str, segmenter: Segmenter) -> VolumeSegmenter:
    """Return what follows targets through a volume.

    Args:
        way: ``model`` for the segmenter's own `propagate`, or one of `WAYS`: ``copy``, ``interpolate``, ``per_slice``.
        segmenter: of single images.

    Raises:
        RecipeError: for another word, or a segmenter that cannot follow.
    """
    if way == "model":
        if not isinstance(segmenter, VolumeSegmenter):
            hint = f"use one of {', '.join(WAYS)}, or the segmenter medsam2, sam2, sam3_tracker or edgetam"
            raise RecipeError(f"{segmenter!r} segments single images only", hint=hint)
        return segmenter
    if way not in WAYS:
        raise RecipeError(f"there is no way {way!r} through a volume", hint=did_you_mean(way, ["model", *WAYS]))
    return WAYS[way](segmenter)
