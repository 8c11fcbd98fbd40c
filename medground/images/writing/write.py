"""Write masks in the geometry of what they segment; the suffix of the file says the format."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError, UsageError
from medground.images.view import PLAIN, View
from medground.images.volume import Volume
from medground.images.writing.canvas import Canvas, canvas_of
from medground.images.writing.capture import capture_bytes, check_capture
from medground.images.writing.labelled import Algorithm, LabelledMask
from medground.images.writing.rtstruct import check_rtstruct, rtstruct_bytes
from medground.images.writing.seg import check_seg, seg_bytes
from medground.images.writing.sources import Sources, read_sources
from medground.images.writing.voxel_files import nifti_bytes, nrrd_bytes

SUFFIXES = {
    "nifti": ".nii.gz",
    "nrrd": ".seg.nrrd",
    "seg": ".seg.dcm",
    "rtstruct": ".rtstruct.dcm",
    "sc": ".sc.dcm",
}
"""Format -> the suffix of its files. ``.nii`` is NIfTI too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A file that is not written yet."""

    data: bytes | None
    """Its content; None if there is nothing to write."""
    notes: tuple[str, ...] = ()
    """What its owner should know, one sentence each."""


def write_masks(
    path: str | os.PathLike[str],
    masks: Sequence[LabelledMask],
    source: Volume | str | os.PathLike[str],
    *,
    view: View = PLAIN,
    algorithm: Algorithm | None = None,
    force: bool = False,
) -> tuple[str, ...]:
    """Write masks of a volume, or of one image, as a file in the geometry of their source; return notes about it.

    The suffix says the format: ``.nii`` and ``.nii.gz`` (NIfTI), ``.seg.nrrd`` (3D Slicer), ``.seg.dcm`` (DICOM
    Segmentation), ``.rtstruct.dcm`` (DICOM RT Structure Set), ``.sc.dcm`` (DICOM Secondary Capture with outlines). No DICOM
    file is written for masks that are all empty; a note says so.

    >>> volume = read_volume("ct/")  # doctest: +SKIP
    >>> write_masks("liver.seg.dcm", [LabelledMask(data=data, label="liver")], volume)  # doctest: +SKIP
    ()

    Args:
        path: of the file.
        masks: of the size of the source, with labels and codes.
        source: the volume that they segment, or the file of one image.
        view: of a file, the plane and slice, or the frame, that the masks belong to.
        algorithm: what drew them; None names medground.
        force: write a DICOM Segmentation of ultrasound and endoscopy, which viewers may refuse, too.

    Raises:
        UsageError: for an unknown suffix.
        InputError: if a mask does not fit the source, or the format does not fit it.
        ViewError, PluginError: as `medground.read_image`.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    encoded = encode_masks(path.name, masks, source, view=view, algorithm=algorithm, force=force)
    if encoded.data is not None:
        path.write_bytes(encoded.data)
    return encoded.notes


def encode_masks(
    name: str,
    masks: Sequence[LabelledMask],
    source: Volume | str | os.PathLike[str],
    *,
    view: View = PLAIN,
    algorithm: Algorithm | None = None,
    force: bool = False,
) -> Encoded:
    """Return what `write_masks` writes into a file called `name`. Arguments and errors are those of `write_masks`."""
    form = _format_of(name)
    canvas = canvas_of(source if isinstance(source, Volume) else Path(source), view)
    sources = _checked_sources(form, canvas, force=force)
    segments = [mask.named(number) for number, mask in enumerate(masks, 1)]
    grids = [canvas.voxels(mask.data) for mask in segments]
    if form == "nifti":
        notes = (*canvas.notes, *_nifti_notes(canvas, grids))
        return Encoded(data=nifti_bytes(canvas, grids, zipped=name.lower().endswith(".gz")), notes=notes)
    if form == "nrrd":
        return Encoded(data=nrrd_bytes(canvas, segments, grids), notes=canvas.notes)
    filled = [number for number, grid in enumerate(grids) if grid.any()]
    if not filled:
        return Encoded(data=None, notes=("nothing was written: no mask has a voxel",))
    empty = [segment.label for number, segment in enumerate(segments) if number not in filled]
    segments, grids = [segments[number] for number in filled], [grids[number] for number in filled]
    algorithm = algorithm or Algorithm()
    assert sources is not None  # of DICOM formats
    if form == "sc":
        data = capture_bytes(canvas, sources, segments, algorithm)
    else:
        encode = rtstruct_bytes if form == "rtstruct" else seg_bytes
        data = encode(canvas, sources, segments, grids, algorithm)
    assumed = canvas.notes if form == "seg" else ()
    return Encoded(data=data, notes=(*assumed, *(f"{label} has no voxel and is left out" for label in empty)))


def check_format(
    form: str, source: Volume | str | os.PathLike[str], *, view: View = PLAIN, force: bool = False
) -> None:
    """Refuse a format that does not fit a source, before there is a mask.

    Args:
        form: one of `SUFFIXES`.
        source: as of `write_masks`.
        view: as of `write_masks`.
        force: as of `write_masks`.

    Raises:
        InputError, ViewError, PluginError: as `write_masks`.
    """
    _checked_sources(form, canvas_of(source if isinstance(source, Volume) else Path(source), view), force=force)


def _checked_sources(form: str, canvas: Canvas, *, force: bool) -> Sources | None:
    """The instances that a DICOM file refers to; None for other formats. Refuses what does not fit."""
    if form == "nifti":
        if canvas.photograph:
            raise InputError(f"{canvas.name} is a photograph without a place in space", hint="write .seg.dcm or a PNG")
        return None
    if form == "nrrd":
        if not canvas.placed:
            raise InputError(
                f"{canvas.name} does not say where its pixels lie in the patient", hint="write .nii.gz, or a PNG"
            )
        return None
    sources = read_sources(canvas)
    if sources.whole_slide:
        raise InputError(f"{canvas.name} is a slide of pathology, whose masks are not written", hint="write a PNG")
    if form == "seg":
        check_seg(canvas, sources)
        if sources.placeless and not force:
            raise InputError(
                f"{canvas.name} is ultrasound or endoscopy, of which many viewers refuse a Segmentation",
                hint="write .sc.dcm (--write sc), a picture with the outline drawn into it, or force it (--force, force=True)",
            )
    elif form == "rtstruct":
        check_rtstruct(canvas, sources)
    else:
        check_capture(canvas)
    return sources


def _format_of(name: str) -> str:
    suffixes = {**{suffix: form for form, suffix in SUFFIXES.items()}, ".nii": "nifti"}
    for suffix, form in suffixes.items():
        if name.lower().endswith(suffix):
            return form
    raise UsageError("the file's name does not say its format", hint=f"end it with one of {', '.join(suffixes)}")


def _nifti_notes(canvas: Canvas, grids: Sequence[NDArray[np.bool_]]) -> list[str]:
    notes = []
    count = np.zeros(canvas.shape, np.uint16)
    for grid in grids:
        count += grid
    shared = int((count > 1).sum())
    if shared:
        notes.append(f"{shared} voxels belong to several regions: in NIfTI they are those of the first")
    if not canvas.measured:
        notes.append("the source does not say how large its pixels are: in NIfTI they count as 1, without a unit")
    elif not canvas.placed:
        notes.append("the source does not say where it lies in the patient: in NIfTI it lies at 0, as an axial slice")
    return notes
