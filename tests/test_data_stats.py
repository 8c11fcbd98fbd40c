"""A dataset described, and written in other formats; what is written comes back."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from medground_data.build import Options, build
from medground_data.command import data
from medground_data.question_sources import FromTemplates
from medground_data.readers import read_cases
from medground_toy import phantoms

from medground.data.export import export
from medground.data.samples import read_samples
from medground.data.stats import measure, quartiles, summary
from medground.errors import InputError, UsageError
from medground.geometry import mask_dice


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.write(folder, phantoms.samples(20, seed=3, size=(64, 80), families=("ct", "xray")))
    build(read_cases(folder), folder / "made", Options(), FromTemplates())
    return folder / "made"


def test_every_sample_is_counted_once_in_each_table(made):
    found = measure(read_samples(made))
    figures = summary(found)
    assert figures["samples"] == 20 == sum(figures["splits"].values())
    for names in figures["counts"].values():
        assert sum(counts["all"] for counts in names.values()) == 20
        assert all(counts["all"] == sum(counts[split] for split in figures["splits"]) for counts in names.values())
    assert set(figures["counts"]["modality"]) == {"CT", "X-ray"}


def test_the_floors_are_those_of_the_segmenters_that_do_not_look(made):
    from medground.registry import build as component
    from medground.types import SpatialPrompt

    segmenters = {"box_dice": component("segmenter", "box_fill"), "ellipse_dice": component("segmenter", "ellipse")}
    for one, sample in zip(measure(read_samples(made)), read_samples(made), strict=True):
        for name, segmenter in segmenters.items():
            mask = segmenter.segment(sample.query.image, [SpatialPrompt(box=sample.target.box)])[0].data
            assert np.isclose(getattr(one, name), mask_dice(mask, sample.target.mask))


def test_quartiles():
    assert quartiles([4.0, None, 2.0]) == {"min": 2, "q1": 2.5, "median": 3, "q3": 3.5, "max": 4, "mean": 3}
    assert quartiles([None]) is None


def test_the_commands(made, tmp_path):
    run = CliRunner()
    told = run.invoke(data, ["stats", str(made)])
    assert "samples by modality" in told.stdout
    told = run.invoke(data, ["stats", str(made), "--json", "--split", "train"])
    figures = json.loads(told.stdout)
    assert list(figures["splits"]) == ["train"]
    assert len(figures["rows"]) == figures["samples"]
    page = tmp_path / "page.html"
    told = run.invoke(data, ["stats", str(made), "--html", str(page), "--pictures", "3"])
    assert told.exit_code == 0
    assert "samples by modality" in told.stdout, "it prints and draws"
    text = page.read_text()
    assert text.count("<img ") == 3
    assert "http://" not in text.replace("http://www.w3.org", "")
    done = run.invoke(data, ["export", str(made), "--to", str(tmp_path / "coco"), "--format", "coco", "--json"])
    assert sum(json.loads(done.stdout).values()) == 20


def test_coco_comes_back(made, tmp_path):
    counts = export(made, tmp_path / "coco", "coco")
    assert set(counts) == {f"instances_{entry.split}.json" for entry in read_samples(made).entries}
    there = {sample.query.id: sample for sample in read_samples(made)}
    seen = 0
    for name in counts:
        table = json.loads((tmp_path / "coco" / name).read_text())
        cases = list(read_cases(tmp_path / "coco" / name, "coco"))
        for case, annotation in zip(cases, table["annotations"], strict=True):
            sample = there[annotation["sample_id"]]
            assert np.array_equal(case.read_mask(), sample.target.mask)
            assert np.array_equal(case.read_image(), sample.query.image)
            assert case.box == sample.target.box
            assert case.labels["category"] == sample.labels["category"]
            seen += 1
    assert seen == 20


def test_the_published_table_comes_back(made, tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    counts = export(made, tmp_path / "table")
    assert sum(counts.values()) == 20
    export(made, tmp_path / "all.parquet")
    there = {sample.query.id: sample for sample in read_samples(made)}
    for path in (tmp_path / "table", tmp_path / "all.parquet"):
        back = read_samples(path)
        assert len(back) == 20
        for sample in back:
            mine = there[sample.query.id]
            assert sample.query.question == mine.query.question
            assert sample.target.box == mine.target.box
            assert sample.target.points == mine.target.points
            assert np.array_equal(sample.target.mask, mine.target.mask)
            assert np.array_equal(sample.query.image, mine.query.image)
    assert len(measure(read_samples(tmp_path / "table"))) == 20


def test_what_cannot_be_exported_is_said(made, tmp_path):
    with pytest.raises(UsageError, match="no format 'coca'"):
        export(made, tmp_path / "x", "coca")
    with pytest.raises(UsageError, match="COCO is a folder"):
        export(made, tmp_path / "x.parquet", "coco")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(InputError, match="already holds something"):
        export(made, tmp_path / "full")
