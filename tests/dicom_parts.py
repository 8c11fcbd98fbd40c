"""DICOM files over all that the format lets vary, each with the picture that the standard makes of it.

What a file shows is computed here from the values that were put into it, by the formulas of PS3.3 C.11 as they are written
there; `medground` is not used. `values` are compared with SimpleITK and pydicom too, except where `differs` cites why
an oracle departs from the text.
"""

import io
import random
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image as Pillow
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
HOUNSFIELD = {"soft_tissue": (40, 400), "lung": (-600, 1500), "bone": (400, 1800), "brain": (40, 80)}


@dataclass
class Case:
    """A file, what is asked of it, and what must come of it."""

    kind: str
    """What varies, in words."""
    dataset: Dataset
    frame: int | None = None
    window: str | None = None
    shown: Any = None
    """H×W or H×W×3 floats from 0 to 255 before rounding; None where the file must be refused."""
    tolerance: float = 0.5 + 1e-6
    """Of what is shown: rounding, and more where a lossy code leaves a choice."""
    values: Any = None
    """H×W measured values, or H×W×3 colours, for the oracles; None where they read no such file."""
    differs: dict[str, str] = field(default_factory=dict)
    """Oracle -> why it departs from the standard's text."""

    def data(self) -> bytes:
        """The file's bytes."""
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()


def item(**fields: Any) -> Dataset:
    """A data set, or an item of a sequence."""
    dataset = Dataset()
    for name, value in fields.items():
        setattr(dataset, name, value)
    return dataset


def nested(**fields: Any) -> Sequence:
    """A sequence of one item."""
    return Sequence([item(**fields)])


def header(syntax: str, sop_class: str, modality: str, **fields: Any) -> Dataset:
    """A data set without pixels."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, sop_class
    dataset = item(SOPClassUID=sop_class, SOPInstanceUID=generate_uid(), Modality=modality, **fields)
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta = meta
    return dataset


def words(values: Any, syntax: str, allocated: int) -> bytes:
    """Whole numbers as the uncompressed pixels of a transfer syntax."""
    if allocated == 1:
        return even(np.packbits(np.ravel(values).astype(np.uint8), bitorder="little").tobytes())
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    mask = (1 << allocated) - 1
    return even((np.asarray(values).astype(np.int64) & mask).astype(f"{order}u{allocated // 8}").tobytes())


def even(data: bytes) -> bytes:
    return data + bytes(len(data) % 2)


def jpeg(picture: Pillow.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=98, **options)
    return buffer.getvalue()


def set_pixels(dataset: Dataset, data: bytes, vr: str, encapsulated: bool = False) -> None:
    dataset.add_new("PixelData", vr, data)
    dataset["PixelData"].is_undefined_length = encapsulated


def table(
    entries: Any, first: int, bits: int, syntax: str, dice: random.Random, signed: bool, **fields: Any
) -> Dataset:
    """An item of a lookup table; 8-bit entries two to a word or one, data as OW or US (PS3.3 C.11.1.1.1)."""
    result = item(**fields)
    count = len(entries)
    result.add_new("LUTDescriptor", "SS" if signed else "US", [count, first if signed else first & 0xFFFF, bits])
    wide = np.asarray(entries, np.int64)
    if bits == 8 and dice.random() < 0.5:
        wide = np.frombuffer(even(wide.astype(np.uint8).tobytes()), "<u2").astype(np.int64)
    if dice.random() < 0.5 or len(wide) == 1 or syntax == ImplicitVRLittleEndian:
        result.add_new("LUTData", "OW", words(wide, syntax, 16))
    else:
        result.add_new("LUTData", "US", [int(entry) for entry in wide])
    return result


def by_formula(values: Any, centre: float, width: float, function: str) -> Any:
    """PS3.3 C.11.2.1.2.1 and C.11.2.1.3, for an output of 0 to 255."""
    x = np.asarray(values, np.float64)
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 255 / (1 + np.exp(-4 * (x - centre) / width))
    c, w = (centre - 0.5, width - 1) if function == "LINEAR" else (centre, width)
    if w == 0:
        return np.where(x <= c, 0.0, 255.0)
    y = ((x - c) / w + 0.5) * 255
    return np.where(x <= c - w / 2, 0.0, np.where(x > c + w / 2, 255.0, y))


def between(values: Any, low: float, high: float) -> Any:
    """Low to black and high to white."""
    x = np.asarray(values, np.float64)
    return np.where(x > low, 255.0, 0.0) if high <= low else np.clip((x - low) / (high - low), 0, 1) * 255


def in_table(values: Any, entries: Any, first: int) -> Any:
    """PS3.3 C.11.2.1.1: below the first value the first entry, above the last one the last."""
    return np.asarray(entries)[np.clip(np.asarray(values, np.int64) - first, 0, len(entries) - 1)]
