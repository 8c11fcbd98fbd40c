"""DICOM images: values rescaled, windowed and upright in grey or colour, with nothing of the patient in what is told.

Only the tags of `_TAGS` are read from a file; of these only numbers and words of closed lists leave this module. A file
is called by a hash of its content, because its name and its identifiers are a patient's. Needs ``medground[dicom]``.
"""

import hashlib
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError, MedgroundError, PluginError, ViewError
from medground.images.codestream import claimed_size
from medground.images.paths import DICOM_SUFFIXES
from medground.images.pictures import MAX_BYTES, MAX_PIXELS
from medground.images.view import Shown, View, rgb, through, told, windowed
from medground.types import Image

MAGIC = b"DICM"
"""At byte 128 of most files."""
_TAGS = [
    "SOPClassUID", "Modality", "PatientID", "PatientName", "PatientBirthDate", "SeriesInstanceUID", "PixelSpacing",
    "ImagerPixelSpacing", "NominalScannedPixelSpacing", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns",
    "PlanarConfiguration", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "FloatPixelData", "DoubleFloatPixelData", "PixelData",
]  # fmt: skip
_MODALITIES = {
    "CT": "CT", "MR": "MRI", "CR": "X-ray", "DX": "X-ray", "RF": "X-ray", "XA": "X-ray", "MG": "mammography",
    "US": "ultrasound", "IVUS": "ultrasound", "PT": "PET", "NM": "nuclear medicine", "OP": "fundus",
    "OPT": "OCT", "ES": "endoscopy",
    "SM": "pathology", "GM": "pathology", "XC": "photograph",
}  # fmt: skip
_GREY = ("MONOCHROME1", "MONOCHROME2")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_RECORD = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR: a table of contents."""


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its magic number, or by its suffix where it has none."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == MAGIC
    except (OSError, ValueError):
        return False


def neutral_id(path: Path) -> str:
    """What a DICOM file is called in results: ``dicom-`` and the first 12 digits of its content's SHA-256.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise InputError("a DICOM file is empty", hint="copy or export it again")
        if size > MAX_BYTES:
            raise InputError(f"a DICOM file takes {size / 1e6:.0f} MB", hint=f"the limit is {MAX_BYTES / 1e6:.0f} MB")
        with path.open("rb") as file:
            return f"dicom-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
    except (OSError, ValueError):
        # Without the cause, which would say the name.
        raise InputError("a DICOM file does not exist or may not be read", hint="check the path") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is known of a file before its pixels are read."""

    name: str
    """Neutral, see `neutral_id`."""
    group: str
    """A pseudonym of the patient, else of the series; empty where the file names neither."""
    modality: str | None
    """In words; None where the file's code is not a known one."""
    frames: int
    spacing: tuple[float, float] | None


def header(path: Path, name: str) -> Header:
    """Read a file's header.

    Args:
        path: the file.
        name: its `neutral_id`.

    Raises:
        InputError: if it is no DICOM image.
        PluginError: without pydicom.
    """
    with _border(name):
        found = _read(path, name, pixels=False)
        return _header(found, name, 0)


def _header(found: Any, name: str, frame: int) -> Header:
    person = "\n".join(str(found.get(key, "")) for key in ("PatientID", "PatientName", "PatientBirthDate"))
    who = person if person.strip() else str(found.get("SeriesInstanceUID", ""))
    pseudonym = hashlib.sha256(who.encode(errors="replace")).hexdigest()[:12] if who.strip() else ""
    return Header(
        name=name,
        group=f"patient-{pseudonym}" if pseudonym and person.strip() else f"series-{pseudonym}" if pseudonym else "",
        modality=_MODALITIES.get(str(found.get("Modality", ""))),
        frames=int(found.get("NumberOfFrames") or 1),
        spacing=_spacing(found, frame),
    )


