"""Masks that a page sends back, as a file in the geometry of their image."""

import base64
import binascii
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import UsageError
from medground.images.pictures import decode_picture
from medground.images.view import View
from medground.images.volume import Volume
from medground.images.writing.labelled import LabelledMask
from medground.images.writing.write import SUFFIXES, encode_masks

TYPES = {"nifti": "application/gzip", "seg": "application/dicom"}


def export(source: Volume | Path, view: View, form: str, masks: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Return the name, the media type and the content, in base64, of a file of masks.

    Args:
        source: what they were drawn on; a volume where `view` names a slice of one.
        view: the plane and slice, or the frame.
        form: ``nifti`` or ``seg``.
        masks: ``png`` in base64, of the size of the image as it is shown, and ``label``.

    Raises:
        UsageError: if a mask is no PNG, or all are empty.
        MedgroundError: as `medground.images.writing.write.encode_masks`.
    """
    name = f"mask{SUFFIXES[form]}"
    labelled = [LabelledMask(data=_placed(_mask(one["png"]), source, view), label=one["label"]) for one in masks]
    encoded = encode_masks(name, labelled, source, view=view)
    if encoded.data is None:
        raise UsageError("the masks are empty, and no file is written of them", hint="download the PNG")
    return {"name": name, "type": TYPES[form], "data": base64.b64encode(encoded.data).decode()}


def _mask(png: str) -> NDArray[np.bool_]:
    try:
        stream = io.BytesIO(base64.b64decode(png, validate=True))
    except binascii.Error:
        raise UsageError("a mask is not base64") from None
    return decode_picture(stream, "a mask").pixels[..., 0] > 0


def _placed(mask: NDArray[np.bool_], source: Volume | Path, view: View) -> NDArray[np.bool_]:
    """Return the mask of a slice as all voxels of its volume; of any other image as it is."""
    if not isinstance(source, Volume):
        return mask
    placement = source.placement(view.plane or "", view.slice or 0)
    voxels = np.zeros(source.shape, np.bool_)
    plane = np.moveaxis(voxels, placement.axis, 0)[placement.index]
    if (drawn := placement.plane(mask)).shape != plane.shape:
        raise UsageError("a mask is not of the size of its slice", hint="send it as the image is shown")
    plane[...] = drawn
    return voxels
