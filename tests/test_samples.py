"""A folder with a manifest becomes samples, or one sentence about its first bad line."""

import json

import numpy as np
import pytest
from medground_toy import phantoms

from medground.data.samples import read_samples
from medground.errors import InputError


@pytest.fixture
def folder(tmp_path):
    phantoms.write(tmp_path, phantoms.samples(12, seed=1, size=(64, 64)))
    return tmp_path


def lines(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def rewrite(folder, found):
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))


def test_phantoms_come_back_as_they_were(folder):
    written, read = phantoms.samples(12, seed=1, size=(64, 64)), read_samples(folder)
    assert len(read) == 12
    for mine, theirs in zip(read, written, strict=True):
        assert mine.query.id == theirs.query.id
        assert mine.query.question == theirs.query.question
        assert np.array_equal(mine.query.image, theirs.query.image)
        assert np.array_equal(mine.target.mask, theirs.target.mask)
        assert mine.target.box == theirs.target.box
        assert mine.target.points == theirs.target.points
        assert mine.labels["family"] == theirs.labels["family"]


def test_splits_are_made_by_image_and_do_not_change(folder):
    parts = {name: {entry.id for entry in read_samples(folder).entries if entry.split == name} for name in
             ("train", "val", "test")}  # fmt: skip
    assert sum(map(len, parts.values())) == 12
    by_image = {}
    for entry in read_samples(folder).entries:
        by_image.setdefault(entry.image, set()).add(entry.split)
    assert all(len(splits) == 1 for splits in by_image.values())
    rewrite(folder, lines(folder)[::-1])
    again = read_samples(folder, split="train")
    assert {entry.id for entry in again.entries} == parts["train"]


def test_given_splits_and_traces_are_taken(folder):
    found = lines(folder)
    rewrite(folder, [{**line, "split": "val" if i < 3 else "train", "think": "why"} for i, line in enumerate(found)])
    assert len(read_samples(folder, split="val")) == 3
    assert len(read_samples(folder, split="train", limit=5)) == 5
    assert read_samples(folder)[0].labels["think"] == "why"
    with pytest.raises(InputError, match="no sample is in the split 'vla'") as error:
        read_samples(folder, split="vla")
    assert error.value.hint == "did you mean 'val'?"


def test_a_missing_box_is_that_of_the_mask(folder):
    before = read_samples(folder)[0].target.box
    rewrite(folder, [{key: value for key, value in line.items() if key != "bbox_2d"} for line in lines(folder)])
    assert read_samples(folder)[0].target.box == before


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"image": None}, 'needs an "image" path'),
        ({"image": "../outside.png"}, "outside the manifest's folder"),
        ({"image": "images/none.png"}, "which does not exist"),
        ({"image": 3}, "names a file by 3"),
        ({"question": " "}, 'needs a "question"'),
        ({"bbox_2d": [1, 2, 3]}, "bbox_2d that is not 4 finite numbers"),
        ({"bbox_2d": [1, 2, True, 4]}, "bbox_2d that is not 4 finite numbers"),
        ({"point_2d": [[1]]}, "point_2d that is not 2 finite numbers"),
        ({"mask": None, "bbox_2d": None}, 'needs a "mask" or a "bbox_2d"'),
    ],
)
def test_a_bad_line_is_named(folder, change, what):
    found = lines(folder)
    rewrite(folder, [found[0], {**found[1], **change}])
    with pytest.raises(InputError, match="manifest line 2 ") as error:
        read_samples(folder)
    assert what in error.value.message


def test_other_bad_manifests(folder, tmp_path):
    found = lines(folder)
    rewrite(folder, [found[0], found[0]])
    with pytest.raises(InputError, match="two samples are called"):
        read_samples(folder)
    (folder / "manifest.jsonl").write_text("{]\n")
    with pytest.raises(InputError, match="manifest line 1 is not JSON"):
        read_samples(folder)
    (folder / "manifest.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no samples"):
        read_samples(folder)
    with pytest.raises(InputError, match="does not exist"):
        read_samples(tmp_path / "none")
