"""A series and its masks stored into a real archive, Orthanc, and read back. Slow; needs Orthanc from Debian."""

import json

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="needs pydicom")
pytest.importorskip("highdicom", reason="needs highdicom")

from export_sources import SIDES, STUDY
from orthanc_server import Orthanc
from series_files import ROTATIONS, affine_of, noise, saved, series

from medground import LabelledMask, write_masks
from medground.images.read import read_mask
from medground.images.read_volume import read_volume

pytestmark = pytest.mark.slow


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "orthanc"
    folder.mkdir()
    server = Orthanc(folder)
    yield server
    server.stop()


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
        assert json.loads(archive.ask("/instances", path.read_bytes()))["Status"] == "Success"
    assert len(json.loads(archive.ask("/studies"))) == 1, "masks are filed with their source"
    back = {}
    for identifier in json.loads(archive.ask("/series")):
        parts = json.loads(archive.ask(f"/series/{identifier}"))
        folder = tmp_path / "back" / parts["MainDicomTags"]["Modality"] / identifier
        folder.mkdir(parents=True)
        for number, instance in enumerate(parts["Instances"]):
            (folder / f"{number}.dcm").write_bytes(archive.ask(f"/instances/{instance}/file"))
        back.setdefault(parts["MainDicomTags"]["Modality"], []).append(folder)
    assert {modality: len(folders) for modality, folders in back.items()} == {"CT": 2, "SEG": 1, "RTSTRUCT": 1}
    assert (back["RTSTRUCT"][0] / "0.dcm").read_bytes() == (tmp_path / "m.rtstruct.dcm").read_bytes()
    [again] = [read_volume(folder) for folder in back["CT"] if len(list(folder.iterdir())) == SIDES[2]]
    assert np.array_equal(again.array(), volume.array()) and np.array_equal(again.affine, volume.affine)
    for region in regions:
        for k, instance in enumerate(again.origin.instances):
            picture = read_mask(back["SEG"][0] / "0.dcm", image=instance.path, segment=region.label)
            assert np.array_equal(picture, region.data[:, :, k].T)
