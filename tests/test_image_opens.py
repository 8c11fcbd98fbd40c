"""A DICOM file is opened once and hashed once by whoever needs its pixels; counted in a child process."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Pillow

pydicom = pytest.importorskip("pydicom", reason="needs pydicom")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402

COUNT = """
import hashlib, json, sys
from pathlib import Path

opens, hashes = {}, []
watched = {str(Path(name)): len(Path(name).read_bytes()) for name in sys.argv[1].split(":")}


class Counting:
    def __init__(self, data=b""):
        self.inner = real(data)
        self.size = len(data)
        hashes.append(self)

    def update(self, data):
        self.size += len(data)
        self.inner.update(data)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def audit(event, arguments):
    if event == "open" and str(arguments[0]) in watched:
        opens[str(arguments[0])] = opens.get(str(arguments[0]), 0) + 1


real, real_file = hashlib.sha256, hashlib.file_digest
hashlib.sha256 = lambda data=b"", **words: Counting(data)
hashlib.file_digest = lambda file, name, **words: real_file(file, lambda: Counting(), **words)
sys.addaudithook(audit)
sys.argv = ["medground", *sys.argv[2:]]
from medground.cli import main

try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
counts = [sum(one.size == size for one in hashes) for size in watched.values()]
print(json.dumps({"opens": [opens.get(name, 0) for name in watched], "hashes": counts}))
"""


def save_dicom(path, pixels):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "CT", "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.PixelData = pixels.astype("<i2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def pixels(seed, size=(40, 50)):
    return np.random.default_rng(seed).integers(-1000, 1000, size)


def counted(paths, *arguments):
    command = [sys.executable, "-c", COUNT, ":".join(map(str, paths)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_ground_opens_and_hashes_a_dicom_file_once(tmp_path):
    path = save_dicom(tmp_path / "scan.dcm", pixels(0))
    counts = counted([path], "ground", path, "Where?", "--out", tmp_path / "out")
    assert counts == {"opens": [1], "hashes": [1]}
    assert list((tmp_path / "out").glob("dicom-*.json"))


@pytest.mark.slow
def test_data_build_opens_and_hashes_every_dicom_file_once(tmp_path):
    images = [save_dicom(tmp_path / f"source/images/{n}.dcm", pixels(n, (40 + n, 50))) for n in range(2)]
    for n, image in enumerate(images):
        for category, column in (("nodule", 5), ("cyst", 30)):
            mask = np.zeros((40 + n, 50), np.uint8)
            mask[10:30, column : column + 12] = 255
            path = tmp_path / f"source/masks/{image.stem}__{category}.png"
            path.parent.mkdir(exist_ok=True)
            Pillow.fromarray(mask).save(path)
    counts = counted(images, "data", "build", tmp_path / "source", "--out", tmp_path / "out")
    assert counts == {"opens": [1, 1], "hashes": [1, 1]}
    lines = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert {line["window_used"].split(":")[0] for line in lines} == {"percentiles"}


@pytest.mark.slow
def test_lines_of_a_manifest_share_one_reading_of_their_dicom_file(tmp_path):
    image = save_dicom(tmp_path / "source/scan.dcm", pixels(0))
    lines = []
    for number, column in enumerate((5, 30)):
        mask = np.zeros((40, 50), np.uint8)
        mask[10:30, column : column + 12] = 255
        Pillow.fromarray(mask).save(tmp_path / f"source/{number}.png")
        lines.append({"image": "scan.dcm", "mask": f"{number}.png", "window": "lung"})
    (tmp_path / "source/manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    counts = counted([image], "data", "build", tmp_path / "source", "--out", tmp_path / "out")
    assert counts == {"opens": [1], "hashes": [1]}