def show(path: Path, view: View, name: str) -> Shown:
    """Read one frame as H×W×3 uint8 RGB.

    Grey: rescale (or the modality LUT), then the window `view` names, else the file's VOI LUT or first window, else 8-bit
    values as they stand, else percentiles; MONOCHROME1 is inverted. Colour: palettes are looked up, YBR becomes RGB, more
    than 8 bits keep the high ones. Overlay planes are not drawn. ``about["window"]`` says what was done.

    Raises:
        ViewError: if a film comes without a frame, or what `view` names cannot be.
        InputError: if the file is no image, damaged, or too large.
        PluginError: without pydicom, or without the decoder of its compression.
    """
    with _border(name):
        found = _read(path, name, pixels=True)
        frame = _frame(found, view, name)
        stored = _stored(found, frame, name)
        image, window = (
            _grey(found, stored, frame, view, name) if _is_grey(found) else _colour(found, stored, view, name)
        )
        known = _header(found, name, frame)
    about: dict[str, Any] = {"format": "DICOM", "window": window}
    if known.frames > 1:
        about["frame"] = frame
    if known.modality:
        about["modality"] = known.modality
    if known.spacing:
        about["spacing_mm"] = list(known.spacing)
    return Shown(image=image, about=about, spacing=known.spacing)


def mask(path: Path, view: View, name: str) -> NDArray[np.bool_]:
    """One frame as a mask, H×W bool: stored values that are not 0. Errors are those of `show`."""
    with _border(name):
        found = _read(path, name, pixels=True)
        stored = _stored(found, _frame(found, view, name), name)
    held: NDArray[np.bool_] = np.any(stored, axis=2) if stored.ndim == 3 else stored != 0
    return held


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise PluginError("reading DICOM needs pydicom", hint="pip install 'medground[dicom]'") from error
    return pydicom


@contextmanager
def _border(name: str) -> Iterator[None]:
    """pydicom's own words may quote the file: its warnings and log lines are silenced, its errors replaced by ours."""
    _pydicom()
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


def _read(path: Path, name: str, *, pixels: bool) -> Any:
    pydicom = _pydicom()
    try:
        with path.open("rb") as file:
            start = file.read(132)
        if len(start) < 132 and MAGIC not in start:
            raise InputError(f"{name} is too short for a DICOM file", hint="copy or export it again")
        deflated = _checked_deflated(path, name) if start[128:] == MAGIC else False
    except OSError:
        raise InputError(f"{name} may not be read", hint="check its permissions") from None
    known = _TAGS if pixels else _TAGS[:-1]
    found = pydicom.dcmread(
        path, force=start[128:] != MAGIC, specific_tags=list(known), stop_before_pixels=not pixels and not deflated
    )
    if str(found.file_meta.get("MediaStorageSOPClassUID", "")) == _RECORD:
        raise InputError(f"{name} is a table of contents, not an image", hint="give an image file it lists")
    if "TransferSyntaxUID" not in found.file_meta:
        # A bare data set says nothing of its coding; pydicom noticed how it was written when it read it.
        implicit, little = found.original_encoding
        uids = pydicom.uid
        found.file_meta.TransferSyntaxUID = (
            uids.ImplicitVRLittleEndian
            if implicit
            else uids.ExplicitVRLittleEndian
            if little
            else uids.ExplicitVRBigEndian
        )
    rows, columns = found.get("Rows"), found.get("Columns")
    if not rows or not columns or "PhotometricInterpretation" not in found:
        raise InputError(f"{name} holds no picture", hint="reports, plans and contours have none; give an image")
    if rows * columns > MAX_PIXELS:
        raise InputError(
            f"{name} claims {columns} x {rows} pixels", hint=f"the limit is {MAX_PIXELS / 1e6:.0f} megapixels"
        )
    return found


def _checked_deflated(path: Path, name: str) -> bool:
    """Whether a file's data set is deflated; one that would inflate beyond the limit is refused."""
    pydicom = _pydicom()
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != _DEFLATED:
        return False
    with path.open("rb") as file:
        file.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
        inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while chunk := file.read(1 << 16):
            while chunk and not inflate.eof:
                total += len(inflate.decompress(chunk, 1 << 22))
                chunk = inflate.unconsumed_tail
                if total > MAX_BYTES:
                    raise InputError(f"{name} inflates beyond {MAX_BYTES / 1e6:.0f} MB", hint="export it uncompressed")
    return True


