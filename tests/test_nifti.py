"""NIfTI volumes: the right slice the right way up, masks back in the right voxels, damaged files refused."""

import gzip
import itertools
import json
import shlex
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

nibabel = pytest.importorskip("nibabel", reason="needs nibabel")

from medground_data.readers import read_source  # noqa: E402

from medground.cli import main  # noqa: E402
from medground.data.source_samples import BadSample  # noqa: E402
from medground.errors import InputError, UsageError, ViewError  # noqa: E402
from medground.images import nifti  # noqa: E402
from medground.images.read import open_image, read_image, read_mask  # noqa: E402
from medground.images.view import View  # noqa: E402
from medground.images.writing.labelled import LabelledMask  # noqa: E402
from medground.images.writing.write import write_masks  # noqa: E402

SIDES = (9, 11, 7)


def saved(path, voxels, affine=None, **fields):
    image = nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def turned(order, signs, tilt=0.0):
    """An affine whose voxel axes run along the given world axes, tilted a little."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for voxel, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, voxel] = sign * (1.0 + voxel)
    c, s = np.cos(tilt), np.sin(tilt)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:3, 3] = (-20, 30, 5)
    return affine


def phantom(affine):
    """A volume whose value says where it is in the world: right, anterior and superior are brighter in their own digits."""
    index = np.stack(np.meshgrid(*map(np.arange, SIDES), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    return world.astype(np.float32)


AFFINES = [
    turned(order, signs, tilt)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
    for tilt in (0.0,)
]


@pytest.mark.slow
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_every_orientation_is_shown_the_same_way(tmp_path, plane):
    """For all 48 axis orders: right is left, anterior or superior is up, and the plane is the one asked for."""
    assert len(AFFINES) == 48
    across = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    for affine in AFFINES:
        world = phantom(affine)
        # A voxel's three world coordinates as three files, read through the same slice.
        seen = []
        for axis in range(3):
            path = saved(tmp_path / "v.nii", world[..., axis], affine)
            volume = nifti.NiftiFile(path)
            seen.append(volume.values(volume.placement(View(plane=plane, slice=2))))
        r, a, s = seen
        assert np.ptp(seen[across]) < 1e-4, "one plane"
        along_columns, along_rows = {"axial": (r, a), "coronal": (r, s), "sagittal": (a, s)}[plane]
        assert (np.diff(along_columns, axis=1) < 0).all(), "columns run to the left, or to the back"
        assert (np.diff(along_rows, axis=0) < 0).all(), "rows run to the back, or down"


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    order=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from((1, -1))] * 3),
    tilt=st.floats(-0.5, 0.5),
    plane=st.sampled_from(("axial", "coronal", "sagittal")),
    data=st.data(),
)
def test_masks_come_back_into_the_right_voxels(tmp_path_factory, order, signs, tilt, plane, data):
    folder = tmp_path_factory.mktemp("nifti")
    affine = turned(order, signs, tilt)
    truth = np.random.default_rng(data.draw(st.integers(0, 99))).random(SIDES) > 0.5
    path = saved(folder / "labels.nii.gz", truth.astype(np.int16), affine)
    volume = nifti.NiftiFile(path)
    axis = volume.placement(View(plane=plane, slice=0)).axis
    view = View(plane=plane, slice=data.draw(st.integers(0, SIDES[axis] - 1)))
    write_masks(folder / "out.nii.gz", [LabelledMask(data=nifti.mask(path, view))], path, view=view)
    out = nibabel.load(folder / "out.nii.gz")
    expected = np.zeros(SIDES, bool)
    here = (slice(None),) * axis + (view.slice,)
    expected[here] = truth[here]
    assert np.array_equal(np.asarray(out.dataobj).astype(bool), expected)
    assert out.get_data_dtype() == np.uint8 and np.array_equal(out.affine, nibabel.load(path).affine)


def test_a_written_mask_keeps_the_geometry_and_drops_the_words(tmp_path):
    affine = turned((1, 2, 0), (-1, 1, -1), 0.3)
    image = nibabel.Nifti1Image(np.ones(SIDES, np.float32), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=4)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"], image.header["aux_file"], image.header["db_name"] = b"CANARY", b"CANARY", b"CANARY"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"CANARY"))
    nibabel.save(image, tmp_path / "v.nii.gz")
    view = View(plane="coronal", slice=3)
    shown = open_image(tmp_path / "v.nii.gz", view)
    write_masks(tmp_path / "m.nii.gz", [LabelledMask(data=np.ones(shown.size, bool))], tmp_path / "v.nii.gz", view=view)
    out, source = nibabel.load(tmp_path / "m.nii.gz"), nibabel.load(tmp_path / "v.nii.gz")
    for field in ("qform_code", "sform_code", "pixdim", "xyzt_units", "srow_x", "quatern_b", "dim"):
        assert np.array_equal(out.header[field], source.header[field]), field
    assert b"CANARY" not in gzip.decompress((tmp_path / "m.nii.gz").read_bytes())
    assert b"CANARY" in gzip.decompress((tmp_path / "v.nii.gz").read_bytes())
    wrong = [LabelledMask(data=np.ones((3, 3), bool))]
    with pytest.raises(InputError, match=r"a mask of shape \(3, 3\) .* is none of v.nii.gz"):
        write_masks(tmp_path / "m.nii.gz", wrong, tmp_path / "v.nii.gz", view=view)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, ">i2", np.float64])
@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.lane
def test_values_are_those_nibabel_gives(tmp_path, kind, name):
    voxels = np.random.default_rng(1).integers(0, 200, SIDES).astype(kind)
    saved(tmp_path / name, voxels)
    volume = nifti.NiftiFile(tmp_path / name)
    for plane, axis in (("axial", 2), ("coronal", 1), ("sagittal", 0)):
        position = volume.placement(View(plane=plane, slice=3))
        expected = nibabel.load(tmp_path / name).get_fdata().take(3, axis=axis)
        assert np.array_equal(position.plane(volume.values(position)), expected)


def test_scaling_and_windows(tmp_path):
    voxels = np.zeros((4, 5, 3), np.int16)
    voxels[1, 2, 1], voxels[2, 2, 1] = 1040, 1240
    path = saved(tmp_path / "v.nii", voxels)
    with path.open("r+b") as file:
        file.seek(112)
        file.write(struct.pack("<ff", 2.0, -2080.0))  # scl_slope, scl_inter: the values are 0 and 400, and -2080
    image = read_image(path, plane="axial", slice=1, window="40,400")
    assert sorted(set(image.ravel().tolist())) == [0, 102, 255]
    about = open_image(path, View(plane="axial", slice=1, window="soft_tissue")).details
    assert about["window"] == "soft_tissue: centre 40, width 400"
    assert open_image(path, View(plane="axial", slice=1)).window.startswith("percentiles: -2080 to ")
    with pytest.raises(ViewError, match="names no window"):
        read_image(path, plane="axial", slice=1, window="file")
    saved(tmp_path / "w.nii", voxels, cal_min=0, cal_max=1240)
    shown = open_image(tmp_path / "w.nii", View(plane="axial", slice=1))
    assert shown.window == "file: centre 620, width 1240" and shown.pixels.max() == 255


def test_spacing_follows_the_picture(tmp_path):
    path = saved(tmp_path / "v.nii", np.zeros(SIDES, np.uint8), turned((2, 0, 1), (1, -1, 1)))
    # Voxel axes run superior (1 mm), left (2 mm), anterior (3 mm).
    for plane, spacing in (("axial", (3, 2)), ("coronal", (1, 2)), ("sagittal", (1, 3))):
        assert open_image(path, View(plane=plane, slice=0)).spacing == pytest.approx(spacing)


def test_plane_and_slice_are_never_guessed(tmp_path):
    path = saved(tmp_path / "v.nii", np.zeros(SIDES, np.uint8))
    for given_, reason in (
        ({}, "name the plane and slice"),
        ({"plane": "axial"}, "name the slice"),
        ({"slice": 3}, "name the plane"),
        ({"plane": "axial", "slice": 7}, "has no axial slice 7"),
        ({"plane": "axail", "slice": 0}, "no plane 'axail'"),
        ({"plane": "axial", "slice": -1}, "is negative"),
        ({"plane": "axial", "slice": 0, "window": "lnug"}, "no window 'lnug'"),
        ({"plane": "axial", "slice": 0, "window": "40,0"}, "has no width"),
    ):
        with pytest.raises(ViewError, match=reason) as error:
            read_image(path, **given_)
        assert error.value.hint and error.value.exit_code == 2
    with pytest.raises(ViewError, match="0 to 6"):
        read_image(path, plane="axial")


def header(**fields):
    volume_file = nibabel.Nifti1Header()
    volume_file.set_data_shape(SIDES)
    volume_file.set_data_dtype(np.int16)
    volume_file.set_sform(np.eye(4), code=1)
    volume_file["magic"], volume_file["vox_offset"] = b"n+1", 352
    for name, value in fields.items():
        volume_file[name] = value
    return volume_file.binaryblock + b"\0" * 4


VOXELS = b"\1\0" * int(np.prod(SIDES))
BAD = {
    "empty.nii": b"",
    "words.nii": b"not a volume at all" * 40,
    "cut.nii": (header() + VOXELS)[:-40],
    "head_only.nii": header()[:200],
    "huge.nii": header(dim=[3, 32000, 32000, 32000, 1, 1, 1, 1], datatype=64, bitpix=64) + VOXELS,
    "huge.nii.gz": gzip.compress(header(dim=[3, 32000, 32000, 32000, 1, 1, 1, 1]) + VOXELS),
    "flat.nii.gz": gzip.compress(header(dim=[3, 32000, 32000, 1, 1, 1, 1, 1])),
    "negative.nii": header(dim=[3, -4, 5, 6, 1, 1, 1, 1]) + VOXELS,
    "none.nii": header(dim=[3, 0, 5, 6, 1, 1, 1, 1]) + VOXELS,
    "four.nii": header(dim=[4, 9, 11, 7, 2, 1, 1, 1]) + VOXELS * 2,
    "seven.nii": header(dim=[7, 9, 11, 7, 200, 200, 200, 200]) + VOXELS,
    "many.nii": header(dim=[99, 9, 11, 7, 1, 1, 1, 1]) + VOXELS,
    "complex.nii": header(datatype=32, bitpix=64) + VOXELS * 4,
    "unknown.nii": header(datatype=4711) + VOXELS,
    "far.nii": header(vox_offset=np.inf) + VOXELS,
    "back.nii": header(vox_offset=-9) + VOXELS,
    "slope.nii": header(scl_slope=2, scl_inter=np.nan) + VOXELS,
    "nan.nii": header(srow_x=[np.nan, 0, 0, 0]) + VOXELS,
    "singular.nii": header(srow_x=[0, 0, 0, 0]) + VOXELS,
    "pair.nii": header(magic=b"ni1") + VOXELS,
    "cut.nii.gz": gzip.compress(header() + VOXELS)[:-30],
    "short.nii.gz": gzip.compress((header() + VOXELS)[:-40]),
    "crc.nii.gz": gzip.compress(header() + VOXELS)[:-8] + b"\0" * 8,
    "overlapping.nii": header(vox_offset=0) + VOXELS,
    "halved.nii": header(vox_offset=352.5) + VOXELS,
    "without_codes.nii": header(sform_code=0) + VOXELS,
    "contradictory.nii": header(qform_code=1, quatern_d=1) + VOXELS,
    "unknown_unit.nii": header(xyzt_units=5) + VOXELS,
    "long_double.nii": header(datatype=1536, bitpix=128) + VOXELS * 8,
}


def test_the_good_twin_of_the_bad_files_is_read(tmp_path):
    (tmp_path / "good.nii").write_bytes(header() + VOXELS)
    assert read_mask(tmp_path / "good.nii", plane="axial", slice=6).all()


@pytest.mark.parametrize("name", BAD)
def test_damaged_and_hostile_files_are_refused_in_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(BAD[name])
    with pytest.raises(InputError) as error:
        read_image(tmp_path / name, plane="axial", slice=0)
    text = str(error.value)
    assert name in text and error.value.hint and "\n" not in text and str(tmp_path) not in text


@pytest.mark.slow
def test_a_volume_without_codes_is_read_after_its_hint(tmp_path):
    (tmp_path / "v.nii").write_bytes(header(sform_code=0) + VOXELS)
    with pytest.raises(InputError, match="both of its codes are 0") as error:
        read_image(tmp_path / "v.nii", plane="axial", slice=0)
    command = shlex.split(error.value.hint.partition(": ")[2])
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    assert open_image(tmp_path / "v.nii", View(plane="axial", slice=0)).details["axes"] == "LAS"


@pytest.mark.parametrize(("units", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (2 | 8, 1), (3 | 16, 0.001)])
def test_spacing_is_in_millimetres_whatever_the_unit(tmp_path, units, factor):
    voxels = header(srow_x=[0.4, 0, 0, 0], srow_y=[0, 0.5, 0, 0], xyzt_units=units)
    (tmp_path / "v.nii").write_bytes(voxels + VOXELS)
    shown = open_image(tmp_path / "v.nii", View(plane="axial", slice=0))
    assert shown.spacing == pytest.approx((0.5 * factor, 0.4 * factor))


@pytest.mark.parametrize("name", ["plain.nii.gz", "zipped.nii"])
def test_whether_a_file_is_zipped_is_seen_in_its_bytes(tmp_path, name):
    data = header() + VOXELS
    (tmp_path / name).write_bytes(gzip.compress(data) if name == "zipped.nii" else data)
    assert read_mask(tmp_path / name, plane="axial", slice=6).all()


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        ([0, 0.5, 1], "fractions, for example 0.5"),
        ([0, np.nan, 1], "NaN"),
        ([0, -1, 1], "negative label -1"),
        ([0, 1, 255], "255 may mark"),
        ([1, 2, 3], "no 0 for the background"),
    ],
)
def test_a_mask_volume_is_judged_as_a_whole(tmp_path, voxels, reason):
    """The slice that is read holds 0 and 1 alone, or one value; the others decide what those mean."""
    path = saved(tmp_path / "m.nii", np.array(voxels, np.float32).repeat(4).reshape(2, 2, 3, order="F"))
    with pytest.raises(InputError, match=reason):
        read_mask(path, plane="axial", slice=2)
    if "fractions" in reason:
        assert read_mask(path, plane="axial", slice=1, threshold=0.5).all()
        assert not read_mask(path, plane="axial", slice=1, threshold=0.6).any()


def test_labels_that_a_slope_rounded_are_the_labels(tmp_path):
    labels = np.array([0.0, 1, 2, 0]).repeat(4).reshape(2, 2, 4, order="F")
    image = nibabel.Nifti1Image(labels, np.eye(4))
    image.header.set_data_dtype(np.int16)  # nibabel then scales 0 to 2 over all of int16
    nibabel.save(image, tmp_path / "m.nii")
    assert not np.isin(np.asarray(nibabel.load(tmp_path / "m.nii").dataobj), (1, 2)).all()
    for value in (1, 2):
        for number in range(4):
            mask = read_mask(tmp_path / "m.nii", plane="axial", slice=number, values=(value,))
            assert mask.all() == (number == value) and mask.any() == (number == value)
    assert read_mask(tmp_path / "m.nii", plane="axial", slice=1).all()


def test_a_colour_volume_is_no_mask(tmp_path):
    dtype = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), dtype), np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(InputError, match="is a colour volume"):
        read_mask(tmp_path / "c.nii", plane="axial", slice=0)


@pytest.mark.slow
def test_zipped_zeros_are_read_slab_by_slab(tmp_path):
    """A small file of a large volume costs one slab, not the volume."""
    import tracemalloc

    volume_file = header(dim=[3, 512, 512, 300, 1, 1, 1, 1])
    with gzip.open(tmp_path / "v.nii.gz", "wb", compresslevel=1) as file:
        file.write(volume_file)
        for _ in range(300):
            file.write(bytes(512 * 512 * 2))
    tracemalloc.start()
    read_image(tmp_path / "v.nii.gz", plane="coronal", slice=7)
    assert tracemalloc.get_traced_memory()[1] < 40e6 < 512 * 512 * 300 * 2
    tracemalloc.stop()


def dataset(tmp_path, shared=None):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    labels = np.zeros(SIDES, np.uint8)
    labels[2:5, 3:6, 2] = 1
    labels[2:7, 3:8, 4] = 1
    labels[0, 0, 5] = 2
    affine = turned((0, 1, 2), (-1, -1, 1))
    saved(tmp_path / "imagesTr/case_7_0000.nii.gz", np.arange(np.prod(SIDES), dtype=np.int16).reshape(SIDES), affine)
    saved(tmp_path / "labelsTr/case_7.nii.gz", labels, affine)
    table = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "left kidney": 1, "cyst": 2, "both": [1, 2]}}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    return tmp_path, labels


def test_nnunet_slices_are_chosen_by_the_user(tmp_path):
    root, labels = dataset(tmp_path)
    for missing in ({}, {"plane": "axial"}, {"slices": "all"}):
        with pytest.raises(UsageError, match="the reader nnunet needs"):
            read_source(root, **missing)
    with pytest.raises(UsageError, match="slices='some' names none"):
        list(read_source(root, plane="axial", slices="some"))
    largest = list(read_source(root, plane="axial", slices="largest"))
    assert [(case.labels["category"], case.labels["slice"]) for case in largest] == [
        ("both", "4"), ("left kidney", "4"), ("cyst", "5"),
    ]  # fmt: skip
    every = list(read_source(root, plane="axial", slices="all", window="full"))
    assert [(case.labels["category"], case.labels["slice"]) for case in every] == [
        ("both", "2"), ("left kidney", "2"), ("both", "4"), ("left kidney", "4"), ("both", "5"), ("cyst", "5"),
    ]  # fmt: skip
    assert [case.labels["category"] for case in read_source(root, plane="axial", slices=5)] == ["both", "cyst"]
    case = every[3]
    assert case.labels == {
        "window": "full", "plane": "axial", "slice": "4", "category": "left kidney", "modality": "CT", "volume": "case_7",
    }  # fmt: skip
    assert case.load_mask().sum() == 25 and case.load_image().pixels.shape == (11, 9, 3)
    # Stored along L and P, so that the picture is the plane, transposed.
    assert np.array_equal(case.load_mask(), labels[:, :, 4].T == 1)
    assert {entry.group for entry in every} == {"imagesTr/case_7_0000.nii.gz"} and len(
        {entry.image_key for entry in every}
    ) == 3


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
def test_nnunet_areas_of_other_planes(tmp_path, plane):
    root, labels = dataset(tmp_path)
    for case in read_source(root, plane=plane, slices="all"):
        header_text = {"left kidney": [1], "cyst": [2], "both": [1, 2]}[case.labels["category"]]
        across = labels.take(int(case.labels["slice"]), axis={"coronal": 1, "sagittal": 0}[plane])
        assert case.load_mask().sum() == np.isin(across, header_text).sum() > 0


def test_nnunet_labels_of_another_grid_are_listed(tmp_path):
    root, labels = dataset(tmp_path)
    saved(root / "labelsTr/case_8.nii.gz", labels[1:], turned((0, 1, 2), (-1, -1, 1)))
    saved(root / "imagesTr/case_8_0000.nii.gz", labels, turned((0, 1, 2), (-1, -1, 1)))
    saved(root / "labelsTr/case_9.nii.gz", labels)
    results = list(read_source(root, plane="axial", slices="largest"))
    bad = [case for case in results if isinstance(case, BadSample)]
    assert len(results) == 5 and [entry.where for entry in bad] == ["case_8.nii.gz", "case_9.nii.gz"]
    assert "lies on another grid than its image" in bad[0].reason and "does not exist" in bad[1].reason


def test_a_manifest_of_volumes_shares_its_view(tmp_path):
    root, _ = dataset(tmp_path)
    line = {"image": "imagesTr/case_7_0000.nii.gz", "mask": "labelsTr/case_7.nii.gz", "mask_value": 1, "plane": "axial",
            "slice": 4, "window": "40,400"}  # fmt: skip
    (root / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    [case] = read_source(root, "manifest")
    assert case.load_mask().sum() == 25 and case.spacing == pytest.approx((2, 1))
    assert case.labels == {"window": "40,400", "plane": "axial", "slice": "4"} and case.id == "case_7_0000_axial_4"


def cli(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def test_ground_writes_a_mask_volume(tmp_path, capsys):
    voxels = np.full((64, 48, 5), 20, np.int16)
    voxels[10:30, 8:24, 3] = 300
    affine = turned((1, 0, 2), (-1, 1, -1), 0.1)
    path = saved(tmp_path / "vol.nii.gz", voxels, affine)
    common = ("ground", path, "Which bright region?", "--out", tmp_path / "out", "--json")
    assert cli(*common) == 2
    assert "name the plane and slice" in capsys.readouterr().err
    assert cli(*common, "--plane", "axial", "--slice", "3", "--window", "full") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["view"] == {
        "format": "NIfTI", "plane": "axial", "slice": 3, "window": "full: 20 to 300", "spacing_mm": [1.0, 2.0],
        "voxels": [64, 48, 5], "axes": "".join(nibabel.aff2axcodes(affine)),
    }  # fmt: skip
    assert result["files"]["volume"] == "vol_axial_3.mask.nii.gz"
    out = nibabel.load(tmp_path / "out/vol_axial_3.mask.nii.gz")
    results = np.asarray(out.dataobj)
    assert results.shape == voxels.shape and np.allclose(out.affine, affine, atol=1e-5)
    assert results.sum() == result["mask"]["area"] and not results[..., [0, 1, 2, 4]].any()
    overlap = (results[..., 3] == 1) & (voxels[..., 3] == 300)
    assert overlap.sum() > 0.6 * results.sum(), "the mask lies on the bright block's own voxels"


def test_run_takes_views_from_lines_and_from_options(tmp_path):
    for name in ("a", "b"):
        saved(tmp_path / f"{name}.nii.gz", np.random.default_rng(0).integers(0, 99, (32, 32, 4)).astype(np.int16))
    lines = [
        {"image": "a.nii.gz", "question": "where?", "plane": "coronal", "slice": 9},
        {"image": "b.nii.gz", "question": "where?"},
        {"image": "b.nii.gz", "question": "where?", "slice": "x"},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (
        cli("run", tmp_path / "m.jsonl", "--out", tmp_path / "out", "--plane", "axial", "--slice", 2, "--no-overlays")
        == 3
    )
    results = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert [line["id"] for line in results] == ["a_coronal_9", "b_axial_2", "line-3"]
    assert [(line["view"]["plane"], line["view"]["slice"]) for line in results[:2]] == [("coronal", 9), ("axial", 2)]
    assert "slice is not a whole number" in results[2]["cause"]
    before = (tmp_path / "out/results/a_coronal_9.json").stat().st_mtime_ns
    cli("run", tmp_path / "m.jsonl", "--out", tmp_path / "out", "--plane", "axial", "--slice", 3, "--no-overlays")
    results = [json.loads(line)["id"] for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert results[1] == "b_axial_3", "another slice is another input"
    assert (tmp_path / "out/results/a_coronal_9.json").stat().st_mtime_ns == before, "what is done stays done"


def test_real_volumes(shared):
    folder = shared / "data/volumes"
    for image, labels in (
        ("totalsegmentator/example_ct_sm", "totalsegmentator/example_seg"),
        ("sct/t2", "sct/t2_seg-manual"),
    ):
        first, second = nifti.NiftiFile(folder / f"{image}.nii.gz"), nifti.NiftiFile(folder / f"{labels}.nii.gz")
        assert first.sides == second.sides and first.codes == second.codes
    # The liver (5) of the CT lies on the left of the axial picture, where a patient's right side is shown.
    ct = folder / "totalsegmentator/example_seg.nii.gz"
    liver = read_mask(ct, plane="axial", slice=20, values=(5,))
    assert np.nonzero(liver)[1].mean() < liver.shape[1] / 2
    with pytest.raises(InputError, match="several volumes"):
        nifti.NiftiFile(folder / "nibabel/example4d.nii.gz")
    assert nifti.NiftiFile(folder / "nibabel/anatomical.nii").dtype.str == ">i2"
