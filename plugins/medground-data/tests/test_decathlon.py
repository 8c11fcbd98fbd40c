"""Folders of the Medical Segmentation Decathlon: real hippocampi, their slices never parted between splits."""

import json
import shutil

import numpy as np
import pytest
from medground_data.build import Options, build
from medground_data.question_sources import FromTemplates
from medground_data.readers import read_source

from medground.data.open_dataset import open_dataset
from medground.data.source_samples import SourceSample
from medground.data.volume_samples import read_volume_samples

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


@pytest.mark.slow
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


@pytest.fixture
def brain(tmp_path):
    """A folder as of Task01_BrainTumour: images of four dimensions with several sequences, label maps of three."""
    import nibabel

    root = tmp_path / "Task01_BrainTumour"
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    dice = np.random.default_rng(0)
    for case in ("BRATS_001", "BRATS_002"):
        values = dice.integers(0, 900, (24, 20, 10, 4), dtype=np.int16)
        labels = np.zeros((24, 20, 10), np.uint8)
        labels[4:12, 5:13, 3:8], labels[14:20, 6:14, 2:6] = 1, 2
        for array, folder in ((values, "imagesTr"), (labels, "labelsTr")):
            nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), root / folder / f"{case}.nii.gz")
    modality = dict(enumerate(("FLAIR", "T1w", "t1gd", "T2w")))
    table = {"modality": modality, "labels": {"0": "background", "1": "edema", "2": "enhancing tumour"}}
    (root / "dataset.json").write_text(json.dumps(table))
    return root


@pytest.mark.parametrize("channel", [0, 2])
def test_of_an_image_of_four_dimensions_the_chosen_volume_is_read_and_written(brain, tmp_path, channel):
    import nibabel

    cases = list(read_source(brain, plane="axial", slices="largest", channel=channel, window="450,900"))
    assert len(cases) == 4 and {case.labels["modality"] for case in cases} == {("FLAIR", "", "t1gd")[channel]}
    stored = np.asarray(nibabel.load(brain / "imagesTr" / "BRATS_001.nii.gz").dataobj)
    edema = next(case for case in cases if case.labels["category"] == "edema" and "001" in case.labels["volume"])
    picture = np.clip(stored[:, :, int(edema.labels["slice"]), channel].T / 900 * 255, 0, 255)
    assert np.abs(edema.load_image().pixels[..., 0] - picture).max() <= 1 and edema.load_mask().sum() == 64
    build(iter(cases), tmp_path / "made", Options(volumes=True, min_area=4), FromTemplates(seed=1))
    samples = read_volume_samples(tmp_path / "made")
    assert len(samples) == 4, "two labels of two volumes"
    volume, truth = samples[0].read()
    assert volume.shape == (24, 20, 10) and truth.sum() == 320
    assert any(
        np.array_equal(volume.array(), np.asarray(nibabel.load(path).dataobj)[..., channel]) for path in images(brain)
    )


def images(root):
    return sorted((root / "imagesTr").iterdir())


def test_of_an_image_of_four_dimensions_no_volume_is_chosen_silently(brain):
    unread = list(read_source(brain, plane="axial", slices="largest"))
    assert len(unread) == 2
    assert {case.reason for case in unread} == {"its image holds 4 volumes: name one by channel=N, 0 to 3"}
    unread = list(read_source(brain, plane="axial", slices="largest", channel=4))
    assert len(unread) == 2 and all("has no volume 4" in case.reason for case in unread)
