"""Masks of real files: pydicom's, highdicom's, dcmqi's and public volumes, judged by dciodvfy and by other writers' files."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs pydicom")
pytest.importorskip("highdicom", reason="needs highdicom")

import pydicom
from mask_judges import checked, segmented
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from medground import LabelledMask, write_masks
from medground.errors import InputError, PluginError
from medground.images.read import open_image, read_mask
from medground.images.read_volume import read_volume
from medground.images.view import View
from medground.images.writing.write import SUFFIXES

PLACED = ("nifti", "nrrd", "seg", "rtstruct", "sc")
FILES = {
    "highdicom/ct_image.dcm": PLACED, "pydicom/CT_small.dcm": PLACED, "pydicom/MR_small.dcm": PLACED,
    "pydicom/MR_small_RLE.dcm": PLACED, "dcmqi/01.dcm": PLACED, "highdicom/dx_image.dcm": ("nifti", "seg", "sc"),
    "pydicom/examples_rgb_color.dcm": ("nifti", "sc"), "pydicom/examples_palette.dcm": ("nifti", "sc"),
    "pydicom/examples_jpeg2k.dcm": ("nifti", "sc"), "pydicom/ExplVR_BigEnd.dcm": ("nifti", "sc"),
    "pydicom/SC_rgb_jpeg_dcmd.dcm": ("nifti", "seg", "sc"),
}  # fmt: skip
"""File -> formats that fit it."""


def ellipse(size):
    rows, columns = np.ogrid[: size[0], : size[1]]
    return ((rows / size[0] - 0.5) / 0.2) ** 2 + ((columns / size[1] - 0.4) / 0.3) ** 2 < 1


@pytest.mark.parametrize("name", FILES)
def test_masks_of_a_real_file_have_no_errors(name, tmp_path, shared):
    source = shared / "data" / "volumes" / name
    size = open_image(source).size
    for form in FILES[name]:
        path = tmp_path / f"m{SUFFIXES[form]}"
        write_masks(path, [LabelledMask(data=ellipse(size), label="mass")], source)
        if path.suffix == ".dcm":
            assert checked(path) == [], form
        if form == "seg":
            assert np.array_equal(read_mask(path, image=source), ellipse(size))


def test_a_segmentation_of_dcmqis_ct_equals_dcmqis_own(tmp_path, shared):
    nrrd = pytest.importorskip("nrrd", reason="needs pynrrd")
    folder = shared / "data" / "volumes" / "dcmqi"
    volume = read_volume([folder / f"0{number}.dcm" for number in (1, 2, 3)])
    regions = [
        LabelledMask(data=nrrd.read(str(folder / f"{name}_seg.nrrd"))[0] > 0, label=name)
        for name in ("liver", "spine", "heart")
    ]
    write_masks(tmp_path / "m.seg.dcm", regions, volume)
    assert checked(tmp_path / "m.seg.dcm") == []
    theirs = segmented(folder / "liver_dicom_seg.dcm", 1, volume.affine, volume.shape)
    assert theirs.any() and np.array_equal(segmented(tmp_path / "m.seg.dcm", 1, volume.affine, volume.shape), theirs)
    for number, region in enumerate(regions, 1):
        assert np.array_equal(segmented(tmp_path / "m.seg.dcm", number, volume.affine, volume.shape), region.data)
    frames = dcmread(tmp_path / "m.seg.dcm").NumberOfFrames
    assert frames == sum(int(region.data.any(axis=(0, 1)).sum()) for region in regions)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("sct/t2.nii.gz", "sct/t2_seg-manual.nii.gz"),
        ("msd_hippocampus/hippocampus_001_image.nii.gz", "msd_hippocampus/hippocampus_001_label.nii.gz"),
        ("totalsegmentator/example_ct_sm.nii.gz", "totalsegmentator/example_seg.nii.gz"),
        ("pyradiomics/breast1_image.nrrd", "pyradiomics/breast1_label.nrrd"),
    ],
)
def test_a_label_volume_written_again_lies_where_the_image_lies(image, label, tmp_path, shared):
    sitk = pytest.importorskip("SimpleITK", reason="needs SimpleITK")
    folder = shared / "data" / "volumes"
    volume, data = read_volume(folder / image), read_volume(folder / label).array() > 0
    for suffix in (".nii.gz", ".seg.nrrd"):
        path = tmp_path / f"m{suffix}"
        assert write_masks(path, [LabelledMask(data=data)], volume) == ()
        again = read_volume(path)
        assert np.array_equal(again.array() > 0, data) and np.allclose(again.affine, volume.affine, atol=1e-4)
        written, source = sitk.ReadImage(str(path)), sitk.ReadImage(str(folder / image))
        for corner in ((0, 0, 0), tuple(side - 1 for side in volume.shape)):
            both = [one.TransformIndexToPhysicalPoint(corner) for one in (written, source)]
            assert np.allclose(*both, atol=1e-3)


@pytest.mark.slow
def test_masks_of_pydicoms_test_files_are_refused_or_without_errors(tmp_path):
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    counts = Counter()
    for source in sorted(path for path in folder.rglob("*") if path.is_file()):
        shown = first_picture(source)
        if shown is None:
            continue
        view, size = shown
        counts["read"] += 1
        for form in ("seg", "rtstruct", "sc"):
            path = tmp_path / f"m{SUFFIXES[form]}"
            try:
                write_masks(path, [LabelledMask(data=ellipse(size))], source, view=view, force=True)
            except InputError as error:
                assert error.hint, source.name
                continue
            counts[form] += 1
            assert [line for line in checked(path) if not of_source(line, source)] == [], (source.name, form)
    assert counts["read"] >= 80 and counts["seg"] >= 60 and counts["rtstruct"] >= 40 and counts["sc"] >= 75


def first_picture(source):
    """(the view of the first frame of a DICOM file, its size); None for what is no picture."""
    for view in (View(), View(slice=0)):
        try:
            loaded = open_image(source, view)
        except (InputError, PluginError):
            continue
        return (view, loaded.size) if loaded.kind == "dicom" else None
    return None


def of_source(error, source):
    """Whether an error is one of the source that every file which refers to it repeats."""
    dataset = dcmread(source, stop_before_pixels=True, force=True)
    one_uid = dataset.get("StudyInstanceUID") == dataset.get("FrameOfReferenceUID")
    frames = dataset.get("NumberOfFrames", 1) > 1 and dataset.SOPClassUID == SecondaryCaptureImageStorage
    return (one_uid and "StudyInstanceUID has same value as FrameOfReferenceUID" in error) or (
        frames and "ReferencedFrameNumber" in error
    )
