"""A folder with a manifest becomes samples, or one sentence about its first bad line."""

import json

import numpy as np
import pytest
from medground_toy import phantoms

from medground.data.open_dataset import open_dataset
from medground.errors import InputError


@pytest.fixture
def folder(tmp_path):
    phantoms.write(tmp_path, phantoms.samples(12, seed=1, size=(64, 64)))
    return tmp_path


def lines(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def rewrite(folder, rows):
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))


def test_phantoms_come_back_as_they_were(folder):
    written, read = phantoms.samples(12, seed=1, size=(64, 64)), open_dataset(folder)
    assert len(read) == 12
    for mine, theirs in zip(read, written, strict=True):
        assert mine.query.id == theirs.query.id
        assert mine.query.question == theirs.query.question
        assert np.array_equal(mine.query.image, theirs.query.image)
        assert np.array_equal(mine.target.mask, theirs.target.mask)
        assert mine.target.region.box == theirs.target.region.box
        assert mine.target.region.points == theirs.target.region.points
        assert mine.labels["family"] == theirs.labels["family"]


def test_splits_are_made_by_image_and_do_not_change(folder):
    ids_by_split = {name: {entry.id for entry in open_dataset(folder).entries if entry.split == name} for name in
             ("train", "val", "test")}  # fmt: skip
    assert sum(map(len, ids_by_split.values())) == 12
    by_image = {}
    for entry in open_dataset(folder).entries:
        by_image.setdefault(entry.image, set()).add(entry.split)
    assert all(len(splits) == 1 for splits in by_image.values())
    rewrite(folder, lines(folder)[::-1])
    again = open_dataset(folder, split="train")
    assert {entry.id for entry in again.entries} == ids_by_split["train"]


def test_given_splits_and_traces_are_taken(folder):
    rows = lines(folder)
    rewrite(folder, [{**line, "split": "val" if i < 3 else "train", "think": "why"} for i, line in enumerate(rows)])
    assert len(open_dataset(folder, split="val")) == 3
    assert len(open_dataset(folder, split="train", limit=5)) == 5
    assert open_dataset(folder)[0].labels["think"] == "why"
    with pytest.raises(InputError, match="no sample is in the split 'vla'") as error:
        open_dataset(folder, split="vla")
    assert error.value.hint == "did you mean 'val'?"


def test_a_missing_box_is_that_of_the_mask(folder):
    before = open_dataset(folder)[0].target.region.box
    rewrite(folder, [{key: value for key, value in line.items() if key != "bbox_2d"} for line in lines(folder)])
    assert open_dataset(folder)[0].target.region.box == before


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"image": None}, "image is not a path: None"),
        ({"image": "../outside.png"}, "names an image outside its folder"),
        ({"image": "images/none.png"}, "that does not exist: images_none.png"),
        ({"image": 3}, "image is not a path: '3'"),
        ({"question": " "}, 'needs a "question"'),
        ({"bbox_2d": [1, 2, 3]}, "bbox_2d is not 4 finite numbers: '[1, 2, 3]'"),
        ({"bbox_2d": [1, 2, True, 4]}, "bbox_2d is not 4 finite numbers"),
        ({"point_2d": [[1]]}, "point_2d is not a list of pairs of finite numbers"),
        ({"point_2d": 5}, "point_2d is not a list of pairs of finite numbers: '5'"),
        ({"question": 3}, "question is not text: '3'"),
        ({"mask_value": "1"}, "mask_value is not a whole number"),
        ({"bbox": [0, 0, 1, 1]}, "bbox is not the box of bbox_2d"),
        ({"mask": None, "bbox_2d": None}, 'needs a "mask", a "bbox_2d" or "regions"'),
    ],
)
def test_a_bad_line_is_named(folder, change, what):
    rows = lines(folder)
    rewrite(folder, [rows[0], {**rows[1], **change}])
    with pytest.raises(InputError, match="manifest line 2: ") as error:
        open_dataset(folder)
    assert what in error.value.message


def test_other_bad_manifests(folder, tmp_path):
    rows = lines(folder)
    rewrite(folder, [rows[0], rows[0]])
    with pytest.raises(InputError, match="two samples are called"):
        open_dataset(folder)
    (folder / "manifest.jsonl").write_text("{]\n")
    with pytest.raises(InputError, match="manifest line 1: not JSON"):
        open_dataset(folder)
    (folder / "manifest.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no samples"):
        open_dataset(folder)
    with pytest.raises(InputError, match="does not exist"):
        open_dataset(tmp_path / "none")
