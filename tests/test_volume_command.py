"""``medground volume``: masks in the source's geometry, measures, JSON and a page."""

import json
import re

import numpy as np
import pytest
from medground_toy import volumes

from medground.cli import medground as command_line
from medground.errors import InputError, RunError, SegmenterError, UsageError, ViewError
from medground.geometry import Box
from medground.segmenters import propagation
from medground.types import SpatialPrompt

nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
QUESTION = "Which bright round spot is it?"
BOXES = '<answer>[{"bbox": [10, 6, 20, 12], "label": "cyst"}, {"bbox": [30, 30, 34, 38], "label": "node"}]</answer>'


@pytest.fixture(scope="module")
def phantom():
    return volumes.volume_phantom(0, shape=(64, 56, 30), spacing=(1.2, 1.2, 2.5), targets=1)


@pytest.fixture
def nifti(phantom, tmp_path):
    volumes.write_nifti(phantom, tmp_path / "v.nii.gz")
    return tmp_path / "v.nii.gz"


def run(*words):
    command_line.main(["volume", *map(str, words)], standalone_mode=False)


def recipe(tmp_path, text, propagation="copy"):
    path = tmp_path / "recipe.yaml"
    interface = {"name": "regions", "think": False, "points": False, "label": True}
    path.write_text(
        json.dumps(
            {"reasoner": {"name": "scripted", "texts": [text]}, "prompt_interface": interface, "segmenter": "box_fill",
             "prompt": "box", "volume": {"propagation": propagation, "reach": 5.0}}
        )
    )  # fmt: skip
    return path


@pytest.mark.slow
def test_a_nifti_volume_gets_a_mask_on_its_grid_measures_and_a_page(nifti, phantom, tmp_path, capsys):
    out = tmp_path / "out"
    run(nifti, QUESTION, "--window", "soft_tissue", "--out", out, "--json")
    stated = json.loads(capsys.readouterr().out)
    assert stated == json.loads((out / "v.json").read_text())
    assert stated["files"] == {"nifti": "v.mask.nii.gz", "page": "v.html"}
    mask, source = nibabel.load(out / "v.mask.nii.gz"), nibabel.load(nifti)
    assert np.allclose(mask.affine, source.affine) and mask.shape == source.shape
    voxels = np.asarray(mask.dataobj) > 0
    assert (voxels & (phantom.labels > 0)).sum() > 0.5 * (phantom.labels > 0).sum()
    [region] = stated["regions"]
    assert region["voxels"] == voxels.sum() and region["measures"]["volume_ml"] == pytest.approx(
        voxels.sum() * 1.2 * 1.2 * 2.5 / 1000, rel=1e-4
    )
    assert (
        stated["slice"]["rule"] == "ask" and '"slice"' in stated["slice"]["text"] and "bbox" in stated["answer"]["text"]
    )
    assert stated["statement"].startswith("Research software")
    html = (out / "v.html").read_text()
    assert "chose slice" in html and "face midpoints" in html and f"{region['measures']['volume_ml']:.2f}"[:3] in html
    assert str(tmp_path) not in html and not re.findall(r'(?:src|href)="(?!data:|#)', html)


@pytest.mark.slow
def test_a_dicom_series_gets_a_segmentation_that_reads_back(phantom, tmp_path, capsys):
    pytest.importorskip("highdicom", reason="needs highdicom")
    import highdicom

    volumes.write_series(phantom, tmp_path / "series", seed=2)
    run(
        tmp_path / "series", QUESTION, "--slice", 17, "--out", tmp_path / "out", "--write", "seg", "--write", "nrrd",
        "--json",
    )  # fmt: skip
    stated = json.loads(capsys.readouterr().out)
    assert set(stated["files"]) == {"seg", "nrrd", "page"} and stated["slice"]["rule"] == "given"
    seg = highdicom.seg.segread(tmp_path / "out" / stated["files"]["seg"])
    assert sum(int((frame > 0).sum()) for frame in np.atleast_3d(seg.pixel_array)) == stated["regions"][0]["voxels"]
    assert (tmp_path / "out" / stated["files"]["nrrd"]).stat().st_size > 100


def test_every_region_has_a_mask_a_name_and_measures(nifti, tmp_path, capsys):
    run(nifti, QUESTION, "--slice", 12, "--recipe", recipe(tmp_path, BOXES), "--out", tmp_path / "out", "--json")
    stated = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in stated["regions"]] == ["cyst", "node"]
    assert [one["voxels"] for one in stated["regions"]] == [5 * 60, 5 * 32], "slices within 5 mm, 2.5 mm apart"
    labels = np.asarray(nibabel.load(tmp_path / "out" / "v.mask.nii.gz").dataobj)
    assert [(labels == number).sum() for number in (1, 2)] == [300, 160]
    html = (tmp_path / "out" / "v.html").read_text()
    assert html.count(">cyst<") >= 2 and html.count(">node<") >= 2


