"""A NIfTI file as a volume."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medground.errors import InputError
from medground.images.nifti import NiftiFile
from medground.images.paths import safe_name, stem
from medground.images.slabs import OrderedSlabs, is_zipped
from medground.images.volume import Instance, Origin, Volume
from medground.images.windows import Numbers, apply_range_window

_APART = 0.01
"""Voxels by which a header's two placements may differ unsaid."""


class NiftiVoxels:
    """The voxels of a NIfTI file; one slab of it is in memory at once."""

    def __init__(self, file: NiftiFile) -> None:
        self.file = file
        self._ordered = OrderedSlabs(file.slabs) if is_zipped(file.path) else None

    def plane(self, axis: int, index: int) -> Numbers:
        """Return the scaled values across one axis. Raises `InputError` if the file is damaged."""
        if axis == 2 and self._ordered is not None:
            return self.file.scaled(self._ordered.slab(index))
        return self.file.scaled(self.file.stored_plane(axis, index))

    def planes(self) -> Iterator[Numbers]:
        """Yield the scaled values across k. Raises as `plane`."""
        return map(self.file.scaled, self.file.slabs())

    def grey(self, axis: int, index: int, window: str | None) -> tuple[NDArray[np.uint8], str, dict[str, object]]:
        """Return (grey, window in words, details) across one axis. Raises `ViewError` for a window it does not have."""
        shown = apply_range_window(self.plane(axis, index), window, self.file.window, self.file.name)
        return *shown, {"format": "NIfTI"}


def nifti_volume(path: Path, stack: int | None = None) -> Volume:
    """Return a NIfTI file as a volume; see `medground.images.read_volume.read_volume`."""
    file = NiftiFile(path, stack)
    if file.dtype.kind == "V":
        raise InputError(f"{file.name} holds colours, not measured values", hint="read_image shows its slices")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    name = safe_name(stem(path)) + (f"_{file.stack}" if file.volumes > 1 else "")
    return Volume(
        id=name, kind="nifti", shape=file.sides, affine=file.affine, voxels=NiftiVoxels(file), group=name,
        origin=Origin(instances=(Instance(path=path, digest=digest, frame=file.stack if file.volumes > 1 else None),)),
        notes=tuple(_placements_apart(file)),
    )  # fmt: skip


def _placements_apart(file: NiftiFile) -> Iterator[str]:
    """A header may place a volume twice: by its sform, which nibabel takes, and by its qform, which ITK takes
    unless the sform has code 1."""
    if len(file.placements) < 2:
        return
    sform, qform = file.placements
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] *= np.array(file.sides) - 1
    apart = float(np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max())
    if apart > _APART * float(np.linalg.norm(sform[:3, :3], axis=0).min()):
        yield f"its header places it twice, up to {apart:.3g} mm apart: the sform is taken, some programs take the qform"
