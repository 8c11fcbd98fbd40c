"""Grey DICOM pixels as they are shown: modality transformation, padding, values of interest, presentation (PS3.3 C.11)."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError, ViewError
from medground.images.dicom_pixels import functional_group, little_endian, pixel_element
from medground.images.dicom_tables import read_table
from medground.images.windows import Numbers, apply_window, describe_window, rescale, window_grey

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

GREY = ("MONOCHROME1", "MONOCHROME2")
HOUNSFIELD = ("lung", "bone", "brain", "soft_tissue")
"""Windows that mean something where values are Hounsfield units."""
_CT = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
"""SOP classes of CT images: there a rescale without a type is to Hounsfield units (PS3.3 C.8.2.1, C.11.1.1.2)."""
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The values of one frame after the modality transformation."""

    values: Numbers
    """H×W."""
    changed: bool
    """True if they differ from what is stored."""
    hounsfield: bool
    """True if the file says that they are Hounsfield units."""
    negative: bool
    """True if such values can be below 0, whatever this frame holds."""


def show_grey(
    dataset: "Dataset", stored: Numbers, frame: int, window: str | None, modality: str | None, name: str
) -> tuple[NDArray[np.uint8], str, tuple[float, float] | None]:
    """Return (H×W grey, the window in words, the range of stored values that is padding) of one frame.

    Args:
        dataset: of a grey image.
        stored: its stored values, H×W.
        frame: from 0.
        window: as `medground.images.view.View` names it.
        modality: in words; None where it is not known.
        name: names the file in messages.

    Raises:
        ViewError: for a window that the file does not have, or that means nothing for its values.
        InputError: if its tables, windows or scale are contradictory.
    """
    if stored.ndim != 2 or dataset.get("PixelPresentation") in ("COLOR", "MIXED"):
        raise InputError(f"{name} is grey with colours", hint="export it again, as RGB")
    padding = padding_range(dataset, pixel_element(dataset, name))
    counted = counted_values(stored, padding)
    measured = measure(dataset, stored, frame, name)
    return *show_measured(dataset, measured, frame, window, counted, modality, name), padding


def show_measured(
    dataset: "Dataset",
    measured: Measured,
    frame: int,
    window: str | None,
    counted: NDArray[np.bool_] | None,
    modality: str | None,
    name: str,
) -> tuple[NDArray[np.uint8], str]:
    """Return (H×W grey, the window in words) of measured values; `dataset` and `frame` say windows and inversion.

    `counted`, H×W, is False where a value counts in no percentile and no full range. Raises as `show_grey`.
    """
    if window in HOUNSFIELD and not measured.hounsfield:
        reason = f"is not CT but {modality}, whose" if modality not in (None, "CT") else "does not say that its"
        units = "are not" if modality not in (None, "CT") else "are"
        raise ViewError(
            f"{name} {reason} values {units} Hounsfield units", hint="take the window percentiles, file or CENTRE,WIDTH"
        )
    grey, words = _windowed(dataset, measured, frame, window, counted, name)
    if _inverted(dataset, name):
        grey, words = 255 - grey, f"{words}; inverted (MONOCHROME1)"
    return grey, words


def counted_values(stored: Numbers, padding: tuple[float, float] | None) -> NDArray[np.bool_] | None:
    """Return where stored values are no padding; None where there is none."""
    return None if padding is None else (stored < padding[0]) | (stored > padding[1])


def own_window(dataset: "Dataset", frame: int) -> str:
    """Return the window that a frame names, such that equal texts are equal windows; "" where it names none."""
    own = functional_group(dataset, frame, "FrameVOILUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth")
    if own.get("VOILUTSequence"):
        table = own.VOILUTSequence[0]
        return f"{table.LUTDescriptor} {hashlib.sha256(table['LUTData'].to_json().encode()).hexdigest()}"
    centre, width = _first(own.get("WindowCenter")), _first(own.get("WindowWidth"))
    return "" if centre is None or width is None else f"{centre} {width} {own.get('VOILUTFunction') or 'LINEAR'}"


