"""DICOM segmentations: which of their frames speaks of which frame of an image, and of which segment (PS3.3 C.8.20.2).

Frames are matched by what they refer to, never by their order: empty ones may be left out, and each holds one segment.
"""

import logging
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.images.dicom_pixels import functional_group, number_of_frames, stored_values

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes: segmentation, and label map segmentation."""
_OHIF = ("OHIF", "dcmjs")
"""How the names begin that OHIF, and the library it writes with, give themselves in the head of a file."""
log = logging.getLogger(__name__)
Segment = int | str
"""The number or the label of a segment."""


def is_segmentation(dataset: "Dataset") -> bool:
    """Return True if a data set is a segmentation."""
    return str(dataset.get("SOPClassUID", "")) in _CLASSES


def segment_mask(
    dataset: "Dataset", name: str, image: "Dataset", frame: int, segment: Segment | None
) -> NDArray[np.bool_]:
    """Return H×W bool: where a segmentation puts a segment on one frame of an image; empty where no frame of it does.

    A file that OHIF wrote is read with a warning.

    Args:
        dataset: the segmentation.
        name: names it in messages.
        image: the image that it segments.
        frame: of the image, from 0.
        segment: which segment; needed where there are several.

    Raises:
        InputError: if the segmentation does not refer to the image, lies otherwise in space, holds fractions, or does not
            have the segment.
    """
    if str(dataset.file_meta.get("ImplementationVersionName", "")).startswith(_OHIF):
        _warn_of_ohif(name)
    number = _number(dataset, segment, name)
    uid, frames = str(image.get("SOPInstanceUID", "")), number_of_frames(image)
    if not uid or uid not in _referenced(dataset):
        raise InputError(
            f"{name} is a segmentation that does not refer to the image", hint="give the DICOM image it was drawn on"
        )
    if (dataset.Rows, dataset.Columns) != (image.Rows, image.Columns):
        raise InputError(
            f"{name} is a segmentation of another size than the image", hint="give the image it was drawn on"
        )
    labels = dataset.get("SegmentationType") == "LABELMAP"
    own = [
        index
        for index in range(number_of_frames(dataset))
        if (labels or _segment_of(dataset, index) == number) and _speaks_of(dataset, index, uid, frame, frames, name)
    ]
    if len(own) > 1:
        raise InputError(
            f"{name} holds {len(own)} frames of one segment and slice", hint="export it again, one for each"
        )
    if not own:
        return np.zeros((image.Rows, image.Columns), np.bool_)
    check_position(dataset, own[0], image, frame, name)
    stored = stored_values(dataset, own[0], name)
    if not labels and not np.isin(stored, (0, dataset.get("MaximumFractionalValue") or 1)).all():
        raise InputError(f"{name} is a segmentation of fractions", hint="export it as a binary one")
    foreground: NDArray[np.bool_] = stored == number if labels else stored != 0
    return foreground


@cache
def _warn_of_ohif(name: str) -> None:
    """Warn once of a file that can be mirrored without anything in it that tells: github.com/OHIF/Viewers/issues/5183."""
    log.warning(
        "%s is a segmentation that OHIF wrote, which can be mirrored along the slices: compare it with the image", name
    )


def _number(dataset: "Dataset", segment: Segment | None, name: str) -> int:
    numbers = {int(item.SegmentNumber): str(item.get("SegmentLabel", "")) for item in dataset.SegmentSequence}
    meant = [number for number, label in numbers.items() if segment in (None, number, label)]
    if len(meant) == 1:
        return meant[0]
    choice = ", ".join(map(str, sorted(numbers)))
    if segment is None:
        raise InputError(f"{name} holds {len(numbers)} segments", hint=f'name one: "segment": one of {choice}')
    raise InputError(
        f"{name} has {len(meant) or 'no'} segments called {segment!r}", hint=f"name one by its number: {choice}"
    )


def _segment_of(dataset: "Dataset", index: int) -> int:
    group = functional_group(dataset, index, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
    return int(group.ReferencedSegmentNumber)


def _sources(dataset: "Dataset", index: int) -> Iterator["Dataset"]:
    """What one frame was derived from."""
    for groups, number in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups) or []
        derivations = items[number].get("DerivationImageSequence") or [] if number < len(items) else []
        for derivation in derivations:
            yield from derivation.get("SourceImageSequence") or []
        if derivations:
            return


def _referenced(dataset: "Dataset") -> set[str]:
    """The instances that the segmentation was made from, whether or not they hold anything."""
    series = [item.get("ReferencedInstanceSequence") or [] for item in dataset.get("ReferencedSeriesSequence") or []]
    frames = [_sources(dataset, index) for index in range(number_of_frames(dataset))]
    items = [item for group in [*series, dataset.get("SourceImageSequence") or [], *frames] for item in group]
    return {str(item.get("ReferencedSOPInstanceUID", "")) for item in items}


def _speaks_of(dataset: "Dataset", index: int, uid: str, frame: int, frames: int, name: str) -> bool:
    sources = list(_sources(dataset, index))
    if not sources:
        raise InputError(f"{name} does not say which slices its frames segment", hint="export it with references")
    for source in sources:
        if str(source.get("ReferencedSOPInstanceUID", "")) != uid:
            continue
        named = source.get("ReferencedFrameNumber")
        if frames > 1 and named is None:
            raise InputError(f"{name} does not say which frames its frames segment", hint="export it with references")
        if frames == 1 or frame + 1 in np.atleast_1d(named):
            return True
    return False


def check_position(dataset: "Dataset", index: int, image: "Dataset", frame: int, name: str) -> None:
    """Refuse a mask that is turned, mirrored, moved or scaled against its image, as far as both say, whatever it refers to.

    Raises:
        InputError: if it is, or if both are films of different lengths, not counted a segmentation.
    """
    frames = number_of_frames(dataset), number_of_frames(image)
    if not is_segmentation(dataset) and min(frames) > 1 and frames[0] != frames[1]:
        raise InputError(f"{name} holds {frames[0]} frames and its image {frames[1]}", hint="export it for every frame")
    for sequence, keyword in (
        ("PlaneOrientationSequence", "ImageOrientationPatient"),
        ("PlanePositionSequence", "ImagePositionPatient"),
        ("PixelMeasuresSequence", "PixelSpacing"),
    ):
        ours, theirs = (_numbers(*of, sequence, keyword) for of in ((dataset, index), (image, frame)))
        if ours is not None and theirs is not None and not np.allclose(ours, theirs, rtol=1e-4, atol=1e-2):
            raise InputError(
                f"{name} lies otherwise in space than the image", hint="export it on the image's own slices"
            )


def _numbers(dataset: "Dataset", index: int, sequence: str, keyword: str) -> Any:
    value = functional_group(dataset, index, sequence, keyword).get(keyword)
    return None if value is None else [float(number) for number in value]
