"""DICOM files: identified by their content, with nothing of the patient in what is exposed.

Only the tags of `_TAGS` are read from a file; of these only numbers and whitelisted terms leave this package. A file is
called by a hash of its content, because its name and its identifiers are a patient's. Needs ``medground[dicom]``.
"""

import hashlib
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError, MedgroundError, ViewError
from medground.images import dicom_grey, dicom_pixels
from medground.images.dicom_seg import Segment, check_position, is_segmentation, segment_mask
from medground.images.loaded import LoadedImage
from medground.images.mask_values import brightness, target_pixels
from medground.images.paths import DICOM_SUFFIXES, PREAMBLE, has_magic, is_dicom_content
from medground.images.pictures import MAX_BYTES, MAX_PIXELS
from medground.images.view import View
from medground.images.windows import grey_to_rgb

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "Modality", "PatientID", "PatientName", "PatientBirthDate", "SeriesInstanceUID",
    "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "ImageOrientationPatient", "ImagePositionPatient",
    "SamplesPerPixel", "PhotometricInterpretation", "PixelPresentation", "Rows", "Columns", "PlanarConfiguration",
    "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit", "DoubleFloatPixelPaddingValue",
    "DoubleFloatPixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "PresentationLUTShape",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ReferencedSeriesSequence",
    "FrameOfReferenceUID", "SliceThickness", "SpacingBetweenSlices", "ImageType", "TemporalPositionIdentifier", "EchoNumbers",
    "EchoTime", "InversionTime", "DiffusionBValue", "TriggerTime", "AcquisitionNumber", "ComplexImageComponent", "Units",
    "SourceImageSequence", "SegmentationType", "SegmentSequence", "MaximumFractionalValue", "FloatPixelData",
    "DoubleFloatPixelData", "PixelData",
]  # fmt: skip
_MODALITIES = {
    "CT": "CT", "MR": "MRI", "CR": "X-ray", "DX": "X-ray", "RF": "X-ray", "XA": "X-ray", "MG": "mammography",
    "US": "ultrasound", "IVUS": "ultrasound", "PT": "PET", "NM": "nuclear medicine", "OP": "fundus",
    "OPT": "OCT", "ES": "endoscopy",
    "SM": "pathology", "GM": "pathology", "XC": "photograph",
}  # fmt: skip
_DEFLATED = "1.2.840.10008.1.2.1.99"
_RECORD = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR: a table of contents."""


class NoPicture(InputError):
    """A DICOM file holds no picture: it is a report, a plan, a contour or a table of contents."""


def has_suffix(path: Path) -> bool:
    """Return True if a file is named as DICOM."""
    return path.suffix.lower() in DICOM_SUFFIXES


def is_dicom(path: Path) -> bool:
    """Return True if a file is DICOM by its suffix, or by its first bytes."""
    return has_suffix(path) or is_dicom_content(path)


def neutral_id(path: Path) -> str:
    """Return the name of a DICOM file in results: ``dicom-`` and the first 12 digits of its content's SHA-256.

    Raises:
        InputError: if it cannot be read.
    """
    with _open(path) as file:
        return _name(hashlib.file_digest(file, "sha256").hexdigest())


def _name(digest: str) -> str:
    return f"dicom-{digest[:12]}"


@contextmanager
def _open(path: Path) -> Iterator[BufferedReader]:
    try:
        with path.open("rb") as file:
            _check_size(file)
            yield file
    except (OSError, ValueError):
        # Without the cause, which would say the name.
        raise InputError("a DICOM file does not exist or may not be read", hint="check the path") from None


def _check_size(file: BinaryIO) -> None:
    size = file.seek(0, 2)
    file.seek(0)
    if size == 0:
        raise InputError("a DICOM file is empty", hint="copy or export it again")
    if size > MAX_BYTES:
        raise InputError(f"a DICOM file takes {size / 1e6:.0f} MB", hint=f"the limit is {MAX_BYTES / 1e6:.0f} MB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says beside its pixels."""

    group: str
    """A pseudonym of the patient, else of the series; empty where the file names neither."""
    modality: str | None
    """In words; None where the file's code is not a known one."""
    frames: int
    spacing: tuple[float, float] | None
    """(row, column) in mm."""


