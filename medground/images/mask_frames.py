"""Masks in the frame of their image: turned as it is turned, sliced as it is sliced.

A picture may be stored turned, with an EXIF orientation that says how it is to be shown. Its mask is most often drawn on
one of the two and says nothing: where the sizes tell which, or it makes no difference, the mask is brought upright; else
it is refused. A volume's mask lies on the grid of its image, perhaps with other axes: the same voxels in another order.
"""

from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.images import nifti
from medground.images.paths import safe_name
from medground.images.pictures import UPRIGHT, open_file, orientation_of
from medground.images.placement import Placement
from medground.images.read import image_kind, image_size, read_mask
from medground.images.view import PLAIN, View

Bools = NDArray[np.bool_]
_OFF = 0.1
"""Voxels by which a corner of a mask's grid may miss its image's: affines are rounded."""


def read_mask_of(
    image: Path,
    mask: Path,
    view: View = PLAIN,
    values: tuple[int, ...] | None = None,
    threshold: float | None = None,
    segment: int | str | None = None,
) -> Bools:
    """Read the mask of an image that is shown as `view` says, in the frame of that picture, H×W bool.

    Args:
        image: its file.
        mask: the mask's file; a picture is the mask of this very slice.
        view: how the image is shown.
        values: the labels that are meant; None applies the rules of `medground.images.mask_values`.
        threshold: the least value that is meant.
        segment: of a DICOM segmentation, the number or the label of the segment that is meant.

    Raises:
        ViewError, InputError, PluginError: as `read_mask`; if the two files do not lie in one frame.
    """
    kind = image_kind(mask)
    if kind == "picture":
        return in_frame_of(
            image,
            read_mask(mask, values=values, threshold=threshold, segment=segment),
            orientation=stored_orientation(mask),
        )
    if kind == "nifti" and nifti.is_nifti(image) and segment is None:
        volume = nifti.NiftiFile(mask)
        placement = mask_placement(nifti.NiftiFile(image, view.stack), volume, view)
        return nifti.mask(mask, view, values, threshold, placement)
    return read_mask(
        mask, plane=view.plane, slice=view.slice, values=values, threshold=threshold, image=image, segment=segment
    )


def in_frame_of(image: Path, mask: Bools, *, orientation: int = 1) -> Bools:
    """Return a mask upright as its image is shown, H×W bool.

    Args:
        image: its file.
        mask: as it was drawn, on the picture as stored or as shown.
        orientation: EXIF, of the mask's own file; one that is stored turned itself is upright by now.

    Raises:
        InputError: if both fit, and differ.
    """
    turn = UPRIGHT.get(stored_orientation(image))
    if turn is None or orientation != 1:
        return mask
    size = image_size(image)
    turned: Bools = np.ascontiguousarray(turn(mask))
    if turned.shape != size or np.array_equal(mask, turned):
        return mask
    if mask.shape == size:
        raise InputError(
            f"{safe_name(image.name)} is stored turned (EXIF), and its mask does not say whether it is of the stored picture",
            hint=f"if it is: exiftool -Orientation= {safe_name(image.name)}; if not: mogrify -auto-orient",
        )
    return turned


def stored_orientation(path: Path) -> int:
    """Return the EXIF orientation of an image file, 1 to 8; 1 where it is upright, and of all that is no picture.

    Raises:
        InputError: if the file cannot be read.
    """
    if image_kind(path) != "picture":
        return 1
    with open_file(path) as stream:
        return orientation_of(stream, safe_name(path.name))


def mask_placement(image: nifti.NiftiFile, mask: nifti.NiftiFile, view: View) -> Placement:
    """Return where the mask of the slice that `view` names of an image lies in the mask's own voxels.

    Raises:
        ViewError: if `view` names no slice of the image.
        InputError: if the two volumes are not of the same voxels.
    """
    shown = image.placement(view)
    step = np.linalg.solve(mask.affine, image.affine)  # from a voxel of the image to one of the mask
    corners = np.array(list(product(*((0, side - 1) for side in image.sides))), float)
    mapped = corners @ step[:3, :3].T + step[:3, 3]
    axes = np.abs(step[:3, :3]).argmax(axis=0)  # of the mask, per axis of the image
    sides = np.array(mask.sides)
    spread = np.array([mapped.min(axis=0), mapped.max(axis=0)])
    signs = np.sign(step[axes, range(3)])
    expected = np.where(signs > 0, corners, np.array(image.sides) - 1 - corners)
    same = sorted(axes) == [0, 1, 2] and (sides[axes] == image.sides).all()
    if not same or np.abs(mapped[:, axes] - expected).max() > _OFF:
        raise InputError(
            f"{mask.name} lies on another grid than its image {image.name}: {' x '.join(map(str, mask.sides))} voxels"
            f" {mask.codes} from {_place(spread)} of {' x '.join(map(str, image.sides))} {image.codes}",
            hint="resample it to its image by nearest neighbour",
        )
    first, second = (axis for axis in range(3) if axis != shown.axis)
    rows, columns = (second, first) if shown.transpose else (first, second)
    last = image.sides[shown.axis] - 1
    return Placement(
        axis=int(axes[shown.axis]),
        index=shown.index if signs[shown.axis] > 0 else last - shown.index,
        transpose=bool(axes[rows] > axes[columns]),
        flip_rows=shown.flip_rows != bool(signs[rows] < 0),
        flip_columns=shown.flip_columns != bool(signs[columns] < 0),
    )


def _place(spread: NDArray[np.float64]) -> str:
    low, high = (", ".join(f"{value:.4g}" for value in corner) for corner in spread)
    return f"({low}) to ({high})"
