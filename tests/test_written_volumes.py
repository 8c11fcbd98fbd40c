"""Masks of volumes as files: every voxel at its millimetre, by readers that are not ours."""

import gzip
import warnings

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs pydicom")

from mask_judges import at_millimetres, checked, placed_voxels, rasterised, segmented
from pydicom import dcmread
from pydicom.uid import generate_uid
from series_files import ROTATIONS, affine_of, enhanced, noise, saved, series

from medground import LabelledMask, write_masks
from medground.errors import InputError, UsageError
from medground.images.label_maps import label_map
from medground.images.read import read_mask
from medground.images.read_volume import read_volume
from medground.images.writing.labelled import Algorithm, Code

SIDES = (14, 11, 6)
AXIAL = affine_of(np.eye(3))
OBLIQUE = affine_of(ROTATIONS[50])
FEW = [*ROTATIONS[::7], ROTATIONS[50]]


@pytest.fixture(scope="module")
def nibabel():
    return pytest.importorskip("nibabel", reason="needs nibabel")


@pytest.fixture(scope="module")
def sitk():
    return pytest.importorskip("SimpleITK", reason="needs SimpleITK")


@pytest.fixture
def highdicom():
    return pytest.importorskip("highdicom", reason="needs highdicom")


def masks(sides=SIDES, overlap=False):
    """Two random regions: the first leaves the outer slices empty."""
    dice = np.random.default_rng(3)
    first, second = dice.random(sides) > 0.6, dice.random(sides) > 0.8
    first[:, :, [0, -1]] = False
    return [
        LabelledMask(data=first, label="left lung nodule"),
        LabelledMask(data=second if overlap else second & ~first, label="liver"),
    ]


def ct(folder, affine=AXIAL, **fields):
    return read_volume(saved(series(noise(SIDES), affine, **fields), folder))


def enhanced_ct(path, affine=AXIAL, seed=0):
    dataset = enhanced(noise(SIDES), affine, seed=seed)
    dataset.StudyInstanceUID = generate_uid()
    dataset.save_as(path, enforce_file_format=True)
    return read_volume(path)


@pytest.mark.parametrize("number", range(len(ROTATIONS)))
def test_a_nifti_mask_of_a_series_lies_where_its_voxels_lie(number, tmp_path, nibabel, sitk):
    affine = affine_of(ROTATIONS[number])
    volume, regions = ct(tmp_path / "ct", affine), masks()
    assert write_masks(tmp_path / "m.nii.gz", regions, volume) == ()
    expected = label_map([one.data for one in regions])
    image = nibabel.load(tmp_path / "m.nii.gz")
    assert image.get_data_dtype() == np.uint8 and np.array_equal(image.dataobj, expected)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert np.allclose(image.get_sform(), volume.ras_affine, atol=1e-4)
    values, mm = placed_voxels(sitk.ReadImage(str(tmp_path / "m.nii.gz")))
    for label in (1, 2):
        assert np.array_equal(at_millimetres(mm[values == label], volume.affine, SIDES), expected == label)


@pytest.mark.parametrize("number", range(len(ROTATIONS)))
def test_a_seg_nrrd_file_lies_where_its_voxels_lie(number, tmp_path, sitk):
    affine = affine_of(ROTATIONS[number])
    volume, regions = ct(tmp_path / "ct", affine), masks()
    write_masks(tmp_path / "m.seg.nrrd", regions, volume)
    image = sitk.ReadImage(str(tmp_path / "m.seg.nrrd"))
    values, mm = placed_voxels(image)
    for label, region in enumerate(regions, 1):
        assert np.array_equal(at_millimetres(mm[values == label], volume.affine, SIDES), region.data)
        assert image.GetMetaData(f"Segment{label - 1}_Name") == region.label
        where = np.argwhere(region.data)
        bounds = np.stack([where.min(axis=0), where.max(axis=0)], axis=1).ravel()
        assert image.GetMetaData(f"Segment{label - 1}_Extent") == " ".join(map(str, bounds))
        assert image.GetMetaData(f"Segment{label - 1}_LabelValue") == str(label)
    assert "SCT^27925004^Nodule" in image.GetMetaData("Segment0_Tags")


