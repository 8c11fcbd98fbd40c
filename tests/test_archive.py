"""A series and its masks stored into a real archive, Orthanc, and read back. Slow; needs Orthanc from Debian."""

import json
import shutil
import socket
import subprocess
import urllib.request

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs pydicom")
pytest.importorskip("highdicom", reason="needs highdicom")

from export_sources import SIDES, STUDY
from series_files import ROTATIONS, affine_of, noise, saved, series

from medground import LabelledMask, write_masks
from medground.images.read import read_mask
from medground.images.read_volume import read_volume

pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Archive:
    """An Orthanc that listens on loopback alone, and what it answers."""

    def __init__(self, folder):
        self.port = free_port()
        settings = {
            "HttpPort": self.port, "RemoteAccessAllowed": False, "DicomServerEnabled": False, "Plugins": [],
            "AuthenticationEnabled": False, "StorageDirectory": str(folder / "store"),
            "IndexDirectory": str(folder / "store"),
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stderr=subprocess.PIPE, text=True)

    def answer(self, path, data=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data)
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.read()

    def wait(self):
        """Read its log until it says that it listens."""
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if "Orthanc has started" in line:
                return
        pytest.fail("Orthanc ended: " + "".join(lines))


@pytest.fixture
def archive(tmp_path):
    if shutil.which("Orthanc") is None:
        pytest.skip("needs Orthanc (Debian: orthanc)")
    folder = tmp_path / "orthanc"
    folder.mkdir()
    server = Archive(folder)
    try:
        server.wait()
        yield server
    finally:
        server.process.terminate()
        server.process.communicate(timeout=30)


def test_a_series_and_its_masks_come_back_from_an_archive(archive, tmp_path):
    volume = read_volume(saved(series(noise(SIDES), affine_of(ROTATIONS[50]), **STUDY), tmp_path / "ct"))
    dice = np.random.default_rng(0)
    regions = [LabelledMask(data=dice.random(SIDES) > 0.5, label=label) for label in ("liver", "left lung nodule")]
    for name in ("m.seg.dcm", "m.rtstruct.dcm"):
        write_masks(tmp_path / name, regions, volume)
    capture = tmp_path / "m.sc.dcm"
    write_masks(capture, [LabelledMask(data=regions[0].data[:, :, 0].T)], volume.origin.instances[0].path)
    sent = [*(tmp_path / "ct").iterdir(), tmp_path / "m.seg.dcm", tmp_path / "m.rtstruct.dcm", capture]
    for path in sent:
        assert json.loads(archive.answer("/instances", path.read_bytes()))["Status"] == "Success"
    assert len(json.loads(archive.answer("/studies"))) == 1, "masks are filed with their source"
    back = {}
    for identifier in json.loads(archive.answer("/series")):
        parts = json.loads(archive.answer(f"/series/{identifier}"))
        folder = tmp_path / "back" / parts["MainDicomTags"]["Modality"] / identifier
        folder.mkdir(parents=True)
        for number, instance in enumerate(parts["Instances"]):
            (folder / f"{number}.dcm").write_bytes(archive.answer(f"/instances/{instance}/file"))
        back.setdefault(parts["MainDicomTags"]["Modality"], []).append(folder)
    assert {modality: len(folders) for modality, folders in back.items()} == {"CT": 2, "SEG": 1, "RTSTRUCT": 1}
    assert (back["RTSTRUCT"][0] / "0.dcm").read_bytes() == (tmp_path / "m.rtstruct.dcm").read_bytes()
    [again] = [read_volume(folder) for folder in back["CT"] if len(list(folder.iterdir())) == SIDES[2]]
    assert np.array_equal(again.array(), volume.array()) and np.array_equal(again.affine, volume.affine)
    for region in regions:
        for k, instance in enumerate(again.origin.instances):
            picture = read_mask(back["SEG"][0] / "0.dcm", image=instance.path, segment=region.label)
            assert np.array_equal(picture, region.data[:, :, k].T)
