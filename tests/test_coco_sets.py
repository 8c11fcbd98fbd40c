"""What COCO holds of questions with several targets and with none comes back as it was."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from medground_data.command import data
from medground_data.readers import read_source
from medground_toy import phantoms

from medground.data.export import export
from medground.data.open_dataset import open_dataset
from medground.data.splits import without_names


def written(folder, families, splits=lambda regions: "train"):
    """Write phantoms with reasoning and a split that depends on how many targets there are."""
    samples = [phantoms.traced(one) for one in phantoms.samples(16, seed=4, size=(96, 80), families=families)]
    phantoms.write(folder, samples)
    path = folder / "manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line |= {"spacing": [0.5, 0.25], "split": splits(len(line.get("regions", [0])))}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def content(source, reader) -> dict:
    """Return id -> all that a source says of its samples, but who the patient is."""
    back = {}
    for one in read_source(source, reader):
        parts = one.regions if one.regions is not None else (one,)
        regions = [(part.box, part.points, part.load_mask().tobytes()) for part in parts]
        labels = {word: text for word, text in without_names(one.labels).items() if word != "group"}
        pixels = one.load_image().pixels.tobytes()
        back[one.id] = (one.split, one.question, one.think, regions, pixels, one.spacing, labels)
    return back


def build(source, out):
    return CliRunner().invoke(data, ["build", str(source), "--out", str(out), "--json"])


@pytest.mark.slow
@pytest.mark.parametrize("families", [("several",), ("maybe",), ("cells",), ("several", "maybe", "ct")])
def test_several_and_absent_targets_come_back(tmp_path, families):
    source = written(tmp_path / "source", families, splits=lambda regions: "test" if regions > 1 else "train")
    export(source, tmp_path / "coco", "coco")
    back = content(tmp_path / "coco", None)
    assert back == content(source, "manifest")
    counts = {len(regions) for _, _, _, regions, *_ in back.values()}
    assert 0 in counts or "maybe" not in families
    assert max(counts) > 1 or families == ("maybe",)
    assert all(question and think for _, question, think, *_ in back.values())
    result = build(tmp_path / "coco", tmp_path / "again")
    assert result.exit_code == 0, result.output
    again = {sample.query.id: len(sample.target.regions) for sample in open_dataset(tmp_path / "again")}
    assert again == {name: len(regions) for name, (_, _, _, regions, *_) in back.items()}


def test_a_split_of_absent_targets_alone_comes_back(tmp_path):
    source = written(tmp_path / "source", ("maybe",), splits=lambda regions: "train" if regions else "val")
    export(source, tmp_path / "coco", "coco")
    file = tmp_path / "coco" / "instances_val.json"
    assert json.loads(file.read_text())["annotations"] == []
    back = content(tmp_path / "coco", None)
    assert back == content(source, "manifest")
    assert {split for split, *_ in back.values()} == {"train", "val"}
    alone = content(file, None)
    assert alone == {name: entry for name, entry in back.items() if entry[0] == "val"}


def test_coco_s_own_tools_read_the_masks_and_the_categories_that_are_absent(tmp_path):
    source = written(tmp_path / "source", ("several", "maybe"))
    export(source, tmp_path / "coco", "coco")
    table = json.loads((tmp_path / "coco" / "instances_train.json").read_text())
    regions = [region for _, _, _, regions, *_ in content(source, "manifest").values() for region in regions]
    assert [one["bbox"] for one in table["annotations"]] == [[b.x1, b.y1, b.width, b.height] for b, _, _ in regions]
    assert [one["area"] for one in table["annotations"]] == [np.frombuffer(mask, bool).sum() for _, _, mask in regions]
    known = {one["id"] for one in table["categories"]}
    absent = [one for one in table["images"] if "absent" in one]
    assert absent and all(set(one["neg_category_ids"]) <= known for one in absent)


@pytest.mark.parametrize("word", [5, "none", {"sample_id": "x"}])
def test_absent_targets_that_are_no_list_are_refused(tmp_path, word):
    source = written(tmp_path / "source", ("maybe",))
    export(source, tmp_path / "coco", "coco")
    file = tmp_path / "coco" / "instances_train.json"
    table = json.loads(file.read_text())
    next(one for one in table["images"] if "absent" in one)["absent"] = word
    file.write_text(json.dumps(table))
    result = build(file, tmp_path / "again")
    assert "needs a list of absent" in (tmp_path / "again" / "rejected.jsonl").read_text(), result.output
