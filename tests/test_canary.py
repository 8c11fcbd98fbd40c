"""No output contains patient data: a word is written into 40 DICOM fields, 24 places of other formats and the names of files
and folders, then searched for."""

import json
import logging
import warnings

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs pydicom")

from PIL import Image, PngImagePlugin  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian  # noqa: E402

from medground.cli import main  # noqa: E402

CANARY = "KANARIENVOGEL"
TEXTS = (
    "PatientName", "PatientID", "OtherPatientNames", "PatientComments", "PatientAddress", "PatientMotherBirthName",
    "PatientTelephoneNumbers", "PatientBirthName", "EthnicGroup", "Occupation", "AdditionalPatientHistory",
    "MedicalRecordLocator", "MilitaryRank", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName",
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy",
    "StudyDescription", "SeriesDescription", "ProtocolName", "StudyID", "AccessionNumber", "StationName", "DeviceSerialNumber",
    "ImageComments", "RequestedProcedureDescription", "AdmittingDiagnosesDescription", "BodyPartExamined", "Manufacturer",
)  # fmt: skip
"""33 text fields; the other 7 are below."""


def dicom_file(path, pixels):
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = CTImageStorage
    fields = 0
    for keyword in TEXTS:
        setattr(found, keyword, CANARY)
        fields += 1
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(found, keyword, f"1.2.{CANARY}")
        fields += 1
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    inner = Dataset()
    inner.CodeMeaning = CANARY
    found.ProcedureCodeSequence = Sequence([inner])
    block = found.private_block(0x0011, CANARY, create=True)
    block.add_new(0x01, "LO", CANARY)
    found.add_new(0x60004000, "LT", CANARY)  # overlay comments
    explained = Dataset()
    explained.LUTExplanation = CANARY
    explained.add_new("LUTDescriptor", "US", [2, 0, 16])
    explained.add_new("LUTData", "OW", np.array([0, 65535], "<u2").tobytes())
    found.VOILUTSequence = Sequence([explained])
    fields += 4
    found.Modality, found.PhotometricInterpretation, found.SamplesPerPixel = "CT", "MONOCHROME2", 1
    found.Rows, found.Columns = pixels.shape
    found.BitsAllocated = found.BitsStored = 16
    found.HighBit, found.PixelRepresentation = 15, 1
    found.RescaleSlope, found.RescaleIntercept = 1, 0
    found.PixelData = pixels.astype("<i2").tobytes()
    found.save_as(path, enforce_file_format=True)
    assert fields == 40 and path.read_bytes().count(CANARY.encode()) >= 40
    return path


def pictures(folder):
    """Write a PNG, a JPEG, a TIFF and a NIfTI volume with the word in 24 places; return how often it can be read in them."""
    pixels = np.full((64, 64, 3), 30, np.uint8)
    pixels[10:30, 12:40] = 200
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    for tag in (0x010E, 0x013B, 0x8298, 0x010F):  # description, artist, copyright, maker
        exif[tag] = CANARY
    exif.get_ifd(0x8769)[0x9286] = f"ASCII\0\0\0{CANARY}".encode()  # comment of the user
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Patient", CANARY)
    texts.add_text("Comment", CANARY * 40, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", CANARY)
    picture.save(folder / "one.png", pnginfo=texts, exif=exif)
    picture.save(folder / "two.jpg", exif=exif, comment=CANARY.encode(), xmp=CANARY.encode())
    picture.save(folder / "three.tiff", tiffinfo={270: CANARY, 315: CANARY, 305: CANARY, 316: CANARY})
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
    volume = nibabel.Nifti1Image(np.moveaxis(np.stack([pixels[..., 0]] * 2), 0, -1).astype(np.int16), np.eye(4))
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        volume.header[field] = CANARY.encode()
    volume.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY.encode()))
    nibabel.save(volume, folder / "four.nii")
    data = {path.suffix: path.read_bytes().count(CANARY.encode()) for path in folder.iterdir()}
    assert data[".png"] >= 7 and data[".jpg"] >= 7 and data[".tiff"] == 4 and data[".nii"] == 5
    return sum(data.values())


@pytest.fixture
def source(tmp_path, caplog):
    """Write three files with the word in their names (good, with bad values, truncated) and a folder of masks."""
    warnings.simplefilter("ignore")  # pydicom quotes what it writes; pytest restores the filters after the test
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    pixels = np.full((64, 64), -900)
    pixels[10:30, 12:40] = 60
    good = dicom_file(folder / f"images/{CANARY}.dcm", pixels)
    data = good.read_bytes()
    (folder / f"images/{CANARY}-cut.dcm").write_bytes(data[:-900])
    (folder / f"images/{CANARY}-bad.dcm").write_bytes(data.replace(b"MONOCHROME2", CANARY[:11].encode()))
    dicom_file(folder / f"masks/{CANARY}.dcm", (pixels == 60).astype(int))
    warnings.simplefilter("error")
    caplog.clear()
    return folder


