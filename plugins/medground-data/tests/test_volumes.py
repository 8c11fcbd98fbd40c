"""Datasets built from volumes: slices that know their volume, and samples of whole volumes in the same splits."""

import gzip
import json
import shutil

import numpy as np
import pytest
from medground_data.build import Options, build
from medground_data.question_sources import FromTemplates
from medground_data.readers import read_source
from medground_toy import volumes

from medground.data.open_dataset import open_dataset
from medground.data.volume_samples import read_truth, read_volume_samples
from medground.errors import InputError
from medground.images.read_volume import read_volume

nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
CANARY = "DOE JANE"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An nnU-Net folder of three phantoms with two targets each; a patient's name stands in every header."""
    root = tmp_path_factory.mktemp("volumes") / "Dataset001"
    for name in ("imagesTr", "labelsTr"):
        (root / name).mkdir(parents=True)
    for seed in range(3):
        phantom = volumes.volume_phantom(seed, shape=(48, 40, 20), spacing=(1.5, 1.5, 2.5), targets=2)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ phantom.affine
        for array, path in (
            (phantom.voxels, root / "imagesTr" / f"case{seed}_0000.nii.gz"),
            (phantom.labels, root / "labelsTr" / f"case{seed}.nii.gz"),
        ):
            image = nibabel.Nifti1Image(array, affine)
            image.header["descrip"], image.header["aux_file"] = CANARY.encode(), CANARY.encode()
            image.header.set_xyzt_units("mm")
            image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY.encode()))
            nibabel.save(image, path)
    labels = {"background": 0, "first": 1, "second": 2}
    (root / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"})
    )
    return root


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("volumes") / "made"
    cases = read_source(source, plane="axial", slices="all", window="soft_tissue")
    summary = build(cases, out, Options(volumes=True, min_area=4), FromTemplates(seed=1))
    return out, summary


def test_a_volume_has_a_sample_for_each_of_its_targets(built, source):
    out, summary = built
    samples = read_volume_samples(out)
    assert len(samples) == summary["volume_samples"] == 6
    assert len(list((out / "volumes").iterdir())) == 6, "three volumes and three label maps, each written once"
    truths = {}
    for seed in range(3):
        phantom = volumes.volume_phantom(seed, shape=(48, 40, 20), spacing=(1.5, 1.5, 2.5), targets=2)
        truths |= {(phantom.labels == number).tobytes(): (phantom, number) for number in (1, 2)}
    for sample in samples:
        volume, truth = sample.read()
        phantom, number = truths.pop(truth.tobytes())
        assert np.array_equal(volume.array(), phantom.voxels) and np.allclose(volume.affine, phantom.affine, atol=1e-4)
        assert sample.labels["category"] == ("first", "second")[number - 1] and sample.labels["modality"] == "CT"
        assert sample.question and sample.window == "soft_tissue"
    assert not truths


def test_slices_and_their_volume_are_in_one_split_and_one_group(built):
    out, _ = built
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    samples = read_volume_samples(out)
    by_volume = {sample.labels["source_volume"]: (sample.split, sample.group) for sample in samples}
    assert len(by_volume) == 3 and len({group for _, group in by_volume.values()}) == 3
    assert len(lines) > 20 and all(by_volume[line["source_volume"]] == (line["split"], line["group"]) for line in lines)
    assert {line["source_slice"] for line in lines} >= {"8", "9", "10"}
    assert len(open_dataset(out)) == len(lines)


def test_the_question_of_a_volume_is_that_of_its_largest_slice(built):
    out, _ = built
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    for sample in read_volume_samples(out):
        _, truth = sample.read()
        largest = str(int(truth.sum(axis=(0, 1)).argmax()))
        mine = [
            line
            for line in lines
            if (line["source_volume"], line["category"]) == (sample.labels["source_volume"], sample.labels["category"])
        ]
        assert sample.question in {line["question"] for line in mine if line["source_slice"] == largest}


