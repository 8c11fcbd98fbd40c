"""Pixels of a DICOM data set: stored values, rescaled and windowed to grey, or looked up as colours."""

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError, PluginError, ViewError
from medground.images.codestream import claimed_size
from medground.images.view import View
from medground.images.windows import Numbers, apply_window, describe_window, grey_to_rgb, window_grey
from medground.types import Image

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_GREY = ("MONOCHROME1", "MONOCHROME2")
_HOUNSFIELD = ("lung", "bone", "brain", "soft_tissue")
"""Windows that mean something on CT alone."""


def import_pydicom() -> ModuleType:
    """Import pydicom.

    Raises:
        PluginError: where it is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise PluginError("reading DICOM needs pydicom", hint="pip install 'medground[dicom]'") from error
    return pydicom


def to_rgb(dataset: "Dataset", frame: int, view: View, modality: str | None, name: str) -> tuple[Image, str]:
    """Return (H×W×3 uint8 RGB, the window in words) of one frame; see `medground.images.dicom.load`."""
    stored = stored_values(dataset, frame, name)
    if str(dataset.PhotometricInterpretation) in _GREY:
        return _grey(dataset, stored, frame, view, modality, name)
    return _colour(dataset, stored, view, name)


def stored_values(dataset: "Dataset", frame: int, name: str) -> Numbers:
    """Return the stored values of one frame, H×W or H×W×3, YBR as RGB."""
    pixels = import_pydicom().pixels
    syntax = dataset.file_meta.TransferSyntaxUID
    if "PixelData" not in dataset and "FloatPixelData" not in dataset and "DoubleFloatPixelData" not in dataset:
        raise InputError(f"{name} holds no pixels", hint="export it again, with its image")
    if syntax.is_encapsulated:
        if not pixels.get_decoder(syntax).is_available:
            raise PluginError(
                f"{name} is compressed as {syntax.name}, for which no decoder is installed",
                hint="pip install 'medground[dicom]', for JPEG lossless pylibjpeg-libjpeg too, or export it uncompressed",
            )
        _check_codestream(dataset, frame, name)
    values: Numbers = pixels.pixel_array(dataset, index=frame)
    if values.shape[:2] != (dataset.Rows, dataset.Columns):
        raise InputError(f"{name} holds another size of picture than its header says", hint="export it again")
    return values


def _check_codestream(dataset: "Dataset", frame: int, name: str) -> None:
    """A compressed frame must state the size its header states, so that no decoder allocates what a bomb claims."""
    encaps = import_pydicom().encaps
    frames = int(dataset.get("NumberOfFrames") or 1)
    data = encaps.get_frame(dataset.PixelData, frame, number_of_frames=frames)
    size = claimed_size(data)
    if size is not None and size != (dataset.Rows, dataset.Columns):
        raise InputError(
            f"{name} holds a compressed picture of {size[1]} x {size[0]} pixels under a header that says "
            f"{dataset.Columns} x {dataset.Rows}",
            hint="export it again",
        )


def _grey(
    dataset: "Dataset", stored: Numbers, frame: int, view: View, modality: str | None, name: str
) -> tuple[Image, str]:
    if stored.ndim != 2:
        raise InputError(f"{name} is grey with several samples per pixel", hint="export it again")
    values, rescaled = _rescaled(dataset, stored, frame, name)
    if view.window in _HOUNSFIELD and modality not in (None, "CT"):
        raise ViewError(
            f"{name} is not CT but {modality}, whose values are not Hounsfield units",
            hint="take the window percentiles, file or CENTRE,WIDTH",
        )
    grey, window = _windowed(dataset, values, rescaled, frame, view.window, name)
    if str(dataset.PhotometricInterpretation) == "MONOCHROME1":
        grey, window = 255 - grey, f"{window}; inverted (MONOCHROME1)"
    return grey_to_rgb(grey), window


def _rescaled(dataset: "Dataset", stored: Numbers, frame: int, name: str) -> tuple[Numbers, bool]:
    """(values, whether they differ from what is stored)."""
    if dataset.get("ModalityLUTSequence"):
        looked_up: Numbers = import_pydicom().pixels.apply_modality_lut(stored, dataset)
        return looked_up, True
    slope = _float(_of_frame(dataset, frame, "PixelValueTransformationSequence", "RescaleSlope"), 1.0)
    intercept = _float(_of_frame(dataset, frame, "PixelValueTransformationSequence", "RescaleIntercept"), 0.0)
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise InputError(f"{name} has a rescale slope of {slope:g}", hint="export it again")
    if (slope, intercept) == (1.0, 0.0):
        return stored, False
    return stored * np.float64(slope) + intercept, True


def _windowed(
    dataset: "Dataset", values: Numbers, rescaled: bool, frame: int, window: str | None, name: str
) -> tuple[NDArray[np.uint8], str]:
    if window not in (None, "file"):
        assert window is not None
        return apply_window(values, window)
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        bits = int(table.LUTDescriptor[2])
        looked_up = import_pydicom().pixels.apply_voi(values.astype(np.int64), dataset)
        return np.rint(looked_up * (255.0 / (2**bits - 1))).clip(0, 255).astype(np.uint8), "file: VOI LUT"
    centre = _of_frame(dataset, frame, "FrameVOILUTSequence", "WindowCenter")
    width = _of_frame(dataset, frame, "FrameVOILUTSequence", "WindowWidth")
    function = str(_of_frame(dataset, frame, "FrameVOILUTSequence", "VOILUTFunction") or "LINEAR")
    if centre is not None and width is not None:
        c, w = _float(centre, 0.0), _float(width, 0.0)
        # "At least 1", and for the other functions "above 0", says the standard.
        if not np.isfinite([c, w]).all() or (w < 1 if function == "LINEAR" else w <= 0):
            raise InputError(f"{name} has a window of width {w:g}", hint="name a window yourself")
        shape = f", {function}" if function in ("LINEAR_EXACT", "SIGMOID") else ""
        return window_grey(values, c, w, function), f"{describe_window('file', c, w)}{shape}"
    if window == "file":
        raise ViewError(
            f"{name} names no window", hint="take lung, bone, brain, soft_tissue, percentiles or CENTRE,WIDTH"
        )
    if not rescaled and values.dtype == np.uint8 and int(dataset.get("BitsStored", 8)) == 8:
        return values, "as stored"
    return apply_window(values, "percentiles")


def _colour(dataset: "Dataset", stored: Numbers, view: View, name: str) -> tuple[Image, str]:
    view.refuse_on(name, "a colour image", "window")
    interpretation = str(dataset.PhotometricInterpretation)
    if interpretation == "PALETTE COLOR":
        looked_up = import_pydicom().pixels.apply_color_lut(stored, dataset)
        bits = 8 * looked_up.dtype.itemsize
        # A table of 16-bit entries may hold 8-bit values.
        bits = 16 if bits == 16 and looked_up.max(initial=0) > 255 else 8
        return (looked_up[..., :3] >> (bits - 8)).astype(np.uint8), "colours of the palette"
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise InputError(f"{name} is coloured in a way that cannot be read", hint="export it as RGB")
    bits = int(dataset.get("BitsStored", 8))
    return np.ascontiguousarray(stored >> max(0, bits - 8)).astype(np.uint8), "colours as stored"


def _of_frame(dataset: "Dataset", frame: int, group: str, keyword: str) -> Any:
    """An element of one frame: its own functional group, else the shared one, else the top level."""
    for sequence, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(sequence)
        if items and index < len(items) and items[index].get(group):
            value = items[index].get(group)[0].get(keyword)
            if value is not None:
                return value
    return dataset.get(keyword)


def spacing(dataset: "Dataset", frame: int) -> tuple[float, float] | None:
    """Return (row, column) of one frame in mm, where the file states it."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        value = _of_frame(dataset, frame, "PixelMeasuresSequence", keyword)
        if value is not None and not isinstance(value, str) and len(value) == 2:
            row, column = float(value[0]), float(value[1])
            return (row, column) if row > 0 and column > 0 and np.isfinite([row, column]).all() else None
    return None


def _float(value: Any, default: float) -> float:
    """A number of an element that may hold several: the first."""
    if value is None or value == "":
        return default
    return float(value if isinstance(value, (int, float, str)) else value[0])
