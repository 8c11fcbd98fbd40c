"""Values of volumes: scaled per slice, shown by the rules of single images, equal to SimpleITK on real files."""

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs pydicom")

from pydicom.uid import RLELossless, generate_uid
from series_files import ROTATIONS, SIDES, SPACING, affine_of, grid, itk_of, noise, saved, series

from medground.errors import InputError, ViewError
from medground.images.read import open_image, read_image
from medground.images.read_volume import read_volume
from medground.images.slabs import OrderedSlabs

AXIAL = affine_of(np.eye(3))
PLANES = ("axial", "coronal", "sagittal")


@pytest.fixture(scope="module")
def nibabel():
    return pytest.importorskip("nibabel", reason="needs nibabel")


@pytest.fixture(scope="module")
def nrrd():
    return pytest.importorskip("nrrd", reason="needs pynrrd")


@pytest.fixture(scope="module")
def sitk():
    return pytest.importorskip("SimpleITK", reason="needs SimpleITK")


def test_each_slice_has_its_own_rescale(tmp_path, sitk):
    voxels = noise()
    slices = series(voxels, AXIAL, Modality="PT", BitsStored=16)
    slopes = [0.5, 1.25, 3.0, 0.001, 7.5]
    for one, slope in zip(slices, slopes, strict=True):
        one.RescaleSlope, one.RescaleIntercept = str(slope), "0"
    volume = read_volume(saved(slices, tmp_path / "pet"))
    assert np.allclose(volume.array(), voxels * np.array(slopes), rtol=1e-12)
    theirs, _ = itk_of(sitk, tmp_path / "pet")
    assert np.allclose(volume.array(), theirs)
    for plane in PLANES:
        middle = volume.count(plane) // 2
        placement = volume.placement(plane, middle)
        expected = np.take(voxels * np.array(slopes), middle, axis=placement.axis)
        assert np.allclose(placement.plane(volume.values(plane, middle)), expected)


def test_slices_without_and_with_a_rescale_make_one_array(tmp_path):
    voxels = noise()
    slices = series(voxels, AXIAL, RescaleIntercept="0")
    slices[3].RescaleSlope = "0.5"
    scale = np.array([1, 1, 1, 0.5, 1])
    assert np.array_equal(read_volume(saved(slices, tmp_path / "ct")).array(), voxels * scale)


def test_compressed_and_unsigned_slices_have_their_values(tmp_path):
    voxels = noise().astype(np.int32) + 1000
    slices = series(voxels, AXIAL, PixelRepresentation=0, BitsStored=12, HighBit=11)
    slices[1].compress(RLELossless)
    assert np.array_equal(read_volume(saved(slices, tmp_path / "ct")).array(), voxels - 10.0)


@pytest.mark.parametrize("rotation", ROTATIONS[::5])
def test_pictures_of_a_series_are_those_of_the_same_volume_as_nifti(rotation, tmp_path, nibabel):
    voxels, affine = noise(), affine_of(rotation)
    slices = series(voxels, affine, WindowCenter=None, WindowWidth=None, RescaleIntercept="0")
    volume = read_volume(saved(slices, tmp_path / "ct"))
    image = nibabel.Nifti1Image(volume.array(), volume.ras_affine)
    image.set_qform(image.affine, code=1)
    nibabel.save(image, tmp_path / "v.nii")
    again = read_volume(tmp_path / "v.nii")
    assert again.codes == volume.codes
    for plane in PLANES:
        assert again.count(plane) == volume.count(plane)
        for index in range(volume.count(plane)):
            window = (None, "full", "100,900")[index % 3]
            shown = volume.slice(plane, index, window=window)
            other = open_image(tmp_path / "v.nii", view(plane, index, window))
            assert np.array_equal(shown.pixels, other.pixels) and shown.window == other.window
            assert shown.spacing == pytest.approx(other.spacing, rel=1e-6)
            assert np.array_equal(shown.pixels, again.slice(plane, index, window=window).pixels)


def view(plane, index, window=None):
    from medground.images.view import View

    return View(plane=plane, slice=index, window=window)


