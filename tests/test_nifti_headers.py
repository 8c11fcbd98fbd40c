"""What a NIfTI header says is taken or refused by its numbers: shapes, sizes, units, and where its voxels begin."""

import io
import struct

import numpy as np
import pytest

pytest.importorskip("nibabel", reason="needs nibabel")

from raster_files import nifti as nifti_file

from medground.errors import InputError, ViewError
from medground.images import nifti
from medground.images.slabs import read_exactly
from medground.images.view import View

VOXELS = np.arange(24, dtype=np.int16).reshape((2, 3, 4), order="F")  # 0, 1, 2, ... in the file
RAS = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


def written(path, *, shape=None, size=None, **options):
    """A file of 2 x 3 x 4 voxels; its header may state another shape, and the file may be longer with zeros."""
    data = bytearray(nifti_file(VOXELS, sform=RAS, **options))
    if shape is not None:
        struct.pack_into("<8h", data, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    path.write_bytes(data)
    if size is not None:
        with path.open("r+b") as file:
            file.truncate(size)  # takes no room on disk
    return path


@pytest.mark.parametrize(
    ("shape", "sides"),
    [((2, 3, 4), (2, 3, 4)), ((2, 12), (2, 12, 1)), ((2, 3, 4, 1), (2, 3, 4)), ((2, 3, 4, 1, 1, 1, 1), (2, 3, 4))],
)
def test_a_shape_of_two_to_seven_sides_is_one_volume(tmp_path, shape, sides):
    volume = nifti.NiftiFile(written(tmp_path / "v.nii", shape=shape))
    assert (volume.shape, volume.sides) == (shape, sides)
    last = volume.stored(volume.placement(View(plane="axial", slice=sides[2] - 1)))
    assert sorted(last.ravel().tolist()) == list(range(24 - last.size, 24))


@pytest.mark.parametrize("shape", [(24,), (2, 3, 0), (2, 3, 4, 2)])
def test_other_shapes_are_refused(tmp_path, shape):
    with pytest.raises(InputError, match=r"claims a shape of|holds several volumes: its shape is"):
        nifti.NiftiFile(written(tmp_path / "v.nii", shape=shape))


def test_a_volume_of_more_than_2_gb_of_small_slices_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"v\.nii claims 1001 x 1000 x 1000 voxels of 2 bytes"):
        nifti.NiftiFile(written(tmp_path / "v.nii", shape=(1001, 1000, 1000)))
    with pytest.raises(InputError, match=r"v\.nii is cut short: 400 of 2000000352 bytes"):
        nifti.NiftiFile(written(tmp_path / "v.nii", shape=(1000, 1000, 1000)))


def test_a_file_of_more_than_2048_mb_is_refused(tmp_path):
    assert nifti.NiftiFile(written(tmp_path / "v.nii", size=2_048_000_000)).sides == (2, 3, 4)
    with pytest.raises(InputError, match=r"v\.nii takes 2048 MB"):
        nifti.NiftiFile(written(tmp_path / "v.nii", size=2_048_000_001))


def test_a_slice_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    volume = nifti.NiftiFile(written(tmp_path / "v.nii"))
    for plane, last in (("axial", 3), ("coronal", 2), ("sagittal", 1)):
        with pytest.raises(ViewError, match=f"has no {plane} slice {last + 1}") as error:
            volume.placement(View(plane=plane, slice=last + 1))
        assert error.value.hint == f"it has 0 to {last}"
        with pytest.raises(ViewError, match="name the slice") as error:
            volume.placement(View(plane=plane))
        assert error.value.hint == f"--plane axial, coronal or sagittal, and --slice 0 to {last}"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not a volume at all" * 40, "is not a NIfTI file"),
        (struct.pack("<i", 348) + bytes(343), "is not a NIfTI file"),
        (struct.pack("<i", 540) + bytes(400), "is not a NIfTI file"),
        (nifti_file(VOXELS, sform=RAS, offset=0), "says its voxels begin at byte 0, and its header takes 352"),
        (nifti_file(VOXELS, sform=RAS, offset=348), "says its voxels begin at byte 348, and its header takes 352"),
    ],
)
def test_what_is_wrong_with_a_header_is_said(tmp_path, data, reason):
    (tmp_path / "v.nii").write_bytes(data)
    with pytest.raises(InputError, match=reason):
        nifti.NiftiFile(tmp_path / "v.nii")


def test_the_window_of_a_file_is_from_its_least_to_its_greatest_value_shown(tmp_path):
    shown = nifti.load(
        nifti.NiftiFile(written(tmp_path / "v.nii", display=(4, 12))), View(plane="axial", slice=0, window="file"), "v"
    )
    assert shown.window == "file: centre 8, width 8"


def test_bytes_that_come_in_pieces_are_put_together():
    class Pieces(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 4))

    for stream in (Pieces, io.BytesIO):
        assert read_exactly(stream(b"0123456789"), 9) == b"012345678"
        assert read_exactly(stream(b"012"), 9) == b"012"
        assert read_exactly(stream(b""), 9) == b""
