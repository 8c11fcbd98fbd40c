"""Label volumes as bytes of NIfTI and NRRD files."""

import gzip
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.images.label_maps import PALETTE
from medground.images.nifti import NiftiFile
from medground.images.nifti_header import import_nibabel
from medground.images.placement import RAS_LPS
from medground.images.writing.canvas import Canvas
from medground.images.writing.labelled import LabelledMask

_NIFTI1_SIDE = 32767
"""The longest side that a NIfTI-1 header can state."""


def nifti_bytes(canvas: Canvas, masks: Sequence[NDArray[np.bool_]], *, zipped: bool) -> bytes:
    """Return a NIfTI file of the number of the segment at each voxel, from 1: of several the first.

    The mask of a NIfTI file has its shape, affine and header. Of the header, what describes the image's values and its free
    text is left out, and extensions, which may hold a whole DICOM header, are too. Any other has both placements (sform
    and qform), with code 1, in mm; a spacing that is not known is 1, without a unit, and the description says so.

    Args:
        canvas: what the masks lie on.
        masks: ``[i, j, k]`` bool.
        zipped: whether the file is to be ``.nii.gz``. Its bytes depend on nothing but the masks and the source.

    Raises:
        InputError: if the source was changed.
        PluginError: without nibabel.
    """
    nibabel = import_nibabel()
    labels = _labels(masks, canvas.shape)
    if canvas.kind == "nifti":
        source = canvas.instances[0]
        file = NiftiFile(source.path, source.frame)
        header, affine = _kept_header(file.header), None
        if file.sides != canvas.shape or not np.array_equal(file.affine, canvas.affine):
            raise InputError(f"{file.name} was changed since the volume was read", hint="read the volume again")
        header.set_data_dtype(labels.dtype)
        # An affine of None leaves both of the header's placements, with their codes, as they are.
        labels = labels.reshape(file.shape) if file.volumes == 1 else labels
    else:
        header, affine = None, RAS_LPS @ canvas.affine
    large = max(canvas.shape) > _NIFTI1_SIDE or isinstance(header, nibabel.Nifti2Header)
    image = (nibabel.Nifti2Image if large else nibabel.Nifti1Image)(labels, affine, header)
    if affine is not None:
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        image.header.set_xyzt_units("mm" if canvas.measured else "unknown")
        if not canvas.measured:
            image.header["descrip"] = b"pixels count as 1: their size is not known"
        elif not canvas.placed:
            image.header["descrip"] = b"the place in the patient is not known"
    data: bytes = image.to_bytes()
    return gzip.compress(data, mtime=0) if zipped else data


def _kept_header(source: Any) -> Any:
    header = source.copy()
    header.set_slope_inter(1, 0)
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        if field in header.keys():  # noqa: SIM118  a header is no mapping: `in` asks its bytes
            header[field] = b""
    header["cal_min"] = header["cal_max"] = 0
    header["intent_code"] = 0
    return header


def nrrd_bytes(canvas: Canvas, segments: Sequence[LabelledMask], masks: Sequence[NDArray[np.bool_]]) -> bytes:
    """Return a ``.seg.nrrd`` file as 3D Slicer reads it: a label per segment, with its name, colour, extent and codes.

    Segments that overlap are in layers of their own. The header is written here, since pynrrd's holds the time of writing.

    Args:
        canvas: what the masks lie on.
        segments: one per mask; their labels and codes are written.
        masks: ``[i, j, k]`` bool.
    """
    layers = _layers(masks)
    count = max(layers, default=0) + 1
    voxels = np.stack(
        [
            _labels(masks, canvas.shape, [number for number, one in enumerate(layers) if one == layer])
            for layer in range(count)
        ]
    )
    kind = {1: "uint8", 2: "uint16"}[voxels.dtype.itemsize]
    axes = ["({})".format(",".join(repr(float(value)) for value in column)) for column in canvas.affine[:3].T]
    several = count > 1
    lines = [
        "NRRD0004", f"type: {kind}", f"dimension: {3 + several}", "space: left-posterior-superior",
        "sizes: " + " ".join(str(side) for side in ([count] if several else []) + list(canvas.shape)),
        "space directions: " + " ".join((["none"] if several else []) + axes[:3]),
        "kinds: " + ("list " if several else "") + "domain domain domain", "endian: little", "encoding: gzip",
        f"space origin: {axes[3]}", "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0", "Segmentation_MasterRepresentation:=Binary labelmap",
    ]  # fmt: skip
    for number, (segment, mask) in enumerate(zip(segments, masks, strict=True)):
        lines += _segment_fields(number, segment, mask, layers[number])
    header = "\n".join(lines).encode() + b"\n\n"
    # The first axis counts fastest.
    return header + gzip.compress((voxels if several else voxels[0]).tobytes(order="F"), mtime=0)


def _segment_fields(number: int, segment: LabelledMask, mask: NDArray[np.bool_], layer: int) -> Iterator[str]:
    category, kind = (f"SCT^{code.value}^{code.meaning}" for code in (segment.category, segment.type))
    extent = ["0 -1"] * 3
    if mask.any():
        sides = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        extent = [f"{side[0]} {side[-1]}" for side in sides]
    red, green, blue = (f"{value / 255:.6f}" for value in PALETTE[number % len(PALETTE)])
    fields = {
        "ID": f"Segment_{number + 1}", "Name": segment.label, "NameAutoGenerated": "0", "Color": f"{red} {green} {blue}",
        "ColorAutoGenerated": "0", "Extent": " ".join(extent), "LabelValue": str(number + 1), "Layer": str(layer),
        "Tags": "TerminologyEntry:Segmentation category and type - medground~"
        f"{category}~{kind}~^^~Anatomic codes - DICOM master list~^^~^^|",
    }  # fmt: skip
    for field, value in fields.items():
        yield f"Segment{number}_{field}:={value}"


def _layers(masks: Sequence[NDArray[np.bool_]]) -> list[int]:
    """The layer of each mask: the first in which no earlier mask overlaps it."""
    taken: list[NDArray[np.bool_]] = []
    layers = []
    for mask in masks:
        layer = next((number for number, one in enumerate(taken) if not (one & mask).any()), len(taken))
        if layer == len(taken):
            taken.append(np.zeros_like(mask))
        taken[layer] |= mask
        layers.append(layer)
    return layers


def _labels(
    masks: Sequence[NDArray[np.bool_]], shape: tuple[int, ...], wanted: Sequence[int] | None = None
) -> NDArray[Any]:
    """The number of the segment at each voxel, as uint8 or uint16."""
    labels = np.zeros(shape, np.uint8 if len(masks) < 256 else np.uint16)
    for number in reversed(range(len(masks)) if wanted is None else wanted):
        labels[masks[number]] = number + 1
    return labels
