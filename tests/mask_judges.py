"""Judges of written masks that are not ours: dciodvfy, plastimatch, highdicom and SimpleITK."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from series_files import grid


def checked(path: Path) -> list[str]:
    """What dciodvfy calls an error in a DICOM file. Skips without dciodvfy."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (Debian: dicom3tools)")
    run = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace", check=False)
    lines = (run.stdout + run.stderr).splitlines()
    assert any("IOD" in line or line.startswith(("Segmentation", "RTStructureSet", "SCImage")) for line in lines), lines
    return [line for line in lines if line.startswith("Error")]


def rasterised(path: Path, series: Path, out: Path) -> dict[str, Any]:
    """The contours of a structure set as (voxels, LPS mm of all voxels) by name, as plastimatch fills them on a series."""
    if shutil.which("plastimatch") is None:
        pytest.skip("needs plastimatch (Debian: plastimatch)")
    sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK")
    subprocess.run(
        ["plastimatch", "convert", "--input", str(path), "--referenced-ct", str(series), "--output-prefix", str(out),
         "--prefix-format", "nrrd"],
        capture_output=True, check=True,
    )  # fmt: skip
    return {file.stem: placed_voxels(sitk.ReadImage(str(file))) for file in out.glob("*.nrrd")}


def placed_voxels(image: Any) -> tuple[Any, Any]:
    """(values [i, j, k], LPS mm of all voxels) of an image of SimpleITK."""
    import SimpleITK as sitk

    values = sitk.GetArrayFromImage(image).T
    corner = np.array(image.TransformIndexToPhysicalPoint((0, 0, 0)))
    steps = [np.array(image.TransformIndexToPhysicalPoint(tuple(map(int, unit)))) - corner for unit in np.eye(3)]
    return values, grid(values.shape) @ np.stack(steps) + corner


def segmented(path: Path, number: int, affine: Any, sides: Any) -> Any:
    """A segment of a DICOM Segmentation as bool [i, j, k], put by highdicom at millimetres and looked up by `affine`."""
    highdicom = pytest.importorskip("highdicom", reason="needs highdicom")
    volume = highdicom.seg.segread(path).get_volume(segment_numbers=[number], combine_segments=True, relabel=True)
    indices = np.argwhere(volume.array)
    return at_millimetres(volume.map_indices_to_reference(indices), affine, sides)


def at_millimetres(mm: Any, affine: Any, sides: Any) -> Any:
    """Which voxels have their centre at some of LPS `mm` (N×3), as bool [i, j, k]; all must be centres."""
    index = (mm - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    assert np.abs(index - np.rint(index)).max(initial=0) < 1e-2
    out = np.zeros(sides, bool)
    out[tuple(np.rint(index).astype(int).T)] = True
    return out
