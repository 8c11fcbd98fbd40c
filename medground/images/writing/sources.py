"""What a DICOM file refers to: the source instances, without their pixels, and the patient and study of what is written.

Of a source only the elements of `_TAGS` are read, so that nothing else of it can get into a written file.
"""

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from medground import __version__
from medground.errors import InputError
from medground.images import dicom, dicom_pixels
from medground.images.paths import has_magic
from medground.images.volume import Instance
from medground.images.writing.canvas import PLACELESS, Canvas

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""The elements of patient and study that every DICOM file must have; all but the UID may be empty."""
_TAGS = [
    *STUDY, "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "Rows", "Columns", "NumberOfFrames", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient",
    "SliceThickness", "SpacingBetweenSlices", "ImageOrientationSlide", "TotalPixelMatrixColumns", "BurnedInAnnotation",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_PARSED = {"PatientBirthDate": "DA", "StudyDate": "DA", "StudyTime": "TM"}
_SEXES = ("M", "F", "O")
_SLIDES = ("1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.5.1.4.1.1.77.1.3")
"""SOP classes: whole slides, and slide coordinates."""


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """The instances that a mask was drawn on."""

    datasets: tuple["Dataset", ...]
    """One per file, in the order of k; without pixels."""
    frames: tuple[tuple[int, int], ...]
    """Per k, (the index of its file in `datasets`, its frame there from 0)."""

    @property
    def first(self) -> "Dataset":
        """The first file's."""
        return self.datasets[0]

    @property
    def whole_slide(self) -> bool:
        """True if they are pathology slides, whose masks are of another kind."""
        return str(self.first.get("SOPClassUID", "")) in _SLIDES or "TotalPixelMatrixColumns" in self.first

    @property
    def placeless(self) -> bool:
        """True if they are ultrasound or endoscopy: without a frame of reference, whatever they say."""
        return self.first.get("Modality") in PLACELESS


def read_sources(canvas: Canvas) -> Sources:
    """Return the instances that masks of `canvas` refer to.

    Raises:
        InputError: if it is no DICOM, a file was changed since the volume was read, or lacks an identifier.
        PluginError: without pydicom.
    """
    if canvas.kind != "dicom":
        raise InputError(
            f"{canvas.name} has no DICOM instances that a DICOM file could refer to",
            hint="write .nii.gz or .seg.nrrd, or give the DICOM files themselves",
        )
    datasets: list[Dataset] = []
    numbers: dict[str, int] = {}
    frames = []
    for instance in canvas.instances:
        if str(instance.path) not in numbers:
            numbers[str(instance.path)] = len(datasets)
            datasets.append(_header(instance, canvas.name))
            if canvas.placed:
                _state_thickness(datasets[-1], float(np.linalg.norm(canvas.affine[:3, 2])))
            else:
                datasets[-1].pop("FrameOfReferenceUID", None)  # without a position it says nothing
        frames.append((numbers[str(instance.path)], instance.frame or 0))
    return Sources(tuple(datasets), tuple(frames))


def _header(instance: Instance, name: str) -> "Dataset":
    pydicom = dicom_pixels.import_pydicom()
    with dicom.sealed(name):
        data = instance.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != instance.digest:
            raise InputError(f"a file of {name} was changed since it was read", hint="read the volume again")
        dataset: Dataset = pydicom.dcmread(
            BytesIO(data), force=not has_magic(data), stop_before_pixels=True, specific_tags=list(_TAGS)
        )
        missing = [
            keyword
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
            if not pydicom.uid.UID(dataset.get(keyword) or "").is_valid
        ]
        if missing:
            raise InputError(
                f"{name} lacks valid identifiers that a DICOM file must refer to: {', '.join(missing)}",
                hint="write .nii.gz or .seg.nrrd",
            )
        _complete(dataset)
    return dataset


def _complete(dataset: "Dataset") -> None:
    """Give a source the elements of patient and study that it lacks, empty, and empty those that are no valid values.

    Its texts are decoded, since what is written is UTF-8.
    """
    from pydicom.config import RAISE
    from pydicom.valuerep import validate_value

    for keyword in STUDY:
        value = str(dataset.get(keyword) or "")
        if keyword in _PARSED:
            try:
                validate_value(_PARSED[keyword], value, RAISE)
            except ValueError:
                value = ""
        if keyword == "PatientSex" and value not in _SEXES:
            value = ""
        setattr(dataset, keyword, value)
    dataset.SpecificCharacterSet = "ISO_IR 192"


def _state_thickness(dataset: "Dataset", step: float) -> None:
    """State the distance of slices as their thickness wherever a source lacks one."""
    groups = [
        *(dataset.get("SharedFunctionalGroupsSequence") or ()),
        *(dataset.get("PerFrameFunctionalGroupsSequence") or ()),
    ]
    measures = [one for group in groups for one in group.get("PixelMeasuresSequence") or ()]
    for holder in (dataset, *measures):
        if not holder.get("SliceThickness"):
            holder.SliceThickness = f"{step:.6g}"


def new_dataset(source: "Dataset", sop_class: str, modality: str, series: str, number: int) -> "FileDataset":
    """Return a data set of a new series in the study of `source`: patient, study, series, equipment and SOP.

    Args:
        source: one of `Sources.datasets`.
        sop_class: its UID.
        modality: as DICOM codes it.
        series: its description.
        number: of the series.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword in STUDY:
        setattr(dataset, keyword, source.get(keyword))
    now = datetime.datetime.now()
    elements = {
        "SpecificCharacterSet": "ISO_IR 192", "SOPClassUID": sop_class, "Modality": modality,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "SeriesInstanceUID": generate_uid(), "SeriesNumber": number,
        "InstanceNumber": 1, "SeriesDescription": series, "Manufacturer": "medground", "ManufacturerModelName": "medground",
        "SoftwareVersions": __version__, "SeriesDate": now.strftime("%Y%m%d"), "SeriesTime": now.strftime("%H%M%S"),
        "InstanceCreationDate": now.strftime("%Y%m%d"), "InstanceCreationTime": now.strftime("%H%M%S"),
    }  # fmt: skip
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def item(**elements: object) -> "Dataset":
    """Return an item of a sequence."""
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def references(datasets: Sequence["Dataset"]) -> list["Dataset"]:
    """Return items that refer to instances."""
    return [
        item(ReferencedSOPClassUID=one.SOPClassUID, ReferencedSOPInstanceUID=one.SOPInstanceUID) for one in datasets
    ]


def file_bytes(dataset: "FileDataset") -> bytes:
    """Return a data set as the content of a DICOM file."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
