"""A mask as a DICOM Secondary Capture: the picture as it is shown, with the outlines of the segments drawn into it."""

import datetime
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.images import dicom
from medground.images.label_maps import PALETTE
from medground.images.read import open_image
from medground.images.writing.canvas import Canvas
from medground.images.writing.labelled import Algorithm, LabelledMask
from medground.images.writing.sources import Sources, file_bytes, new_dataset, references

_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7"


def check_capture(canvas: Canvas) -> None:
    """Refuse a volume, of which one picture shows no more than a slice.

    Raises:
        InputError: for a volume.
    """
    if canvas.placement is None:
        raise InputError(
            f"{canvas.name} is a volume, and a secondary capture holds one picture",
            hint="write .seg.dcm or .rtstruct.dcm, or give one image of the volume",
        )


def capture_bytes(canvas: Canvas, sources: Sources, segments: Sequence[LabelledMask], algorithm: Algorithm) -> bytes:
    """Return a Secondary Capture of the size of the source image, RGB.

    The outline of a segment are the pixels of its mask that touch a pixel outside of it by a side.

    Args:
        canvas: the image that the masks lie on.
        sources: its instance.
        segments: their masks H×W.
        algorithm: what drew them.
    """
    shown = open_image(canvas.instances[0].path, canvas.view)
    pixels = shown.pixels.copy()
    for number, segment in enumerate(segments):
        pixels[_rim(segment.data)] = PALETTE[number % len(PALETTE)]
    with dicom.sealed(canvas.name):
        dataset = new_dataset(
            sources.first, _SOP_CLASS, sources.first.get("Modality") or "OT", "medground outline", 102
        )
        now = datetime.datetime.now()
        names = "; ".join(segment.label for segment in segments)
        elements = {
            "ImageType": ["DERIVED", "SECONDARY"], "ConversionType": "SYN", "PatientOrientation": "", "Laterality": "",
            "BurnedInAnnotation": sources.first.get("BurnedInAnnotation") or "YES",
            "ContentDate": now.strftime("%Y%m%d"), "ContentTime": now.strftime("%H%M%S"),
            "DerivationDescription": f"Outlines by {algorithm.name} {algorithm.version}: {names}; not for diagnosis"[:1024],
            "SourceImageSequence": references(sources.datasets), "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB",
            "PlanarConfiguration": 0, "Rows": pixels.shape[0], "Columns": pixels.shape[1], "BitsAllocated": 8,
            "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0,
        }  # fmt: skip
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        if canvas.instances[0].frame is not None:
            dataset.SourceImageSequence[0].ReferencedFrameNumber = canvas.instances[0].frame + 1
        data = pixels.tobytes()
        dataset.PixelData = data + b"\0" * (len(data) % 2)
        return file_bytes(dataset)


def _rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask with a side towards what is outside of it, the border of the picture included."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
