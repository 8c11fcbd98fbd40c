"""Generated DICOM files: grey, coloured, and those that must be refused."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import jpeg_ls
import numpy as np
from dicom_colour_files import colour
from dicom_grey_files import grey
from dicom_parts import HOUNSFIELD, NATIVE, Case, header, item, nested, set_pixels, words
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, MRImageStorage


def cases(count: int, seed: int) -> Iterator[Case]:
    """`count` files: three of five grey, one coloured, one that must be refused."""
    dice = random.Random(seed)
    for number in range(count):
        kind = (grey, grey, grey, colour, None)[number % 5]
        yield kind(dice) if kind else refused(dice, WRONG[number // 5 % len(WRONG)])


REFUSALS: dict[str, Callable[[Dataset], Any]] = {
    "a high bit of old": lambda d: setattr(d, "HighBit", d.HighBit + 1),
    "one more frame than is stated": lambda d: setattr(d, "PixelData", d.PixelData * 2),
    "three frames for two": lambda d: (setattr(d, "NumberOfFrames", 2), setattr(d, "PixelData", d.PixelData * 3)),
    "fewer bytes than rows": lambda d: setattr(d, "Rows", d.Rows + 2),
    "more bytes than rows": lambda d: setattr(d, "Rows", d.Rows - 2),
    "a slope without intercept": lambda d: setattr(d, "RescaleSlope", 2),
    "an intercept without slope": lambda d: setattr(d, "RescaleIntercept", 2),
    "a slope of 0": lambda d: (setattr(d, "RescaleSlope", 0), setattr(d, "RescaleIntercept", 2)),
    "a window function unknown": lambda d: (
        setattr(d, "WindowCenter", 2), setattr(d, "WindowWidth", 9), setattr(d, "VOILUTFunction", "CUBIC"),
    ),
    "a window of no width": lambda d: (setattr(d, "WindowCenter", 2), setattr(d, "WindowWidth", 0)),
    "a linear window of half a value": lambda d: (setattr(d, "WindowCenter", 2), setattr(d, "WindowWidth", 0.5)),
    "a table for fractions": lambda d: (
        setattr(d, "RescaleSlope", 0.3), setattr(d, "RescaleIntercept", 0),
        setattr(d, "VOILUTSequence", nested(LUTDescriptor=[5, 0, 16], LUTData=bytes(10))),
    ),
    "a presentation that contradicts": lambda d: setattr(d, "PresentationLUTShape", "INVERSE"),
    "a presentation that contradicts MONOCHROME1": lambda d: (
        setattr(d, "PresentationLUTShape", "IDENTITY"), setattr(d, "PhotometricInterpretation", "MONOCHROME1"),
    ),
    "grey with colours": lambda d: setattr(d, "PixelPresentation", "MIXED"),
    "three samples of grey": lambda d: setattr(d, "SamplesPerPixel", 3),
    "colours retired": lambda d: setattr(d, "PhotometricInterpretation", "ARGB"),
    "a palette without entries": lambda d: setattr(d, "PhotometricInterpretation", "PALETTE COLOR"),
    "bits that do not fit": lambda d: (setattr(d, "BitsStored", 20), setattr(d, "HighBit", 19)),
    "a table of fewer entries than stated": lambda d: setattr(
        d, "VOILUTSequence", nested(LUTDescriptor=[9, 0, 16], LUTData=bytes(10))
    ),
    "a table of wider entries than stated": lambda d: setattr(
        d, "VOILUTSequence", nested(LUTDescriptor=[5, 0, 12], LUTData=b"\xff" * 10)
    ),
    "a table and a rescale": lambda d: (
        setattr(d, "ModalityLUTSequence", nested(LUTDescriptor=[5, 0, 16], LUTData=bytes(10), ModalityLUTType="US")),
        setattr(d, "RescaleSlope", 2), setattr(d, "RescaleIntercept", 2),
    ),
    "fewer groups than frames": lambda d: (
        setattr(d, "NumberOfFrames", 2), setattr(d, "PixelData", d.PixelData * 2),
        setattr(d, "PerFrameFunctionalGroupsSequence", Sequence([item()])),
    ),
    "no sign": lambda d: d.__delattr__("PixelRepresentation"),
}  # fmt: skip
"""What is wrong -> how it is brought about."""


WRONG = (*REFUSALS, "Hounsfield units", "compressed frames", "signs of a stream", "values of a stream")


def refused(dice: random.Random, what: str) -> Case:
    """A file that is contradictory, or that holds what cannot be known."""
    rows, columns = 2 * dice.randint(16, 20), 2 * dice.randint(16, 20)
    values = np.random.default_rng(dice.getrandbits(32)).integers(100, 4000, (rows, columns // 2))
    values = np.repeat(values, 2, axis=1)
    dataset = header(
        dice.choice(NATIVE[:2]), MRImageStorage, "MR", PhotometricInterpretation="MONOCHROME2", SamplesPerPixel=1,
        Rows=rows, Columns=columns, BitsAllocated=16, BitsStored=12, HighBit=11, PixelRepresentation=0,
    )  # fmt: skip
    set_pixels(dataset, words(values, ExplicitVRLittleEndian, 16), "OW")
    frame = window = None
    if what in REFUSALS:
        REFUSALS[what](dataset)
    elif what == "Hounsfield units":
        window = dice.choice(sorted(HOUNSFIELD))
        dataset.Modality = dice.choice(["MR", "CT", "", "PT"])
        if dice.random() < 0.5:
            dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    else:
        dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
        bits = 16 if "values" in what else 12
        values = values + 9000 if "values" in what else values
        stream = bytes(jpeg_ls.encode_buffer(values.astype("<u2").tobytes(), rows, columns, 1, bits))
        streams = [stream] * 2 if "frames" in what else [stream]
        if "signs" in what:
            dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 15, 1
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            set_pixels(dataset, words(values - 2000, ExplicitVRLittleEndian, 16), "OW")
            dataset.compress(JPEG2000Lossless)
            dataset.PixelRepresentation = 0
        else:
            set_pixels(dataset, encapsulate(streams, has_bot=dice.random() < 0.5), "OB", True)
    if dataset.get("NumberOfFrames", 1) > 1:
        frame = dice.randrange(2)
    return Case(f"refused: {what}", dataset, frame, window)
