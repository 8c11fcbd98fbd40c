"""What is no certain volume is refused in one sentence with a remedy, or noted; SimpleITK makes up a spacing for most of it."""

import re
import shutil

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs pydicom")

from pydicom.uid import generate_uid
from series_files import affine_of, enhanced, noise, picture, placed, saved, series

from medground.errors import InputError, ViewError
from medground.images.read_volume import read_volume

AXIAL = affine_of(np.eye(3))
TURNED = affine_of([[0, 0, 1], [1, 0, 0], [0, 1, 0]])


@pytest.fixture
def folder(tmp_path):
    def write(*groups, name="ct"):
        return saved([one for group in groups for one in group], tmp_path / name)

    return write


def test_a_missing_slice_is_refused(folder):
    slices = series(noise((4, 4, 8)), AXIAL)
    with pytest.raises(InputError, match=r"has 5 mm between its slices 3 and 4 \(from 0\) where 2.5 mm are usual"):
        read_volume(folder(slices[:4] + slices[5:]))


def test_files_on_one_side_of_a_gap_are_a_volume(folder):
    slices = series(noise((4, 4, 8)), AXIAL)
    path = folder(slices[:4])
    assert read_volume(sorted(path.iterdir())).shape == (4, 4, 4)


def test_a_tilted_gantry_is_refused_and_named_in_degrees(folder):
    tilted = AXIAL.copy()
    tilted[:3, 2] = [0, 2.5 * np.tan(np.radians(12)), 2.5]
    with pytest.raises(InputError, match=r"shifted sideways by 0.531 mm each, as by a gantry tilted by 12°"):
        read_volume(folder(series(noise(), tilted)))


def test_slices_off_a_straight_line_are_refused(folder):
    slices = series(noise((4, 4, 7)), AXIAL)
    slices[3].ImagePositionPatient = [
        float(value) + step for value, step in zip(placed(AXIAL, 3)["ImagePositionPatient"], (2, 0, 0), strict=True)
    ]
    with pytest.raises(InputError, match="off a straight line by up to 2 mm"):
        read_volume(folder(slices))


@pytest.mark.parametrize("off, noted", [(0.005, False), (0.05, True), (0.11, True), (0.3, None)])
def test_steps_that_vary_are_noted_and_then_refused(folder, off, noted):
    slices = series(noise((4, 4, 9)), AXIAL)
    slices[4].ImagePositionPatient = [*placed(AXIAL, 4)["ImagePositionPatient"][:2], f"{ORIGIN_K4 + off}"]
    if noted is None:
        with pytest.raises(InputError, match="usual"):
            read_volume(folder(slices))
    else:
        volume = read_volume(folder(slices))
        assert volume.spacing[2] == pytest.approx(2.5)
        assert bool(volume.notes) == noted


ORIGIN_K4 = float(placed(AXIAL, 4)["ImagePositionPatient"][2])


@pytest.mark.parametrize(
    "keyword, values, words",
    [
        ("TemporalPositionIdentifier", ("1", "2"), "time"), ("EchoTime", ("2.3", "10.5"), "echo time"),
        ("DiffusionBValue", (0.0, 1000.0), "b-value"), ("AcquisitionNumber", (3, 10), "acquisition"),
        ("ImageType", (["ORIGINAL", "PRIMARY", "W"], ["ORIGINAL", "PRIMARY", "F"]), "kind"),
    ],
)  # fmt: skip
def test_phases_are_listed_and_one_is_chosen(folder, keyword, values, words):
    uid = generate_uid()
    voxels = [noise(seed=seed) for seed in range(2)]
    phases = [
        series(one, AXIAL, SeriesInstanceUID=uid, FrameOfReferenceUID="1.2.3", **{keyword: value})
        for one, value in zip(voxels, values, strict=True)
    ]
    path = folder(*phases)
    with pytest.raises(ViewError) as caught:
        read_volume(path)
    assert "holds 2 stacks of slices" in caught.value.message
    assert re.findall(r"stack=(\d) \(CT, axial, 5 of 7 x 6, (.*?) (\d) of 2\)", caught.value.hint) == [
        ("0", words, "1"), ("1", words, "2")
    ]  # fmt: skip
    order = (1, 0) if keyword == "ImageType" else (0, 1)
    for stack, index in enumerate(order):
        volume = read_volume(path, stack=stack)
        assert np.array_equal(volume.array(), voxels[index] - 10.0)
    assert read_volume(path, stack=0).id != read_volume(path, stack=1).id
    with pytest.raises(ViewError, match="has no stack 2"):
        read_volume(path, stack=2)


