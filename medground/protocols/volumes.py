"""From prompts on a few slices to masks of a whole volume: the volume segmenter."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from medground.types import Mask, PromptKind, SpatialPrompt

if TYPE_CHECKING:
    from medground.images.volume import Volume
    from medground.progress import Count

SlicePrompts = Mapping[int, SpatialPrompt | Mask]
"""What points one target out, by the index of the key slice: a prompt in pixels of the slice's picture, or its mask there."""


@runtime_checkable
class VolumeSegmenter(Protocol):
    """A segmenter that follows targets from key slices through the other slices of a volume.

    A protocol of its own: what segments single images as well has `Segmenter.segment` beside it.

    >>> import medground
    >>> from medground.segmenters.propagation import Copy
    >>> isinstance(Copy(), medground.VolumeSegmenter)
    True
    """

    accepts: frozenset[PromptKind]
    """The prompt kinds it takes on key slices, beside masks."""

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
        """Return one mask per target, in order: bool, ``[i, j, k]`` in the voxels of the volume.

        The slices of `plane` are followed upwards from the first key slice of a target and downwards from it, each way
        without knowledge of the other and with knowledge of all its prompts. A target's mask depends on no other target.
        A slice is encoded once, for any number of targets and both ways, as far as the memory that the constructor of the
        segmenter bounds goes. Beside that, a few slices are in memory at once, and the masks returned.

        Args:
            volume: read slice by slice.
            prompts: of each target, at least one; the slices are counted in `plane`, from 0.
            plane: ``axial``, ``coronal`` or ``sagittal``.
            window: of the pictures, as `medground.images.volume.Volume.slice`.
            reach: mm that a target is followed beyond its key slices; None to the end of the volume.
            patience: a target ends, each way, after so many slices in a row without it beyond its key slices; None never.
            progress: takes the slices done and the slices there are at most, counted once each way.

        Raises:
            ViewError: for a plane, a slice or a window that is not there.
            UsageError: for a negative reach, or a patience below 1.
            SegmenterError: if a target has no prompt, a prompt is of another kind than `accepts`, a mask is not of the size
                of the slice, or the segmenter fails.
        """