@dataclass(frozen=True, slots=True, eq=False)
class DicomFile:
    """A DICOM image file, opened and hashed once; its pixels are not decoded yet."""

    digest: str
    """SHA-256 of its content, hexadecimal."""
    dataset: "FileDataset"
    """pydicom's, of the tags that are read."""

    @property
    def name(self) -> str:
        """Neutral, see `neutral_id`."""
        return _name(self.digest)

    @classmethod
    def read(cls, path: Path) -> "DicomFile":
        """Read and parse a file.

        Raises:
            InputError: if it is missing, damaged or too large; `NoPicture` if it is a DICOM file without a picture.
            PluginError: without pydicom.
        """
        with _open(path) as file:
            data = file.read()
        return cls.parse(data)

    @classmethod
    def parse(cls, data: bytes) -> "DicomFile":
        """Parse a file's content. Raises as `read`."""
        _check_size(BytesIO(data))
        digest = hashlib.sha256(data).hexdigest()
        with sealed(_name(digest)):
            return cls(digest, _parsed(data, _name(digest)))

    def header(self, frame: int = 0) -> Header:
        """Return what is known of the file and of one frame."""
        with sealed(self.name):
            dataset = self.dataset
            person = "\n".join(str(dataset.get(key, "")) for key in ("PatientID", "PatientName", "PatientBirthDate"))
            identity = person if person.strip() else str(dataset.get("SeriesInstanceUID", ""))
            pseudonym = hashlib.sha256(identity.encode(errors="replace")).hexdigest()[:12] if identity.strip() else ""
            kind = "patient" if person.strip() else "series"
            return Header(
                group=f"{kind}-{pseudonym}" if pseudonym else "",
                modality=_MODALITIES.get(str(dataset.get("Modality", ""))),
                frames=dicom_pixels.number_of_frames(dataset),
                spacing=spacing(dataset, frame),
            )


def load(file: DicomFile, view: View, image_id: str) -> LoadedImage:
    """Decode one frame as H×W×3 uint8 RGB.

    Grey: rescale (or the modality LUT), then the window `view` names, else the file's VOI LUT or first window, else 8-bit
    values as they stand, else percentiles; MONOCHROME1 is inverted; padding counts in no percentile and no full range.
    Colour: palettes are looked up, YBR becomes RGB, more than 8 bits keep the high ones. Overlay planes are not drawn.
    The result says the window, the padding and the axes.

    Raises:
        ViewError: if a film comes without a frame, or what `view` names cannot be.
        InputError: if the pixels are missing, damaged or contradict the header.
        PluginError: without the decoder of its compression.
    """
    with sealed(file.name):
        frame, dataset = chosen_frame(file, view), file.dataset
        header = file.header(frame)
        stored, padding = dicom_pixels.stored_values(dataset, frame, file.name), None
        if str(dataset.PhotometricInterpretation) in dicom_grey.GREY:
            grey, window, padding = dicom_grey.show_grey(
                dataset, stored, frame, view.window, header.modality, file.name
            )
            pixels = grey_to_rgb(grey)
        else:
            view.refuse_on(file.name, "a colour image", "window")
            pixels, window = dicom_pixels.colours(dataset, stored, file.name)
        details: dict[str, Any] = {"format": "DICOM", "window": window}
        if header.frames > 1:
            details["frame"] = frame
        for key, value in (
            ("modality", header.modality), ("spacing_mm", header.spacing), ("padding", padding),
            ("axes", _axes(dataset, frame)),
        ):  # fmt: skip
            if value:
                details[key] = list(value) if isinstance(value, tuple) else value
    return LoadedImage(id=image_id, kind="dicom", pixels=pixels, spacing=header.spacing, window=window, details=details)


