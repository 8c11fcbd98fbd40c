"""Phantom volumes: a body with ellipsoids of known centre, half axes and volume, as a DICOM series or as NIfTI.

Everything follows from the seed.

    python -m medground_toy.volumes --out DIR [--format dicom|nifti] [--seed 0] [--size 128] [--slices 40] [--targets 3]

writes the volume (``series/*.dcm``, in no order, or ``volume.nii.gz`` with ``labels.nii.gz``), ``labels.npy`` (uint8
``[i, j, k]``: the number of the target, from 1) and ``truth.json``. Needs ``medground[dicom]`` or ``medground[nifti]``.

    python -m medground_toy.volumes --out DIR -n 100 [--seed 0] [--size 128] [--slices 40]

writes a data set of so many volumes with one target each, as NIfTI, and ``volumes.jsonl``, a question about each.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medground.errors import PluginError

Floats = NDArray[np.float64]
_AIR, _BODY = -1000, 40
_CT = "1.2.840.10008.5.1.4.1.1.2"
_LITTLE = "1.2.840.10008.1.2.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ellipsoid:
    """A target with its axes along x, y and z of the patient."""

    centre: tuple[float, float, float]
    """LPS mm."""
    half_axes: tuple[float, float, float]
    """Millimetres along x, y and z."""
    hounsfield: int

    @property
    def volume_ml(self) -> float:
        """Of the ellipsoid itself, not of the voxels in it."""
        return float(4 / 3 * np.pi * np.prod(self.half_axes) / 1000)

    def contains(self, mm: Floats) -> NDArray[np.bool_]:
        """Return which LPS mm ``[..., 3]`` lie in it."""
        return np.asarray((((mm - self.centre) / self.half_axes) ** 2).sum(axis=-1) <= 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VolumePhantom:
    """A volume with its truth."""

    voxels: NDArray[np.int16]
    """``[i, j, k]``, Hounsfield units."""
    affine: Floats
    """4×4: (i, j, k, 1) to the LPS mm of the voxel's centre."""
    targets: tuple[Ellipsoid, ...]
    labels: NDArray[np.uint8]
    """``[i, j, k]``: the number of the target, from 1; 0 elsewhere. A voxel is in a target if its centre is."""


def volume_phantom(
    seed: int = 0,
    *,
    shape: tuple[int, int, int] = (128, 128, 40),
    spacing: tuple[float, float, float] = (0.8, 0.8, 2.5),
    targets: int = 3,
    rise: float = 0.1,
    rotation: Floats | None = None,
) -> VolumePhantom:
    """Make a phantom.

    Args:
        seed: decides everything that is drawn.
        shape: voxels along i, j and k.
        spacing: mm along i, j and k.
        targets: how many ellipsoids; they lie apart from one another.
        rise: how far they lie from the middle along k at most, as a share of the shortest side.
        rotation: 3×3, its columns the directions of i, j and k in LPS; None is the identity, an axial series.
    """
    dice = np.random.default_rng(seed)
    turn = np.eye(3) if rotation is None else np.asarray(rotation, np.float64)
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array(spacing)
    sides = np.array(shape) * spacing
    affine[:3, 3] = np.round(dice.uniform(-80, 80, 3), 1) - turn @ (sides / 2)
    middle = affine[:3, 3] + affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    ellipsoids = _ellipsoids(dice, targets, middle, float(sides.min()), rise)
    body = Ellipsoid(centre=_triple(middle), half_axes=(0.46 * sides.min(),) * 3, hounsfield=_BODY)
    voxels, labels = np.empty(shape, np.int16), np.zeros(shape, np.uint8)
    i, j = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    for k in range(shape[2]):
        mm = np.stack([i, j, np.full_like(i, k)], axis=-1) @ affine[:3, :3].T + affine[:3, 3]
        values = np.where(body.contains(mm), _BODY, _AIR)
        for number, target in enumerate(ellipsoids, 1):
            inside = target.contains(mm)
            values[inside], labels[inside, k] = target.hounsfield, number
        voxels[:, :, k] = values + dice.normal(0, 8, values.shape)
    return VolumePhantom(voxels=voxels, affine=affine, targets=ellipsoids, labels=labels)


