"""Masks as a DICOM Segmentation, written by highdicom: one binary segment per region. Needs ``medground[seg]``."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground import __version__
from medground.errors import InputError, MedgroundError, PluginError
from medground.images import dicom
from medground.images.writing.canvas import Canvas
from medground.images.writing.labelled import Algorithm, Code, LabelledMask
from medground.images.writing.sources import Sources, file_bytes


def import_highdicom() -> ModuleType:
    """Import highdicom.

    Raises:
        PluginError: where it is not installed.
    """
    try:
        highdicom = importlib.import_module("highdicom")
    except ImportError as error:
        raise PluginError("writing a DICOM SEG needs highdicom", hint="pip install 'medground[seg]'") from error
    return highdicom


def check_seg(canvas: Canvas, sources: Sources) -> None:
    """Refuse sources that a Segmentation cannot refer to.

    Raises:
        InputError: for films, several files of several frames, and a place in the patient without a frame of reference.
        PluginError: without highdicom.
    """
    import_highdicom()
    films = any(int(one.get("NumberOfFrames") or 1) > 1 for one in sources.datasets)
    if films and not canvas.placed:
        raise InputError(
            f"{canvas.name} is a film whose frames have no place in the patient, of which no Segmentation is written",
            hint="write .sc.dcm, a picture of the frame with the outline drawn into it",
        )
    if films and len(sources.datasets) > 1:
        raise InputError(
            f"{canvas.name} is made of several multi-frame files, and a Segmentation refers to one of them",
            hint="write .nii.gz, .seg.nrrd or .rtstruct.dcm",
        )
    if canvas.placed and not sources.first.get("FrameOfReferenceUID"):
        raise InputError(
            f"{canvas.name} lacks a frame of reference, which a Segmentation must name",
            hint="write .nii.gz or .seg.nrrd",
        )


def seg_bytes(
    canvas: Canvas,
    sources: Sources,
    segments: Sequence[LabelledMask],
    masks: Sequence[NDArray[np.bool_]],
    algorithm: Algorithm,
) -> bytes:
    """Return a Segmentation on the source's own frames; frames without a voxel of a segment are left out.

    Args:
        canvas: what the masks lie on.
        sources: the instances that its frames refer to.
        segments: one per mask; labels and codes are written.
        masks: ``[i, j, k]`` bool; they may overlap.
        algorithm: what drew them.

    Raises:
        InputError: if the source lacks what a Segmentation must state.
    """
    highdicom = import_highdicom()
    with _foreign(canvas.name):
        uid = importlib.import_module("pydicom.uid")
        dataset = highdicom.seg.Segmentation(
            source_images=list(sources.datasets), pixel_array=_frames(sources, masks),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _description(highdicom, number, segment, algorithm) for number, segment in enumerate(segments, 1)
            ],
            series_instance_uid=uid.generate_uid(), series_number=100, sop_instance_uid=uid.generate_uid(),
            instance_number=1, manufacturer="medground", manufacturer_model_name="medground",
            software_versions=__version__, device_serial_number="0", series_description="medground segmentation",
            content_label="SEGMENTATION", content_creator_name="medground^",
            transfer_syntax_uid=uid.ExplicitVRLittleEndian,
        )  # fmt: skip
        if not dataset.get("FrameOfReferenceUID"):
            dataset.PatientOrientation = ""  # type 2C: stated where no plane says it
        return file_bytes(dataset)


def _frames(sources: Sources, masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """The masks (frame, row, column, segment) in the order of the sources' frames."""
    first = sources.first
    count = int(first.get("NumberOfFrames") or 1) if len(sources.datasets) == 1 else len(sources.datasets)
    frames = np.zeros((count, int(first.Rows), int(first.Columns), len(masks)), np.uint8)
    for k, (file, frame) in enumerate(sources.frames):
        for number, mask in enumerate(masks):
            frames[file + frame, :, :, number] = mask[:, :, k].T
    return frames


def _description(highdicom: ModuleType, number: int, segment: LabelledMask, algorithm: Algorithm) -> Any:
    def concept(code: Code) -> Any:
        return highdicom.sr.CodedConcept(code.value, "SCT", code.meaning)

    return highdicom.seg.SegmentDescription(
        segment_number=number, segment_label=segment.label, segmented_property_category=concept(segment.category),
        segmented_property_type=concept(segment.type), algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm.name, version=algorithm.version,
            family=highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
        ),
    )  # fmt: skip


@contextmanager
def _foreign(name: str) -> Iterator[None]:
    """Replace highdicom's errors, whose words may quote the source, by one."""
    with dicom.sealed(name):
        try:
            yield
        except MedgroundError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            raise InputError(
                f"{name} lacks what a DICOM Segmentation must copy from its source", hint="write .nii.gz or .seg.nrrd"
            ) from None
