"""A dataset described, and written in other formats; what is written comes back."""

import json
import shutil

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
from medground.data.source_samples import BadSample
from medground.data.splits import without_names
from medground.data.stats import measure, quartiles, summary
from medground.errors import InputError, UsageError
from medground.geometry import mask_dice


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.write(folder, phantoms.samples(20, seed=3, size=(64, 80), families=("ct", "xray")))
    build(read_source(folder), folder / "made", Options(), FromTemplates())
    return folder / "made"


@pytest.mark.slow
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


@pytest.mark.slow
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


def samples_of(source, reader):
    """Return id -> all that a sample of a source holds; a group in place of the labels that name someone."""
    there = {}
    for sample in read_source(source, reader):
        labels = {**without_names(sample.labels)}
        pixels = sample.load_image().pixels, sample.load_mask()
        there[sample.id] = (
            sample.question, sample.think, sample.split, sample.box, sample.points, sample.spacing, labels,
            *(part.tobytes() for part in pixels),
        )  # fmt: skip
    return there


@pytest.mark.slow
def test_a_coco_export_gives_the_samples_it_was_written_from(built, tmp_path):
    """Reasoning, spacing, splits, fractional numbers and a sample without a category are among them."""
    lines = [json.loads(line) for line in (built / "manifest.jsonl").read_text().splitlines()]
    x1, y1, x2, y2 = lines[0]["bbox_2d"]
    lines[0] |= {"think": "It is round.", "spacing": [0.7, 0.3], "bbox_2d": [x1 + 0.1, y1 + 0.2, x2 - 0.3, y2]}
    lines[0]["point_2d"] = [[x1 + 1.1, y1 + 2.3]]
    del lines[1]["category"]
    lines[2]["patient"] = "Doe"
    source = tmp_path / "source"
    shutil.copytree(built, source)
    (source / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    export(source, tmp_path / "coco", "coco")
    back = samples_of(tmp_path / "coco", None)
    assert back == samples_of(source, "manifest")
    assert {split for _, _, split, *_ in back.values()} == {line["split"] for line in lines}
    assert "Doe" not in "".join(path.read_text() for path in (tmp_path / "coco").glob("*.json"))
    output = CliRunner().invoke(data, ["build", str(tmp_path / "coco"), "--out", str(tmp_path / "again"), "--json"])
    assert output.exit_code == 0, output.output
    again = {sample.query.id: sample.query.question for sample in open_dataset(tmp_path / "again")}
    assert again == {line["id"]: line["question"] for line in lines}
    splits = dict(zip(open_dataset(tmp_path / "again").ids, open_dataset(tmp_path / "again").splits, strict=True))
    assert splits == {line["id"]: line["split"] for line in lines}


def test_the_further_words_count_in_our_exports_alone(built, tmp_path):
    """A file of another origin that uses the same words is read as COCO; a file of ours with a wrong word is refused."""
    export(built, tmp_path / "coco", "coco", split="train")
    file = tmp_path / "coco" / "instances_train.json"
    table = json.loads(file.read_text())
    table["annotations"][0]["point_2d"] = "middle"
    file.write_text(json.dumps(table))
    first, *rest = read_source(file, "coco")
    assert isinstance(first, BadSample) and first.where == "instances_train.json annotation 1"
    assert first.reason == "point_2d is not a list of pairs of finite numbers: 'middle'"
    assert all(case.points for case in rest)
    file.write_text(json.dumps({**table, "info": {"year": 2017}}))
    cases = list(read_source(file, "coco"))
    assert {(case.question, case.points, case.split) for case in cases} == {(None, (), None)}
    assert cases[0].id.endswith("__1")


def test_several_coco_files_of_another_origin_are_not_read_together(built, tmp_path):
    export(built, tmp_path / "coco", "coco")
    for file in (tmp_path / "coco").glob("*.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "info": {}}))
    with pytest.raises(InputError, match="does not hold one COCO file but"):
        list(read_source(tmp_path / "coco", "coco"))


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