def _frame(found: Any, view: View, name: str) -> int:
    frames = int(found.get("NumberOfFrames") or 1)
    if frames < 1:
        raise InputError(f"{name} claims {frames} frames", hint="export it again")
    view.refuse_on(name, "a single DICOM image" if frames == 1 else "a film of frames", "plane")
    if frames == 1:
        if view.slice:
            raise ViewError(f"{name} has one frame and no slice {view.slice}", hint="leave the slice out")
        return 0
    if view.slice is None:
        raise ViewError(f"{name} holds {frames} frames", hint=f"say which one: slice 0 to {frames - 1}")
    if view.slice >= frames:
        raise ViewError(f"{name} has no frame {view.slice}", hint=f"it has 0 to {frames - 1}")
    return view.slice


def _stored(found: Any, frame: int, name: str) -> NDArray[Any]:
    """The stored values of one frame, H×W or H×W×3, YBR as RGB."""
    pixels = _pydicom().pixels
    syntax = found.file_meta.TransferSyntaxUID
    if "PixelData" not in found and "FloatPixelData" not in found and "DoubleFloatPixelData" not in found:
        raise InputError(f"{name} holds no pixels", hint="export it again, with its image")
    if syntax.is_encapsulated:
        if not pixels.get_decoder(syntax).is_available:
            raise PluginError(
                f"{name} is compressed as {syntax.name}, for which no decoder is installed",
                hint="pip install 'medground[dicom]', for JPEG lossless pylibjpeg-libjpeg too, or export it uncompressed",
            )
        _check_codestream(found, frame, name)
    values: NDArray[Any] = pixels.pixel_array(found, index=frame)
    if values.shape[:2] != (found.Rows, found.Columns):
        raise InputError(f"{name} holds another size of picture than its header says", hint="export it again")
    return values


def _check_codestream(found: Any, frame: int, name: str) -> None:
    """A compressed frame must state the size its header states, so that no decoder allocates what a bomb claims."""
    encaps = _pydicom().encaps
    frames = int(found.get("NumberOfFrames") or 1)
    data = encaps.get_frame(found.PixelData, frame, number_of_frames=frames)
    size = claimed_size(data)
    if size is not None and size != (found.Rows, found.Columns):
        raise InputError(
            f"{name} holds a compressed picture of {size[1]} x {size[0]} pixels under a header that says "
            f"{found.Columns} x {found.Rows}",
            hint="export it again",
        )


def _is_grey(found: Any) -> bool:
    return str(found.PhotometricInterpretation) in _GREY


def _grey(found: Any, stored: NDArray[Any], frame: int, view: View, name: str) -> tuple[Image, str]:
    if stored.ndim != 2:
        raise InputError(f"{name} is grey with several samples per pixel", hint="export it again")
    values, rescaled = _rescaled(found, stored, frame, name)
    modality = _MODALITIES.get(str(found.get("Modality", "")))
    if view.window in ("lung", "bone", "brain", "soft_tissue") and modality not in (None, "CT"):
        raise ViewError(
            f"{name} is not CT but {modality}, whose values are not Hounsfield units",
            hint="take the window percentiles, file or CENTRE,WIDTH",
        )
    grey, window = _windowed(found, values, rescaled, frame, view.window, name)
    if str(found.PhotometricInterpretation) == "MONOCHROME1":
        grey, window = 255 - grey, f"{window}; inverted (MONOCHROME1)"
    return rgb(grey), window


def _rescaled(found: Any, stored: NDArray[Any], frame: int, name: str) -> tuple[NDArray[Any], bool]:
    """(values, whether they differ from what is stored)."""
    if found.get("ModalityLUTSequence"):
        looked_up: NDArray[Any] = _pydicom().pixels.apply_modality_lut(stored, found)
        return looked_up, True
    slope = _float(_of_frame(found, frame, "PixelValueTransformationSequence", "RescaleSlope"), 1.0)
    intercept = _float(_of_frame(found, frame, "PixelValueTransformationSequence", "RescaleIntercept"), 0.0)
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise InputError(f"{name} has a rescale slope of {slope:g}", hint="export it again")
    if (slope, intercept) == (1.0, 0.0):
        return stored, False
    return stored * np.float64(slope) + intercept, True