def test_padding_counts_in_no_percentile_of_any_plane(tmp_path):
    voxels = noise()
    voxels[:2] = -2000
    volume = read_volume(saved(series(voxels, AXIAL, PixelPaddingValue=-2000, WindowCenter=None), tmp_path / "ct"))
    plain = read_volume(saved(series(voxels, AXIAL, WindowCenter=None), tmp_path / "plain"))
    for plane, index in (("axial", 2), ("coronal", 3)):
        counted = np.take(voxels[2:], index, axis=volume.placement(plane, index).axis) - 10.0
        low, high = np.percentile(counted, (0.5, 99.5))
        assert volume.slice(plane, index).window == f"percentiles: {low:g} to {high:g}"
        assert plain.slice(plane, index).window != volume.slice(plane, index).window


def test_a_window_that_all_slices_share_shows_every_plane(tmp_path):
    volume = read_volume(saved(series(noise(), AXIAL), tmp_path / "ct"))
    assert {volume.slice(plane, 1).window for plane in PLANES} == {"file: centre 40, width 400"}
    assert volume.slice("coronal", 1, window="lung").window == "lung: centre -600, width 1500"


def test_slices_of_different_windows_show_other_planes_by_percentiles(tmp_path):
    slices = series(noise(), AXIAL)
    slices[2].WindowWidth = "100"
    volume = read_volume(saved(slices, tmp_path / "ct"))
    assert volume.slice("axial", 2).window == "file: centre 40, width 100"
    assert volume.slice("coronal", 2).window.startswith("percentiles")
    with pytest.raises(ViewError, match="has slices of different windows"):
        volume.slice("coronal", 2, window="file")


def test_a_window_in_hounsfield_units_needs_them(tmp_path):
    volume = read_volume(saved(series(noise(), AXIAL, Modality="MR"), tmp_path / "mr"))
    for plane in PLANES:
        with pytest.raises(ViewError, match="Hounsfield"):
            volume.slice(plane, 1, window="lung")


def test_inverted_slices_are_inverted_in_every_plane(tmp_path):
    uid = generate_uid()
    plain = read_volume(saved(series(noise(), AXIAL), tmp_path / "a"))
    dark = read_volume(
        saved(series(noise(), AXIAL, PhotometricInterpretation="MONOCHROME1", SeriesInstanceUID=uid), tmp_path / "b")
    )
    for plane in PLANES:
        shown = dark.slice(plane, 1)
        assert np.array_equal(shown.pixels, 255 - plain.slice(plane, 1).pixels)
        assert shown.window.endswith("inverted (MONOCHROME1)")
        assert np.array_equal(dark.values(plane, 1), plain.values(plane, 1))


@pytest.mark.parametrize("number", range(len(ROTATIONS)))
def test_pixels_of_pictures_have_the_millimetres_of_their_voxels(number, tmp_path, nibabel):
    """A file of each of LPS x, y, z as its values: what a picture shows at a pixel is where the pixel lies."""
    affine = affine_of(ROTATIONS[number])
    where = grid(SIDES) @ affine[:3, :3].T + affine[:3, 3]
    for axis in range(3):
        nibabel.save(nibabel.Nifti1Image(where[..., axis], np.diag([-1, -1, 1, 1]) @ affine), tmp_path / f"{axis}.nii")
    volumes = [read_volume(tmp_path / f"{axis}.nii") for axis in range(3)]
    for plane in PLANES:
        values = np.stack([volume.values(plane, 2) for volume in volumes], axis=-1)
        x, y = np.meshgrid(np.arange(values.shape[1]) + 0.5, np.arange(values.shape[0]) + 0.5)
        mm = volumes[0].pixel_to_mm(plane, 2, np.stack([x, y], axis=-1))
        assert np.abs(mm - values).max() < 1e-4
        steps = [np.linalg.norm(mm[1, 0] - mm[0, 0]), np.linalg.norm(mm[0, 1] - mm[0, 0])]
        assert volumes[0].slice(plane, 2).spacing == pytest.approx(steps, rel=1e-5)
        assert sorted([*steps, volumes[0].spacing[volumes[0].placement(plane, 2).axis]]) == pytest.approx(
            sorted(SPACING), rel=1e-5
        )


