"""Masks as a DICOM RT Structure Set: one region of interest per segment, its contours along the faces of voxels."""

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.images import dicom
from medground.images.label_maps import PALETTE
from medground.images.writing.canvas import Canvas
from medground.images.writing.labelled import Algorithm, LabelledMask
from medground.images.writing.outlines import Polygon, outlines
from medground.images.writing.sources import Sources, file_bytes, item, new_dataset, references

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""The retired class by which a structure set names its study."""


def check_rtstruct(canvas: Canvas, sources: Sources) -> None:
    """Refuse sources whose pixels have no millimetres in a frame of reference.

    Raises:
        InputError: if the source has no frame of reference, or does not say where its pixels lie.
    """
    if not canvas.placed or not sources.first.get("FrameOfReferenceUID"):
        raise InputError(
            f"{canvas.name} does not say where its pixels lie in the patient, which contours in mm need",
            hint="write .seg.nrrd or .nii.gz" if canvas.placed else "write .sc.dcm, a picture with the outline",
        )


def rtstruct_bytes(
    canvas: Canvas,
    sources: Sources,
    segments: Sequence[LabelledMask],
    masks: Sequence[NDArray[np.bool_]],
    algorithm: Algorithm,
) -> bytes:
    """Return an RT Structure Set whose contours, filled by the even-odd rule at voxel centres, are exactly the masks.

    Args:
        canvas: what the masks lie on.
        sources: the instances that contours refer to.
        segments: one per mask; labels become names of regions.
        masks: ``[i, j, k]`` bool.
        algorithm: what drew them.
    """
    frame_of_reference = str(sources.first.FrameOfReferenceUID)
    with dicom.sealed(canvas.name):
        dataset = new_dataset(sources.first, _SOP_CLASS, "RTSTRUCT", "medground contours", 101)
        now = datetime.datetime.now()
        dataset.StructureSetLabel, dataset.StructureSetName = "medground", f"{algorithm.name} {algorithm.version}"[:64]
        dataset.StructureSetDate, dataset.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
        dataset.OperatorsName, dataset.ApprovalStatus = "", "UNAPPROVED"
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = frame_of_reference, ""
        dataset.ReferencedFrameOfReferenceSequence = [
            item(FrameOfReferenceUID=frame_of_reference, RTReferencedStudySequence=[_study(sources)])
        ]
        dataset.StructureSetROISequence = [
            item(
                ROINumber=number, ReferencedFrameOfReferenceUID=frame_of_reference, ROIName=segment.label,
                ROIGenerationAlgorithm="AUTOMATIC", ROIGenerationDescription=f"{algorithm.name} {algorithm.version}"[:64],
            )
            for number, segment in enumerate(segments, 1)
        ]  # fmt: skip
        dataset.ROIContourSequence = [
            item(
                ReferencedROINumber=number, ROIDisplayColor=list(PALETTE[(number - 1) % len(PALETTE)]),
                ContourSequence=_contours(canvas, sources, mask),
            )
            for number, mask in enumerate(masks, 1)
        ]  # fmt: skip
        dataset.RTROIObservationsSequence = [
            item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
            for number in range(1, len(masks) + 1)
        ]
        return file_bytes(dataset)


def _study(sources: Sources) -> "Dataset":
    return item(
        ReferencedSOPClassUID=_STUDY_CLASS, ReferencedSOPInstanceUID=sources.first.StudyInstanceUID,
        RTReferencedSeriesSequence=[
            item(
                SeriesInstanceUID=sources.first.SeriesInstanceUID, ContourImageSequence=references(sources.datasets)
            )
        ],
    )  # fmt: skip


def _contours(canvas: Canvas, sources: Sources, mask: NDArray[np.bool_]) -> list["Dataset"]:
    contours = []
    for k in np.flatnonzero(mask.any(axis=(0, 1))).tolist():
        file, frame = sources.frames[k]
        [image] = references([sources.datasets[file]])
        if canvas.instances[k].frame is not None:
            image.ReferencedFrameNumber = frame + 1
        contours += [
            item(
                ContourImageSequence=[image], ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=len(polygon),
                ContourData=_coordinates(canvas, polygon, k),
            )
            for polygon in outlines(mask[:, :, k].T)
        ]  # fmt: skip
    return contours


def _coordinates(canvas: Canvas, polygon: Polygon, k: int) -> list[str]:
    """LPS mm of corners, as decimal strings of at most 16 characters: to 1e-5 mm up to 10 m."""
    corners = np.column_stack([polygon[:, ::-1], np.full(len(polygon), k), np.ones(len(polygon))])
    return [f"{round(float(value), 6):.10g}" for value in (corners @ canvas.affine[:3].T).ravel()]