def cli(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def nowhere(out, streams, caplog):
    """Assert that no file, name or output contains the word; return the files by name."""
    written = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    word = CANARY.lower()
    hits = [name for name, data in written.items() if word in name.lower() or word.encode() in data.lower()]
    told = "\n".join([streams.out, streams.err, caplog.text])
    assert (hits, told.lower().count(word)) == ([], 0)
    return written


def told_of_datasets(source, out):
    """Return the exit codes of the dataset commands for a manifest of good files and for one with bad files."""
    codes = {}
    good = [f"images/{CANARY}.dcm"]
    bad = [f"images/{CANARY}-cut.dcm", f"images/{CANARY}-bad.dcm", f"images/{CANARY}-none.dcm"]
    for name, images in (("whole", good), ("broken", good + bad)):
        manifest, folder = source / f"{name}.jsonl", out / name
        lines = [
            {"id": f"s{number}", "image": image, "mask": f"masks/{CANARY}.dcm", "question": "Which bright thing is it?"}
            for number, image in enumerate(images)
        ]
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
        folder.mkdir(parents=True)
        quick = ("segmenter=ellipse", "evaluate.n_boot=20")
        released = ("evaluate.protocol=released", "prompt_interface.parser=released_eval")
        codes[name] = [
            cli("data", "build", manifest, "--reader", "manifest", "--out", folder / "built"),
            cli("data", "lint", manifest, "--json"),
            cli("data", "stats", manifest, "--html", folder / "stats.html", "--json"),
            cli("data", "export", manifest, "--to", folder / "coco", "--format", "coco"),
            cli("eval", "eval/baselines", f"data.path={manifest}", *quick, "--out", folder / "eval"),
            cli("eval", "infer/toy", f"data.path={manifest}", *quick, *released, "--out", folder / "released"),
        ]
    return codes


@pytest.mark.slow
def test_patient_data_of_a_dicom_file_is_in_no_output_file_or_name(source, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    image = source / f"images/{CANARY}.dcm"
    lines = [{"image": f"images/{path.name}", "question": "where?"} for path in sorted((source / "images").iterdir())]
    lines.append({"image": f"images/{CANARY}-none.dcm", "question": "where?"})
    (source / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    codes = [
        cli("ground", image, "Which bright region?", "--out", out / "ground", "--json"),
        cli("ground", image, "Which bright region?", "--out", out / "ground", "--window", "lung"),
        cli("ground", image, "Which bright region?", "--plane", "axial"),
        cli("ground", source / f"images/{CANARY}-cut.dcm", "Which?"),
        cli("ground", source / f"images/{CANARY}-bad.dcm", "Which?"),
        cli("ground", source / f"images/{CANARY}-none.dcm", "Which?"),
        cli("run", source / "images", "--question", "Which bright region?", "--out", out / "run"),
        cli("run", source / "manifest.jsonl", "--out", out / "lines", "--json"),
        cli("run", image, "--question", "Which?", "--out", out / "one"),
        cli("data", "build", source, "--reader", "folder", "--out", out / "built", "-o", "category=block", "--json"),
    ]
    assert codes == [0, 0, 2, 3, 3, 3, 3, 3, 3, 0]
    streams = capfd.readouterr()
    written = nowhere(out, streams, caplog)
    assert len([name for name in written if name.endswith(".png")]) >= 6 and "built/manifest.jsonl" in written
    # What is told instead: a name for each file that its owner can find again.
    found = [json.loads(line) for line in written["run/manifest.jsonl"].decode().splitlines()]
    assert len(found) == 3 and all(line["id"].startswith("dicom-") for line in found)
    assert sorted(line["status"] for line in found) == ["ok", "unreadable", "unreadable"]


@pytest.mark.slow
def test_patient_data_of_pictures_and_volumes_is_in_no_output(tmp_path, capfd, caplog):
    caplog.set_level(logging.INFO)  # below, Pillow logs every tag it reads; the command line shows no such message
    folder = tmp_path / f"of {CANARY}"
    folder.mkdir()
    assert pictures(folder) >= 20, "and 40 in DICOM files"
    out = tmp_path / "out"
    codes = [cli("ground", folder / "four.nii", "Which?", "--plane", "axial", "--slice", 1, "--out", out / "volume")]
    for name in ("one.png", "two.jpg", "three.tiff"):
        codes.append(cli("ground", folder / name, "Which?", "--out", out / name, "--json"))
    (folder / "four.nii").unlink()
    codes.append(cli("run", folder, "--question", "Which?", "--out", out / "run", "--json"))
    streams = capfd.readouterr()
    streams = streams._replace(out=streams.out.replace(str(folder), ""), err=streams.err.replace(str(folder), ""))
    written = nowhere(out, streams, caplog)
    assert codes == [0] * 5 and len([name for name in written if name.endswith(".mask.png")]) == 7
    assert "volume/four.mask.nii.gz" in written or any(name.endswith(".nii.gz") for name in written)


@pytest.mark.slow
def test_patient_data_of_dicom_files_is_in_no_output_of_the_dataset_commands(source, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "out"
    assert told_of_datasets(source, out) == {"whole": [0, 0, 0, 0, 0, 0], "broken": [0, 1, 3, 3, 3, 3]}
    written = nowhere(out, capfd.readouterr(), caplog)
    made = {"stats.html", "eval/report.html", "eval/samples.jsonl", "released/results.json", "built/rejected.jsonl"}
    assert {name.removeprefix("whole/") for name in written} >= made
