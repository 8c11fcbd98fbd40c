"""What of a source's words gets into written masks: patient and study of DICOM files, and nothing else."""

import re
import warnings

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs pydicom")
pytest.importorskip("nibabel", reason="needs nibabel")
pytest.importorskip("highdicom", reason="needs highdicom")

from export_sources import SIDES
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from series_files import affine_of, enhanced, noise, saved, series
from test_canary import CANARY, TEXTS

from medground import LabelledMask, write_masks
from medground.errors import InputError
from medground.images.read_volume import read_volume
from medground.images.view import View
from medground.images.writing.write import SUFFIXES

ALLOWED = {"PatientName", "PatientID", "StudyID", "AccessionNumber", "ReferringPhysicianName"}
MASK = np.zeros(SIDES, bool)
MASK[4:9, 5:12, 1:3] = True


def marked(dataset):
    """Write the word into every text field, a private one, and items of sequences."""
    for keyword in TEXTS:
        assert dictionary_VR(keyword)
        setattr(dataset, keyword, CANARY)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.private_block(0x0011, CANARY, create=True).add_new(0x01, "LO", CANARY)
    inner = type(dataset)()
    inner.CodeValue, inner.CodeMeaning, inner.CodingSchemeDesignator = "1", CANARY, "99X"
    dataset.ProcedureCodeSequence = Sequence([inner])
    for group in dataset.get("PerFrameFunctionalGroupsSequence", []):
        group.FrameContentSequence[0].FrameComments = CANARY
        group.FrameContentSequence[0].FrameLabel = CANARY
    return dataset


def holders(dataset):
    """The keywords of the elements that hold the word, at any depth."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from holders(item)
        elif element.keyword != "PixelData" and CANARY in str(element.value):
            yield element.keyword or str(element.tag)


@pytest.fixture(params=["series", "enhanced"])
def volume(request, tmp_path):
    folder = tmp_path / CANARY
    if request.param == "series":
        return read_volume(saved([marked(one) for one in series(noise(SIDES), affine_of(np.eye(3)))], folder))
    folder.mkdir()
    dataset = marked(enhanced(noise(SIDES), affine_of(np.eye(3))))
    dataset.StudyInstanceUID = generate_uid()
    dataset.save_as(folder / f"{CANARY}.dcm", enforce_file_format=True)
    return read_volume(folder / f"{CANARY}.dcm")


@pytest.mark.parametrize("form", ["nifti", "nrrd", "seg", "rtstruct"])
def test_only_patient_and_study_get_into_a_mask_of_a_volume(form, volume, tmp_path):
    path = tmp_path / f"m{SUFFIXES[form]}"
    write_masks(path, [LabelledMask(data=MASK, label="mass")], volume)
    check(path)


def test_only_patient_and_study_get_into_the_picture_of_a_slice(volume, tmp_path):
    instance = volume.origin.instances[1]
    path = tmp_path / "m.sc.dcm"
    write_masks(path, [LabelledMask(data=MASK[:, :, 1].T)], instance.path, view=View(slice=instance.frame))
    check(path)


def check(path):
    data = path.read_bytes()
    if path.suffix != ".dcm":
        assert CANARY.encode() not in data
        return
    dataset = dcmread(path)
    assert set(holders(dataset)) == ALLOWED
    assert len(re.findall(CANARY.encode(), data)) == len(ALLOWED)


def test_an_error_of_a_writer_quotes_no_word_of_the_source(tmp_path, capfd, caplog):
    slices = [marked(one) for one in series(noise(SIDES), affine_of(np.eye(3)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom quotes what it writes
        for one in slices:
            one.StudyInstanceUID = f"1.2.{CANARY}"
        folder = saved(slices, tmp_path / CANARY)
    caplog.clear()
    volume = read_volume(folder)
    for form in ("seg", "rtstruct"):
        with pytest.raises(InputError, match=r"lacks valid identifiers .*: StudyInstanceUID") as error:
            write_masks(tmp_path / f"m{SUFFIXES[form]}", [LabelledMask(data=MASK)], volume)
        assert CANARY not in str(error.value)
    streams = capfd.readouterr()
    assert CANARY not in streams.out + streams.err + caplog.text