def test_segments_that_overlap_are_in_layers_of_a_seg_nrrd_file(tmp_path):
    nrrd = pytest.importorskip("nrrd", reason="needs pynrrd")
    volume, regions = ct(tmp_path / "ct", OBLIQUE), masks(overlap=True)
    regions.append(LabelledMask(data=~regions[0].data & ~regions[1].data))
    write_masks(tmp_path / "m.seg.nrrd", regions, volume)
    values, header = nrrd.read(str(tmp_path / "m.seg.nrrd"))
    assert values.shape == (2, *SIDES)
    for number, region in enumerate(regions):
        layer, label = (int(header[f"Segment{number}_{field}"]) for field in ("Layer", "LabelValue"))
        assert np.array_equal(values[layer] == label, region.data)
    assert np.allclose(read_volume(tmp_path / "m.seg.nrrd", stack=1).affine, volume.affine)


def test_regions_that_overlap_are_noted_in_nifti(tmp_path, nibabel):
    volume, regions = ct(tmp_path / "ct"), masks(overlap=True)
    shared = int((regions[0].data & regions[1].data).sum())
    [note] = write_masks(tmp_path / "m.nii", regions, volume)
    assert note == f"{shared} voxels belong to several regions: in NIfTI they are those of the first"
    assert np.array_equal(nibabel.load(tmp_path / "m.nii").dataobj, label_map([one.data for one in regions]))


@pytest.mark.parametrize("name", ["m.nii.gz", "m.seg.nrrd"])
def test_a_label_volume_written_twice_has_the_same_bytes(name, tmp_path, monkeypatch):
    volume = ct(tmp_path / "ct")
    for number, folder in enumerate(("a", "b"), 1):
        (tmp_path / folder).mkdir()
        monkeypatch.setattr("time.time", lambda number=number: number * 1e9)
        write_masks(tmp_path / folder / name, masks(), volume)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_mask_of_a_nifti_volume_has_its_header(tmp_path, nibabel):
    ras = np.diag([-1, -1, 1, 1]) @ OBLIQUE
    image = nibabel.Nifti2Image(np.zeros((*SIDES, 3), np.float32), ras)
    image.set_qform(ras, code=1)
    image.set_sform(ras, code=4)
    image.header["descrip"], image.header["cal_max"] = b"CANARY", 7
    image.header.set_slope_inter(2, -1)
    nibabel.save(image, tmp_path / "v.nii.gz")
    volume, regions = read_volume(tmp_path / "v.nii.gz", stack=2), masks()
    write_masks(tmp_path / "m.nii.gz", regions, volume)
    out, source = nibabel.load(tmp_path / "m.nii.gz"), nibabel.load(tmp_path / "v.nii.gz")
    assert isinstance(out, nibabel.Nifti2Image) and out.shape == SIDES
    assert np.array_equal(np.asanyarray(out.dataobj), label_map([one.data for one in regions]))
    for field in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x", "xyzt_units"):
        assert np.array_equal(out.header[field], source.header[field]), field
    assert b"CANARY" not in gzip.decompress((tmp_path / "m.nii.gz").read_bytes()) and out.header["cal_max"] == 0