def mask(
    file: DicomFile,
    view: View,
    values: tuple[int, ...] | None = None,
    threshold: float | None = None,
    image: Path | None = None,
    segment: Segment | None = None,
) -> NDArray[np.bool_]:
    """Return one frame as H×W bool: the target by the rules of `medground.images.mask_values`, by what a palette shows.

    Of a segmentation it is the frame that refers to what `view` names of `image`, and `segment` says which segment.

    Raises:
        InputError, PluginError: as `load`; if it does not lie where `image` lies, or holds no labels; for a segmentation
            without its image, or a segment of another kind of file.
    """
    with sealed(file.name):
        shown = DicomFile.read(image) if image is not None and is_dicom(image) else None
        if is_segmentation(file.dataset):
            if shown is None or values is not None or threshold is not None:
                raise InputError(
                    f"{file.name} is a segmentation: it needs the DICOM image it was drawn on, and takes no mask_value",
                    hint='name its "segment", beside a DICOM "image"',
                )
            return segment_mask(file.dataset, file.name, shown.dataset, chosen_frame(shown, view), segment)
        if segment is not None:
            raise InputError(f"{file.name} is no segmentation and has no segments", hint="use mask_value for a label")
        frame = chosen_frame(file, view)
        if shown is not None:
            check_position(file.dataset, frame, shown.dataset, chosen_frame(shown, view), file.name)
        return _labels(file, frame, values, threshold)


def _labels(file: DicomFile, frame: int, values: tuple[int, ...] | None, threshold: float | None) -> NDArray[np.bool_]:
    """Where a frame holds one of `values`, or from `threshold` on, or else its target."""
    dataset, hint = file.dataset, "give a map of whole numbers"
    stored = dicom_pixels.stored_values(dataset, frame, file.name)
    if stored.dtype.kind == "f" or dicom_grey.measure(dataset, stored, frame, file.name).changed:
        raise InputError(f"{file.name} holds measured values, not labels", hint=hint)
    if dataset.file_meta.TransferSyntaxUID in dicom_pixels.LOSSY_JPEG and len(np.unique(stored)) > 2:
        raise InputError(f"{file.name} is blurred by its compression and holds no labels", hint=hint)
    if values is not None or threshold is not None:
        if stored.ndim == 3:
            raise InputError(f"{file.name} is a colour image, not a label map", hint=hint)
        return target_pixels(stored, file.name, wanted=values, threshold=threshold)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        raise InputError(f"{file.name} shows 0 as white (MONOCHROME1)", hint="name the label: mask_value")
    if str(dataset.PhotometricInterpretation) not in dicom_grey.GREY:
        shown = brightness(dicom_pixels.colours(dataset, stored, file.name)[0], file.name)
        return target_pixels(shown, file.name, full=255)
    padding = dicom_grey.padding_range(dataset, "PixelData")
    if padding is not None and padding != (0, 0) and ((stored >= padding[0]) & (stored <= padding[1])).any():
        raise InputError(f"{file.name} holds padding beside its labels", hint='name the label: "mask_value"')
    return target_pixels(stored, file.name)


def spacing(dataset: "Dataset", frame: int) -> tuple[float, float] | None:
    """Return (row, column) of one frame in mm, where the file states it."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        value = dicom_pixels.functional_group(dataset, frame, "PixelMeasuresSequence", keyword).get(keyword)
        if value is not None and not isinstance(value, str) and len(value) == 2:
            row, column = float(value[0]), float(value[1])
            return (row, column) if row > 0 and column > 0 and np.isfinite([row, column]).all() else None
    return None


def _axes(dataset: "Dataset", frame: int) -> str | None:
    """Where columns and rows count up to, for example ``LP``: the patient's left, and the back."""
    keyword = "ImageOrientationPatient"
    cosines = dicom_pixels.functional_group(dataset, frame, "PlaneOrientationSequence", keyword).get(keyword)
    if cosines is None or len(cosines) != 6 or not np.isfinite([float(cosine) for cosine in cosines]).all():
        return None
    letters = ""
    for direction in np.reshape([float(cosine) for cosine in cosines], (2, 3)):
        axis = int(np.argmax(np.abs(direction)))
        letters += ("LR", "PA", "SI")[axis][int(direction[axis] < 0)]
    return letters


