"""DICOM series and enhanced files of any orientation, with known voxels: files and numbers are shuffled."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from dicom_parts import header, item, nested, set_pixels, words
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

SIDES = (7, 6, 5)
SPACING = (0.6, 0.8, 2.5)
"""Millimetres along i (columns), j (rows) and k (slices)."""
ORIGIN = (-12.5, 33.25, 7.0)


def orientations() -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The 48 ways to lay three voxel axes along or against those of the patient: (order, signs)."""
    yield from itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))


def affine_of(rotation: Any, spacing: Any = SPACING, origin: Any = ORIGIN) -> Any:
    """The affine of voxel axes along the columns of `rotation`."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(rotation, float) * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


def rotation_of(order: Any, signs: Any) -> Any:
    """The matrix whose columns are the axes of one of `orientations`."""
    matrix = np.zeros((3, 3))
    matrix[list(order), range(3)] = signs
    return matrix


def random_rotation(seed: int) -> Any:
    """An oblique right-handed rotation."""
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


def noise(sides: Any = SIDES, seed: int = 0) -> Any:
    """Voxels [i, j, k] of int16, all different with high probability."""
    return np.random.default_rng(seed).integers(-1000, 3000, sides).astype(np.int16)


def text(value: float) -> str:
    return f"{float(value):.12g}"[:16]


def placed(affine: Any, k: int) -> dict[str, Any]:
    """The elements that place slice k of a volume."""
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return {
        "ImageOrientationPatient": [text(value) for value in (*columns[:, 0], *columns[:, 1])],
        "ImagePositionPatient": [text(value) for value in affine[:3, 3] + k * affine[:3, 2]],
        "PixelSpacing": [text(spacing[1]), text(spacing[0])],
    }


def series(values: Any, affine: Any, seed: int = 0, **fields: Any) -> list[Dataset]:
    """A CT series of voxels [i, j, k] (int16), in the order of k; instance numbers say nothing."""
    shared = {
        "SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(),
        "PatientID": "P1", "PatientName": "CANARY^Name", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }  # fmt: skip
    numbers = np.random.default_rng(seed).permutation(values.shape[2]) + 1
    return [
        picture(values[:, :, k].T, **{**shared, **placed(affine, k), "InstanceNumber": int(numbers[k]), **fields})
        for k in range(values.shape[2])
    ]


def picture(rows: Any, **fields: Any) -> Dataset:
    """One CT slice of int16 rows."""
    dataset = header(ExplicitVRLittleEndian, CTImageStorage, "CT")
    described = {
        "Rows": rows.shape[0], "Columns": rows.shape[1], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "RescaleSlope": "1",
        "RescaleIntercept": "-10", "WindowCenter": "40", "WindowWidth": "400", "SliceThickness": "2.5",
    }  # fmt: skip
    for name, value in {**described, **fields}.items():
        if value is not None:
            setattr(dataset, name, value)
    set_pixels(dataset, words(rows, ExplicitVRLittleEndian, 16), "OW")
    return dataset


def enhanced(values: Any, affine: Any, seed: int = 0, **frames: Any) -> Dataset:
    """An enhanced CT file of voxels [i, j, k], its frames shuffled; `frames` holds one value per k of FrameContent."""
    order = np.random.default_rng(seed).permutation(values.shape[2])
    rows = values.transpose(2, 1, 0)[order]
    dataset = header(
        ExplicitVRLittleEndian, EnhancedCTImageStorage, "CT", SeriesInstanceUID=generate_uid(),
        FrameOfReferenceUID=generate_uid(), NumberOfFrames=len(rows), Rows=rows.shape[1], Columns=rows.shape[2],
        SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=16, BitsStored=16, HighBit=15,
        PixelRepresentation=1,
    )  # fmt: skip
    lying = [placed(affine, int(k)) for k in order]
    dataset.SharedFunctionalGroupsSequence = nested(
        PixelMeasuresSequence=nested(PixelSpacing=lying[0]["PixelSpacing"]),
        PlaneOrientationSequence=nested(ImageOrientationPatient=lying[0]["ImageOrientationPatient"]),
        PixelValueTransformationSequence=nested(RescaleSlope="1", RescaleIntercept="-10", RescaleType="HU"),
    )
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        item(
            PlanePositionSequence=nested(ImagePositionPatient=one["ImagePositionPatient"]),
            FrameContentSequence=nested(
                FrameAcquisitionNumber=1, **{name: column[int(k)] for name, column in frames.items()}
            ),
        )
        for one, k in zip(lying, order, strict=True)
    )
    set_pixels(dataset, words(rows, ExplicitVRLittleEndian, 16), "OW")
    return dataset


def saved(datasets: list[Dataset], folder: Path, seed: int = 0) -> Path:
    """Save data sets under shuffled names."""
    folder.mkdir(parents=True, exist_ok=True)
    for dataset, number in zip(datasets, np.random.default_rng(seed + 1).permutation(len(datasets)), strict=True):
        dataset.save_as(folder / f"{number:03}.dcm", enforce_file_format=True)
    return folder


def grid(sides: Any) -> Any:
    """The indices of all voxels, ``[i, j, k, 3]``."""
    return np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), axis=-1)


def itk_of(sitk: Any, path: Path, stack: int | None = None, series: str = "") -> Any:
    """(values [i, j, k], LPS mm of all voxels) as SimpleITK reads a file, or one series of a folder."""
    if path.is_dir():
        image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), series))
    else:
        image = sitk.ReadImage(str(path))
    if stack is not None:
        image = image[:, :, :, stack]
    values = sitk.GetArrayFromImage(image).T
    corner = np.array(image.TransformIndexToPhysicalPoint((0, 0, 0)))
    steps = [np.array(image.TransformIndexToPhysicalPoint(tuple(map(int, unit)))) - corner for unit in np.eye(3)]
    return values, grid(values.shape) @ np.stack(steps) + corner


ROTATIONS = [rotation_of(*turn) for turn in orientations()] + [random_rotation(seed) for seed in range(12)]
"""The 48 orientations and 12 oblique ones."""
