"""A volume: voxels with a place in the patient, read when they are asked for.

Conventions, for every format:

* A voxel is (i, j, k), counted from 0, and arrays of voxels are indexed ``[i, j, k]``. Of DICOM, i counts columns, j rows and k
  the slices, sorted along the normal of the rows and columns; of NIfTI and NRRD they are the file's own axes.
* `Volume.affine` maps (i, j, k, 1) to the millimetres of the voxel's **centre**, in LPS: to the patient's left, back and head.
* A picture of a slice is displayed as `medground.images.placement` says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medground.errors import InputError
from medground.images.loaded import ImageKind, LoadedImage
from medground.images.paths import safe_name
from medground.images.placement import (
    RAS_LPS,
    Floats,
    Placement,
    Sides,
    directions,
    letters,
    place_view,
    plane_across,
    spacing_of,
)
from medground.images.view import View
from medground.images.windows import Numbers, grey_to_rgb

_SHEAR = 1e-3
"""The largest cosine between two voxel axes that counts as perpendicular: headers hold few digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One file, or one frame of a file, that a volume was read from."""

    path: Path
    digest: str
    """SHA-256 of the file's content, hexadecimal."""
    uid: str = ""
    """The SOPInstanceUID, of DICOM."""
    frame: int | None = None
    """Of a DICOM file of several frames, from 0; of a NIfTI file of several volumes, which of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a volume was read from: what a writer refers to. Holds identifiers of the source; results leave them out."""

    instances: tuple[Instance, ...]
    """Of DICOM, one per slice, in the order of k; else one."""
    series: str = ""
    """The SeriesInstanceUID, of DICOM."""
    frame_of_reference: str = ""
    """The FrameOfReferenceUID, of DICOM."""


