"""What a mask is written onto: the voxels of a volume, or of the file of one image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.images import dicom, nifti
from medground.images.dicom_slices import Slice, Unplaced, slices_of
from medground.images.dicom_stacks import slice_affine
from medground.images.paths import safe_name
from medground.images.placement import Floats, Placement, Sides
from medground.images.read import image_kind, open_image
from medground.images.view import PLAIN, View
from medground.images.volume import Instance, Volume

_UPRIGHT = Placement(axis=2, index=0, transpose=True, flip_rows=False, flip_columns=False)
"""How the picture of one DICOM or other file lies in a volume of one slice: i counts columns, j rows."""

PLACELESS = ("US", "IVUS", "ES")
"""Modalities without a frame of reference: ultrasound, and endoscopy."""
_PHOTOGRAPHS = "1.2.840.10008.5.1.4.1.1.77.1."
"""The SOP classes of visible light begin with this."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Canvas:
    """Voxels with a place, and how a mask that was drawn on them lies in them."""

    name: str
    """In messages."""
    kind: str
    """picture, dicom, nifti or nrrd."""
    shape: Sides
    affine: Floats
    """(i, j, k, 1) to LPS mm."""
    placed: bool = True
    """False if the file does not say where its pixels lie in the patient: the affine is that of an axial slice at 0."""
    measured: bool = True
    """False if the file does not say how large its pixels are: they count as 1 mm."""
    photograph: bool = False
    """True for visible light without a place, such as fundus and skin, and not of an endoscope."""
    instances: tuple[Instance, ...]
    """Of DICOM, one per k; else one."""
    placement: Placement | None = None
    """How a picture lies in the voxels; None for a mask of all voxels."""
    view: View = PLAIN
    notes: tuple[str, ...] = ()
    """What is assumed of its voxels, one sentence each."""

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """The shape that a mask must have."""
        if self.placement is None:
            return self.shape
        rows, columns = self.placement.axes
        return self.shape[rows], self.shape[columns]

    def voxels(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return a mask as all voxels ``[i, j, k]``.

        Raises:
            InputError: if it is not bool, or not of `mask_shape`.
        """
        if mask.dtype != np.bool_ or mask.shape != self.mask_shape:
            raise InputError(
                f"a mask of shape {mask.shape} and type {mask.dtype} is none of {self.name}",
                hint=f"give a bool array of shape {self.mask_shape}",
            )
        if self.placement is None:
            return mask
        out = np.zeros(self.shape, np.bool_)
        np.moveaxis(out, self.placement.axis, 0)[self.placement.index] = self.placement.plane(mask)
        return out


def canvas_of(source: Volume | Path, view: View) -> Canvas:
    """Return what a mask of a volume, or of one image of a file, is written onto.

    Args:
        source: the volume, or the image's file.
        view: of a file, the plane and slice, or the frame, that the mask belongs to.

    Raises:
        ViewError, InputError, PluginError: as `medground.images.read.open_image`.
    """
    if isinstance(source, Volume):
        return Canvas(
            name=source.id, kind=source.kind, shape=source.shape, affine=source.affine, instances=source.origin.instances
        )  # fmt: skip
    kind = image_kind(source)
    if kind == "nifti":
        file = nifti.NiftiFile(source)
        return Canvas(
            name=file.name, kind=kind, shape=file.sides, affine=file.affine, view=view, placement=file.placement(view),
            instances=(Instance(path=source, digest=""),),
        )  # fmt: skip
    if kind == "dicom":
        return _dicom_canvas(source, view)
    rows, columns = open_image(source, view).size
    return Canvas(
        name=safe_name(source.name), kind=kind, shape=(columns, rows, 1), affine=np.eye(4), placed=False, measured=False,
        instances=(Instance(path=source, digest=""),), placement=_UPRIGHT, view=view,
    )  # fmt: skip


def _dicom_canvas(path: Path, view: View) -> Canvas:
    file = dicom.DicomFile.read(path)
    with dicom.sealed(file.name):
        frame, frames = dicom.chosen_frame(file, view), file.header().frames
        spacing = dicom.spacing(file.dataset, frame)
        shape = int(file.dataset.Columns), int(file.dataset.Rows), 1
        light = str(file.dataset.get("SOPClassUID", "")).startswith(_PHOTOGRAPHS)
        light = light and file.dataset.get("Modality") not in PLACELESS
    where = _slice(file, path, frame)
    notes = (
        () if where is None or where.thickness else ("the source does not say how thick its slice is: 1 mm is assumed",)
    )
    if where is None:
        row, column = spacing or (1.0, 1.0)
        affine = np.diag([column, row, 1.0, 1.0])
    else:
        affine = slice_affine(where, where.normal * (where.thickness or 1.0))
    return Canvas(
        name=file.name, kind="dicom", shape=shape, affine=affine, placed=where is not None, measured=spacing is not None,
        photograph=light and where is None,
        instances=(
            Instance(
                path=path, digest=file.digest, uid=str(file.dataset.get("SOPInstanceUID", "")),
                frame=frame if frames > 1 else None,
            ),
        ),
        placement=_UPRIGHT, view=view, notes=notes,
    )  # fmt: skip


def _slice(file: dicom.DicomFile, path: Path, frame: int) -> Slice | None:
    """The slice of a frame; None where the file does not say where it lies."""
    try:
        return next(one for one in slices_of(file, path) if one.frame == frame)
    except Unplaced:
        return None
