"""Folders of the Medical Segmentation Decathlon: real hippocampi, their slices never parted between splits."""

import json
import shutil

import pytest
from medground_data.build import Options, build
from medground_data.question_sources import FromTemplates
from medground_data.readers import read_source

from medground.data.open_dataset import open_dataset
from medground.data.source_samples import SourceSample

pytest.importorskip("nibabel", reason="needs nibabel")


@pytest.fixture
def decathlon(tmp_path, shared):
    root = tmp_path / "Task04_Hippocampus"
    for folder, kind in (("imagesTr", "image"), ("labelsTr", "label")):
        (root / folder).mkdir(parents=True)
        for path in sorted((shared / "data/volumes/msd_hippocampus").glob(f"*_{kind}.nii.gz")):
            shutil.copy(path, root / folder / path.name.replace(f"_{kind}", ""))
        (root / folder / "._hippocampus_001.nii.gz").write_bytes(b"\0\5\x16\7")
    table = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}
    (root / "dataset.json").write_text(json.dumps(table))
    return root


def test_every_label_of_every_volume_is_a_sample_that_knows_its_volume(decathlon):
    cases = list(read_source(decathlon, plane="axial", slices="largest"))
    assert len(cases) == 6 and all(isinstance(case, SourceSample) for case in cases)
    assert {(case.labels["volume"], case.labels["category"]) for case in cases} == {
        (f"hippocampus_00{number}", name) for number in (1, 3, 4) for name in ("Anterior", "Posterior")
    }
    assert {case.labels["modality"] for case in cases} == {"MRI"} and all(case.spacing == (1.0, 1.0) for case in cases)
    assert all(case.load_mask().any() for case in cases)


def test_slices_of_one_volume_stay_in_one_split(decathlon, tmp_path):
    cases = read_source(decathlon, plane="sagittal", slices="all")
    build(cases, tmp_path / "made", Options(), FromTemplates(seed=1))
    lines = [json.loads(line) for line in (tmp_path / "made" / "manifest.jsonl").read_text().splitlines()]
    splits, groups = {}, {}
    for line in lines:
        volume = line["id"].split("_sagittal_")[0]
        splits.setdefault(volume, set()).add(line["split"])
        groups.setdefault(volume, set()).add(line["group"])
    assert len(lines) > 30 and len(splits) == 3 and all(len(names) == 1 for names in splits.values())
    assert len(set.union(*groups.values())) == 3, "each volume has a pseudonym of its own"
    assert {sample.spacing for sample in open_dataset(tmp_path / "made")} == {(1.0, 1.0)}