def test_plane_and_slice_of_the_command_line_win_over_the_recipe(nifti, tmp_path, capsys):
    run(
        nifti, QUESTION, "volume.index=3", "volume.plane=axial", "--plane", "coronal", "--slice", "middle", "--recipe",
        recipe(tmp_path, BOXES), "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert json.loads(capsys.readouterr().out)["slice"] == {
        "plane": "coronal", "slice": 28, "rule": "middle", "text": None, "fault": None,
    }  # fmt: skip


def test_without_a_slice_nothing_is_chosen(nifti, tmp_path):
    with pytest.raises(UsageError, match="no slice is named"):
        run(nifti, QUESTION, "--recipe", recipe(tmp_path, BOXES), "--out", tmp_path / "out")
    with pytest.raises(ViewError, match="no axial slice 30"):
        run(nifti, QUESTION, "--recipe", recipe(tmp_path, BOXES), "--slice", 30, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_format_that_does_not_fit_is_refused_before_anyone_is_asked(nifti, tmp_path):
    with pytest.raises(InputError):
        run(nifti, QUESTION, "--slice", 3, "--write", "seg", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_fits_is_an_answer_with_an_empty_mask(nifti, tmp_path, capsys):
    run(
        nifti, QUESTION, "--slice", 3, "--recipe", recipe(tmp_path, "<answer>[]</answer>"), "--out", tmp_path / "out",
        "--json",
    )  # fmt: skip
    stated = json.loads(capsys.readouterr().out)
    assert stated["fault"] is None and stated["regions"] == []
    assert not np.asarray(nibabel.load(tmp_path / "out" / "v.mask.nii.gz").dataobj).any()
    assert "nothing in the volume fits" in (tmp_path / "out" / "v.html").read_text()


def test_an_answer_that_cannot_be_read_writes_no_mask_and_says_why(nifti, tmp_path, capsys):
    run(nifti, QUESTION, "--slice", "ask", "--recipe", recipe(tmp_path, "hm"), "--out", tmp_path / "out")
    shown = capsys.readouterr().err
    assert "fault     no_answer" in shown and "axial none of 0 to 29" in shown
    assert not list((tmp_path / "out").glob("*.nii.gz"))
    assert "There is no mask: no_answer" in (tmp_path / "out" / "v.html").read_text()


def test_a_failure_that_is_not_the_models_fails_the_command(nifti, tmp_path):
    class Breaking(propagation.Copy):
        def propagate(self, *args, **options):
            raise SegmenterError("it broke")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(propagation.WAYS, "copy", Breaking)
        with pytest.raises(RunError, match="not answered: segmenter"):
            run(nifti, QUESTION, "--slice", 3, "--recipe", recipe(tmp_path, BOXES), "--out", tmp_path / "out")
    assert "it broke" in (tmp_path / "out" / "v.json").read_text()


@pytest.mark.slow
def test_a_model_with_memory_follows_every_region_of_the_answer(nifti, tmp_path, capsys):
    pytest.importorskip("transformers", reason="needs transformers")
    import sam2_volumes

    from medground.images.read_volume import read_volume
    from medground.registry import build
    from medground.types import Mask

    options = {"image_size": sam2_volumes.SIDE, "device": "cpu", **sam2_volumes.SIZES}
    options["checkpoint"] = str(sam2_volumes.save_weights(tmp_path))
    path = recipe(tmp_path, BOXES, "model")
    path.write_text(json.dumps({**json.loads(path.read_text()), "segmenter": {"name": "medsam2", **options}}))
    run(nifti, QUESTION, "--slice", 12, "--recipe", path, "--out", tmp_path / "out", "--json")
    stated = json.loads(capsys.readouterr().out)
    assert stated["propagation"] == "model" and stated["fault"] is None
    volume, segmenter = read_volume(nifti), build("segmenter", "medsam2", **options)
    boxes = [region["box"] for region in stated["answer"]["regions"]]
    keys = segmenter.segment(volume.slice("axial", 12).pixels, [SpatialPrompt(box=Box(*box)) for box in boxes])
    masks = segmenter.propagate(volume, [{12: Mask(data=key.data)} for key in keys], plane="axial", reach=5.0)
    assert [region["voxels"] for region in stated["regions"]] == [int(mask.sum()) for mask in masks]
    labels = np.asarray(nibabel.load(tmp_path / "out" / "v.mask.nii.gz").dataobj)
    assert np.flatnonzero(labels.any(axis=(0, 1))).tolist() == [10, 11, 12, 13, 14], "slices within 5 mm, 2.5 mm apart"
    assert "followed by" in (tmp_path / "out" / "v.html").read_text()


def test_people_read_slice_measures_and_files(nifti, tmp_path, capsys):
    run(nifti, QUESTION, "--slice", 12, "--recipe", recipe(tmp_path, BOXES), "--out", tmp_path / "out")
    shown = capsys.readouterr().err
    assert "slice     axial 12 of 0 to 29 (given)" in shown and "region    cyst: 300 voxels, followed by copy" in shown
    assert "axes between face midpoints" in shown and "mm (LPS)" in shown and "v.mask.nii.gz" in shown