@pytest.mark.parametrize(
    "space, signs",
    [("left-posterior-superior", (1, 1, 1)), ("RAS", (-1, -1, 1)), ("left-anterior-superior", (1, -1, 1))],
)
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_an_nrrd_file_is_read_in_its_space(space, signs, encoding, tmp_path, nrrd, sitk):
    for number, rotation in enumerate(ROTATIONS[::3]):
        affine, voxels = affine_of(rotation), noise(seed=number)
        own = np.diag([*signs, 1]) @ affine
        header = {"space": space, "space directions": own[:3, :3].T, "space origin": own[:3, 3], "encoding": encoding}
        nrrd.write(str(tmp_path / "v.nrrd"), voxels, header)
        volume = read_volume(tmp_path / "v.nrrd")
        assert np.array_equal(volume.array(), voxels) and np.allclose(volume.affine, affine, atol=1e-9)
        theirs, places = itk_of(sitk, tmp_path / "v.nrrd")
        assert np.array_equal(volume.array(), theirs) and np.abs(volume.to_mm(grid(SIDES)) - places).max() < 1e-6
        for plane in PLANES:
            placement = volume.placement(plane, 1)
            assert np.array_equal(placement.plane(volume.values(plane, 1)), np.take(voxels, 1, axis=placement.axis))


@pytest.mark.parametrize("listed", [0, 1, 2, 3])
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_one_of_several_volumes_of_an_nrrd_file_is_chosen(listed, encoding, tmp_path, nrrd):
    voxels = np.stack([noise(seed=seed) for seed in range(3)], axis=listed)
    directions = np.insert(AXIAL[:3, :3].T, listed, np.nan, axis=0)
    header = {"space": "LPS", "space directions": directions, "space origin": AXIAL[:3, 3], "encoding": encoding}
    nrrd.write(str(tmp_path / "v.nrrd"), voxels, header)
    with pytest.raises(ViewError, match="holds 3 values per voxel") as caught:
        read_volume(tmp_path / "v.nrrd")
    assert caught.value.hint == "choose one: stack=0 to 2"
    volume = read_volume(tmp_path / "v.nrrd", stack=2)
    assert np.array_equal(volume.array(), noise(seed=2)) and np.array_equal(
        volume.values("axial", 3), noise(seed=2)[:, :, 3].T
    )


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"space": None}, "does not say how it lies in the patient"), ({"space": "scanner-xyz"}, "does not say how it lies"),
        ({"encoding": "bzip2"}, "encoded in a way that is not read"),
        ({"space units": ["cm", "cm", "cm"]}, "unit other than mm"),
        ({"space directions": [[1, 0, 0], [0.5, 1, 0], [0, 0, 1]]}, "not perpendicular"),
    ],
)  # fmt: skip
def test_an_nrrd_file_that_is_not_certain_is_refused(changes, words, tmp_path, nrrd):
    header = {"space": "LPS", "space directions": np.eye(3), "space origin": [0, 0, 0], "encoding": "raw", **changes}
    if header["space"] is None:
        header = {"encoding": "raw"}
    nrrd.write(str(tmp_path / "v.nrrd"), noise(), header)
    with pytest.raises(InputError, match=words):
        read_volume(tmp_path / "v.nrrd")


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_an_nrrd_file_that_is_cut_short_is_refused(encoding, tmp_path, nrrd):
    header = {"space": "LPS", "space directions": np.eye(3), "space origin": [0, 0, 0], "encoding": encoding}
    nrrd.write(str(tmp_path / "v.nrrd"), noise(), header)
    data = (tmp_path / "v.nrrd").read_bytes()
    (tmp_path / "v.nrrd").write_bytes(data[:-20])
    with pytest.raises(InputError, match="cut short"):
        read_volume(tmp_path / "v.nrrd").array()


