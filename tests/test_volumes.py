"""Volumes: every voxel at its millimetre, whatever the format and the axes, as SimpleITK reads them."""

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs pydicom")

from series_files import ROTATIONS, SIDES, SPACING, affine_of, enhanced, grid, itk_of, noise, saved, series

from medground.images.placement import directions
from medground.images.read import read_image
from medground.images.read_volume import read_volume


@pytest.fixture(scope="module")
def sitk():
    return pytest.importorskip("SimpleITK", reason="needs SimpleITK")


def value_at(volume, mm):
    """The value of the voxel that lies at LPS mm, which must be the centre of one."""
    index = volume.to_voxel(mm)
    assert np.abs(index - np.rint(index)).max() < 1e-3
    return volume.array()[tuple(np.moveaxis(np.rint(index).astype(int), -1, 0))]


@pytest.mark.parametrize("number", range(len(ROTATIONS)))
def test_every_voxel_of_a_series_lies_at_its_millimetre(number, tmp_path, sitk):
    affine, values = affine_of(ROTATIONS[number]), noise(seed=number)
    folder = saved(series(values, affine, seed=number), tmp_path / "ct", seed=number)
    volume = read_volume(folder)
    truth = grid(SIDES) @ affine[:3, :3].T + affine[:3, 3]
    assert np.array_equal(value_at(volume, truth), values - 10.0)
    theirs, places = itk_of(sitk, folder)
    assert np.array_equal(volume.array(), theirs)
    assert np.abs(volume.to_mm(grid(SIDES)) - places).max() < 1e-6
    assert np.allclose(volume.spacing, SPACING)


@pytest.mark.parametrize("number", range(len(ROTATIONS)))
def test_every_voxel_of_an_enhanced_file_lies_at_its_millimetre(number, tmp_path):
    affine, values = affine_of(ROTATIONS[number]), noise(seed=number)
    enhanced(values, affine, seed=number).save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    volume = read_volume(tmp_path / "ct.dcm")
    truth = grid(SIDES) @ affine[:3, :3].T + affine[:3, 3]
    assert np.array_equal(value_at(volume, truth), values - 10.0)
    assert [one.frame for one in volume.origin.instances] != list(range(5)), "the frames are shuffled"


@pytest.mark.parametrize("number", range(len(ROTATIONS)))
def test_every_voxel_of_a_nifti_file_lies_at_its_millimetre(number, tmp_path, sitk):
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
    affine, values = affine_of(ROTATIONS[number]), noise(seed=number)
    image = nibabel.Nifti1Image(values, np.diag([-1, -1, 1, 1]) @ affine)
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    nibabel.save(image, tmp_path / "v.nii.gz")
    volume = read_volume(tmp_path / "v.nii.gz")
    assert volume.notes == ()
    theirs, places = itk_of(sitk, tmp_path / "v.nii.gz")
    assert np.array_equal(volume.array(), theirs) and np.array_equal(volume.array(), values)
    truth = grid(SIDES) @ affine[:3, :3].T + affine[:3, 3]
    assert (
        max(np.abs(volume.to_mm(grid(SIDES)) - other).max() for other in (places, truth)) < 1e-4
    )  # float32 in the header


def test_directions_are_those_of_nibabel():
    orientations = pytest.importorskip("nibabel", reason="needs nibabel").orientations
    dice, ras = np.random.default_rng(0), np.diag([-1.0, -1.0, 1.0])
    for _ in range(500):
        affine = np.eye(4)
        affine[:3, :3] = dice.normal(size=(3, 3)) * dice.uniform(0.1, 5, 3)
        theirs = orientations.io_orientation(
            np.vstack([np.hstack([ras @ affine[:3, :3], np.zeros((3, 1))]), [0, 0, 0, 1]])
        )
        ours = [(axis, sign * (1 if axis == 2 else -1)) for axis, sign in directions(affine)]
        assert np.array_equal(ours, theirs)
    assert directions(np.diag([1.0, 1.0, 0.0, 1.0])) is None and directions(np.full((4, 4), np.nan)) is None


def test_a_slice_of_a_series_is_the_picture_of_its_file(tmp_path):
    affine, values = affine_of(np.eye(3)), noise()
    folder = saved(series(values, affine), tmp_path / "ct")
    volume = read_volume(folder)
    assert volume.codes == "LPS" and volume.plane == "axial"
    for k, instance in enumerate(volume.origin.instances):
        shown = volume.slice("axial", k)
        assert np.array_equal(shown.pixels, read_image(instance.path))
        assert shown.window == "file: centre 40, width 400" and shown.spacing == pytest.approx((0.8, 0.6))
