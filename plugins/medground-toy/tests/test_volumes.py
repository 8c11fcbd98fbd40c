"""Phantom volumes: what is read back is what was drawn, and measures what its truth says."""

import json

import numpy as np
import pytest
from medground_toy import volumes

from medground.images.read_volume import read_volume
from medground.measures import measure_volume

TILT = np.array([[0.8, 0.0, 0.6], [0.36, 0.8, -0.48], [-0.48, 0.6, 0.64]])


@pytest.mark.parametrize("rotation", [None, TILT])
def test_a_phantom_series_is_read_back_where_it_lies(rotation, tmp_path):
    pytest.importorskip("pydicom", reason="needs pydicom")
    phantom = volumes.volume_phantom(3, shape=(40, 36, 20), rotation=rotation)
    volumes.write_series(phantom, tmp_path / "series", seed=1)
    volume = read_volume(tmp_path / "series")
    assert np.array_equal(volume.array(), phantom.voxels) and np.allclose(volume.affine, phantom.affine, atol=1e-6)
    assert volume.notes == () and volume.modality == "CT"


def test_a_phantom_file_is_read_back_where_it_lies(tmp_path):
    pytest.importorskip("nibabel", reason="needs nibabel")
    phantom = volumes.volume_phantom(3, shape=(40, 36, 20), rotation=TILT)
    volumes.write_nifti(phantom, tmp_path / "v.nii.gz")
    volume = read_volume(tmp_path / "v.nii.gz")
    assert np.array_equal(volume.array(), phantom.voxels) and np.allclose(volume.affine, phantom.affine, atol=1e-4)


def test_labels_lie_on_the_grid_of_their_volume(tmp_path):
    pytest.importorskip("nibabel", reason="needs nibabel")
    volumes.main(["--out", str(tmp_path), "--format", "nifti", "--size", "32", "--slices", "12", "--targets", "2"])
    volume, labels = (read_volume(tmp_path / f"{name}.nii.gz") for name in ("volume", "labels"))
    assert np.allclose(volume.affine, labels.affine) and np.array_equal(
        labels.array(), np.load(tmp_path / "labels.npy")
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rotation", [None, TILT])
def test_targets_measure_what_their_truth_says(seed, rotation):
    phantom = volumes.volume_phantom(seed, spacing=(0.8, 0.8, 1.5), shape=(128, 128, 70), rotation=rotation)
    assert set(np.unique(phantom.labels)) == {0, 1, 2, 3}
    for number, target in enumerate(phantom.targets, 1):
        measures = measure_volume(phantom.labels == number, phantom.affine)
        assert measures.volume_ml == pytest.approx(target.volume_ml, rel=0.04)
        assert np.abs(np.array(measures.centroid) - target.centre).max() < 0.3
        if rotation is None:
            longest, shortest = 2 * max(target.half_axes[:2]), 2 * min(target.half_axes[:2])
            assert measures.largest.long_axis == pytest.approx(longest, abs=1.0)
            assert measures.largest.short_axis == pytest.approx(shortest, abs=1.0)


def test_the_same_seed_writes_the_same_volume(tmp_path):
    pytest.importorskip("pydicom", reason="needs pydicom")
    for name in ("a", "b"):
        volumes.main(["--out", str(tmp_path / name), "--size", "32", "--slices", "12", "--targets", "2", "--seed", "5"])
    files = [sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*.dcm")) for name in "ab"]
    assert files[0] == files[1] and len(files[0]) == 12
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files[0])
    stated = json.loads((tmp_path / "a" / "truth.json").read_text())
    labels = np.load(tmp_path / "a" / "labels.npy")
    assert [one["voxels"] for one in stated] == [(labels == number).sum() for number in (1, 2)]
