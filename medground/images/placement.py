"""How a voxel grid lies in the patient, and how one of its slices lies in the picture that shows it.

Display, whatever the axes of the file: **axial** and **coronal** show the patient's right on the left of the picture,
**sagittal** shows anterior on the left; anterior (axial) or superior (coronal, sagittal) is up. Planes are the voxel
axes nearest to the anatomical ones; nothing is resampled. A slice is counted in the grid's own voxels, from 0.

An affine maps a voxel (i, j, k, 1) to the millimetres of its centre in LPS, as DICOM and ITK do: x grows to the patient's
left, y to the back (posterior), z to the head (superior).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medground.errors import ViewError
from medground.images.view import View
from medground.images.windows import Numbers

Floats = NDArray[np.float64]
Sides = tuple[int, int, int]
"""Voxels along i, j and k."""
RAS_LPS: Floats = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns an affine to RAS (x to the right, y to the front), as NIfTI has them, into one to LPS, and back."""
_LETTERS = ("RL", "AP", "IS")
"""Per axis of LPS, where it comes from and where it goes."""
_NORMAL = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Plane -> the anatomical axis across it: 0 right-left, 1 front-back, 2 foot-head."""
_ACROSS = {"sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}
"""Plane -> the anatomical axes along the picture's columns and rows. Columns run to the left or to the back, rows to the back
or down."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How a picture lies in a volume: undoes what showing it did."""

    axis: int
    """The voxel axis across it."""
    index: int
    transpose: bool
    """True if rows and columns are exchanged, from voxel order to the picture."""
    flip_rows: bool
    flip_columns: bool

    def picture(self, plane: Numbers) -> Numbers:
        """Return the remaining two voxel axes, in their order, as H×W."""
        out = plane.T if self.transpose else plane
        return out[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def plane(self, picture: Numbers) -> Numbers:
        """Invert `picture`."""
        out = picture[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return out.T if self.transpose else out

    @property
    def axes(self) -> tuple[int, int]:
        """The voxel axes along the picture's rows (downwards) and columns (to the right)."""
        first, second = (axis for axis in range(3) if axis != self.axis)
        return (second, first) if self.transpose else (first, second)

    def voxels(self, points: ArrayLike, sides: Sides) -> Floats:
        """Return the voxel coordinates (i, j, k) of points of the picture, ``[..., 3]``.

        Args:
            points: ``[..., 2]`` (x, y) in pixels of the picture, whose top-left pixel covers [0, 1); (0.5, 0.5) is its centre.
            sides: of the volume. In voxel coordinates the centre of the first voxel is (0, 0, 0).
        """
        xy = np.asarray(points, np.float64)
        out = np.empty((*xy.shape[:-1], 3))
        out[..., self.axis] = self.index
        rows, columns = self.axes
        for axis, along, flip in ((columns, xy[..., 0], self.flip_columns), (rows, xy[..., 1], self.flip_rows)):
            out[..., axis] = sides[axis] - 0.5 - along if flip else along - 0.5
        return out


def directions(affine: Floats) -> tuple[tuple[int, int], ...] | None:
    """Return, per voxel axis, its anatomical axis (of LPS) and 1 or -1 along or against it; None for a singular affine.

    Each anatomical axis goes to one voxel axis, as nibabel's `io_orientation` gives them: by the rotation nearest to the
    affine (its polar decomposition).

    >>> directions(np.diag([-2.0, -2.0, 5.0, 1.0]))
    ((0, -1), (1, -1), (2, 1))
    """
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (lengths == 0).any():
        return None
    left, scales, right = np.linalg.svd(affine[:3, :3] / lengths)
    if scales.min() <= scales.max() * 3 * np.finfo(float).eps:
        return None
    rotation = left @ right
    axes = {}
    for voxel in np.argsort(-np.abs(rotation).max(axis=0), kind="stable").tolist():  # the most certain first
        axis = int(np.argmax(np.abs(rotation[:, voxel])))
        axes[voxel] = axis, 1 if rotation[axis, voxel] > 0 else -1
        rotation[axis] = 0  # so that no other voxel axis takes it
    return axes[0], axes[1], axes[2]


def letters(axes: Sequence[tuple[int, int]]) -> str:
    """Return where voxel axes go, for example ``LPS``.

    >>> letters(((0, -1), (1, -1), (2, 1)))
    'RAS'
    """
    return "".join(_LETTERS[axis][int(sign > 0)] for axis, sign in axes)


def plane_across(axes: Sequence[tuple[int, int]], axis: int) -> str:
    """Return the plane that slices across one voxel axis show: axial, coronal or sagittal."""
    return next(plane for plane, normal in _NORMAL.items() if normal == axes[axis][0])


def place_view(view: View, sides: Sides, axes: Sequence[tuple[int, int]], name: str) -> Placement:
    """Return where the picture that `view` names lies in a volume.

    Args:
        view: what to show.
        sides: of the volume.
        axes: its `directions`.
        name: names it in messages.

    Raises:
        ViewError: if the view names no plane or no slice, or one that is not there.
    """
    voxel = {anatomical: (number, sign) for number, (anatomical, sign) in enumerate(axes)}
    if view.plane is None or view.slice is None:
        known = "" if view.plane is None else f" 0 to {sides[voxel[_NORMAL[view.plane]][0]] - 1}"
        missing = " and ".join(word for word in ("plane", "slice") if getattr(view, word) is None)
        raise ViewError(
            f"{name} is a volume of {' x '.join(map(str, sides))} voxels: name the {missing}",
            hint=f"--plane axial, coronal or sagittal, and --slice{known or ' N'}",
        )
    across = voxel[_NORMAL[view.plane]][0]
    if view.slice >= sides[across]:
        raise ViewError(f"{name} has no {view.plane} slice {view.slice}", hint=f"it has 0 to {sides[across] - 1}")
    columns, rows = (voxel[axis] for axis in _ACROSS[view.plane])
    # Columns are to run to the left or to the back, along LPS; rows to the back, along it, or down, against it.
    down = -1 if view.plane != "axial" else 1
    return Placement(
        axis=across,
        index=view.slice,
        transpose=columns[0] < rows[0],
        flip_rows=rows[1] != down,
        flip_columns=columns[1] < 0,
    )


def spacing_of(affine: Floats, placement: Placement) -> tuple[float, float]:
    """Return (row, column) of a picture, mm: the distances between the centres of its rows, and of its columns."""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    rows, columns = placement.axes
    return float(steps[rows]), float(steps[columns])
