"""What a DICOM file says of each of its slices beside their pixels: where it lies, and what else tells slices apart."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medground.errors import InputError
from medground.images import dicom
from medground.images.dicom_grey import GREY, own_window
from medground.images.dicom_pixels import functional_group
from medground.images.placement import Floats

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_ONE = 1e-3
"""By how much a direction's length may miss 1, and the cosine between two of them 0: headers hold few digits."""
PHASES = {
    "time": ("FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    "echo": ("", "EchoNumbers"),
    "echo time": ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    "b-value": ("MRDiffusionSequence", "DiffusionBValue"),
    "inversion time": ("", "InversionTime"),
    "component": ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    "kind": ("MRImageFrameTypeSequence", "FrameType", "ImageType"),
    "stack": ("FrameContentSequence", "StackID"),
    "acquisition": ("FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber"),
    "trigger time": ("", "TriggerTime"),
}
"""What can differ between pictures of one position -> the functional group of a frame, and the keywords that state it."""


class Unplaced(InputError):
    """A DICOM picture is part of no volume: it is coloured, or does not say for certain where its pixels lie."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slice:
    """One grey picture of a DICOM file with its place in the patient."""

    path: Path
    name: str
    """Of the file, neutral."""
    digest: str
    frame: int
    frames: int
    """How many the file has."""
    uid: str
    series: str
    frame_of_reference: str
    group: str
    modality: str | None
    size: tuple[int, int]
    """(rows, columns)."""
    spacing: tuple[float, float]
    """(row, column) mm."""
    position: Floats
    """LPS mm of the centre of the first pixel."""
    axes: Floats
    """2×3 unit vectors in LPS: along a row, to the next column; along a column, to the next row."""
    thickness: float | None
    """Millimetres from slice to slice where the file says so, else its own thickness; None where it says neither."""
    interpretation: str
    unit: str
    """What the file calls the unit of its values."""
    window: str
    """As of `medground.images.dicom_grey.own_window`."""
    phases: dict[str, str]
    """What the file says of time, echo and the like; see `PHASES`."""

    @property
    def normal(self) -> Floats:
        """The unit vector along which slices are counted: row × column."""
        return np.cross(self.axes[0], self.axes[1])


def slices_of(file: dicom.DicomFile, path: Path) -> Iterator[Slice]:
    """Yield the slices of a file, in the order of its frames.

    Raises:
        Unplaced: if it is coloured, or does not say where its pixels lie.
    """
    with dicom.sealed(file.name):
        dataset, header = file.dataset, file.header()
        coloured = dataset.get("PixelPresentation") in ("COLOR", "MIXED")
        if coloured or str(dataset.PhotometricInterpretation) not in GREY:
            raise Unplaced(f"{file.name} holds colours, not measured values", hint="read_image reads it as a picture")
        groups = dataset.get("PerFrameFunctionalGroupsSequence")
        if header.frames > 1 and (groups is None or len(groups) < header.frames):
            raise Unplaced(
                f"{file.name} is a film: it does not say where its {header.frames} frames lie",
                hint="read_image reads one frame of it: slice=N",
            )
        for frame in range(header.frames):
            position, axes, spacing = _where(dataset, frame, file.name)
            yield Slice(
                path=path, name=file.name, digest=file.digest, frame=frame, frames=header.frames,
                uid=str(dataset.get("SOPInstanceUID", "")), series=str(dataset.get("SeriesInstanceUID", "")),
                frame_of_reference=str(dataset.get("FrameOfReferenceUID", "")), group=header.group,
                modality=header.modality, size=(int(dataset.Rows), int(dataset.Columns)), spacing=spacing,
                position=position, axes=axes, thickness=_thickness(dataset, frame),
                interpretation=str(dataset.PhotometricInterpretation), unit=_unit(dataset, frame),
                window=own_window(dataset, frame), phases=_phases(dataset, frame),
            )  # fmt: skip


def _where(dataset: "Dataset", frame: int, name: str) -> tuple[Floats, Floats, tuple[float, float]]:
    position = _floats(dataset, frame, "PlanePositionSequence", "ImagePositionPatient", 3)
    cosines = _floats(dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = _floats(dataset, frame, "PixelMeasuresSequence", "PixelSpacing", 2)
    missing = [
        words
        for words, value in (("position", position), ("orientation", cosines), ("pixel spacing", spacing))
        if value is None
    ]
    if position is None or cosines is None or spacing is None:
        raise Unplaced(
            f"{name} does not state the {' and the '.join(missing)} of its pixels, so that it is part of no volume",
            hint="read_image reads it as a picture",
        )
    axes = cosines.reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1).max() > _ONE or abs(axes[0] @ axes[1]) > _ONE:
        raise Unplaced(
            f"{name} states an orientation that is no pair of perpendicular directions of length 1",
            hint="export it again",
        )
    if (spacing <= 0).any():
        raise Unplaced(f"{name} states a pixel spacing of {spacing.min():g} mm", hint="export it again")
    return position, axes / lengths[:, None], (float(spacing[0]), float(spacing[1]))


def _floats(dataset: "Dataset", frame: int, sequence: str, keyword: str, count: int) -> Floats | None:
    """As many finite numbers as the element is to hold, else None."""
    value = functional_group(dataset, frame, sequence, keyword).get(keyword)
    if value is None or isinstance(value, str | float) or len(value) != count:
        return None
    numbers = np.array([float(number) for number in value])
    return numbers if np.isfinite(numbers).all() else None


def _thickness(dataset: "Dataset", frame: int) -> float | None:
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        value: Any = functional_group(dataset, frame, "PixelMeasuresSequence", keyword).get(keyword)
        if value not in (None, "") and np.isfinite(float(value)) and abs(float(value)) > 0:
            return abs(float(value))  # of nuclear medicine it is negative where slices are counted downwards
    return None


def _unit(dataset: "Dataset", frame: int) -> str:
    scale = functional_group(dataset, frame, "PixelValueTransformationSequence", "RescaleType")
    return " ".join(str(value) for value in (scale.get("RescaleType"), dataset.get("Units")) if value)


def _phases(dataset: "Dataset", frame: int) -> dict[str, str]:
    phases = {}
    for words, (sequence, *keywords) in PHASES.items():
        for keyword in keywords:
            value = functional_group(dataset, frame, sequence, keyword).get(keyword)
            if value not in (None, ""):
                phases[words] = str(value)
                break
    return phases