def write_series(phantom: VolumePhantom, folder: Path, seed: int = 0) -> None:
    """Write a phantom as DICOM slices whose names and numbers are in no order.

    Raises:
        PluginError: without pydicom.
    """
    try:
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.uid import UID
    except ImportError as error:
        raise PluginError("writing DICOM needs pydicom", hint="pip install 'medground[dicom]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    columns = phantom.affine[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    cosines = (columns / spacing).T
    dice = np.random.default_rng(seed)
    root = f"1.2.826.0.1.3680043.8.498.{dice.integers(10**9, 10**10)}"
    for k, number in enumerate(dice.permutation(phantom.voxels.shape[2]).tolist()):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = UID(_LITTLE), UID(_CT)
        meta.MediaStorageSOPInstanceUID = UID(f"{root}.{k + 1}")
        dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        rows = np.ascontiguousarray(phantom.voxels[:, :, k].T)
        fields: dict[str, Any] = {
            "SOPClassUID": UID(_CT), "SOPInstanceUID": UID(f"{root}.{k + 1}"), "Modality": "CT",
            "SeriesInstanceUID": UID(f"{root}.0.1"), "StudyInstanceUID": UID(f"{root}.0.2"),
            "FrameOfReferenceUID": UID(f"{root}.0.3"), "InstanceNumber": number + 1, "PatientID": "phantom",
            "ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "Rows": rows.shape[0], "Columns": rows.shape[1],
            "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16,
            "HighBit": 15, "PixelRepresentation": 1, "RescaleSlope": "1", "RescaleIntercept": "0", "RescaleType": "HU",
            "WindowCenter": "40", "WindowWidth": "400", "SliceThickness": _text(spacing[2]),
            "PixelSpacing": [_text(spacing[1]), _text(spacing[0])],
            "ImageOrientationPatient": [_text(value) for value in (*cosines[0], *cosines[1])],
            "ImagePositionPatient": [_text(value) for value in phantom.affine[:3, 3] + k * columns[:, 2]],
            "PixelData": rows.astype("<i2").tobytes(),
        }  # fmt: skip
        for keyword, value in fields.items():
            setattr(dataset, keyword, value)
        dataset.save_as(folder / f"{number:04}.dcm", enforce_file_format=True)


def write_nifti(phantom: VolumePhantom, path: Path, *, labels: bool = False) -> None:
    """Write a phantom as NIfTI: its values, or its labels.

    Raises:
        PluginError: without nibabel.
    """
    try:
        import nibabel
    except ImportError as error:
        raise PluginError("writing NIfTI needs nibabel", hint="pip install 'medground[nifti]'") from error
    image = nibabel.Nifti1Image(
        phantom.labels if labels else phantom.voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ phantom.affine
    )
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    nibabel.save(image, path)


def write_questions(
    folder: Path,
    count: int,
    seed: int = 0,
    *,
    size: int = 128,
    slices: int = 40,
) -> None:
    """Write volumes with one target each and ``volumes.jsonl``, a question about each.

    Args:
        folder: made if it does not exist.
        count: how many.
        seed: decides everything that is drawn.
        size: voxels along i and j, of 0.8 mm.
        slices: voxels along k; a volume is as high as it is wide.

    Raises:
        PluginError: without nibabel.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        phantom = volume_phantom(
            1000 * seed + number,
            shape=(size, size, slices),
            spacing=(0.8, 0.8, 0.8 * size / slices),
            targets=1,
            rise=0.2,
        )
        name = f"{number:04}"
        write_nifti(phantom, folder / f"volume_{name}.nii.gz")
        write_nifti(phantom, folder / f"labels_{name}.nii.gz", labels=True)
        tone = "dark" if phantom.targets[0].hounsfield < _BODY else "bright"
        line = {
            "id": f"phantom-{seed}-{name}", "volume": f"volume_{name}.nii.gz", "mask": f"labels_{name}.nii.gz",
            "mask_value": [1], "question": f"Which {tone} round spot is it?", "group": f"phantom-{seed}-{name}",
            "window": "soft_tissue", "category": f"{tone} spot",
        }  # fmt: skip
        lines.append(json.dumps(line) + "\n")
    (folder / "volumes.jsonl").write_text("".join(lines), encoding="utf-8")


def truth(phantom: VolumePhantom) -> list[dict[str, Any]]:
    """Return what is true of each target, JSON-ready: centre in LPS mm, half axes in mm, volume in ml."""
    return [
        {
            "centre_lps_mm": list(target.centre),
            "half_axes_mm": list(target.half_axes),
            "volume_ml": target.volume_ml,
            "voxels": int((phantom.labels == number).sum()),
        }
        for number, target in enumerate(phantom.targets, 1)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a phantom volume with its truth, or a data set of phantoms."""
    parser = argparse.ArgumentParser(prog="python -m medground_toy.volumes", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--format", choices=("dicom", "nifti"), default="dicom")
    for name, default in (("seed", 0), ("size", 128), ("slices", 40), ("targets", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("-n", type=int, help="write a data set of so many volumes")
    chosen = parser.parse_args(arguments)
    if chosen.n is not None:
        write_questions(chosen.out, chosen.n, chosen.seed, size=chosen.size, slices=chosen.slices)
        return
    phantom = volume_phantom(chosen.seed, shape=(chosen.size, chosen.size, chosen.slices), targets=chosen.targets)
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.format == "dicom":
        write_series(phantom, chosen.out / "series", chosen.seed)
    else:
        write_nifti(phantom, chosen.out / "volume.nii.gz")
        write_nifti(phantom, chosen.out / "labels.nii.gz", labels=True)
    np.save(chosen.out / "labels.npy", phantom.labels)
    (chosen.out / "truth.json").write_text(json.dumps(truth(phantom), indent=2) + "\n", encoding="utf-8")


def _ellipsoids(
    dice: np.random.Generator, count: int, middle: Floats, side: float, rise: float
) -> tuple[Ellipsoid, ...]:
    """Ellipsoids on a ring around the middle, in directions that lie far apart."""
    first = dice.uniform(0, 2 * np.pi)
    targets = []
    for number in range(count):
        angle = first + 2 * np.pi * number / count
        centre = middle + side * np.array([0.25 * np.cos(angle), 0.25 * np.sin(angle), dice.uniform(-rise, rise)])
        room = min(0.12, 0.2 * np.sin(np.pi / count)) * side if count > 1 else 0.12 * side
        half_axes = np.round(dice.uniform(0.6, 1.0, 3) * room, 2)
        hounsfield = int(dice.choice([-60, 120, 180, 240]))
        targets.append(Ellipsoid(centre=_triple(centre), half_axes=_triple(half_axes), hounsfield=hounsfield))
    return tuple(targets)


def _triple(values: Floats) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _text(value: float) -> str:
    """A number as DICOM writes it, in at most 16 characters."""
    return f"{float(value):.12g}"[:16]


if __name__ == "__main__":
    main()
