"""What viewers are tested with: a phantom as three DICOM series, and the files of MONAI Label's wheel."""

import importlib.util
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from series_files import affine_of, saved, series

ROOT = Path(__file__).resolve().parents[3]
WHEEL = "monailabel-0.8.5-*.whl"
SIDES = (96, 80, 24)
"""Voxels along i, j and k; all differ, so that exchanged axes show."""
BLOCKS = {"small": (slice(20, 36), slice(12, 30), slice(4, 9)), "wide": (slice(56, 80), slice(50, 60), slice(15, 22))}
STUDY = {
    "PatientBirthDate": "", "PatientSex": "O", "StudyDate": "20260101", "StudyTime": "120000", "StudyID": "1",
    "AccessionNumber": "", "SeriesDate": "20260101", "SeriesTime": "120000", "SeriesNumber": 1, "Manufacturer": "",
    "ReferringPhysicianName": "", "PatientPosition": "HFS", "PositionReferenceIndicator": "", "KVP": "120",
    "RescaleIntercept": "0", "WindowCenter": "150", "WindowWidth": "600",
}  # fmt: skip
KINDS = ("phantom", "reversed", "downward")


def phantom() -> Any:
    """HU ``[i, j, k]``: a body with two blocks and no symmetry; the last digits tell neighbours apart."""
    i, j, k = np.indices(SIDES)
    body = ((i - 48) / 40) ** 2 + ((j - 40) / 32) ** 2 < 1
    values = np.where(body, 0, -500)
    values[BLOCKS["small"]] = 400
    values[BLOCKS["wide"]] = 250
    return (values + (i + 3 * j + 7 * k) % 11).astype(np.int16)


def write_series(kind: str, folder: Path) -> Path:
    """Write the phantom: numbered along its normal, numbered against it, or with a normal that points to the feet."""
    turned = np.diag([1, -1, -1]) if kind == "downward" else np.eye(3)
    datasets = series(phantom(), affine_of(turned, (0.8, 0.8, 2.5), (-38, -32, 10)), **STUDY, PatientID=kind)
    for k, dataset in enumerate(datasets):
        dataset.InstanceNumber = SIDES[2] - k if kind == "reversed" else k + 1
    return saved(datasets, folder)


def wheel() -> Path:
    """Return MONAI Label's wheel, or skip: its server is never installed."""
    folder = Path(os.environ.get("MEDGROUND_WHEELS", ROOT / ".cache" / "wheels"))
    for path in folder.glob(WHEEL):
        return path
    pytest.skip(f"needs MONAI Label's wheel: pip download --no-deps monailabel==0.8.5 -d {folder.name}")


def unpacked(ending: str, folder: Path) -> Path:
    """Unpack the part of the wheel whose path contains a text; return where it begins."""
    with zipfile.ZipFile(wheel()) as archive:
        names = [name for name in archive.namelist() if ending in name]
        archive.extractall(folder, names)
    return folder / names[0].partition(ending)[0] / ending


def module_of(path: Path) -> Any:
    """Import a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