def _windowed(
    found: Any, values: NDArray[Any], rescaled: bool, frame: int, window: str | None, name: str
) -> tuple[NDArray[np.uint8], str]:
    if window not in (None, "file"):
        assert window is not None
        return through(values, window)
    if found.get("VOILUTSequence"):
        table = found.VOILUTSequence[0]
        bits = int(table.LUTDescriptor[2])
        looked_up = _pydicom().pixels.apply_voi(values.astype(np.int64), found)
        return np.rint(looked_up * (255.0 / (2**bits - 1))).clip(0, 255).astype(np.uint8), "file: VOI LUT"
    centre = _of_frame(found, frame, "FrameVOILUTSequence", "WindowCenter")
    width = _of_frame(found, frame, "FrameVOILUTSequence", "WindowWidth")
    function = str(_of_frame(found, frame, "FrameVOILUTSequence", "VOILUTFunction") or "LINEAR")
    if centre is not None and width is not None:
        c, w = _float(centre, 0.0), _float(width, 0.0)
        # "At least 1", and for the other functions "above 0", says the standard.
        if not np.isfinite([c, w]).all() or (w < 1 if function == "LINEAR" else w <= 0):
            raise InputError(f"{name} has a window of width {w:g}", hint="name a window yourself")
        shape = f", {function}" if function in ("LINEAR_EXACT", "SIGMOID") else ""
        return windowed(values, c, w, function), f"{told('file', c, w)}{shape}"
    if window == "file":
        raise ViewError(
            f"{name} names no window", hint="take lung, bone, brain, soft_tissue, percentiles or CENTRE,WIDTH"
        )
    if not rescaled and values.dtype == np.uint8 and int(found.get("BitsStored", 8)) == 8:
        return values, "as stored"
    return through(values, "percentiles")


def _colour(found: Any, stored: NDArray[Any], view: View, name: str) -> tuple[Image, str]:
    view.refuse_on(name, "a colour image", "window")
    interpretation = str(found.PhotometricInterpretation)
    if interpretation == "PALETTE COLOR":
        looked_up = _pydicom().pixels.apply_color_lut(stored, found)
        bits = 8 * looked_up.dtype.itemsize
        # A table of 16-bit entries may hold 8-bit values.
        bits = 16 if bits == 16 and looked_up.max(initial=0) > 255 else 8
        return (looked_up[..., :3] >> (bits - 8)).astype(np.uint8), "colours of the palette"
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise InputError(f"{name} is coloured in a way that cannot be read", hint="export it as RGB")
    bits = int(found.get("BitsStored", 8))
    return np.ascontiguousarray(stored >> max(0, bits - 8)).astype(np.uint8), "colours as stored"


def _of_frame(found: Any, frame: int, group: str, keyword: str) -> Any:
    """An element of one frame: its own functional group, else the shared one, else the top level."""
    for sequence, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = found.get(sequence)
        if items and index < len(items) and items[index].get(group):
            value = items[index].get(group)[0].get(keyword)
            if value is not None:
                return value
    return found.get(keyword)


def _spacing(found: Any, frame: int) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        value = _of_frame(found, frame, "PixelMeasuresSequence", keyword)
        if value is not None and not isinstance(value, str) and len(value) == 2:
            row, column = float(value[0]), float(value[1])
            return (row, column) if row > 0 and column > 0 and np.isfinite([row, column]).all() else None
    return None


def _float(value: Any, default: float) -> float:
    """A number of an element that may hold several: the first."""
    if value is None or value == "":
        return default
    return float(value if isinstance(value, (int, float, str)) else value[0])


@lru_cache(maxsize=1)
def decoders() -> dict[str, bool]:
    """Compressed transfer syntaxes by name, and whether a decoder for each is installed."""
    pydicom = _pydicom()
    every = [uid for uid in pydicom.uid.AllTransferSyntaxes if uid.is_encapsulated]
    found = {}
    for uid in every:
        try:
            found[uid.name] = bool(pydicom.pixels.get_decoder(uid).is_available)
        except NotImplementedError:
            continue
    return found