def test_slices_of_one_position_that_nothing_tells_apart_are_refused(folder):
    uid = generate_uid()
    groups = [series(noise(seed=seed), AXIAL, SeriesInstanceUID=uid, FrameOfReferenceUID="1.2.3") for seed in range(2)]
    with pytest.raises(
        InputError, match="has 5 slices that share a position, and nothing in the files tells them apart"
    ):
        read_volume(folder(*groups))


def test_a_trigger_time_that_differs_from_slice_to_slice_is_no_phase(folder):
    slices = series(noise(), AXIAL)
    for number, one in enumerate(slices):
        one.TriggerTime = str(100 + number)
    assert read_volume(folder(slices)).shape == (7, 6, 5)


@pytest.mark.parametrize("scout", [series(noise((7, 6, 1)), TURNED), series(noise((9, 6, 2)), AXIAL)])
def test_a_scout_or_another_size_is_a_stack_of_its_own(folder, scout):
    slices = series(noise(), AXIAL)
    for one in scout:
        one.SeriesInstanceUID, one.FrameOfReferenceUID = slices[0].SeriesInstanceUID, slices[0].FrameOfReferenceUID
    path = folder(slices, scout)
    with pytest.raises(ViewError, match="holds 2 stacks of slices"):
        read_volume(path)
    assert {read_volume(path, stack=stack).shape[2] for stack in (0, 1)} == {5, len(scout)}


@pytest.mark.parametrize(
    "fields", [{"PixelSpacing": ["0.9", "0.6"]}, {"FrameOfReferenceUID": "1.2.9"}, {"RescaleType": "US"}]
)
def test_slices_of_mixed_spacing_frame_or_unit_are_no_one_volume(folder, fields):
    slices = series(noise(), AXIAL)
    for name, value in fields.items():
        setattr(slices[2], name, value)
    with pytest.raises(ViewError, match="holds 2 stacks of slices"):
        read_volume(folder(slices))


def test_of_several_series_one_must_be_chosen(folder):
    first, second = series(noise(seed=1), AXIAL), series(noise(seed=2), TURNED)
    path = folder(first, second)
    with pytest.raises(ViewError) as caught:
        read_volume(path)
    names = re.findall(r'series="(series-\w{12})" \(CT, (\w+), 5 of 7 x 6\)', caught.value.hint)
    assert sorted(plane for _, plane in names) == ["axial", "sagittal"]
    for name, plane in names:
        volume = read_volume(path, series=name)
        assert volume.plane == plane and volume.id == name
    assert read_volume(path, series=first[0].SeriesInstanceUID).origin.series == first[0].SeriesInstanceUID
    with pytest.raises(ViewError, match="there is no series 'series-x'"):
        read_volume(path, series="series-x")


