"""What viewers are tested with: a phantom as three DICOM series, and the files of MONAI Label's wheel."""

import importlib.util
import json
import os
import sys
import types
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pydicom
import pytest
from orthanc_server import Orthanc
from series_files import affine_of, saved, series
from serving import Server

from medground.images.read_volume import read_volume
from medground.pipeline.load import load
from medground.pipeline.volumes import ground_volume

ROOT = Path(__file__).resolve().parents[3]
WHEEL = "monailabel-0.8.5-*.whl"
SIDES = (96, 80, 24)
"""Voxels along i, j and k; all differ, so that exchanged axes show."""
BLOCKS = {"small": (slice(20, 36), slice(12, 30), slice(4, 9)), "wide": (slice(56, 80), slice(50, 60), slice(15, 22))}
STUDY = {
    "PatientBirthDate": "", "PatientSex": "O", "StudyDate": "20260101", "StudyTime": "120000", "StudyID": "1",
    "AccessionNumber": "", "SeriesDate": "20260101", "SeriesTime": "120000", "SeriesNumber": 1, "Manufacturer": "",
    "ReferringPhysicianName": "", "PatientPosition": "HFS", "PositionReferenceIndicator": "", "KVP": "120",
    "RescaleIntercept": "0", "WindowCenter": "150", "WindowWidth": "600",
}  # fmt: skip
KINDS = ("phantom", "reversed", "downward")
RECIPE = ("infer/toy_volume", "segmenter=region_growing")
QUESTION = {
    "phantom": "Which wide lower right region is bright?",
    "reversed": "Which wide lower right region is bright?",
    "downward": "Which small bright block is upper left?",
}
"""What has the wide block as its answer; the question that is asked by default has the small one."""


def phantom() -> Any:
    """HU ``[i, j, k]``: a body with two blocks and no symmetry; the last digits tell neighbours apart."""
    i, j, k = np.indices(SIDES)
    body = ((i - 48) / 40) ** 2 + ((j - 40) / 32) ** 2 < 1
    values = np.where(body, 0, -500)
    values[BLOCKS["small"]] = 400
    values[BLOCKS["wide"]] = 250
    return (values + (i + 3 * j + 7 * k) % 11).astype(np.int16)


def write_series(kind: str, folder: Path) -> Path:
    """Write the phantom: numbered along its normal, numbered against it, or with a normal that points to the feet."""
    turned = np.diag([1, -1, -1]) if kind == "downward" else np.eye(3)
    datasets = series(phantom(), affine_of(turned, (0.8, 0.8, 2.5), (-38, -32, 10)), **STUDY, PatientID=kind)
    for k, dataset in enumerate(datasets):
        dataset.InstanceNumber = SIDES[2] - k if kind == "reversed" else k + 1
    return saved(datasets, folder)


def wheel() -> Path:
    """Return MONAI Label's wheel, or skip: its server is never installed."""
    folder = Path(os.environ.get("MEDGROUND_WHEELS", ROOT / ".cache" / "wheels"))
    for path in folder.glob(WHEEL):
        return path
    pytest.skip(f"needs MONAI Label's wheel: pip download --no-deps monailabel==0.8.5 -d {folder.name}")


def unpacked(ending: str, folder: Path) -> Path:
    """Unpack the part of the wheel whose path contains a text; return where it begins."""
    with zipfile.ZipFile(wheel()) as archive:
        names = [name for name in archive.namelist() if ending in name]
        archive.extractall(folder, names)
    return folder / names[0].partition(ending)[0] / ending


def module_of(path: Path) -> Any:
    """Import a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Site:
    """A server with an archive behind it, and what a question about each series should have as its answer."""

    def __init__(self, folder: Path) -> None:
        (folder / "archive").mkdir()
        (folder / "serve").mkdir()
        self.archive = Orthanc(folder / "archive", dicomweb=True)
        self.volumes = {kind: read_volume(write_series(kind, folder / kind)) for kind in KINDS}
        for kind in KINDS:
            for path in (folder / kind).iterdir():
                self.archive.ask("/instances", path.read_bytes())
        self.folder = folder
        pipeline = load(*RECIPE)
        answers = {kind: ground_volume(pipeline, self.volumes[kind], QUESTION[kind]) for kind in KINDS}
        self.masks = {kind: answer.mask for kind, answer in answers.items()}
        self.server: Server | None = None

    def start(self, *words: str) -> Server:
        credentials = {
            "MEDGROUND_DICOMWEB_USER": self.archive.user,
            "MEDGROUND_DICOMWEB_PASSWORD": self.archive.password,
        }
        os.environ.update(credentials)
        try:
            words = (*RECIPE, "--dicomweb", f"{self.archive.root}/dicom-web", *words)
            self.server = Server(*words, folder=self.folder / "serve")
        finally:
            for name in credentials:
                del os.environ[name]
        return self.server.wait_ready()

    def study(self, kind: str) -> str:
        """Return the StudyInstanceUID of a series."""
        return str(pydicom.dcmread(self.volumes[kind].origin.instances[0].path).StudyInstanceUID)

    def segmentations(self, kind: str) -> list[bytes]:
        """Return the files of segmentations that the archive holds in the study of a series."""
        path = json.loads(self.archive.ask("/tools/lookup", self.study(kind).encode()))[0]["Path"]
        files = []
        for one in json.loads(self.archive.ask(f"{path}/instances?expand")):
            tags = json.loads(self.archive.ask(f"/instances/{one['ID']}/simplified-tags"))
            if tags["Modality"] == "SEG":
                files.append(self.archive.ask(f"/instances/{one['ID']}/file"))
        return files


def login(token):
    """What stands in for the dialog in which a person types user and password."""

    class Login:
        def __init__(self, **_):
            self.ui = types.SimpleNamespace(
                username=types.SimpleNamespace(text="doctor"), password=types.SimpleNamespace(text=token)
            )

        def exec(self):
            pass

    return Login


def stub_slicer(monkeypatch):
    """Stand in for 3D Slicer, which cannot be installed here; the module's own requests are what is tested."""
    names = (
        "ScriptedLoadableModule",
        "ScriptedLoadableModuleWidget",
        "ScriptedLoadableModuleLogic",
        "ScriptedLoadableModuleTest",
    )
    for name in ("ctk", "qt", "SampleData", "sitkUtils", "slicer", "vtk", "vtkSegmentationCore", "slicer.i18n"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    for module, classes in (("ctk", ["ctkSettingsPanel"]), ("qt", ["QDialog"])):
        for name in classes:
            setattr(sys.modules[module], name, type(name, (), {}))
    for module, classes in (("slicer.ScriptedLoadableModule", names), ("slicer.util", ("VTKObservationMixin",))):
        stub = types.ModuleType(module)
        for name in classes:
            setattr(stub, name, type(name, (), {}))
        monkeypatch.setitem(sys.modules, module, stub)
    for name in ("MONAILabelLib", "MONAILabelLib.client", "MONAILabelLib.labelcolors"):
        monkeypatch.delitem(sys.modules, name, raising=False)