def measure(dataset: "Dataset", stored: Numbers, frame: int, name: str) -> Measured:
    """Apply the modality lookup table or rescale of one frame.

    Raises:
        InputError: if the file states half of a rescale, or a table and a rescale.
    """
    scale = functional_group(dataset, frame, "PixelValueTransformationSequence", "RescaleSlope", "RescaleIntercept")
    stated = (scale.get("RescaleSlope"), scale.get("RescaleIntercept"))
    table = dataset.get("ModalityLUTSequence")
    if stated.count(None) == 1 or (table and stated not in ((None, None), (1, 0))):
        raise InputError(
            f"{name} states a rescale that is incomplete or contradicted by a table", hint="export it again"
        )
    is_ct = str(dataset.get("SOPClassUID", "")) in _CT and dataset.get("Modality", "CT") == "CT"
    is_ct &= dataset.BitsAllocated == 16  # as all CT images have; one of 8 bits is a picture of one
    floating, signed = stored.dtype.kind == "f", bool(dataset.get("PixelRepresentation"))
    if table:
        looked_up = read_table(table[0], little_endian(dataset), signed, name).look_up(stored)
        return Measured(looked_up, True, table[0].get("ModalityLUTType") == "HU", False)
    if stated == (None, None):
        return Measured(stored, False, False, floating or signed)
    slope, intercept = float(stated[0]), float(stated[1])
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise InputError(f"{name} has a rescale slope of {slope:g}", hint="export it again")
    hounsfield = (scale.get("RescaleType") or ("HU" if is_ct else "")) == "HU"
    if (slope, intercept) == (1, 0):
        return Measured(stored, False, hounsfield, floating or signed)
    bits = int(dataset.get("BitsStored") or 1)
    ends = np.array([-(1 << bits - 1), (1 << bits - 1) - 1] if signed else [0, (1 << bits) - 1]) * slope + intercept
    return Measured(stored * np.float64(slope) + intercept, True, hounsfield, floating or bool(ends.min() < 0))


def padding_range(dataset: "Dataset", element: str) -> tuple[float, float] | None:
    """Return the lowest and the highest stored value that is padding, both included (PS3.3 C.7.5.1.1.2); None without.

    The value is written in as many bits as a pixel and is signed as a pixel, whatever its own VR.
    """
    kind = element.removesuffix("Data")  # PixelData, FloatPixelData, DoubleFloatPixelData
    value, limit = dataset.get(f"{kind}PaddingValue"), dataset.get(f"{kind}PaddingRangeLimit")
    if value is None:
        return None
    ends = [value, value if limit is None else limit]
    if element != "PixelData":  # what is not finite never counts
        return (float(min(ends)), float(max(ends))) if np.isfinite(ends).all() else None
    bits = int(dataset.BitsStored)
    whole = [int(end) & (1 << bits) - 1 for end in ends]
    if dataset.PixelRepresentation:
        whole = [end - (1 << bits) if end >> bits - 1 else end for end in whole]
    return min(whole), max(whole)


def _inverted(dataset: "Dataset", name: str) -> bool:
    """MONOCHROME1 is shown inverted. PresentationLUTShape says the same in other words (PS3.3 C.8.11.3.1.2)."""
    inverted = str(dataset.PhotometricInterpretation) == "MONOCHROME1"
    shape = dataset.get("PresentationLUTShape") or ("INVERSE" if inverted else "IDENTITY")
    if shape != ("INVERSE" if inverted else "IDENTITY"):
        raise InputError(
            f"{name} is {dataset.PhotometricInterpretation} with a PresentationLUTShape that contradicts it",
            hint="export it again",
        )
    return inverted


def _windowed(
    dataset: "Dataset", measured: Measured, frame: int, window: str | None, counted: NDArray[np.bool_] | None, name: str
) -> tuple[NDArray[np.uint8], str]:
    values = measured.values
    if window is not None and window != "file":
        return apply_window(values, window, counted)
    own = functional_group(dataset, frame, "FrameVOILUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth")
    if own.get("VOILUTSequence"):
        return _looked_up(dataset, own, measured, name), "file: VOI LUT"
    centre, width = _first(own.get("WindowCenter")), _first(own.get("WindowWidth"))
    if centre is not None and width is not None:
        function = str(own.get("VOILUTFunction") or "LINEAR")
        if function not in _FUNCTIONS:
            raise InputError(f"{name} has a window of a function that is not known", hint="name a window yourself")
        # "At least 1", and for the other functions "above 0", says the standard.
        if not np.isfinite([centre, width]).all() or (width < 1 if function == "LINEAR" else width <= 0):
            raise InputError(f"{name} has a window of width {width:g}", hint="name a window yourself")
        words = describe_window("file", centre, width)
        return window_grey(values, centre, width, function), words if function == "LINEAR" else f"{words}, {function}"
    if window == "file":
        raise ViewError(
            f"{name} names no window", hint="take lung, bone, brain, soft_tissue, percentiles or CENTRE,WIDTH"
        )
    if values.dtype.kind == "u" and int(dataset.BitsStored) == 8:
        return values.astype(np.uint8), "as stored"
    return apply_window(values, "percentiles", counted)


def _looked_up(dataset: "Dataset", own: "Dataset", measured: Measured, name: str) -> NDArray[np.uint8]:
    table = read_table(own.VOILUTSequence[0], little_endian(dataset), measured.negative, name)
    whole = np.rint(measured.values)
    if (whole != measured.values).any():
        raise InputError(
            f"{name} has a lookup table for values that are no whole numbers", hint="name a window yourself"
        )
    return rescale(table.look_up(whole), 0, (1 << table.bits) - 1)


def _first(value: Any) -> float | None:
    """The number of an element that may hold several: of windows, the first is the one to begin with."""
    if value is None or isinstance(value, (int, float, str)):
        return None if value in (None, "") else float(value)
    return float(value[0]) if len(value) else None