def test_one_volume_of_a_nifti_file_is_chosen(tmp_path, nibabel):
    voxels = np.stack([noise(seed=seed) for seed in range(6)], axis=-1).reshape(*SIDES, 2, 3)
    for name in ("v.nii", "v.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1])), tmp_path / name)
        with pytest.raises(ViewError, match="holds several volumes") as caught:
            read_volume(tmp_path / name)
        assert "stack=N), N from 0 to 5" in caught.value.hint
        for stack in range(6):
            volume = read_volume(tmp_path / name, stack=stack)
            assert np.array_equal(volume.array(), voxels.reshape(*SIDES, 6, order="F")[..., stack])
            assert np.array_equal(volume.values("axial", 4)[::-1, ::-1].T, volume.array()[:, :, 4])
        with pytest.raises(ViewError, match="has no volume 6"):
            read_volume(tmp_path / name, stack=6)


@pytest.mark.parametrize("name", ["v.nii.gz", "v.nrrd", "v.nii"])
def test_slices_in_any_order_are_the_same(name, tmp_path, nibabel, nrrd):
    voxels = noise()
    if name == "v.nrrd":
        header = {"space": "LPS", "space directions": np.eye(3), "space origin": [0, 0, 0], "encoding": "gzip"}
        nrrd.write(str(tmp_path / name), voxels, header)
    else:
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / name)
    volume = read_volume(tmp_path / name)
    for k in (3, 1, 1, 0, 4, 2, *range(5)):
        assert np.array_equal(volume.voxels.plane(2, k), voxels[:, :, k])


def test_slabs_in_rising_order_are_made_once():
    passes = []

    def all_slabs():
        passes.append(1)
        yield from (np.full((1, 1), k) for k in range(5))

    ordered = OrderedSlabs(all_slabs)
    assert [int(ordered.slab(k)[0, 0]) for k in (0, 1, 3, 4)] == [0, 1, 3, 4] and len(passes) == 1
    assert [int(ordered.slab(k)[0, 0]) for k in (2, 3, 3)] == [2, 3, 3] and len(passes) == 3


def test_two_placements_of_a_nifti_file_are_noted(tmp_path, nibabel):
    image = nibabel.Nifti1Image(noise(), np.diag([2.0, 2, 2, 1]))
    moved = image.affine.copy()
    moved[0, 3] = 5
    image.set_qform(moved, code=1)
    image.set_sform(image.affine, code=2)
    nibabel.save(image, tmp_path / "v.nii")
    (note,) = read_volume(tmp_path / "v.nii").notes
    assert note == "its header places it twice, up to 5 mm apart: the sform is taken, some programs take the qform"


def test_a_sheared_nifti_file_is_refused_as_a_volume(tmp_path, nibabel):
    sheared = np.diag([2.0, 2, 2, 1])
    sheared[0, 2] = 0.3
    nibabel.save(nibabel.Nifti1Image(noise(), sheared), tmp_path / "v.nii")
    with pytest.raises(InputError, match="voxel axes that are not perpendicular"):
        read_volume(tmp_path / "v.nii")


@pytest.mark.parametrize(
    "name, options",
    [
        ("dcmqi", {}), ("pydicom/CT_small.dcm", {}), ("pydicom/MR_small.dcm", {}), ("pydicom/MR_small_RLE.dcm", {}),
        ("nibabel/anatomical.nii", {}), ("nibabel/example4d.nii.gz", {"stack": 1}), ("sct/t2.nii.gz", {}),
        ("totalsegmentator/example_ct_sm.nii.gz", {}), ("totalsegmentator/example_mr_sm.nii.gz", {}),
        ("msd_hippocampus/hippocampus_001_image.nii.gz", {}), ("pyradiomics/breast1_image.nrrd", {}),
        ("dcmqi/liver_seg.nrrd", {}),
    ],
)  # fmt: skip
def test_real_volumes_are_read_as_by_simpleitk(name, options, shared, sitk):
    pytest.importorskip("nibabel", reason="needs nibabel")
    pytest.importorskip("nrrd", reason="needs pynrrd")
    path = shared / "data/volumes" / name
    volume = read_volume(path, **options)
    theirs, places = itk_of(sitk, path, series=volume.origin.series, **options)
    assert np.array_equal(volume.array(), theirs)
    corners = np.array([(0, 0, 0), np.array(volume.shape) - 1])
    assert np.abs(volume.to_mm(corners) - places[tuple(corners.T)]).max() < 1e-3
    if path.suffix == ".dcm":
        assert np.array_equal(volume.slice(volume.plane, 0).pixels, read_image(path))
