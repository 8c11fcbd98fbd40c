"""A dataset described, and written in other formats; what is written comes back."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from medground_data.build import Options, build
from medground_data.command import data
from medground_data.question_sources import FromTemplates
from medground_data.readers import read_source
from medground_toy import phantoms

from medground.data.export import export
from medground.data.open_dataset import open_dataset
from medground.data.stats import measure, quartiles, summary
from medground.errors import InputError, UsageError
from medground.geometry import mask_dice


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.write(folder, phantoms.samples(20, seed=3, size=(64, 80), families=("ct", "xray")))
    build(read_source(folder), folder / "made", Options(), FromTemplates())
    return folder / "made"


def test_every_sample_is_counted_once_in_each_table(built):
    measured = measure(open_dataset(built))
    figures = summary(measured)
    assert figures["samples"] == 20 == sum(figures["splits"].values())
    for names in figures["counts"].values():
        assert sum(counts["all"] for counts in names.values()) == 20
        assert all(counts["all"] == sum(counts[split] for split in figures["splits"]) for counts in names.values())
    assert set(figures["counts"]["modality"]) == {"CT", "X-ray"}


def test_the_floors_are_those_of_the_segmenters_that_do_not_look(built):
    from medground.registry import build as component
    from medground.types import SpatialPrompt

    segmenters = {
        "dice_filled_box": component("segmenter", "box_fill"),
        "dice_ellipse": component("segmenter", "ellipse"),
    }
    for one, sample in zip(measure(open_dataset(built)), open_dataset(built), strict=True):
        for name, segmenter in segmenters.items():
            mask = segmenter.segment(sample.query.image, [SpatialPrompt(box=sample.target.region.box)])[0].data
            assert np.isclose(getattr(one, name), mask_dice(mask, sample.target.mask))


def test_quartiles():
    assert quartiles([4.0, None, 2.0]) == {"min": 2, "q1": 2.5, "median": 3, "q3": 3.5, "max": 4, "mean": 3}
    assert quartiles([None]) is None


def test_the_commands(built, tmp_path):
    run = CliRunner()
    output = run.invoke(data, ["stats", str(built)])
    assert "samples by modality" in output.stdout
    output = run.invoke(data, ["stats", str(built), "--json", "--split", "train"])
    figures = json.loads(output.stdout)
    assert list(figures["splits"]) == ["train"]
    assert len(figures["rows"]) == figures["samples"]
    page = tmp_path / "page.html"
    output = run.invoke(data, ["stats", str(built), "--html", str(page), "--pictures", "3"])
    assert output.exit_code == 0
    assert "samples by modality" in output.stdout, "it prints and draws"
    text = page.read_text()
    assert text.count("<img ") == 3
    assert "http://" not in text.replace("http://www.w3.org", "")
    done = run.invoke(data, ["export", str(built), "--to", str(tmp_path / "coco"), "--format", "coco", "--json"])
    assert sum(json.loads(done.stdout).values()) == 20


def test_coco_comes_back(built, tmp_path):
    counts = export(built, tmp_path / "coco", "coco")
    assert set(counts) == {f"instances_{entry.split}.json" for entry in open_dataset(built).entries}
    there = {sample.query.id: sample for sample in open_dataset(built)}
    seen = 0
    for name in counts:
        table = json.loads((tmp_path / "coco" / name).read_text())
        cases = list(read_source(tmp_path / "coco" / name, "coco"))
        for case, annotation in zip(cases, table["annotations"], strict=True):
            sample = there[annotation["sample_id"]]
            assert np.array_equal(case.load_mask(), sample.target.mask)
            assert np.array_equal(case.load_image().pixels, sample.query.image)
            assert case.box == sample.target.region.box
            assert case.labels["category"] == sample.labels["category"]
            seen += 1
    assert seen == 20


def test_the_published_table_comes_back(built, tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    counts = export(built, tmp_path / "table")
    assert sum(counts.values()) == 20
    export(built, tmp_path / "all.parquet")
    there = {sample.query.id: sample for sample in open_dataset(built)}
    for path in (tmp_path / "table", tmp_path / "all.parquet"):
        back = open_dataset(path)
        assert len(back) == 20
        for sample in back:
            mine = there[sample.query.id]
            assert sample.query.question == mine.query.question
            assert sample.target.region.box == mine.target.region.box
            assert sample.target.region.points == mine.target.region.points
            assert np.array_equal(sample.target.mask, mine.target.mask)
            assert np.array_equal(sample.query.image, mine.query.image)
    assert len(measure(open_dataset(tmp_path / "table"))) == 20


def test_what_cannot_be_exported_is_said(built, tmp_path):
    with pytest.raises(UsageError, match="no format 'coca'"):
        export(built, tmp_path / "x", "coca")
    with pytest.raises(UsageError, match="COCO is a folder"):
        export(built, tmp_path / "x.parquet", "coco")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(InputError, match="already holds something"):
        export(built, tmp_path / "full")