@pytest.mark.parametrize("rotation", FEW)
@pytest.mark.parametrize("kind", ["series", "enhanced"])
def test_a_segmentation_lies_where_its_voxels_lie_and_names_its_sources(kind, rotation, tmp_path, highdicom):
    affine, regions = affine_of(rotation), masks(overlap=True)
    volume = ct(tmp_path / "ct", affine) if kind == "series" else enhanced_ct(tmp_path / "ct.dcm", affine)
    assert write_masks(tmp_path / "m.seg.dcm", regions, volume) == ()
    assert checked(tmp_path / "m.seg.dcm") == []
    for number, region in enumerate(regions, 1):
        assert np.array_equal(segmented(tmp_path / "m.seg.dcm", number, volume.affine, SIDES), region.data)
        for k, instance in enumerate(volume.origin.instances):
            picture = read_mask(tmp_path / "m.seg.dcm", image=instance.path, slice=instance.frame, segment=region.label)
            assert np.array_equal(picture, region.data[:, :, k].T)
    dataset = dcmread(tmp_path / "m.seg.dcm")
    assert dataset.NumberOfFrames == sum(int(region.data.any(axis=(0, 1)).sum()) for region in regions)
    named = {one.ReferencedSOPInstanceUID for one in dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert named == {instance.uid for instance in volume.origin.instances}


def test_a_segmentation_states_label_codes_and_algorithm_of_each_segment(tmp_path, highdicom):
    volume, regions = ct(tmp_path / "ct"), masks()
    codes = (Code("49755003", "Morphologically Abnormal Structure"), Code("52988006", "Lesion"))
    regions.append(LabelledMask(data=regions[0].data, label="odd\\ thing\n" + "x" * 80, codes=codes))
    regions.append(LabelledMask(data=regions[0].data))
    write_masks(tmp_path / "m.seg.dcm", regions, volume, algorithm=Algorithm(name="expert", version="7.1"))
    assert checked(tmp_path / "m.seg.dcm") == []
    segments = dcmread(tmp_path / "m.seg.dcm").SegmentSequence
    assert [one.SegmentNumber for one in segments] == [1, 2, 3, 4]
    assert [one.SegmentLabel for one in segments] == ["left lung nodule", "liver", "odd thing " + "x" * 54, "region 4"]
    kinds = [one.SegmentedPropertyTypeCodeSequence[0] for one in segments]
    assert [(one.CodeValue, one.CodingSchemeDesignator) for one in kinds] == [
        ("27925004", "SCT"), ("10200004", "SCT"), ("52988006", "SCT"), ("85756007", "SCT"),
    ]  # fmt: skip
    categories = [one.SegmentedPropertyCategoryCodeSequence[0].CodeValue for one in segments]
    assert categories == ["49755003", "91723000", "49755003", "85756007"]
    algorithms = [one.SegmentationAlgorithmIdentificationSequence[0] for one in segments]
    assert {(one.AlgorithmName, one.AlgorithmVersion) for one in algorithms} == {("expert", "7.1")}
    assert {one.SegmentAlgorithmType for one in segments} == {"AUTOMATIC"}


@pytest.mark.slow
@pytest.mark.parametrize("rotation", [ROTATIONS[0], ROTATIONS[17], ROTATIONS[50], ROTATIONS[55]])
def test_contours_of_a_structure_set_fill_exactly_the_masks(rotation, tmp_path):
    affine, regions = affine_of(rotation), masks(overlap=True)
    volume = ct(tmp_path / "ct", affine)
    assert write_masks(tmp_path / "m.rtstruct.dcm", regions, volume) == ()
    assert checked(tmp_path / "m.rtstruct.dcm") == []
    filled = rasterised(tmp_path / "m.rtstruct.dcm", tmp_path / "ct", tmp_path / "filled")
    for name, region in zip(("left_lung_nodule", "liver"), regions, strict=True):
        values, mm = filled.get(name) or filled[name.replace("_", " ")]
        assert np.array_equal(at_millimetres(mm[values > 0], volume.affine, SIDES), region.data)


@pytest.mark.parametrize("kind", ["series", "enhanced"])
def test_a_contour_names_the_picture_that_it_lies_on(kind, tmp_path):
    volume = ct(tmp_path / "ct", OBLIQUE) if kind == "series" else enhanced_ct(tmp_path / "ct.dcm", OBLIQUE)
    write_masks(tmp_path / "m.rtstruct.dcm", masks(), volume)
    assert checked(tmp_path / "m.rtstruct.dcm") == []
    dataset = dcmread(tmp_path / "m.rtstruct.dcm")
    assert [one.ROIName for one in dataset.StructureSetROISequence] == ["left lung nodule", "liver"]
    slices = set()
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        assert len(points) == contour.NumberOfContourPoints and max(map(len, map(str, contour.ContourData))) <= 16
        [k] = {round(value) for value in volume.to_voxel(points)[:, 2]}
        assert np.abs(volume.to_voxel(points)[:, 2] - k).max() < 1e-4
        instance, image = volume.origin.instances[k], contour.ContourImageSequence[0]
        assert image.ReferencedSOPInstanceUID == instance.uid
        assert image.get("ReferencedFrameNumber") == (None if instance.frame is None else instance.frame + 1)
        slices.add(k)
    assert slices == {1, 2, 3, 4}, "the outer slices are empty"


@pytest.mark.parametrize("name", ["m.seg.dcm", "m.rtstruct.dcm"])
def test_nothing_is_written_for_masks_without_voxels_and_a_note_says_so(name, tmp_path, highdicom):
    volume = ct(tmp_path / "ct")
    empty = LabelledMask(data=np.zeros(SIDES, bool), label="spleen")
    assert write_masks(tmp_path / name, [empty, empty], volume) == ("nothing was written: no mask has a voxel",)
    assert write_masks(tmp_path / name, [], volume) == ("nothing was written: no mask has a voxel",)
    assert not (tmp_path / name).exists()
    assert write_masks(tmp_path / name, [empty, *masks()], volume) == ("spleen has no voxel and is left out",)
    assert checked(tmp_path / name) == []
    dataset = dcmread(tmp_path / name)
    labels = [one.SegmentLabel for one in dataset.get("SegmentSequence", [])]
    assert (labels or [one.ROIName for one in dataset.StructureSetROISequence]) == ["left lung nodule", "liver"]


def test_an_empty_nifti_mask_is_written(tmp_path, nibabel):
    write_masks(tmp_path / "m.nii.gz", [], ct(tmp_path / "ct"))
    assert np.array_equal(nibabel.load(tmp_path / "m.nii.gz").dataobj, np.zeros(SIDES))


@pytest.mark.parametrize("name", ["m.seg.dcm", "m.rtstruct.dcm"])
def test_anonymised_sources_are_enough(name, tmp_path, highdicom):
    slices = series(noise(SIDES), AXIAL, SliceThickness=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom, of the invalid values
        for one in slices:
            del one.PatientID, one.PatientName, one.InstanceNumber
            one.SpecificCharacterSet, one.PatientSex, one.PatientBirthDate, one.StudyTime = "", "?", "removed", "x"
        volume = read_volume(saved(slices, tmp_path / "ct"))
    write_masks(tmp_path / name, masks(), volume)
    assert checked(tmp_path / name) == []
    dataset = dcmread(tmp_path / name)
    assert [dataset.get(keyword) for keyword in ("PatientName", "PatientSex", "PatientBirthDate")] == ["", "", ""]


@pytest.mark.parametrize("name", ["m.seg.dcm", "m.rtstruct.dcm"])
def test_patient_and_study_are_those_of_the_source_in_any_script(name, tmp_path, highdicom):
    fields = {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Роза", "PatientSex": "F", "StudyDate": "20200102",
              "AccessionNumber": "A7", "StudyID": "S1", "PatientBirthDate": "19700102", "StudyTime": "101112.5"}  # fmt: skip
    volume = ct(tmp_path / "ct", **fields)
    write_masks(tmp_path / name, masks(), volume)
    assert checked(tmp_path / name) == []
    dataset, source = dcmread(tmp_path / name), dcmread(volume.origin.instances[0].path)
    for keyword in {*fields, "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"} - {"SpecificCharacterSet"}:
        assert dataset.get(keyword) == source.get(keyword), keyword
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID and dataset.SOPInstanceUID != source.SOPInstanceUID


@pytest.mark.parametrize("name", ["m.seg.dcm", "m.rtstruct.dcm"])
def test_what_a_dicom_file_must_refer_to_is_demanded(name, tmp_path, highdicom):
    for keyword, message in (
        ("StudyInstanceUID", "lacks valid identifiers"),
        ("FrameOfReferenceUID", "frame of reference|place|where"),
    ):
        slices = series(noise(SIDES), AXIAL)
        for one in slices:
            delattr(one, keyword)
        volume = read_volume(saved(slices, tmp_path / keyword))
        with pytest.raises(InputError, match=message) as error:
            write_masks(tmp_path / name, masks(), volume)
        assert ".seg.nrrd" in str(error.value.hint)


def test_a_volume_without_dicom_files_has_no_dicom_masks(tmp_path, nibabel):
    image = nibabel.Nifti1Image(np.zeros(SIDES, np.int16), np.eye(4))
    image.set_sform(np.eye(4), code=1)
    nibabel.save(image, tmp_path / "v.nii")
    volume = read_volume(tmp_path / "v.nii")
    for name in ("m.seg.dcm", "m.rtstruct.dcm", "m.sc.dcm"):
        with pytest.raises(InputError, match="v has no DICOM instances"):
            write_masks(tmp_path / name, masks(), volume)


def test_a_mask_that_does_not_fit_and_a_name_without_a_format_are_refused(tmp_path):
    volume = ct(tmp_path / "ct")
    for data in (np.zeros(SIDES[::-1], bool), np.zeros(SIDES, np.uint8)):
        with pytest.raises(InputError, match=r"is none of series-.*give a bool array of shape \(14, 11, 6\)"):
            write_masks(tmp_path / "m.nii", [LabelledMask(data=data)], volume)
    with pytest.raises(UsageError, match=r"end it with one of \.nii\.gz, \.seg\.nrrd"):
        write_masks(tmp_path / "m.dcm", masks(), volume)
    with pytest.raises(InputError, match="is a volume, and a secondary capture holds one picture"):
        write_masks(tmp_path / "m.sc.dcm", masks(), volume)


def test_a_source_that_was_changed_is_refused(tmp_path):
    volume = ct(tmp_path / "ct")
    path = volume.origin.instances[2].path
    path.write_bytes(path.read_bytes() + b"\0\0")
    with pytest.raises(InputError, match="was changed since it was read"):
        write_masks(tmp_path / "m.rtstruct.dcm", masks(), volume)