class Voxels(Protocol):
    """Reads the voxels of a volume; planes are arrays of the two voxel axes that remain, in their order."""

    def plane(self, axis: int, index: int) -> Numbers:
        """Return the measured values of the voxels across `axis` at `index`.

        Raises:
            InputError: if the file is damaged or was changed.
        """
        ...

    def planes(self) -> Iterator[Numbers]:
        """Yield the measured values across k, in order, in one pass over the files. Raises as `plane`."""
        ...

    def grey(self, axis: int, index: int, window: str | None) -> tuple[NDArray[np.uint8], str, dict[str, object]]:
        """Return (grey values, the window in words, details for results) of the voxels across `axis` at `index`.

        Raises:
            ViewError: for a window that the file does not have, or that means nothing for its values.
            InputError: as `plane`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Volume:
    """A volume of grey values. `read_volume` reads one; voxels are (i, j, k), millimetres are LPS.

    >>> volume = read_volume("ct/", series="series-1f0c9a3e5b7d")  # doctest: +SKIP
    >>> volume.slice("axial", 40, window="lung").pixels.shape, volume.to_mm((0, 0, 0))  # doctest: +SKIP
    ((512, 512, 3), array([-170.2, -310.1, -52.5]))
    """

    id: str
    """Names results; neutral for DICOM."""
    kind: ImageKind
    shape: Sides
    """Voxels along i, j and k."""
    affine: Floats
    """4×4: (i, j, k, 1) to the LPS mm of the voxel's centre. Its axes are perpendicular."""
    voxels: Voxels
    origin: Origin
    modality: str | None = None
    """In words; None where the file does not say."""
    group: str = ""
    """A pseudonym of the patient or the series; empty where the file names neither."""
    notes: tuple[str, ...] = ()
    """What was noticed while reading, one sentence each."""

    def __post_init__(self) -> None:
        axes = directions(self.affine)
        if axes is None:
            raise InputError(f"{self.id} does not say how it lies in space", hint="its affine is singular")
        columns = self.affine[:3, :3] / np.asarray(self.spacing)
        if np.abs(columns.T @ columns - np.eye(3)).max() > _SHEAR:
            raise InputError(
                f"{self.id} has voxel axes that are not perpendicular", hint="resample it, for example with 3D Slicer"
            )

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between the centres of voxels along i, j and k."""
        first, second, third = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(first), float(second), float(third)

    @property
    def ras_affine(self) -> Floats:
        """The affine to RAS mm, as NIfTI has it."""
        return RAS_LPS @ self.affine

    @property
    def codes(self) -> str:
        """Where the voxel axes go, for example ``LPS``."""
        return letters(self._axes)

    @property
    def plane(self) -> str:
        """The plane that the slices along k show: axial, coronal or sagittal, whichever is nearest."""
        return plane_across(self._axes, 2)

    def count(self, plane: str) -> int:
        """Return how many slices a plane has.

        Raises:
            ViewError: for a plane that does not exist.
        """
        return self.shape[self.placement(plane, 0).axis]

    def placement(self, plane: str, index: int) -> Placement:
        """Return how the picture of a slice lies in the voxels.

        Raises:
            ViewError: for a plane or a slice that is not there.
        """
        return place_view(View(plane=plane, slice=index), self.shape, self._axes, self.id)

    def slice(self, plane: str, index: int, *, window: str | None = None) -> LoadedImage:
        """Return one slice as the readers of single images give it, with its spacing (row, column) in mm.

        Args:
            plane: ``axial``, ``coronal`` or ``sagittal``.
            index: of the slice, from 0, in voxels.
            window: as `medground.images.view.View`; None takes the file's own where it has one, else the percentiles of
                the slice.

        Raises:
            ViewError: for a plane, a slice or a window that is not there.
            InputError: if the file is damaged or was changed.
        """
        view = View(plane=plane, slice=index, window=window)
        placement = self.placement(plane, index)
        grey, words, details = self.voxels.grey(placement.axis, index, view.window)
        spacing = spacing_of(self.affine, placement)
        described = {
            **details, "plane": plane, "slice": index, "window": words, "spacing_mm": [round(step, 6) for step in spacing],
            "voxels": list(self.shape), "axes": self.codes,
        }  # fmt: skip
        return LoadedImage(
            id=safe_name(f"{self.id}_{plane}_{index}"), kind=self.kind, window=words, spacing=spacing, details=described,
            pixels=grey_to_rgb(np.ascontiguousarray(placement.picture(grey))),
        )  # fmt: skip

    def values(self, plane: str, index: int) -> Numbers:
        """Return the measured values of one slice, H×W, displayed as `slice` displays it. Raises as `slice`."""
        placement = self.placement(plane, index)
        return placement.picture(self.voxels.plane(placement.axis, index))

    def array(self) -> Numbers:
        """Return the measured values of all voxels, ``[i, j, k]``. Raises as `slice`.

        Memory: all voxels, and one slice more.
        """
        out: Numbers | None = None
        for k, plane in enumerate(self.voxels.planes()):
            if out is None:
                out = np.empty(self.shape, plane.dtype.newbyteorder("="))
            wide = np.result_type(out, plane)  # a slice without rescale among others that have one
            if wide != out.dtype:
                out = out.astype(wide)
            out[:, :, k] = plane
        if out is None:  # a shape has no side of 0
            raise AssertionError("a volume without slices")
        return out

    def to_mm(self, voxels: ArrayLike) -> Floats:
        """Return the LPS mm of voxel coordinates ``[..., 3]`` (i, j, k); whole numbers are centres of voxels."""
        return np.asarray(voxels, np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_voxel(self, mm: ArrayLike) -> Floats:
        """Return the voxel coordinates ``[..., 3]`` (i, j, k) of LPS mm. Inverts `to_mm`."""
        return (np.asarray(mm, np.float64) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def pixel_to_mm(self, plane: str, index: int, points: ArrayLike) -> Floats:
        """Return the LPS mm ``[..., 3]`` of points ``[..., 2]`` (x, y) in pixels of the picture of a slice."""
        return self.to_mm(self.placement(plane, index).voxels(points, self.shape))

    def __repr__(self) -> str:
        sides, steps = (" x ".join(f"{value:g}" for value in row) for row in (self.shape, np.round(self.spacing, 4)))
        return f"Volume({self.id!r}, {sides} voxels of {steps} mm, {self.codes}, {self.modality or 'modality unknown'})"

    @property
    def _axes(self) -> tuple[tuple[int, int], ...]:
        axes = directions(self.affine)
        assert axes is not None
        return axes