@contextmanager
def sealed(name: str) -> Iterator[None]:
    """Wrap what reads a DICOM file: silence pydicom and replace its errors by ours, since its own words may quote the file."""
    dicom_pixels.import_pydicom()
    log = logging.getLogger("pydicom")
    before = log.handlers, log.propagate
    log.handlers, log.propagate = [logging.NullHandler()], False  # what its modules log ends here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MedgroundError:
        raise
    except Exception:  # noqa: BLE001  pydicom and its decoders raise nine kinds and more on damaged files
        # Without the cause, which may quote what the file says.
        raise InputError(
            f"{name} is damaged, incomplete or of a kind that cannot be read", hint="export it again, uncompressed"
        ) from None
    finally:
        log.handlers, log.propagate = before


def _parsed(data: bytes, name: str) -> "FileDataset":
    pydicom = dicom_pixels.import_pydicom()
    if len(data) < PREAMBLE and b"DICM" not in data:
        raise InputError(f"{name} is too short for a DICOM file", hint="copy or export it again")
    bare = not has_magic(data)
    if not bare:
        _check_deflated(data, name)
    dataset: FileDataset = pydicom.dcmread(BytesIO(data), force=bare, specific_tags=list(_TAGS))
    if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == _RECORD:
        raise NoPicture(f"{name} is a table of contents, not an image", hint="give an image file it lists")
    if "TransferSyntaxUID" not in dataset.file_meta:
        # A bare data set does not state its coding; pydicom noticed how it was written when it read it.
        implicit, little = dataset.original_encoding
        uids = pydicom.uid
        explicit = uids.ExplicitVRLittleEndian if little else uids.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uids.ImplicitVRLittleEndian if implicit else explicit
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
    if not rows or not columns or "PhotometricInterpretation" not in dataset:
        raise NoPicture(f"{name} holds no picture", hint="reports, plans and contours have none; give an image")
    if rows * columns > MAX_PIXELS:
        raise InputError(
            f"{name} claims {columns} x {rows} pixels", hint=f"the limit is {MAX_PIXELS / 1e6:.0f} megapixels"
        )
    return dataset


def _check_deflated(data: bytes, name: str) -> None:
    """Refuse a deflated data set that would inflate beyond the limit."""
    reader = dicom_pixels.import_pydicom().filereader
    meta = reader.read_dataset(
        BytesIO(data[PREAMBLE:]), is_implicit_VR=False, is_little_endian=True,
        stop_when=lambda tag, vr, length: tag >> 16 != 2,
    )  # fmt: skip
    if meta.get("TransferSyntaxUID") != _DEFLATED:
        return
    start = PREAMBLE + 12 + int(meta.FileMetaInformationGroupLength)
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    for position in range(start, len(data), 1 << 16):
        chunk = data[position : position + (1 << 16)]
        while chunk and not inflate.eof:
            total += len(inflate.decompress(chunk, 1 << 22))
            chunk = inflate.unconsumed_tail
            if total > MAX_BYTES:
                raise InputError(f"{name} inflates beyond {MAX_BYTES / 1e6:.0f} MB", hint="export it uncompressed")


def chosen_frame(file: DicomFile, view: View) -> int:
    """Return the frame that a view means: 0 of a file of one.

    Raises:
        ViewError: if it names none of a film, or one that is not there, or a plane.
        InputError: if the file claims frames that it does not describe.
    """
    frames = dicom_pixels.number_of_frames(file.dataset)
    groups = file.dataset.get("PerFrameFunctionalGroupsSequence")
    if frames < 1 or (groups and len(groups) < frames):
        raise InputError(f"{file.name} claims {frames} frames and does not describe as many", hint="export it again")
    view.refuse_on(file.name, "a single DICOM image" if frames == 1 else "a film of frames", "plane")
    if frames == 1:
        if view.slice:
            raise ViewError(f"{file.name} has one frame and no slice {view.slice}", hint="leave the slice out")
        return 0
    if view.slice is None:
        raise ViewError(f"{file.name} holds {frames} frames", hint=f"name one: slice 0 to {frames - 1}")
    if view.slice >= frames:
        raise ViewError(f"{file.name} has no frame {view.slice}", hint=f"it has 0 to {frames - 1}")
    return view.slice