def test_no_word_of_a_header_is_copied_and_names_say_nothing(built, source):
    out, _ = built
    for path in (out / "volumes").iterdir():
        assert CANARY not in str(nibabel.load(path).header) and not nibabel.load(path).header.extensions
        assert "case" not in path.name
        assert CANARY.encode() not in gzip.decompress(path.read_bytes())
    assert "case0" not in (out / "volumes.jsonl").read_text()


def test_the_same_source_builds_the_same_volumes(built, source, tmp_path):
    out, _ = built
    cases = read_source(source, plane="axial", slices="all", window="soft_tissue")
    build(cases, tmp_path / "again", Options(volumes=True, min_area=4), FromTemplates(seed=1))
    assert (tmp_path / "again" / "volumes.jsonl").read_bytes() == (out / "volumes.jsonl").read_bytes()
    for path in (out / "volumes").iterdir():
        assert (tmp_path / "again" / "volumes" / path.name).read_bytes() == path.read_bytes()


def test_scaled_values_survive(source, tmp_path):
    root = tmp_path / "scaled"
    for name in ("imagesTr", "labelsTr"):
        (root / name).mkdir(parents=True)
    labels = nibabel.load(source / "labelsTr" / "case0.nii.gz")
    header = nibabel.load(source / "imagesTr" / "case0_0000.nii.gz").header
    header.set_slope_inter(0.5, -3.0)
    values = np.round(np.random.default_rng(0).uniform(0, 200, (48, 40, 20)) * 2) / 2
    nibabel.save(nibabel.Nifti1Image(values, labels.affine, header), root / "imagesTr" / "case0_0000.nii")
    nibabel.save(labels, root / "labelsTr" / "case0.nii.gz")
    (root / "dataset.json").write_bytes((source / "dataset.json").read_bytes())
    build(
        read_source(root, plane="axial", slices="largest"), tmp_path / "made", Options(volumes=True, min_area=4),
        FromTemplates(seed=1),
    )  # fmt: skip
    sample = read_volume_samples(tmp_path / "made")[0]
    assert np.array_equal(sample.read()[0].array(), read_volume(root / "imagesTr" / "case0_0000.nii").array())


def test_a_split_is_taken_and_what_is_not_there_is_refused(built, tmp_path):
    out, _ = built
    whole = read_volume_samples(out)
    for split in {sample.split for sample in whole}:
        assert {one.id for one in read_volume_samples(out, split=split)} == {
            one.id for one in whole if one.split == split
        }
    assert len(read_volume_samples(out, limit=2)) == 2
    with pytest.raises(InputError, match="no sample of the split night"):
        read_volume_samples(out, split="night")
    with pytest.raises(InputError, match=r"holds no volumes\.jsonl"):
        read_volume_samples(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume": "../secret.nii.gz"}, "line 1 names a file outside its folder"),
        ({"question": ""}, "line 1 has no text question"),
        ({"mask_value": [1.5]}, "no list of labels mask_value"),
        ({"mask": "volumes/none.nii.gz"}, "line 1 names a file that does not exist"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(built, tmp_path, change, message):
    out, _ = built
    line = json.loads((out / "volumes.jsonl").read_text().splitlines()[0])
    folder = tmp_path / "made"
    shutil.copytree(out, folder)
    (folder / "volumes.jsonl").write_text(json.dumps({**line, **change}) + "\n")
    with pytest.raises(InputError, match=message):
        read_volume_samples(folder)


def test_a_label_map_on_another_grid_is_refused(built, source, tmp_path):
    out, _ = built
    volume, _ = read_volume_samples(out)[0].read()
    labels = nibabel.load(source / "labelsTr" / "case0.nii.gz")
    moved = labels.affine.copy()
    moved[0, 3] += 1.5
    nibabel.save(nibabel.Nifti1Image(np.asarray(labels.dataobj), moved), tmp_path / "moved.nii.gz")
    with pytest.raises(InputError, match="another grid"):
        read_truth(volume, tmp_path / "moved.nii.gz", (1,))


@pytest.mark.parametrize("options", [{"targets": "every"}, {"components": "each"}])
def test_what_splits_labels_apart_makes_no_samples_of_volumes(options):
    with pytest.raises(ValueError, match="about one label"):
        Options(volumes=True, **options)
