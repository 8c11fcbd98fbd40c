"""Evaluations of whole volumes: 3-D metrics by patient, the slice's error apart, failures in every mean."""

import json

import numpy as np
import pytest
from medground_toy import volumes

from medground.cli import medground as command_line
from medground.data.volume_samples import read_volume_samples
from medground.errors import Interrupted, RecipeError, RunError, UsageError
from medground.evaluation.volume_evaluation import evaluate_volumes
from medground.evaluation.volumes import volume_metrics
from medground.pipeline.cache import StageCache

nibabel = pytest.importorskip("nibabel", reason="needs nibabel")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four volumes of two patients."""
    folder = tmp_path_factory.mktemp("made")
    lines = []
    for seed in range(4):
        phantom = volumes.volume_phantom(seed, shape=(48, 40, 20), spacing=(1.5, 1.5, 2.5), targets=1)
        volumes.write_nifti(phantom, folder / f"v{seed}.nii.gz")
        tone = "dark" if phantom.targets[0].hounsfield < 0 else "bright"
        affine = nibabel.load(folder / f"v{seed}.nii.gz").affine
        nibabel.save(nibabel.Nifti1Image(phantom.labels, affine), folder / f"m{seed}.nii.gz")
        lines.append(
            {"id": f"s{seed}", "volume": f"v{seed}.nii.gz", "mask": f"m{seed}.nii.gz", "mask_value": [1],
             "question": f"Which {tone} round spot is it?", "group": f"p{seed // 2}", "category": "ab"[seed % 2],
             "split": "test", "window": "soft_tissue"}
        )  # fmt: skip
    (folder / "volumes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def recipe(text, **more):
    return {
        "reasoner": {"name": "scripted", "texts": [text]}, "prompt_interface": {"name": "bbox", "think": False},
        "segmenter": "box_fill", "prompt": "box", **more,
    }  # fmt: skip


COPY = {"slice": "largest", "propagation": "copy", "reach": 0}
BOX = '<answer>{"bbox": [10, 10, 30, 30]}</answer>'


@pytest.mark.slow
def test_a_recipe_is_measured_with_intervals_by_patient(made, tmp_path):
    measured = evaluate_volumes("infer/toy_volume", f"data.path={made}", out=tmp_path / "e")
    assert (measured.samples, measured.clusters, measured.slice, measured.propagation) == (4, 2, "ask", "per_slice")
    dice = measured.metrics["dice"]
    assert dice.n == 4 and dice.clusters == 2 and dice.low is not None and 0.3 < dice.mean <= 1
    off, error = (measured.metrics[name] for name in ("slice_off_mm", "slice_error_mm"))
    assert off.n == error.n == 4 and 0 <= off.mean < error.mean < 20, (
        "the reasoner mostly finds a slice with the target"
    )
    assert set(measured.by_category) == {"a", "b"} and measured.by_category["a"]["dice"].n == 2
    stated = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert stated["metrics"]["dice"]["mean"] == pytest.approx(dice.mean)
    lines = [json.loads(line) for line in (tmp_path / "e" / "volumes.jsonl").read_text().splitlines()]
    assert [line["cluster"] for line in lines] == ["p0", "p0", "p1", "p1"]
    assert all(len(line["texts"]) == 2 and line["rule"] == "ask" for line in lines)
    html = (tmp_path / "e" / "report.html").read_text()
    assert "surface_dice_2mm" in html and str(made) not in html


def test_values_are_those_of_the_metrics_on_the_masks(made, tmp_path):
    evaluate_volumes(recipe(BOX, volume=COPY), f"data.path={made}", out=tmp_path / "e")
    lines = [json.loads(line) for line in (tmp_path / "e" / "volumes.jsonl").read_text().splitlines()]
    for sample, line in zip(read_volume_samples(made), lines, strict=True):
        volume, truth = sample.read()
        index = int(truth.sum(axis=(0, 1)).argmax())
        picture = np.zeros((40, 48), bool)
        picture[10:30, 10:30] = True
        mask = np.zeros(volume.shape, bool)
        mask[:, :, index] = volume.placement("axial", index).plane(picture)
        assert line["slice"] == index and line["values"]["slice_error_mm"] == 0
        for name, value in volume_metrics(mask, truth, volume.spacing, 2.0).items():
            assert line["values"][name] == pytest.approx(value)


def test_failures_count_as_zero_and_have_no_distance(made, tmp_path):
    measured = evaluate_volumes(recipe("hm", volume=COPY), f"data.path={made}", out=tmp_path / "e")
    assert measured.faults == {"no_answer": 4}
    assert measured.metrics["dice"].mean == 0 and measured.metrics["dice"].n == 4
    assert measured.metrics["hd95_mm"].mean is None and measured.metrics["hd95_mm"].n == 0
    assert measured.metrics["slice_error_mm"].mean == 0, "the slice was right all the same"
    assert "no_answer" in (tmp_path / "e" / "report.html").read_text()


def test_what_is_not_the_models_fault_is_left_out(made, tmp_path):
    class Broken:
        accepts = frozenset({"box"})

        def segment(self, image, prompts):
            raise OSError("disk")

    from medground.recipe import resolve

    broken = resolve(recipe(BOX, volume=COPY), values={"segmenter": Broken()})
    measured = evaluate_volumes(broken, f"data.path={made}", out=tmp_path / "e")
    assert measured.faults == {"segmenter": 4}
    assert measured.metrics["dice"].n == 0 and measured.metrics["dice"].mean is None


def test_an_evaluation_that_was_stopped_goes_on_where_it_was(made, tmp_path):
    calls = iter([False, False, True])
    with pytest.raises(Interrupted, match="stopped after 2 of 4"):
        evaluate_volumes(recipe(BOX, volume=COPY), f"data.path={made}", out=tmp_path / "e", stopped=lambda: next(calls))
    path = tmp_path / "e" / "volumes.jsonl"
    before = path.read_text()
    assert before.count("\n") == 2
    with pytest.raises(RunError, match="holds a run already"):
        evaluate_volumes(recipe(BOX, volume=COPY), f"data.path={made}", out=tmp_path / "e")
    with pytest.raises(RunError, match="the recipe"):
        evaluate_volumes(recipe(BOX, volume={**COPY, "reach": 5}), f"data.path={made}", out=tmp_path / "e", resume=True)
    whole = evaluate_volumes(recipe(BOX, volume=COPY), f"data.path={made}", out=tmp_path / "e", resume=True)
    assert whole.samples == 4 and path.read_text().startswith(before) and path.read_text().count("\n") == 4
    fresh = evaluate_volumes(recipe(BOX, volume=COPY), f"data.path={made}", out=tmp_path / "fresh")
    assert fresh == whole


@pytest.mark.slow
def test_another_propagation_takes_the_answers_from_the_store(made, tmp_path):
    store = StageCache(tmp_path / "store")
    evaluate_volumes("infer/toy_volume", f"data.path={made}", out=tmp_path / "a", store=store)
    assert store.misses["completions"] == 8, "two exchanges each"
    evaluate_volumes(
        "infer/toy_volume", f"data.path={made}", "volume.propagation=copy", out=tmp_path / "b", store=store
    )
    assert store.misses["completions"] == 8 and store.hits["completions"] == 8


def test_other_ways_follow_the_same_answers_and_are_tested_beside_the_recipes(made, tmp_path):
    """Each way has the values that an evaluation of it alone gives, and no further question is asked."""
    own = recipe(BOX, volume={"slice": "largest", "propagation": "per_slice", "reach": 5})
    conditions = "evaluate.conditions=[interpolate,per_slice,copy]"
    measured = evaluate_volumes(own, f"data.path={made}", conditions, out=tmp_path / "all")
    assert measured.propagation == "per_slice" and set(measured.conditions) == {"copy", "interpolate"}
    for way in measured.conditions:
        alone = evaluate_volumes(own, f"data.path={made}", f"volume.propagation={way}", out=tmp_path / way)
        for name, row in measured.conditions[way].items():
            assert (row.mean, row.low, row.n) == (
                alone.metrics[name].mean,
                alone.metrics[name].low,
                alone.metrics[name].n,
            )
    rows = {(row.against, row.metric): row for row in measured.comparisons}
    assert set(rows) == {(way, name) for way in measured.conditions for name in ("dice", "surface_dice_2mm", "hd95_mm")}
    row = rows["interpolate", "dice"]
    assert row.difference == pytest.approx(
        measured.metrics["dice"].mean - measured.conditions["interpolate"]["dice"].mean
    )
    assert row.clusters == 2 and row.difference != 0 and rows["copy", "dice"].differ == 0, "a filled box stays a box"
    html = (tmp_path / "all" / "report.html").read_text()
    assert "Other ways to follow" in html and "per_slice minus it" in html
    with pytest.raises(RunError, match="the conditions"):
        evaluate_volumes(own, f"data.path={made}", "evaluate.conditions=[copy]", out=tmp_path / "all", resume=True)
    with pytest.raises(RecipeError, match="did you mean 'copy'"):
        evaluate_volumes(own, f"data.path={made}", "evaluate.conditions=[copi]", out=tmp_path / "no")


def test_split_and_limit_choose_the_samples(made, tmp_path):
    one = evaluate_volumes(recipe(BOX, volume=COPY), f"data.path={made}", "evaluate.limit=1", out=tmp_path / "a")
    assert one.samples == 1 and one.metrics["dice"].low is None, "one cluster has no interval"


def test_without_data_or_slice_it_is_refused(made, tmp_path):
    with pytest.raises(RecipeError, match=r"data\.path is not given"):
        evaluate_volumes("infer/toy_volume", out=tmp_path / "e")
    with pytest.raises(UsageError, match="no slice is named"):
        evaluate_volumes("infer/toy", "volume.propagation=copy", f"data.path={made}", out=tmp_path / "f")


@pytest.mark.slow
def test_the_command_line_measures_volumes(made, tmp_path, capsys):
    words = ["eval", "infer/toy_volume", f"data.path={made}", "--volumes", "--out", str(tmp_path / "e"), "--json"]
    command_line.main(words, standalone_mode=False)
    stated = json.loads(capsys.readouterr().out)
    assert stated["samples"] == 4 and stated["metrics"]["dice"]["n"] == 4
    with pytest.raises(UsageError, match="no baseline"):
        command_line.main([*words, "--baseline", str(tmp_path / "e")], standalone_mode=False)
