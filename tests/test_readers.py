"""Sources of every layout become cases; what cannot be used is listed, and the rest is read."""

import json

import numpy as np
import pytest
from PIL import Image as Pillow

from medground.data.cases import BadCase, Case
from medground.data.readers import read_cases
from medground.errors import InputError, UsageError


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(array).save(path)


def picture(seed=0, size=(20, 30)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def square(x=5, y=6, size=(20, 30)):
    mask = np.zeros(size, np.uint8)
    mask[y : y + 4, x : x + 5] = 255
    return mask


def split_by_kind(found):
    found = list(found)
    return [each for each in found if isinstance(each, Case)], [each for each in found if isinstance(each, BadCase)]


def test_a_folder_pairs_by_stem_by_suffix_and_by_subfolder(tmp_path):
    for name in ("a", "b", "c", "d"):
        save(tmp_path / f"images/{name}.png", picture())
    save(tmp_path / "masks/a.png", square(1))
    save(tmp_path / "masks/b__left-lung.png", square(2))
    save(tmp_path / "masks/b__heart.png", square(3))
    save(tmp_path / "masks/polyp/c.png", square(4))
    cases, bad = split_by_kind(read_cases(tmp_path, category="thing", modality="CT"))
    assert [(case.id, case.labels["category"]) for case in cases] == [
        ("a", "thing"), ("b__heart", "heart"), ("b__left_lung", "left lung"), ("c__polyp", "polyp"),
    ]  # fmt: skip
    assert bad == [BadCase("d.png", "no mask has its name")]
    assert {case.labels["modality"] for case in cases} == {"CT"}
    assert [int(np.argmax(case.read_mask().any(axis=0))) for case in cases] == [1, 3, 2, 4]
    assert cases[1].image_key == cases[2].image_key != cases[0].image_key
    assert np.array_equal(cases[0].read_image(), picture())


def test_a_folder_may_hold_splits(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / split / "images/a.png", picture())
        save(tmp_path / split / "masks/a.png", square())
    cases, _ = split_by_kind(read_cases(tmp_path, question="where?"))
    assert [(case.id, case.split, case.question) for case in cases] == [
        ("a", "train", "where?"),
        ("a-2", "test", "where?"),
    ]
    assert cases[0].group != cases[1].group


def lines(tmp_path, *found):
    save(tmp_path / "a.png", picture())
    save(tmp_path / "m.png", square())
    (tmp_path / "manifest.jsonl").write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in found)
    )
    return tmp_path


def test_a_manifest_gives_everything_it_says(tmp_path):
    line = {
        "id": "x/1", "image": "a.png", "mask": "m.png", "modality": "MRI", "category": "cord", "patient": "p7", "split": "val",
        "question": "what?", "think": "so", "bbox": [5, 6, 10, 10], "point_2d": [[7.5, 7.5], [8.5, 8.5]], "width": 30, "age": 3,
    }  # fmt: skip
    [case] = read_cases(lines(tmp_path, line))
    assert (case.id, case.group, case.split, case.question, case.think) == ("x_1", "p7", "val", "what?", "so")
    assert case.labels == {"modality": "MRI", "category": "cord", "patient": "p7", "age": "3"}
    assert case.box == (5, 6, 10, 10) and case.points == ((7.5, 7.5), (8.5, 8.5))
    assert case.where == "manifest.jsonl line 1"
    [again] = read_cases(tmp_path / "manifest.jsonl")
    assert np.array_equal(again.read_mask(), square() > 0)


def test_a_manifest_takes_run_lengths(tmp_path):
    [case] = read_cases(lines(tmp_path, {"image": "a.png", "mask": {"size": [2, 3], "counts": [1, 2, 3]}}))
    assert case.read_mask().tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{]", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("3", "is not a JSON object"),
        ({"mask": "m.png"}, "names an image by 'None'"),
        ({"image": "a.png"}, "needs a mask"),
        ({"image": "../a.png", "mask": "m.png"}, "an image outside its folder"),
        ({"image": "/etc/passwd", "mask": "m.png"}, "an image outside its folder"),
        ({"image": "no.png", "mask": "m.png"}, "does not exist"),
        ({"image": "a\0.png", "mask": "m.png"}, "cannot be looked up"),
        ({"image": "a.png", "mask": "m.png", "bbox": [1, 2, 3]}, "bbox that is not 4 finite numbers"),
        ({"image": "a.png", "mask": "m.png", "point_2d": [[1, True]]}, "point_2d that is not 2 finite numbers"),
        ({"image": "a.png", "mask": "m.png", "point_2d": 3}, "point_2d that is not a list"),
        ({"image": "a.png", "mask": "m.png", "slice": "3"}, "slice that is not a whole number"),
        ({"image": "a.png", "mask": "m.png", "question": 3}, "question that is not text"),
    ],
)
def test_a_bad_line_is_listed_and_the_others_are_read(tmp_path, line, said):
    good = {"image": "a.png", "mask": "m.png"}
    cases, [bad] = split_by_kind(read_cases(lines(tmp_path, good, line, good)))
    assert [case.id for case in cases] == ["a", "a-2"]
    assert bad.where == "manifest.jsonl line 2" and said in bad.reason and str(tmp_path) not in bad.reason


def test_a_line_without_end_is_not_held_in_memory(tmp_path, monkeypatch):
    from medground.data.readers import manifest

    monkeypatch.setattr(manifest, "MAX_LINE", 1000)
    good = {"image": "a.png", "mask": "m.png"}
    cases, [bad] = split_by_kind(read_cases(lines(tmp_path, good, "x" * 5000, good)))
    assert len(cases) == 2 and bad == BadCase("manifest.jsonl line 2", "is longer than 1000 characters")


def test_links_out_of_the_folder_are_refused(tmp_path):
    save(tmp_path / "secret.png", picture())
    (tmp_path / "in").mkdir()
    lines(tmp_path / "in", {"image": "link.png", "mask": "m.png"})
    (tmp_path / "in/link.png").symlink_to(tmp_path / "secret.png")
    [bad] = read_cases(tmp_path / "in")
    assert "outside its folder" in bad.reason


def test_usage_errors_name_the_candidates(tmp_path):
    with pytest.raises(UsageError, match="no layout that is known") as none:
        read_cases(tmp_path)
    assert "folder" in none.value.hint and none.value.exit_code == 2
    with pytest.raises(UsageError, match="no reader 'foldr'") as near:
        read_cases(tmp_path, "foldr")
    assert near.value.hint == "did you mean 'folder'?"
    with pytest.raises(UsageError, match="no option 'categry'"):
        read_cases(tmp_path, "folder", categry="x")
    with pytest.raises(InputError, match="does not exist"):
        read_cases(tmp_path / "none")
    with pytest.raises(InputError, match="has no images/ beside masks/"):
        list(read_cases(tmp_path, "folder"))


def test_real_pairs(shared):
    cases, bad = split_by_kind(read_cases(shared / "data/pairs"))
    assert len(cases) == 218 and not bad and len({case.image_key for case in cases}) == 144
    assert len({case.id for case in cases}) == 218
    for case in cases[::40]:
        mask = case.read_mask()
        assert case.read_image().shape[:2] == mask.shape
        rows, columns = np.nonzero(mask)
        assert case.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert len(list(read_cases(shared / "data/pairs/busi"))) == 10