def test_copies_count_once_and_another_content_under_one_identifier_is_refused(folder, tmp_path):
    slices = series(noise(), AXIAL)
    path = folder(slices)
    shutil.copy(path / "000.dcm", path / "copy.dcm")
    volume = read_volume(path)
    assert volume.shape == (7, 6, 5) and volume.notes == ("1 files are copies of others and count once",)
    slices[0].PixelData = bytes(len(slices[0].PixelData))
    slices[0].save_as(path / "other.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="has the identifier of another file and other content"):
        read_volume(path)


@pytest.mark.parametrize(
    "keyword, word",
    [
        ("ImagePositionPatient", "position"),
        ("ImageOrientationPatient", "orientation"),
        ("PixelSpacing", "pixel spacing"),
    ],
)
def test_a_slice_that_does_not_say_where_it_lies_is_refused(folder, keyword, word):
    slices = series(noise(), AXIAL)
    del slices[1][keyword]
    with pytest.raises(InputError, match=f"does not state the {word} of its pixels"):
        read_volume(folder(slices))


def test_pictures_of_other_series_that_are_no_slices_are_left_out(folder):
    slices = series(noise(), AXIAL)
    screenshot = picture(np.zeros((4, 4)), SeriesInstanceUID=generate_uid(), PixelSpacing=None)
    volume = read_volume(folder(slices, [screenshot]))
    assert volume.notes == ("1 files hold no slice of a volume and are left out",)


def test_a_listed_file_is_never_left_out(folder, tmp_path):
    path = folder(series(noise(), AXIAL))
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InputError):
        read_volume([*path.iterdir(), tmp_path / "notes.txt"])


def test_a_damaged_slice_is_refused_and_not_left_out(folder):
    path = folder(series(noise(), AXIAL))
    data = (path / "002.dcm").read_bytes()
    (path / "002.dcm").write_bytes(data[:200])
    with pytest.raises(InputError):
        read_volume(path)


def test_one_slice_takes_its_thickness_and_says_so(folder):
    slices = series(noise((4, 4, 1)), AXIAL)
    volume = read_volume(folder(slices))
    assert volume.spacing[2] == 2.5 and volume.notes == ("it has one slice: its thickness of 2.5 mm is the step",)
    del slices[0].SliceThickness
    with pytest.raises(InputError, match="does not say how thick it is"):
        read_volume(folder(slices, name="thin"))


def test_a_film_without_places_is_refused(tmp_path):
    film = enhanced(noise(), AXIAL)
    del film.PerFrameFunctionalGroupsSequence
    film.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="is a film: it does not say where its 5 frames lie"):
        read_volume(tmp_path / "film.dcm")


def test_phases_of_an_enhanced_file_are_stacks(tmp_path):
    first, second = noise(seed=1), noise(seed=2)
    voxels = np.concatenate([first, second], axis=2)
    film = enhanced(voxels, AXIAL, TemporalPositionIndex=[1] * 5 + [2] * 5)
    for group in film.PerFrameFunctionalGroupsSequence:
        index = group.FrameContentSequence[0].TemporalPositionIndex
        position = group.PlanePositionSequence[0]
        if index == 2:
            position.ImagePositionPatient = [
                *position.ImagePositionPatient[:2],
                position.ImagePositionPatient[2] - 12.5,
            ]
    film.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    with pytest.raises(ViewError, match="holds 2 stacks"):
        read_volume(tmp_path / "film.dcm")
    assert np.array_equal(read_volume(tmp_path / "film.dcm", stack=1).array(), second - 10.0)


def test_a_file_that_was_changed_after_reading_is_noticed(folder):
    slices = series(noise(), AXIAL)
    path = folder(slices)
    volume = read_volume(path)
    changed = volume.origin.instances[2].path
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    with pytest.raises(InputError, match="was changed since the volume was read"):
        volume.slice("axial", 2)


def test_messages_hold_no_name_of_the_patient_or_the_file(folder, tmp_path):
    slices = series(noise((4, 4, 8)), AXIAL)
    path = folder(slices[:4] + slices[5:], name="CANARY_doe")
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert "CANARY" not in str(caught.value) and ".dcm" not in str(caught.value)
    whole = read_volume(folder(slices, name="CANARY_roe"))
    assert "CANARY" not in repr(whole) + whole.id + whole.group
    assert whole.origin.series not in repr(whole)


def test_an_empty_folder_and_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="the folder holds no DICOM files"):
        read_volume(tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"a\.png is no volume"):
        read_volume(tmp_path / "a.png")
